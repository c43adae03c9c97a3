#!/usr/bin/env python3
"""Subscribers of /events beside others that never read: p99 of those who do, with and without them, in
turns. Before that, many subscribers at once, each of which must get every event once and in order. Exits
with 1 where a goal is missed. The hub has one core and this script the other; it needs nothing but the
standard library, and never signals a process it did not start.

    cargo build --release && tests/soak/slow_subscribers.py
"""

import argparse
import array
import http.client
import json
import multiprocessing
import os
import re
import select
import socket
import statistics
import sys
import tempfile
import time

from slow_clients import ask, raise_nofile_limit, start_hub

GOAL = 1.5
# What every stream begins with.
FIRST_ID = re.compile(rb"\nid: .*\n")
STAMP = re.compile(rb"N=(\d+) T=(\d+);")
# Filled sockets are given up after 12 s (docs/LIMITS.md), so a run has to be over by then.
MOST_SECONDS = 7


def subscribe(address, count, window=None):
    """Connections whose streams have begun."""
    sockets = []
    for begin in range(0, count, 100):
        some = []
        for _ in range(min(100, count - begin)):
            client = socket.socket()
            if window:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
            client.connect(address)
            client.sendall(b"GET /events HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n")
            some.append(client)
        for client in some:
            client.settimeout(30)
            head = b""
            while b"\nid: " not in head or not head.endswith(b"\n\r\n"):
                part = client.recv(4096)
                if not part:
                    sys.exit(f"the hub ended a stream that had hardly begun:\n{head.decode()}")
                head += part
            client.setblocking(False)
        sockets += some
    return sockets


def emit(hub, data):
    body = json.dumps({"source": "soak", "event_type": "tick", "data": data})
    hub.request("POST", "/internal/emit", body, {"Content-Type": "application/json"})
    answer = hub.getresponse()
    answer.read()
    if answer.status != 200:
        sys.exit(f"/internal/emit answered {answer.status}")


def publish(address, events, rate):
    """Emits so many events at a steady rate, each with its number and its time in nanoseconds."""
    hub = http.client.HTTPConnection(*address)
    start = time.monotonic()
    for number in range(events):
        time.sleep(max(0, start + number / rate - time.monotonic()))
        emit(hub, f"N={number} T={time.monotonic_ns()};")


def read(sockets, events, publisher):
    """What the subscribers saw: latencies in milliseconds, and how many events were lost, doubled or moved."""
    poll = select.epoll()
    by_fd = {client.fileno(): (client, index) for index, client in enumerate(sockets)}
    expected, rests = array.array("q", bytes(8 * len(sockets))), [b""] * len(sockets)
    latencies, wrong, open_streams = array.array("d"), 0, len(sockets)
    for fd in by_fd:
        poll.register(fd, select.EPOLLIN)
    publisher.start()
    last_news = time.monotonic()
    while open_streams and len(latencies) < events * len(sockets):
        for fd, _ in poll.poll(1):
            client, index = by_fd[fd]
            part = client.recv(65536)
            if not part:
                poll.unregister(fd)
                open_streams -= 1
                continue
            now, text, done = time.monotonic_ns(), rests[index] + part, 0
            for match in STAMP.finditer(text):
                number, done = int(match[1]), match.end()
                wrong += number != expected[index]
                expected[index] = number + 1
                latencies.append((now - int(match[2])) / 1e6)
                last_news = time.monotonic()
            rests[index] = text[done:][-64:]
        if time.monotonic() - last_news > 10:
            break
    publisher.join()
    wrong += abs(events * len(sockets) - len(latencies))
    return latencies, wrong


def run(address, count, events, rate):
    """One run with so many subscribers that read: p99 in milliseconds, and what went wrong."""
    sockets = subscribe(address, count)
    publisher = multiprocessing.Process(target=publish, args=(address, events, rate))
    latencies, wrong = read(sockets, events, publisher)
    for client in sockets:
        client.close()
    return statistics.quantiles(latencies, n=100)[98], wrong


def fill(base, address, sockets):
    """Publishes until every one of these has lost an event."""
    dropped = lambda: ask(base, "/health")["streams"]["dropped"]
    hub, before = http.client.HTTPConnection(*address), dropped()
    for _ in range(2000):
        emit(hub, "x" * 60_000)
        if dropped() - before >= len(sockets):
            return
    sys.exit("the stuck subscribers took whatever was sent")


def still_open(sockets):
    """How many of these the hub has not given up."""
    poll = select.poll()
    for client in sockets:
        poll.register(client, 0)
    return len(sockets) - len(poll.poll(0))


def wait_gone(base):
    deadline = time.monotonic() + 30
    while ask(base, "/health")["streams"]["subscribers"] > 0:
        if time.monotonic() > deadline:
            sys.exit("subscribers that have left are still there")
        time.sleep(0.1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--binary", default="target/release/slotway")
    parser.add_argument("--many", type=int, default=10_000, help="subscribers that get each event once")
    parser.add_argument("--stuck", type=int, default=1000, help="subscribers that never read")
    parser.add_argument("--healthy", type=int, default=100, help="subscribers beside them")
    parser.add_argument("--rate", type=int, default=100, help="events in a second")
    parser.add_argument("--seconds", type=int, default=5, choices=range(1, MOST_SECONDS + 1))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    raise_nofile_limit()
    failed = False
    with tempfile.TemporaryDirectory() as directory:
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[-1]})
        hub, base, _ = start_hub(options.binary, directory)
        os.sched_setaffinity(0, {cores[0]})
        host, port = base.removeprefix("http://").split(":")
        address = (host, int(port))
        try:
            p99, wrong = run(address, options.many, 100, 4)
            failed |= wrong > 0
            print(f"{options.many} subscribers, 100 events: {100 * options.many} deliveries, {wrong} lost, "
                  f"doubled or out of order; p99 {p99:.1f} ms", flush=True)
            wait_gone(base)
            events, ratios = options.rate * options.seconds, []
            print(f"{options.healthy} that read, {options.rate} events/s, {options.seconds} s; p99 in ms")
            for _ in range(options.rounds):
                alone, wrong = run(address, options.healthy, events, options.rate)
                wait_gone(base)
                stuck = subscribe(address, options.stuck, window=4096)
                fill(base, address, stuck)
                beside, wrong_beside = run(address, options.healthy, events, options.rate)
                left = still_open(stuck)
                for client in stuck:
                    client.close()
                wait_gone(base)
                ratios.append(beside / alone)
                failed |= wrong + wrong_beside > 0 or left < options.stuck
                print(f"  alone {alone:6.2f}, beside {left} stuck ones {beside:6.2f}: {ratios[-1]:.2f}; "
                      f"wrong: {wrong}, {wrong_beside}", flush=True)
            ratio = statistics.median(ratios)
            failed |= ratio > GOAL
        finally:
            hub.terminate()
            hub.wait()
    print(f"median {ratio:.2f}; goals: {GOAL} at most, nothing lost or doubled: {'missed' if failed else 'met'}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
