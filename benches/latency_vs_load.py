#!/usr/bin/env python3
"""Latency against load, for slotway and whatever it is to be compared with, as one picture.

    cargo build --release --example open_loop
    target/release/slotway demo --port 3000 &
    benches/latency_vs_load.py slotway=http://127.0.0.1:3000/hello nginx=http://127.0.0.1:3001/hello

Each peer gets the same steps of load, the peers taking turns within a step; the median of the rounds is
drawn. Load is open (benches/load/open_loop.rs): requests fall due whether the server keeps up or not, and
latency counts from when they were due. A peer that answers less than 97 % of a step's load in
time, or whose p99 is over --give-up, is past its end and left out of the steps behind it.

Starts no server and needs nothing but Python's library. Keep the load off the servers' cores: start them
under `taskset -c 0`, and give `--cpu 1` here.
"""

import argparse
import json
import math
import os
import pathlib
import platform
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
COLOURS = ["#0b6e99", "#c2410c", "#4d7c0f", "#7e22ce", "#b91c1c", "#525252", "#0f766e", "#a16207"]
WIDTH, HEIGHT = 860, 480
LEFT, RIGHT, TOP, BOTTOM = 80, 170, 56, 64


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("peers", nargs="+", metavar="NAME=URL")
    parser.add_argument(
        "--rates",
        default="1000,5000,10000,20000,30000,40000,60000,80000,100000",
        help="steps of load, in requests a second (%(default)s)",
    )
    parser.add_argument("--seconds", type=float, default=5, help="of each step (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of each step (%(default)s)")
    parser.add_argument("--connections", type=int, default=64, help="(%(default)s)")
    parser.add_argument("--body", type=int, default=0, help="bytes to POST; 0: GET")
    parser.add_argument("--give-up", type=float, default=100, help="ms of p99 (%(default)s)")
    parser.add_argument("--cpu", help="the core that makes the load, as taskset takes it")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "docs" / "latency.svg")
    parser.add_argument("--json", type=pathlib.Path, help="where to put the numbers, too")
    parser.add_argument("--generator", type=pathlib.Path, help="the example `open_loop`, built")
    options = parser.parse_args()
    options.peers = [tuple(peer.split("=", 1)) for peer in options.peers]
    if any(len(peer) != 2 for peer in options.peers):
        parser.error("a peer is NAME=URL")
    options.rates = sorted(int(rate) for rate in options.rates.split(","))
    if options.generator is None:
        target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
        options.generator = target / "release" / "examples" / "open_loop"
    if not options.generator.exists():
        parser.error(
            f"{options.generator} is missing: cargo build --release --example open_loop"
        )
    return options


def measure(options, url, rate, seed):
    command = ["taskset", "-c", options.cpu] if options.cpu else []
    command += [str(options.generator), "--rate", str(rate), "--seconds", str(options.seconds)]
    command += ["--connections", str(options.connections), "--body", str(options.body)]
    command += ["--seed", str(seed), url]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(run.stderr.strip() or f"{command} ended with {run.returncode}")
    return json.loads(run.stdout)


def measure_all(options):
    """For each peer its steps: rate, answers a second, p50 and p99 in microseconds."""
    steps = {name: [] for name, _ in options.peers}
    past = set()
    for rate in options.rates:
        rounds = {name: [] for name, _ in options.peers if name not in past}
        for number in range(options.rounds):
            for name, url in options.peers:
                if name in rounds:
                    rounds[name].append(measure(options, url, rate, number + 1))
        for name, results in rounds.items():
            step = {"rate": rate}
            for key in ("requests", "answered_per_second", "p50_us", "p99_us"):
                step[key] = statistics.median(result[key] for result in results)
            steps[name].append(step)
            print(
                f"{name:16} {rate:>8}/s: answered {step['answered_per_second']:>8.0f}/s  "
                f"p50 {step['p50_us']:>9.0f} µs  p99 {step['p99_us']:>9.0f} µs",
                flush=True,
            )
            due_per_second = step["requests"] / options.seconds
            keeps_up = step["answered_per_second"] >= 0.97 * due_per_second
            if not keeps_up or step["p99_us"] > options.give_up * 1000:
                past.add(name)
    return steps


