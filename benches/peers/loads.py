"""The dimensions: each puts a load on a started candidate and returns its figures and its errors."""

import dataclasses
import re
import socket
import statistics
import subprocess
import time

from servers import BODIES, BODY, Failed

REPORT = """
done = function(summary, latency)
  local e = summary.errors
  print("REPORT", summary.requests, summary.bytes, summary.duration, latency:percentile(99),
    e.connect, e.read, e.write, e.timeout, e.status)
end
"""
# Requests at a given rate, at times drawn beforehand (Poisson), by whichever connection is free. wrk itself
# corrects its percentiles for requests that waited for a connection.
PACE = """
local ffi = require("ffi")
ffi.cdef [[ struct clock { long seconds, nanos; }; int clock_gettime(int id, struct clock *now); ]]
local clock = ffi.new("struct clock")
local rate, next_time

init = function(arguments) rate = tonumber(arguments[1]) end

delay = function()
  ffi.C.clock_gettime(1, clock)
  local now = tonumber(clock.seconds) + tonumber(clock.nanos) / 1e9
  next_time = (next_time or now) - math.log(1 - math.random()) / rate
  return math.max(0, (next_time - now) * 1000)
end
"""
ERRORS = ("connect errors", "read errors", "write errors", "timeouts", "answers other than 2xx/3xx")
IDLE_CONNECTIONS = 2_000


@dataclasses.dataclass
class Report:
    """What a load did, and what it cost the candidate."""

    requests: int
    cpu: float  # seconds
    errors: list
    bodies: float = 0.0  # bytes received in bodies of the path's size
    seconds: float = 0.0
    p99: float = 0.0  # microseconds


class Load:
    def __init__(self, bench, seconds):
        self.bench, self.seconds = bench, seconds
        self.script, self.paced = bench.folder / "report.lua", bench.folder / "paced.lua"
        self.script.write_text(REPORT)
        self.paced.write_text(PACE + REPORT)
        self.rates = {}  # requests/s of `small` so far, by candidate

    def tool(self, server, *command):
        """What the tool prints, and the candidate's CPU seconds meanwhile."""
        command = ["taskset", "-c", str(self.bench.load_core), *map(str, command)]
        before = server.cpu_seconds()
        done = subprocess.run(command, capture_output=True, text=True, timeout=self.seconds + 60,
                              start_new_session=True)
        cpu = server.cpu_seconds() - before
        if done.returncode != 0:
            raise Failed(f"{command[3]} failed: {(done.stderr or done.stdout).strip()[-200:]}")
        return done.stdout, cpu

    def wrk(self, server, path="/", connections=64, headers=(), seconds=None, rate=None):
        fields = [part for header in headers for part in ("-H", header)]
        script, pace = (self.paced, ["--", rate]) if rate else (self.script, [])
        out, cpu = self.tool(
            server, "wrk", "-t1", f"-c{connections}", f"-d{seconds or self.seconds}s", "--timeout", "10s",
            "-s", script, *fields, f"http://127.0.0.1:{server.http1}{path}", *pace,
        )
        numbers = re.search(r"^REPORT\s+(.*)$", out, re.M).group(1).split()
        requests, size, micros, p99, *counts = (int(float(n)) for n in numbers)
        errors = [f"{n} {what}" for n, what in zip(counts, ERRORS) if n]
        if requests == 0:
            raise Failed("; ".join(["no request was answered", *errors]))
        if size < requests * BODIES[path]:
            errors.append("answers too short")
        return Report(requests, cpu, errors, size / BODIES[path], micros / 1e6, p99)

    def h2load(self, server, seconds):
        out, cpu = self.tool(server, "h2load", "-c8", "-m16", f"-D{seconds}s", f"http://127.0.0.1:{server.http2}/")
        counts = {what: int(n) for n, what in re.findall(r"(\d+) (\w+)", out)}
        errors = [f"{counts[what]} {what}" for what in ("failed", "errored", "timeout", "3xx", "4xx", "5xx")
                  if counts.get(what)]
        if not counts.get("2xx"):
            raise Failed("; ".join(["no request was answered", *errors]))
        return Report(counts["2xx"], cpu, errors)

    def warm_up(self, server):
        self.wrk(server, seconds=1)

    def small(self, server):
        self.warm_up(server)
        report = self.wrk(server)
        self.rates.setdefault(server.name, []).append(report.requests / report.seconds)
        return [report.cpu / report.requests * 1e6, report.requests / report.seconds], report.errors

    def body(self, server, path, connections, unit):
        # By bytes, not by answers: those under way at the end cost CPU too.
        self.warm_up(server)
        report = self.wrk(server, path, connections)
        return [report.cpu / report.bodies * unit], report.errors

    def body_100k(self, server):
        return self.body(server, "/100k", 64, 1e6)

    def body_10m(self, server):
        return self.body(server, "/10m", 8, 1e3)

    def new_connection(self, server):
        self.warm_up(server)
        report = self.wrk(server, headers=["Connection: close"])
        return [report.cpu / report.requests * 1e6], report.errors

    def idle(self, server):
        def connect():
            client = socket.create_connection(("127.0.0.1", server.http1), timeout=5)
            clients.append(client)
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = b""
            while not answer.endswith(BODY.encode()):
                if not (part := client.recv(4096)):
                    raise Failed("a connection was closed")
                answer += part
            if not answer.startswith(b"HTTP/1.1 200"):
                raise Failed("an answer other than 200")

        clients = []
        try:
            for _ in range(50):  # what the first connections need is not the price of one more
                connect()
            time.sleep(0.2)
            before = server.rss_kib()
            for _ in range(IDLE_CONNECTIONS):
                connect()
            time.sleep(1)
            grown = server.rss_kib() - before
            closed = 0
            for client in clients:
                client.setblocking(False)
                try:
                    closed += client.recv(1) == b""
                except BlockingIOError:
                    pass
            return [grown / IDLE_CONNECTIONS], [f"{closed} idle connections were closed"] if closed else []
        finally:
            for client in clients:
                client.close()

    def http2(self, server):
        self.h2load(server, 1)
        report = self.h2load(server, self.seconds)
        return [report.cpu / report.requests * 1e6], report.errors

    def p99(self, server):
        """Half of nginx's rate for all; half of its own for a candidate that is much slower."""
        if server.name in self.rates:
            self.warm_up(server)
        else:
            self.small(server)
        own = statistics.median(self.rates[server.name])
        common = statistics.median(self.rates.get("nginx", [own]))
        rate = (common if own > 0.75 * common else own) / 2
        report = self.wrk(server, rate=rate)
        made = report.requests / report.seconds
        if made < 0.95 * rate:
            report.errors.append(f"only {made:.0f} of {rate:.0f} requests/s were made")
        return [report.p99, rate], report.errors


# Name: how it is measured, and a title and a number of decimals for each figure.
DIMENSIONS = {
    "small": (Load.small, [("52-byte body, CPU µs/request", 1), ("52-byte body, requests/s", 0)]),
    "100k": (Load.body_100k, [("100 KiB body, CPU µs", 1)]),
    "10m": (Load.body_10m, [("10 MiB body, CPU ms", 2)]),
    "new-connection": (Load.new_connection, [("connection per request, CPU µs", 1)]),
    "idle": (Load.idle, [("idle connection, KiB", 2)]),
    "http2": (Load.http2, [("HTTP/2, CPU µs/request", 1)]),
    "p99": (Load.p99, [("p99 at half load, µs", 0), ("half load, requests/s", 0)]),
}
