#!/usr/bin/env python3
"""Good traffic beside slow clients: p99 of wrk with slowhttptest's slow heads, slow bodies and slow
reads against a release hub, and without them. Prints a table; exits with 1 where p99 grows more than
the goal allows. Needs slowhttptest and wrk (both Debian packages), and nothing but the standard
library. With --drip the slow clients are those of drip.py, which do the same and need no time to speak of.
Never signals a process it did not start.

    cargo build --release && tests/soak/slow_clients.py
"""

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

GOAL = 1.5
# slowhttptest: kind, and its options. Each keeps its connections for as long as the hub lets it.
ATTACKS = {
    "slow heads": ["-H", "-i", "2", "-x", "16"],
    "slow bodies": ["-B", "-i", "2", "-s", "8192", "-x", "16"],
    "slow bodies, streamed": ["-B", "-i", "2", "-s", "4000000", "-x", "16"],
    "slow reads": ["-X", "-n", "5", "-w", "512", "-y", "1024", "-z", "32", "-k", "3"],
}
# Where each goes. The demo worker reads the bodies, and streams a body that nobody has room for.
PATHS = {
    "slow heads": "/hello",
    "slow bodies": "/count",
    "slow bodies, streamed": "/count",
    "slow reads": "/bytes/20000000",
}


def milliseconds(text):
    """A duration as wrk prints it."""
    match = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text)
    if match is None:
        sys.exit(f"wrk printed '{text}' for a duration")
    number, unit = match.groups()
    return float(number) * {"us": 0.001, "ms": 1, "s": 1000, "m": 60000}[unit]


def wrk(url, seconds, connections):
    """One run of good traffic: requests in a second, p50, p99, and what was not answered with 2xx."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", url]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Latency Distribution" not in out:
        sys.exit(f"wrk {url} said:\n{out}")
    p50, p99 = (milliseconds(re.search(rf"^ +{p}%\s+(\S+)", out, re.M)[1]) for p in (50, 99))
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1])
    wrong = sum(int(n) for n in re.findall(r"Non-2xx or 3xx responses: (\d+)", out))
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", out)
    wrong += sum(map(int, errors.groups())) if errors else 0
    return rate, p50, p99, wrong


def ask(base, path):
    with urllib.request.urlopen(base + path, timeout=10) as answer:
        return json.load(answer)


def open_connections(base):
    return ask(base, "/health")["connections"]["open"]


def memory_kib(pid):
    with open(f"/proc/{pid}/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+)", status.read())[1])


def processor_seconds(pids):
    """What these processes have used so far."""
    ticks = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat") as stat:
            ticks += sum(map(int, stat.read().rsplit(")", 1)[1].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def settle(pids):
    """Waits until these processes have little to do: answers that nobody reads fill the kernel's buffers
    first, several MiB for each client, and to move those bytes is work as any other."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        before = processor_seconds(pids)
        time.sleep(0.5)
        if processor_seconds(pids) - before < 0.05:
            return
    print("the hub is still busy after 20 s", file=sys.stderr)


