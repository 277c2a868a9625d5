"""Whether a candidate's memory stays flat over many requests of every kind."""

import sys

# Each kind of load in turn, and its part of the time; requests of bodies are few and hold the most.
ROUND = (
    ("small", 4, lambda load, server, seconds: load.wrk(server, seconds=seconds)),
    ("new-connection", 2, lambda load, server, seconds: load.wrk(server, headers=["Connection: close"], seconds=seconds)),
    ("http2", 2, lambda load, server, seconds: load.h2load(server, seconds)),
    ("100k", 1, lambda load, server, seconds: load.wrk(server, "/100k", seconds=seconds)),
    ("10m", 1, lambda load, server, seconds: load.wrk(server, "/10m", 8, seconds=seconds)),
)
# A tenth of what is resident, and a MiB: the allocator gives back what it likes when it likes.
ALLOWED = 0.10, 1024


def soak(load, server, requests):
    """Puts loads on the server until it has answered so many requests; the samples after each round, and the errors."""
    samples, errors = [(0, server.rss_kib())], []
    while samples[-1][0] < requests:
        done, _ = samples[-1]
        for name, seconds, put in ROUND:
            report = put(load, server, seconds)
            done += report.requests
            errors += [f"{name}: {error}" for error in report.errors]
        server.check()
        samples.append((done, server.rss_kib()))
        print(f"{server.name}: {done:,} requests, {samples[-1][1]:,} KiB", file=sys.stderr)
    return samples, errors


def report(name, samples):
    """How memory went, as lines, and whether it was flat from the middle to the end."""
    # Of the first round everything is new: pools, tables, and whatever the allocator keeps.
    start, end = samples[1], samples[-1]
    middle = min(samples[1:], key=lambda sample: abs(sample[0] - end[0] / 2))
    most = max(rss for _, rss in samples)
    share, kib = ALLOWED
    flat = end[1] <= middle[1] * (1 + share) + kib
    rows = (("before", samples[0]), ("start", start), ("middle", middle), ("end", end))
    return [
        f"| {name}, resident memory | requests | KiB |",
        "|---|---|---|",
        *(f"| {title} | {requests:,} | {rss:,} |" for title, (requests, rss) in rows),
        f"\nat most {most:,} KiB; {'flat' if flat else 'NOT FLAT'} from the middle to the end",
    ], flat
