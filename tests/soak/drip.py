#!/usr/bin/env python3
"""Slow clients that cost next to no processor time themselves: so what good traffic beside them loses, it
loses to the server. Each connection sends its beginning at once, and a few bytes every two seconds, or
reads a few; one that the server ends is opened again. Runs until it is told to stop.

    tests/soak/drip.py KIND CONNECTIONS HOST PORT PATH
"""

import heapq
import socket
import sys
import time

INTERVAL = 2.0


def body(length):
    return lambda path: f"POST {path} HTTP/1.1\r\nHost: slow\r\nContent-Length: {length}\r\n\r\n"


# What each kind begins with, and goes on with; None: it reads.
KINDS = {
    "slow heads": (lambda path: f"GET {path} HTTP/1.1\r\nHost: slow\r\n", b"X-Slow: more\r\n"),
    "slow bodies": (body(8192), b"sixteen bytes   "),
    "slow bodies, streamed": (body(4_000_000), b"sixteen bytes   "),
    "slow reads": (lambda path: f"GET {path} HTTP/1.1\r\nHost: slow\r\n\r\n", None),
}


def connect(address, beginning, piece):
    client = socket.socket()
    if piece is None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    client.connect(address)
    client.sendall(beginning)
    client.setblocking(False)
    return client


def go_on(client, piece):
    """Whether the connection lasts."""
    try:
        if piece is None:
            return client.recv(32) != b""
        client.send(piece)
        return client.recv(4096) != b""
    except BlockingIOError:
        return True
    except ConnectionError:
        return False


def main():
    kind, count, host, port, path = sys.argv[1:]
    address, count = (host, int(port)), int(count)
    beginning, piece = KINDS[kind]
    beginning = beginning(path).encode()
    start = time.monotonic()
    # Spread evenly: a thousand at once would be a burst every two seconds.
    due = [(start + INTERVAL * (1 + n / count), n) for n in range(count)]
    clients = [connect(address, beginning, piece) for _ in range(count)]
    while True:
        when, n = due[0]
        time.sleep(max(0.0, when - time.monotonic()))
        if not go_on(clients[n], piece):
            clients[n].close()
            clients[n] = connect(address, beginning, piece)
        heapq.heapreplace(due, (when + INTERVAL, n))


if __name__ == "__main__":
    main()