def raise_nofile_limit():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def start_hub(binary, directory):
    """The hub with its demo worker, and where it listens."""
    command = [binary, "demo", "--port", "0", "--socket", f"{directory}/hub.sock"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HUB_", "SLOTWAY_"))}
    log = open(f"{directory}/hub.log", "w")
    hub = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
    for line in hub.stdout:
        if line.startswith("listening on http://"):
            base = line.split()[-1]
            break
    else:
        sys.exit("the hub did not start; see its log:\n" + open(f"{directory}/hub.log").read())
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        workers = ask(base, "/health")["workers"]
        attached = [w["pid"] for w in workers if w["state"] == "attached"]
        if attached:
            return hub, base, [hub.pid, *attached]
        time.sleep(0.05)
    sys.exit("the demo worker did not attach")


def attack(kind, base, connections, seconds, drip):
    """Starts the slow clients, and returns when their connections are there."""
    if drip:
        host, port = base.removeprefix("http://").rsplit(":", 1)
        command = [sys.executable, os.path.join(os.path.dirname(__file__), "drip.py"), kind]
        command += [str(connections), host, port, PATHS[kind]]
    else:
        verb = ["-t", "POST"] if "bodies" in kind else []
        command = ["slowhttptest", *ATTACKS[kind], *verb]
        command += ["-c", str(connections), "-r", str(connections)]
        command += ["-l", str(seconds), "-p", "5", "-u", base + PATHS[kind]]
    # What these clients compute would be computed elsewhere: it takes what time the hub and wrk leave.
    process = subprocess.Popen(["chrt", "--idle", "0", *command], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    most, deadline = 0, time.monotonic() + 8
    while most < connections and time.monotonic() < deadline:
        most = max(most, open_connections(base))
        time.sleep(0.1)
    return process, most


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--binary", default="target/release/slotway")
    parser.add_argument("--slow", type=int, default=1000, help="slow connections")
    parser.add_argument("--good", type=int, default=16, help="connections of wrk")
    parser.add_argument("--seconds", type=int, default=5, help="length of one run of wrk")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=ATTACKS, help="one kind of slow client")
    parser.add_argument("--elsewhere", action="store_true",
                        help="send the slow clients to another hub: what their own processor time does")
    parser.add_argument("--drip", action="store_true",
                        help="slow clients that need no processor time to speak of, not slowhttptest")
    options = parser.parse_args()
    raise_nofile_limit()
    failed = False
    with tempfile.TemporaryDirectory() as directory:
        hub, base, pids = start_hub(options.binary, directory)
        hubs, target = [hub], base
        if options.elsewhere:
            os.mkdir(f"{directory}/other")
            other, target, pids = start_hub(options.binary, f"{directory}/other")
            hubs.append(other)
        try:
            wrk(base + "/hello", 2, options.good)
            print(f"{options.slow} slow connections, {options.good} good ones on /hello; medians of "
                  f"{options.rounds} rounds of {options.seconds} s, with and without in turns"
                  + ("; slow ones of drip.py" if options.drip else "")
                  + ("; the slow ones at another hub" if options.elsewhere else ""))
            print(f"{'':24}{'slow':>6}{'req/s':>10}{'p50 ms':>9}{'p99 ms':>9}{'without':>9}"
                  f"{'ratio':>7}{'wrong':>7}{'hub MiB':>9}")
            for kind in [options.only] if options.only else ATTACKS:
                runs, alone, ratios, seen = [], [], [], []
                for _ in range(options.rounds):
                    alone.append(wrk(base + "/hello", options.seconds, options.good))
                    process, most = attack(kind, target, options.slow,
                                           options.seconds + 45, options.drip)
                    try:
                        settle(pids)
                        runs.append(wrk(base + "/hello", options.seconds, options.good))
                        most = max(most, open_connections(target))
                        memory = memory_kib(hub.pid) / 1024
                    finally:
                        process.terminate()
                        process.wait()
                    ratios.append(runs[-1][2] / alone[-1][2])
                    seen.append(most)
                    while open_connections(target) > 1:
                        time.sleep(0.1)
                middle = [statistics.median(run[i] for run in runs) for i in range(3)]
                without = statistics.median(run[2] for run in alone)
                ratio = statistics.median(ratios)
                wrong = sum(run[3] for run in runs)
                failed |= ratio > GOAL or wrong > 0
                print(f"{kind:24}{min(seen):6}{middle[0]:10.0f}{middle[1]:9.2f}{middle[2]:9.2f}"
                      f"{without:9.2f}{ratio:7.2f}{wrong:7}{memory:9.1f}", flush=True)
        finally:
            for hub in hubs:
                hub.terminate()
            for hub in hubs:
                hub.wait()
    print(f"goal: ratio at most {GOAL}, nothing wrong: {'missed' if failed else 'met'}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
