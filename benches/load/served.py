"""What the scripts that measure servers share: starting them pinned to a core, what they cost by /proc,
and wrk. Needs nothing but Python's library, wrk and taskset."""

import contextlib
import mmap
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TICKS = os.sysconf("SC_CLK_TCK")


def require(*programs):
    for program in programs:
        if shutil.which(program) is None:
            sys.exit(f"{program} is not installed: apt-get install {program}")


def slotway_binary():
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
    return target / "release" / "slotway"


def pinned(cpu, command):
    return ["taskset", "-c", cpu, *command] if cpu else command


def wait_for(process, urls):
    """Until all are answered with a status below 400; else says what is wrong."""
    problem = "nothing was tried"
    for _ in range(100):
        if process.poll() is not None:
            return f"it ended with {process.returncode}"
        try:
            for url in urls:
                urllib.request.urlopen(url, timeout=10).close()
            return None
        except OSError as error:
            problem = f"{url}: {error}"
            time.sleep(0.1)
    return problem


def processes(pid):
    """A process and all below it."""
    found = [pid]
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in os.listdir(f"/proc/{pid}/task"):
            children = pathlib.Path(f"/proc/{pid}/task/{task}/children").read_text()
            for child in children.split():
                found += processes(int(child))
    return found


class Server:
    """A shell command that serves; all of its processes stop with the block that started it."""

    def __init__(self, name, command, urls, cpu):
        self.name, self.urls = name, urls
        self.command = pinned(cpu, ["sh", "-c", command])

    def __enter__(self):
        self.log = tempfile.TemporaryFile("w+")
        # A group of its own, so that those go too whom a shell has left behind.
        self.process = subprocess.Popen(
            self.command, stdout=self.log, stderr=self.log, start_new_session=True
        )
        problem = wait_for(self.process, self.urls)
        if problem:
            self.__exit__()
            self.log.seek(0)
            sys.exit(f"{self.name}: {problem}\n{self.log.read()}")
        return self

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        # Of a group whose leader has ended, too: its sockets are to be free for the next.
        for _ in range(100):
            try:
                os.killpg(self.process.pid, 0)
            except ProcessLookupError:
                return
            time.sleep(0.1)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def cpu(self):
        """Seconds of processor time so far, user and system, of all processes."""
        ticks = 0
        for pid in processes(self.process.pid):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / TICKS

    def memory(self):
        """KiB of all processes, what they share counted once (PSS)."""
        total = 0
        for pid in processes(self.process.pid):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
                total += int(re.search(r"^Pss:\s+(\d+)", rollup, re.M)[1])
        return total


class Load:
    """One wrk."""

    def __init__(self, url, connections, seconds, cpu, body=0):
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}", "--latency"]
        self.url, self.script = url, None
        if body:
            self.script = tempfile.NamedTemporaryFile("w", suffix=".lua")
            self.script.write(f'wrk.method = "POST"\nwrk.body = string.rep("x", {body})\n')
            self.script.flush()
            command += ["-s", self.script.name]
        self.process = subprocess.Popen(
            pinned(cpu, [*command, url]),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def result(self):
        """Answers, requests a second, and p50 and p99 in µs. Ends the program where any failed."""
        out, _ = self.process.communicate()
        answers = re.search(r"(\d+) requests in", out)
        if self.process.returncode or not answers or re.search("Non-2xx|Socket errors", out):
            sys.exit(f"the load on {self.url} failed:\n{out}")
        return {
            "answers": int(answers[1]),
            "rps": float(re.search(r"Requests/sec:\s+([\d.]+)", out)[1]),
            "p50": microseconds(re.search(r"^ +50%\s+(\S+)", out, re.M)[1]),
            "p99": microseconds(re.search(r"^ +99%\s+(\S+)", out, re.M)[1]),
        }

    def stop(self):
        self.process.terminate()
        self.process.communicate()


def sharing_speed(cpus):
    """How fast one core writes what another has just read, in GB/s.

    A server writes what it sends to memory that the client's core has read before. 14 GB/s where the two
    share a cache and 2.4 where they do not, on one and the same virtual machine: which it is can change
    from one minute to the next.
    """
    writer, reader = cpus[0], cpus[-1]
    size, turns = 1 << 20, 100
    shared, text = mmap.mmap(-1, size), bytes(size)
    turn, to_read = os.pipe()
    back, has_read = os.pipe()
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os.close(to_read)
            os.sched_setaffinity(0, {reader})
            while os.read(turn, 1):
                shared[:]
                os.write(has_read, b"x")
        os._exit(0)
    os.close(turn)
    os.close(has_read)
    before = os.sched_getaffinity(0)
    spent = 0
    try:
        os.sched_setaffinity(0, {writer})
        for _ in range(turns):
            start = time.perf_counter()
            shared[:] = text
            spent += time.perf_counter() - start
            try:
                os.write(to_read, b"x")
                is_there = os.read(back, 1)
            except BrokenPipeError:
                is_there = b""
            if not is_there:
                sys.exit(f"core {reader} cannot be used")
    finally:
        os.sched_setaffinity(0, before)
        os.close(to_read)
        os.close(back)
        os.waitpid(child, 0)
    return size * turns / spent / 1e9


def microseconds(text):
    value, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()
    return float(value) * {"us": 1, "ms": 1e3, "s": 1e6}[unit]
