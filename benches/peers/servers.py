"""The backend and the candidates: their processes, ports and configs."""

import http.client
import os
import pathlib
import random
import signal
import socket
import subprocess
import time

CONF = pathlib.Path(__file__).resolve().parent / "conf"
BODY = "0123456789" * 5 + "01"
BODIES = {"/": len(BODY), "/100k": 100 * 1024, "/10m": 10 * 1024 * 1024}


class Failed(Exception):
    """A measurement that cannot be made; the message says why."""


def free_ports(count):
    """Ports that nobody listens on, below those that the kernel gives to clients."""
    low = int(pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    found = []
    for port in random.sample(range(10_000, max(low, 20_000)), 1_000):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise Failed("no free ports")


def stat(pid):
    """The fields of /proc/PID/stat after the command's name; None when the process is gone."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


class Server:
    """A process and its children, pinned to one core, from `with` to the end of it."""

    running = []

    def __init__(self, name, command, core, log):
        self.name, self.command, self.core, self.log = name, command, core, log

    def __enter__(self):
        with open(self.log, "wb") as log:
            # A session of its own: Ctrl-C reaches the harness alone, which then ends the servers.
            self.process = subprocess.Popen(
                ["taskset", "-c", str(self.core), *map(str, self.command)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )
        Server.running.append(self)
        return self

    def __exit__(self, *_):
        pids = self.pids()
        for sign in (signal.SIGTERM, signal.SIGKILL):
            for pid in filter(alive, pids):
                try:
                    os.kill(pid, sign)
                except ProcessLookupError:
                    pass
            deadline = time.monotonic() + 5
            while time.monotonic() < deadline:
                self.process.poll()
                if not any(map(alive, pids)):
                    break
                time.sleep(0.01)
        Server.running.remove(self)

    def pids(self):
        parents = {int(p): int(s[1]) for p in os.listdir("/proc") if p.isdigit() and (s := stat(p))}
        tree = [self.process.pid]
        for pid in tree:
            tree += [child for child, parent in parents.items() if parent == pid]
        return [pid for pid in tree if pid in parents]

    def cpu_seconds(self):
        """User and system time so far."""
        fields = [s for pid in self.pids() if (s := stat(pid))]
        return sum(int(s[11]) + int(s[12]) for s in fields) / os.sysconf("SC_CLK_TCK")

    def rss_kib(self):
        # smaps_rollup is exact; the counters in `status` lag behind.
        rollups = [pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in self.pids()]
        return sum(int(line.split()[1]) for r in rollups for line in r.splitlines() if line.startswith("Rss:"))

    def check(self):
        if self.process.poll() is not None:
            tail = " / ".join(pathlib.Path(self.log).read_text(errors="replace").splitlines()[-3:])
            raise Failed(f"{self.name} ended with code {self.process.returncode}: {tail}")


def alive(pid):
    fields = stat(pid)
    return fields is not None and fields[0] not in "ZX"


def stop_all():
    for server in reversed(list(Server.running)):
        server.__exit__()


def eventually(server, attempt, what):
    """Repeats `attempt` until it is true; a refused connection is a no."""
    deadline = time.monotonic() + 15
    while True:
        server.check()
        try:
            if attempt():
                return
        except (OSError, http.client.HTTPException):
            pass
        if time.monotonic() > deadline:
            raise Failed(f"{server.name}: {what} not within 15 s")
        time.sleep(0.02)


def ask(port, path, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("POST" if body else "GET", path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def write_config(folder, template, **values):
    text = (CONF / template).read_text()
    for key, value in {"DIR": folder, "BODY": BODY, **values}.items():
        text = text.replace(f"@{key}@", str(value))
    path = folder / template
    path.write_text(text)
    return path


class Bench:
    """The temporary folder, the cores, the backend and how to start each candidate."""

    def __init__(self, folder, cores, programs):
        self.folder, self.programs = folder, programs
        self.proxy_core, self.load_core = cores
        self.backends = free_ports(3)
        (folder / "www").mkdir()
        for path, size in BODIES.items():
            if path != "/":
                (folder / "www" / path[1:]).write_bytes(os.urandom(size))

    def backend_ports(self):
        return {f"B{i}": port for i, port in enumerate(self.backends)}

    def backend(self):
        config = write_config(self.folder, "backend.conf", **self.backend_ports())
        command = [self.programs["nginx"], "-e", "stderr", "-c", config]
        return Server("backend", command, self.load_core, self.folder / "backend.log")

    def wait_for_backend(self, server):
        eventually(server, lambda: all(ask(p, "/")[0] == 200 for p in self.backends), "an answer")

    def candidate(self, name):
        """The server, not started, with its ports in `http1`, `http2` and `nsq`."""
        http1, http2, nsq = free_ports(3)
        program = self.programs[name]
        ports = dict(self.backend_ports(), HTTP1=http1, HTTP2=http2, NSQ=nsq)
        if name == "nginx":
            command = [program, "-e", "stderr", "-c", write_config(self.folder, "nginx.conf", **ports)]
        elif name == "haproxy":
            command = [program, "-db", "-f", write_config(self.folder, "haproxy.cfg", **ports)]
        elif name == "gateway":
            command = [program, "--config", write_config(self.folder, "gateway.yaml", **ports)]
        elif name == "envoy":
            config = write_config(self.folder, "envoy.yaml", **ports)
            command = [program, "-c", config, "--concurrency", 1, "--disable-hot-restart", "-l", "error"]
        else:
            command = [program, *(f"127.0.0.1:{port}" for port in (http1, *self.backends))]
        server = Server(name, command, self.proxy_core, self.folder / f"{name}.log")
        server.http1, server.nsq = http1, nsq
        server.http2 = http2 if name in ("nginx", "haproxy") else http1
        return server

    def wait_for_candidate(self, server):
        """Until it forwards to all three, and with the header fields that all must set."""
        if server.name == "gateway":
            for port in self.backends:
                path, address = "/pub?topic=data_server_addr", f"127.0.0.1:{port}"
                eventually(server, lambda: ask(server.nsq, path, address)[0] == 200, "a heartbeat taken")
        reached = set()

        def seen():
            status, body = ask(server.http1, "/seen")
            if status == 200:
                port, *fields = body.decode().split("|")
                if not all(fields):
                    raise Failed(f"{server.name} sets too few fields: {body.decode()}")
                reached.add(int(port))
            return reached == set(self.backends)

        eventually(server, seen, "an answer of every backend")
