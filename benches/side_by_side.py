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
costs more (64 KiB twice as much). So each line says how fast one core wrote what the other had read, before
and behind the load. Ratios are of the rounds in which the cores were near for both peers, and of those in
which they were far for both (less than half of the fastest); where all are far, that is called near.

`--body N` sends a POST with N bytes. `--idle N` measures something else: memory (PSS) of N connections
after one request each, and processor time while they are idle.

The floor is a server on io_uring that answers by itself, in the bench `end_to_end`, built beforehand by
`cargo bench --no-run`:

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
        sharing = [sharing_speed(cores(options))]
        before = server.cpu()
        result = load(options.seconds)
        result["cpu"] = (server.cpu() - before) / max(result["answers"], 1) * 1e6
        sharing.append(sharing_speed(cores(options)))
    result["sharing"] = sharing
    print(
        f"{name:14} {result['rps']:9.0f} requests/s  p50 {result['p50']:8.0f} µs"
        f"  p99 {result['p99']:8.0f} µs  {result['cpu']:8.2f} µs of processor time per request"
        f"  (cores share at {min(sharing):.1f} to {max(sharing):.1f} GB/s)",
        flush=True,
    )
    return result


def cores(options):
    """The first core of the server and one of the load, if possible another."""
    usable = sorted(os.sched_getaffinity(0))
    server = int(re.match(r"\d+", options.server_cpu)[0]) if options.server_cpu else usable[0]
    of_load = map(int, re.findall(r"\d+", options.load_cpu)) if options.load_cpu else usable
    return [server, next((cpu for cpu in of_load if cpu != server), server)]


def compare(options):
    results = {name: [] for name, _, _ in options.peers}
    for _ in range(options.rounds):
        for name, url, command in options.peers:
            results[name].append(measure(options, name, url, command))
    names = list(results)
    if len(names) == 1:
        return
    print(f"\n{names[0]} against, medians of the rounds' ratios (and their range):")
    fastest = max(max(result["sharing"]) for of_peer in results.values() for result in of_peer)
    for name in names[1:]:
        rounds = list(zip(results[names[0]], results[name]))
        by_distance = {"near": [], "far": [], None: []}
        for pair in rounds:
            by_distance[distance(pair, fastest)].append(pair)
        for where in ("near", "far"):
            if by_distance[where]:
                print(f"  {name:14} {where:5}" + ratios(by_distance[where]))
        if by_distance[None]:
            print(f"  {name:14} {len(by_distance[None])} rounds left out, near in a part only")


def distance(results, fastest):
    """Whether the cores were near or far in all of these; None if they were not alike."""
    found = {speed > fastest / 2 for result in results for speed in result["sharing"]}
    return ("near" if found.pop() else "far") if len(found) == 1 else None


def ratios(rounds):
    """A line of all ratios and of how many rounds they are."""
    columns = []
    for field in FIELDS:
        found = [a[field] / b[field] for a, b in rounds]
        columns.append(
            f"{field} {statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"
        )
    return "  ".join(columns) + f"  of {len(rounds)}"


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
