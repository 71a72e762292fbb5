#!/usr/bin/env python3
"""How soon a started server serves its first byte, what it does when nobody asks anything, and what memory it takes.

usage: bench/start_and_idle.py [--rounds N] [--idle SECONDS]     with the Python that virtflash is installed for
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from virtflash.demo.server_process import is_listening, program
from virtflash.driver.blk import BlkDriver

VOLUMES = 4
IMAGE_BYTES = 1 << 30


def images(directory: Path) -> list[str]:
    """Arguments for four volumes."""
    arguments = []
    for number in range(VOLUMES):
        image = directory / f"{number}.img"
        image.touch()
        os.truncate(image, IMAGE_BYTES)
        arguments += ["--image", str(image), "--socket", str(directory / f"{number}.sock")]
    return arguments


def start(arguments: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([program(), "serve", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def first_byte_seconds(directory: Path, arguments: list[str]) -> float:
    """From starting the program to a first sector read by a driver that waits for its socket."""
    sock = directory / "0.sock"
    sock.unlink(missing_ok=True)
    began = time.perf_counter()
    with start(arguments) as server:
        while not is_listening(sock):
            if server.poll() is not None:
                sys.exit("the server did not start")
        with BlkDriver(sock) as driver:
            driver.read(0, 512).check()
            took = time.perf_counter() - began
        server.terminate()
    return took


def switches(pid: int) -> int:
    """Context switches of a process's threads: each is a wake-up, or a turn that was taken away.

    io_uring's own threads are left out: the kernel keeps one that was ever needed, and wakes it every five seconds.
    """
    total = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        lines = status.read_text().splitlines()
        if not lines[0].startswith("Name:\tiou-wrk"):
            total += sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)
    return total


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def anonymous_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def idle(directory: Path, arguments: list[str], seconds: float) -> tuple[int, int, int]:
    """Wake-ups and CPU ticks (10 ms) while four drivers are connected and idle, and anonymous memory in KiB."""
    with start(arguments) as server:
        sockets = [directory / f"{number}.sock" for number in range(VOLUMES)]
        while not all(is_listening(sock) for sock in sockets):
            time.sleep(0.01)
        drivers = [BlkDriver(sock) for sock in sockets]
        for driver in drivers:
            driver.write(0, bytes(65536)).check()
        time.sleep(1)  # what the writes set off comes to rest
        before, ticks = switches(server.pid), cpu_ticks(server.pid)
        time.sleep(seconds)
        result = switches(server.pid) - before, cpu_ticks(server.pid) - ticks, anonymous_kib(server.pid)
        for driver in drivers:
            driver.close()
        server.terminate()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--idle", type=float, default=10, help="seconds")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="virtflash-bench-") as name:
        directory = Path(name)
        arguments = images(directory)
        times = sorted(first_byte_seconds(directory, arguments) * 1000 for _ in range(options.rounds))
        print(f"start to first byte: median {statistics.median(times):.0f} ms, {times[0]:.0f} to {times[-1]:.0f} ms")
        wakeups, ticks, memory = idle(directory, arguments, options.idle)
        print(f"idle for {options.idle:.0f} s with {VOLUMES} drivers: {wakeups} wake-ups, {ticks * 10} ms of CPU")
        print(f"anonymous memory with {VOLUMES} volumes: {memory / 1024:.1f} MiB")


if __name__ == "__main__":
    main()
