#!/usr/bin/env python3
"""Sixteen volumes in one server against sixteen servers: anonymous memory, start, and throughput at equal load.

usage: bench/sixteen_volumes.py [--rounds N] [--seconds S]     with the Python that virtflash is installed for

Each volume has 32 MiB of an emulated eMMC in memory (TMPDIR, by default /dev/shm). All are written once before any is
measured, all at the same time. The two arrangements take turns.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from virtflash.backing import create_flash
from virtflash.bench.measurement import Settings, measure
from virtflash.bench.workload import Workload
from virtflash.demo.server_process import is_listening, program
from virtflash.driver.blk import BlkDriver

VOLUMES = 16
VOLUME_BYTES = 32 << 20
WORKLOAD = Workload("read", 4096, 8)
FLASH = '[flash.emmc0]\nkind = "emmc"\npath = "emmc0.vflash"\n'
VOLUME = '[volume.v{number}]\nflash = "emmc0"\nsize = "32 MiB"\nsocket = "{number}.sock"\n'


def configure(directory: Path, volumes: int) -> list[str]:
    """Arguments of one server with so many volumes."""
    directory.mkdir()
    capacity = (volumes * VOLUME_BYTES + (16 << 20)) // (8 << 20) * (8 << 20)
    create_flash(directory / "emmc0.vflash", "automotive-tlc-emmc", capacity_bytes=capacity, seed=1)
    path = directory / "virtflash.toml"
    path.write_text(FLASH + "".join(VOLUME.format(number=number) for number in range(volumes)))
    return [str(path)]


@contextmanager
def served(directories: dict[Path, list[str]], volumes: int) -> Iterator[tuple[list[int], list[Path], float]]:
    """Servers, with `volumes` each: their processes, all sockets, and the seconds until all of them listened."""
    began = time.perf_counter()
    command = [program(), "serve", "--log-level", "error"]
    servers = [
        subprocess.Popen([*command, *arguments], stdout=subprocess.DEVNULL) for arguments in directories.values()
    ]
    try:
        sockets = [directory / f"{number}.sock" for directory in directories for number in range(volumes)]
        while not all(map(is_listening, sockets)):
            if any(server.poll() is not None for server in servers):
                sys.exit("a server did not start")
        yield [server.pid for server in servers], sockets, time.perf_counter() - began
    finally:
        for server in servers:
            server.terminate()
        for server in servers:
            server.wait()


def anonymous_mib(processes: list[int]) -> float:
    total = 0
    for process in processes:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
    return total / 1024


def fill(sockets: list[Path]) -> None:
    for path in sockets:
        with BlkDriver(path) as driver:
            for sector in range(0, VOLUME_BYTES // 512, 2048):
                driver.write(sector, os.urandom(1 << 20)).check()
            driver.flush().check()


def throughput(sockets: list[Path], seconds: float) -> float:
    """Requests a second of all together."""
    with ThreadPoolExecutor(len(sockets)) as threads:
        return sum(made.iops for made in threads.map(lambda path: measure(path, WORKLOAD, Settings(seconds)), sockets))


def memory_in_use(processes: list[int], sockets: list[Path]) -> float:
    """With a driver connected to each volume, that has read."""
    with ExitStack() as stack:
        for path in sockets:
            stack.enter_context(BlkDriver(path)).read(0, 65536).check()
        return anonymous_mib(processes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    options = parser.parse_args()
    place = os.environ.get("TMPDIR") or "/dev/shm"
    with tempfile.TemporaryDirectory(prefix="virtflash-bench-", dir=place) as name:
        directory = Path(name)
        together = {directory / "together": configure(directory / "together", VOLUMES)}
        apart = {directory / f"{n}": configure(directory / f"{n}", 1) for n in range(VOLUMES)}
        alone = dict([next(iter(apart.items()))])
        for arrangement, volumes in ((together, VOLUMES), (apart, 1)):
            with served(arrangement, volumes) as (_, sockets, _):
                fill(sockets)
        starts: dict[str, list[float]] = {"sixteen": [], "one": []}
        ratios, memory = [], {}
        for _ in range(options.rounds):
            with served(alone, 1) as (_, _, took):
                starts["one"].append(took * 1000)
            with served(together, VOLUMES) as (processes, sockets, took):
                starts["sixteen"].append(took * 1000)
                memory["together"] = memory_in_use(processes, sockets)
                rate = throughput(sockets, options.seconds)
            with served(apart, 1) as (processes, sockets, _):
                memory["apart"] = memory_in_use(processes, sockets)
                ratios.append(rate / throughput(sockets, options.seconds))
    one, sixteen = (statistics.median(starts[key]) for key in ("one", "sixteen"))
    print(
        f"anonymous memory: {memory['together']:.1f} MiB in one server, {memory['apart']:.1f} MiB in sixteen: "
        f"{memory['together'] / memory['apart']:.3f}"
    )
    print(f"start until all listen: {sixteen:.0f} ms with sixteen volumes, {one:.0f} ms with one: {sixteen / one:.2f}")
    print(f"reads of {WORKLOAD}: ratio {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f}")


if __name__ == "__main__":
    main()
