#!/usr/bin/env python3
"""What a slow route leaves of the throughput of a fast one.

    cargo build --release
    benches/slow_route.py --server-cpu 1 --load-cpu 0

Starts `slotway demo` on a free port of 127.0.0.1 and measures the requests a second of `/hello`, in turns
alone and while other connections wait for `/sleep/50`. The answers of the slow route do not count. A
session is one server and some pairs of measurements; sessions follow each other with fresh servers,
since a server that is a little faster or slower than the next stays so. Prints the median of the pairs'
ratios, their quartiles, and the range that the median has with 95 % certainty: where that is wider
than what you look for, take more sessions.

Needs wrk, which Debian has as a package.
"""

import argparse
import contextlib
import os
import pathlib
import random
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
    parser.add_argument("--binary", type=pathlib.Path, default=target / "release" / "slotway")
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
    if shutil.which("wrk") is None:
        parser.error("wrk is not installed: apt-get install wrk")
    return options


def pinned(cpu, command):
    return ["taskset", "-c", cpu, *command] if cpu else command


def wait_for(hub, urls):
    """Until all are answered with 200; else says what is wrong."""
    problem = "nothing was tried"
    for _ in range(100):
        if hub.poll() is not None:
            return f"the hub ended with {hub.returncode}"
        try:
            for url in urls:
                urllib.request.urlopen(url, timeout=10).close()
            return None
        except OSError as error:
            problem = f"{url}: {error}"
            time.sleep(0.1)
    return problem


@contextlib.contextmanager
def server(options):
    """A hub and its worker; gives where they listen."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryFile("w+") as log:
        command = [str(options.binary), "demo", "--port", str(port), "--socket", f"{directory}/s"]
        hub = subprocess.Popen(pinned(options.server_cpu, command), stdout=log, stderr=log)
        try:
            base = f"http://127.0.0.1:{port}"
            problem = wait_for(hub, [base + "/hello", base + options.route])
            if problem:
                log.seek(0)
                sys.exit(f"{problem}\n{log.read()}")
            yield base
        finally:
            hub.terminate()
            hub.wait()


def wrk(options, connections, seconds, url):
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}", url]
    return subprocess.Popen(
        pinned(options.load_cpu, command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def rate(options, base):
    """Requests a second of the fast route."""
    load = wrk(options, options.connections, options.seconds, base + "/hello")
    out, _ = load.communicate()
    found = re.search(r"Requests/sec:\s+([\d.]+)", out)
    if load.returncode or not found or "Non-2xx" in out or "Socket errors" in out:
        sys.exit(f"the load on /hello failed:\n{out}")
    return float(found[1])


def rate_beside_slow(options, base):
    """The same while the slow route is asked for, too."""
    beside = wrk(options, options.slow, options.seconds + 60, base + options.route)
    try:
        # All of its connections are there and wait.
        time.sleep(0.2)
        found = rate(options, base)
        if beside.poll() is not None:
            sys.exit(f"the load on {options.route} ended:\n{beside.communicate()[0]}")
        return found
    finally:
        beside.terminate()
        beside.communicate()


def session(options):
    with server(options) as base:
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
