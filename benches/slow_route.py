#!/usr/bin/env python3
"""What a slow route leaves of the throughput of a fast one.

    cargo build --release
    benches/slow_route.py --server-cpu 1 --load-cpu 0

Starts `slotway demo` on a free port of 127.0.0.1 and measures the requests a second of `/hello`, in turns
alone and while other connections wait for `/sleep/50`. The answers of the slow route do not count. A
session is one server and some pairs of measurements; sessions follow each other with fresh servers,
since a server that is a little faster or slower than the next stays so. Prints the median of the pairs'
ratios, their quartiles, and between which values the median lies with 95 % certainty (bootstrap): where
that is wider than what you look for, take more sessions.

Needs wrk, which Debian has as a package.
"""

import argparse
import pathlib
import random
import shlex
import socket
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "load"))
from served import Load, Server, require, slotway_binary


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--binary", type=pathlib.Path, default=slotway_binary())
    parser.add_argument("--sessions", type=int, default=10, help="fresh servers (%(default)s)")
    parser.add_argument("--pairs", type=int, default=6, help="in each session (%(default)s)")
    parser.add_argument("--seconds", type=int, default=1, help="of a measurement (%(default)s)")
    parser.add_argument("--connections", type=int, default=64, help="on /hello (%(default)s)")
    parser.add_argument("--slow", type=int, default=16, help="on the slow route (%(default)s)")
    parser.add_argument("--route", default="/sleep/50", help="the slow one (%(default)s)")
    parser.add_argument("--server-cpu", help="the core of hub and worker, as taskset takes it")
    parser.add_argument("--load-cpu", help="the core of the load")
    parser.add_argument("--at-least", type=float, help="fail if the median is below this")
    options = parser.parse_args()
    if not options.binary.exists():
        parser.error(f"{options.binary} does not exist: cargo build --release, or name it by --binary")
    return options


def rate(options, base):
    """Requests a second of the fast route."""
    load = Load(base + "/hello", options.connections, options.seconds, options.load_cpu)
    return load.result()["rps"]


def rate_beside_slow(options, base):
    """The same while the slow route is asked for, too."""
    beside = Load(base + options.route, options.slow, options.seconds + 60, options.load_cpu)
    try:
        # All of its connections are there and wait.
        time.sleep(0.2)
        found = rate(options, base)
        if beside.process.poll() is not None:
            beside.result()
        return found
    finally:
        beside.stop()


def session(options):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    base = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as directory:
        binary, attach = shlex.quote(str(options.binary)), shlex.quote(f"{directory}/s")
        command = f"exec {binary} demo --port {port} --socket {attach}"
        urls = [base + "/hello", base + options.route]
        with Server("slotway", command, urls, options.server_cpu):
            rate(options, base)  # Whatever is slow only once.
            ratios = []
            for turn in range(options.pairs):
                if turn % 2:
                    with_slow, alone = rate_beside_slow(options, base), rate(options, base)
                else:
                    alone, with_slow = rate(options, base), rate_beside_slow(options, base)
                ratios.append(with_slow / alone)
            return ratios


def main():
    options = arguments()
    require("wrk", "taskset")
    ratios = []
    for number in range(options.sessions):
        ratios += session(options)
        median = statistics.median(ratios)
        print(f"session {number + 1}: {len(ratios)} pairs, median {median:.3f}", flush=True)
    low, _, high = statistics.quantiles(ratios, n=4)
    draw = random.Random(1)
    medians = sorted(
        statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(2000)
    )
    print(
        f"/hello keeps {median:.3f} of its throughput beside {options.slow} connections on"
        f" {options.route}: quartiles {low:.3f} and {high:.3f}, the median lies between"
        f" {medians[50]:.3f} and {medians[-51]:.3f}"
    )
    if options.at_least is not None and median < options.at_least:
        sys.exit(f"less than {options.at_least}")


if __name__ == "__main__":
    main()
