#!/usr/bin/env python3
"""Servers side by side: requests a second, latency and processor time of each, and the ratios to the first.

    cargo build --release
    benches/side_by_side.py \\
        slotway=http://127.0.0.1:3000/hello='target/release/slotway demo --port 3000' \\
        nginx=http://127.0.0.1:3001/='app --unix /tmp/app.sock & exec nginx -c /path/to/nginx.conf'

A peer is a name, the URL that is asked, and the shell command that serves it. Each round starts each
peer anew, one after the other, loads it for a second that does not count, and then measures: so a
round's ratios are of the same half minute, and no peer profits from a process that happens to be fast.
Processor time is user and system time of all processes of a command, divided by the answers. All run on
--server-cpu, the load on --load-cpu; --free pins nothing.

Two virtual cores may share a cache, or for some minutes not; then whatever passes between server and load
costs more (64 KiB twice as much). So each line says how fast one core writes what the other has read, and a
round in which that was not alike for two peers is left out of the ratios of these two.

`--body N` sends a POST with N bytes. `--idle N` measures something else: memory (PSS) of N connections
after one request each, and processor time while they are idle.

The floor is a server on io_uring that answers by itself, in the bench `end_to_end`:

    bare=http://127.0.0.1:3300/hello='SLOTWAY_BENCH_BARE=3300 exec cargo bench -q --bench end_to_end'

Needs wrk, which Debian has as a package.
"""

import argparse
import http.client
import os
import pathlib
import re
import resource
import statistics
import sys
import time
import urllib.parse

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent / "load"))
from served import Load, Server, require, sharing_speed

FIELDS = ["rps", "p50", "p99", "cpu"]


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("peers", nargs="+", metavar="NAME=URL=COMMAND")
    parser.add_argument("--connections", type=int, default=64, help="(%(default)s)")
    parser.add_argument("--seconds", type=int, default=2, help="of a measurement (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(%(default)s)")
    parser.add_argument("--body", type=int, default=0, help="bytes to POST; 0: GET")
    parser.add_argument("--server-cpu", default="1", help="as taskset takes it (%(default)s)")
    parser.add_argument("--load-cpu", default="0", help="(%(default)s)")
    parser.add_argument("--free", action="store_true", help="pin nothing")
    parser.add_argument("--idle", type=int, metavar="N", help="N idle connections instead")
    options = parser.parse_args()
    options.peers = [tuple(peer.split("=", 2)) for peer in options.peers]
    if any(len(peer) != 3 for peer in options.peers):
        parser.error("a peer is NAME=URL=COMMAND")
    if options.free:
        options.server_cpu = options.load_cpu = None
    return options


def measure(options, name, url, command):
    # What is asked before anything counts must be a GET that is answered; for a POST any will do.
    ready = urllib.parse.urljoin(url, "/hello") if options.body else url
    with Server(name, command, [ready], options.server_cpu) as server:

        def load(seconds):
            return Load(url, options.connections, seconds, options.load_cpu, options.body).result()

        load(1)
        before = server.cpu()
        result = load(options.seconds)
        result["cpu"] = (server.cpu() - before) / max(result["answers"], 1) * 1e6
    result["sharing"] = sharing_speed(cores(options))
    print(
        f"{name:14} {result['rps']:9.0f} requests/s  p50 {result['p50']:8.0f} µs"
        f"  p99 {result['p99']:8.0f} µs  {result['cpu']:8.2f} µs of processor time per request"
        f"  (cores share at {result['sharing']:.1f} GB/s)",
        flush=True,
    )
    return result


def cores(options):
    """A core of the server and another, of the load if it has its own."""
    if options.free:
        return sorted(os.sched_getaffinity(0))[:2]
    return [int(re.match(r"\d+", cpu)[0]) for cpu in (options.server_cpu, options.load_cpu)]


def compare(options):
    results = {name: [] for name, _, _ in options.peers}
    for _ in range(options.rounds):
        for name, url, command in options.peers:
            results[name].append(measure(options, name, url, command))
    names = list(results)
    if len(names) == 1:
        return
    print(f"\n{names[0]} against, medians of the rounds' ratios (and their range):")
    for name in names[1:]:
        rounds = list(zip(results[names[0]], results[name]))
        alike = [pair for pair in rounds if is_alike(*(result["sharing"] for result in pair))]
        left_out = len(rounds) - len(alike)
        columns = []
        for field in FIELDS if alike else []:
            ratios = [a[field] / b[field] for a, b in alike]
            columns.append(
                f"{field} {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            )
        if left_out:
            columns.append(f"[{left_out} of {len(rounds)} rounds left out: cores near for one only]")
        print(f"  {name:14} " + "  ".join(columns))


def is_alike(a, b):
    """Whether the cores shared what they wrote about equally fast."""
    return max(a, b) < 2 * min(a, b)


def idle(options):
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    for name, url, command in options.peers:
        parts = urllib.parse.urlsplit(url)
        with Server(name, command, [url], options.server_cpu) as server:
            before, connections = server.memory(), []
            for _ in range(options.idle):
                connection = http.client.HTTPConnection(parts.netloc, timeout=30)
                connection.request("GET", parts.path or "/")
                connection.getresponse().read()
                connections.append(connection)
            time.sleep(5)
            each = (server.memory() - before) / options.idle
            before = server.cpu()
            time.sleep(3)
            busy = (server.cpu() - before) / 3 * 100
            print(
                f"{name:14} {each:6.2f} KiB for each of {options.idle} idle connections,"
                f" {busy:.1f} % of a core while idle",
                flush=True,
            )
            for connection in connections:
                connection.close()


def main():
    options = arguments()
    require("taskset") if options.idle else require("wrk", "taskset")
    if options.idle:
        idle(options)
    else:
        compare(options)


if __name__ == "__main__":
    main()
