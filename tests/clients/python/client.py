"""Heartbeats through pynsq: proves that a Python client can publish to what the gateway reads from, and read
what the gateway's own publisher and embedded NSQ send.

    client.py produce --nsqd HOST:PORT --topic T --body B [--interval 1]
    client.py consume --nsqd HOST:PORT --topic T --channel C --count N [--timeout 20]

`produce` runs until killed: one message per interval (seconds), the first after one interval. `consume` prints
"<attempts> <body>" per message and exits 0 after N finished ones, 1 on timeout. Errors go to stderr.
"""

import argparse
import asyncio
import logging
import sys

import nsq


async def produce(args):
    def report(_conn, answer):
        if isinstance(answer, Exception):
            print(f"publish to {args.nsqd}: {answer}", file=sys.stderr)

    writer = nsq.Writer([args.nsqd], reconnect_interval=1.0)
    while True:
        await asyncio.sleep(args.interval)
        writer.pub(args.topic, args.body.encode(), callback=report)


async def consume(args):
    finished = 0
    done = asyncio.Event()

    def handle(message):
        nonlocal finished
        if finished == args.count:  # in flight beyond the count: left to the channel's next consumer
            message.requeue(backoff=False, delay=0)
            return None
        print(message.attempts, message.body.decode(), flush=True)
        finished += 1
        if finished == args.count:
            reader.set_max_in_flight(0)
            done.set()
        return True

    # max_tries=0: no limit; pynsq would finish a message unseen after five attempts.
    reader = nsq.Reader(args.topic, args.channel, handle, nsqd_tcp_addresses=[args.nsqd], max_in_flight=100,
                        max_tries=0)
    try:
        await asyncio.wait_for(done.wait(), args.timeout)
    except asyncio.TimeoutError:
        print("timeout", file=sys.stderr)
        return 1
    await asyncio.sleep(0.2)  # pynsq has no clean close: nsqd needs time to read the last FIN
    logging.disable()  # it reports its own close as a broken read
    reader.close()
    return 0


def main():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)
    for command in (produce, consume):
        sub = commands.add_parser(command.__name__)
        sub.set_defaults(command=command)
        sub.add_argument("--nsqd", required=True)
        sub.add_argument("--topic", required=True)
        if command is produce:
            sub.add_argument("--body", required=True)
            sub.add_argument("--interval", type=float, default=1)
        else:
            sub.add_argument("--channel", required=True)
            sub.add_argument("--count", type=int, required=True)
            sub.add_argument("--timeout", type=float, default=20)
    args = parser.parse_args()

    logging.basicConfig(level=logging.ERROR, format="%(message)s")
    logging.getLogger("tornado.application").disabled = True  # a stack trace for each refused connection
    sys.exit(asyncio.run(args.command(args)))


if __name__ == "__main__":
    main()