def escape(text):
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def text(x, y, content, anchor="middle", extra=""):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {extra}>{escape(content)}</text>'


def unit(us):
    return f"{us / 1000:g} ms" if us >= 1000 else f"{us:g} µs"


def draw(options, steps):
    drawn = [step for of_peer in steps.values() for step in of_peer]
    most = max(step["rate"] for step in drawn)
    lowest = math.floor(math.log10(max(1, min(step["p50_us"] for step in drawn))))
    highest = max(lowest + 1, math.ceil(math.log10(max(step["p99_us"] for step in drawn))))

    def x(rate):
        return LEFT + rate / most * (WIDTH - LEFT - RIGHT)

    def y(us):
        part = (math.log10(max(us, 10**lowest)) - lowest) / (highest - lowest)
        return HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)

    what = f"POST of {options.body} bytes" if options.body else "GET"
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="13" fill="#222">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        text(LEFT, 24, "Latency against load", "start", 'font-size="17" font-weight="bold"'),
        text(
            LEFT,
            43,
            f"{what}, {options.connections} connections, open load; "
            f"{os.cpu_count()} cores, {platform.system()} {platform.release().split('-')[0]}",
            "start",
            'fill="#666"',
        ),
    ]
    for power in range(lowest, highest + 1):
        for factor in range(1, 10 if power < highest else 2):
            us = factor * 10**power
            shade = "#ccc" if factor == 1 else "#eee"
            out.append(
                f'<path d="M{LEFT} {y(us):.1f}H{WIDTH - RIGHT}" stroke="{shade}" fill="none"/>'
            )
        out.append(text(LEFT - 8, y(10**power) + 4, unit(10**power), "end"))
    step = 10 ** math.floor(math.log10(most))
    step = step / 5 if most / step < 2 else step / 2 if most / step < 5 else step
    for number in range(int(most / step) + 1):
        rate = number * step
        out.append(
            f'<path d="M{x(rate):.1f} {HEIGHT - BOTTOM}v5" stroke="#666" fill="none"/>'
        )
        label = f"{rate / 1000:g} k" if most >= 2000 else f"{rate:g}"
        out.append(text(x(rate), HEIGHT - BOTTOM + 20, label))
    middle = (LEFT + WIDTH - RIGHT) / 2
    out.append(text(middle, HEIGHT - BOTTOM + 44, "requests due per second"))
    for index, (name, of_peer) in enumerate(steps.items()):
        colour = COLOURS[index % len(COLOURS)]
        for key, dash in (("p50_us", ""), ("p99_us", ' stroke-dasharray="6 4"')):
            points = [(x(s["rate"]), y(s[key])) for s in of_peer]
            line = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
            out.append(
                f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>'
            )
            for (a, b), s in zip(points, of_peer):
                out.append(
                    f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"><title>'
                    f"{escape(name)}, {s['rate']}/s: {key[:3]} {unit(round(s[key]))}"
                    "</title></circle>"
                )
        at = TOP + 20 * index + 8
        out.append(
            f'<path d="M{WIDTH - RIGHT + 14} {at}h22" stroke="{colour}" stroke-width="3"/>'
        )
        out.append(text(WIDTH - RIGHT + 42, at + 4, name, "start"))
    at = TOP + 20 * len(steps) + 16
    for label, dash in (("p50", ""), ("p99", ' stroke-dasharray="6 4"')):
        out.append(
            f'<path d="M{WIDTH - RIGHT + 14} {at}h22" stroke="#666" stroke-width="2"{dash}/>'
        )
        out.append(text(WIDTH - RIGHT + 42, at + 4, label, "start"))
        at += 20
    out.append("</svg>")
    return "\n".join(out) + "\n"


def main():
    options = arguments()
    steps = measure_all(options)
    if options.json:
        options.json.write_text(json.dumps(steps, indent=1) + "\n")
    options.out.write_text(draw(options, steps))
    print(f"drawn: {options.out}")


if __name__ == "__main__":
    main()
