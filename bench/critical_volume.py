#!/usr/bin/env python3
"""What a volume's reads wait for while another one of the same flash floods it with writes: alone, and with and without
priority.

usage: bench/critical_volume.py [--seconds S] [--none] [--plot FILE]     with the Python that virtflash is installed for

timing = "real", so that the emulated flash and not the processors is what both want; --none: as fast as it goes, where
the programs and erases that others had begun ahead of a read are counted.
"""

import argparse
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path

from virtflash.backing import create_flash
from virtflash.bench.load import bucket_bounds
from virtflash.bench.measurement import Measurement, Settings, measure
from virtflash.bench.workload import Workload
from virtflash.config import read_configuration
from virtflash.driver.blk import BlkDriver
from virtflash.flash.profiles import load_profile
from virtflash.report.plotting import plotted
from virtflash.service import Service

PROFILE = "automotive-tlc-emmc"

CAPACITY = 768 << 20
READS, FLOOD = Workload("read", 4096, 1), Workload("write", 131072, 16)
CONFIGURATION = """
[flash.emmc0]
kind = "emmc"
path = "emmc0.vflash"
timing = "{timing}"
host_sync = false

[volume.cluster]
flash = "emmc0"
size = "64 MiB"
socket = "cluster.sock"
priority = "{priority}"

[volume.infotainment]
flash = "emmc0"
size = "600 MiB"
socket = "infotainment.sock"
"""


@contextmanager
def served(directory: Path, timing: str, priority: str) -> Iterator[Service]:
    path = directory / "virtflash.toml"
    path.write_text(CONFIGURATION.format(timing=timing, priority=priority))
    with Service.create(path, read_configuration(path)) as service:
        yield service


def fill(directory: Path) -> None:
    """So that every read reads, and the flood has to collect."""
    with served(directory, "none", "normal"):
        for name in ("cluster", "infotainment"):
            with BlkDriver(directory / f"{name}.sock") as driver:
                for sector in range(0, driver.capacity, 2048):
                    driver.write(sector, os.urandom(1 << 20)).check()
                driver.flush().check()


def reads(directory: Path, seconds: float, *, flooded: bool) -> tuple[Measurement, float]:
    """And MB/s of the flood."""
    floods: list[Measurement] = []
    flood = threading.Thread(
        target=lambda: floods.append(measure(directory / "infotainment.sock", FLOOD, Settings(seconds + 1)))
    )
    if flooded:
        flood.start()
        threading.Event().wait(0.5)  # it has filled the cache
    made = measure(directory / "cluster.sock", READS, Settings(seconds))
    if flooded:
        flood.join()
    return made, floods[0].bytes_per_second / 1e6 if floods else 0


def bound_us(alone: Measurement) -> float:
    """What a read may take beside others: what it takes alone, and one program and one erase."""
    timing = load_profile(PROFILE).timing
    return (alone.latency_us(99) or 0) + timing.program_us + timing.erase_us


def plot(made: Mapping[str, Measurement], path: Path) -> None:
    """The share of reads that took longer than so many microseconds."""
    bounds = [bound / 1000 for bound in bucket_bounds()]
    with plotted(path, 8, 4.5) as figure:
        axes = figure.subplots()
        for what, measured in made.items():
            longer = [100 * (1 - done / measured.requests) for done in accumulate(measured.counts)]
            axes.loglog(bounds, longer, label=what)
        axes.axvline(bound_us(made["alone"]), color="grey", linestyle="--", label="the bound for one read in a hundred")
        axes.axhline(1, color="grey", linewidth=0.5)
        axes.set_xlim(20, 1e6)
        axes.set_ylim(0.01, 100)
        axes.set_xlabel("microseconds")
        axes.set_ylabel("percent of the reads took longer")
        axes.grid(alpha=0.3)
        axes.legend()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--none", action="store_true", help="without timing")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="a picture of the latencies, .svg or .png")
    options = parser.parse_args()
    found: dict[str, Measurement] = {}
    timing = "none" if options.none else "real"
    place = os.environ.get("TMPDIR") or "/dev/shm"
    with tempfile.TemporaryDirectory(prefix="virtflash-bench-", dir=place) as name:
        directory = Path(name)
        create_flash(directory / "emmc0.vflash", PROFILE, capacity_bytes=CAPACITY, seed=1)
        fill(directory)
        for what, priority, flooded in (
            ("alone", "normal", False),
            ("flooded, normal", "normal", True),
            ("flooded, critical", "critical", True),
        ):
            with served(directory, timing, priority) as service:
                made, flood = reads(directory, options.seconds, flooded=flooded)
                cluster = service.server.find("cluster")
                assert cluster is not None
                ahead = cluster.export.binding.foreign_most
            found[what] = made
            p50, p99 = made.latency_us(50), made.latency_us(99)
            told = f", at most {ahead} programs and erases ahead" if priority == "critical" else ""
            print(
                f"{what:18} {made.iops:8.0f} reads/s, p50 {p50:8.0f} us, p99 {p99:8.0f} us; "
                f"flood {flood:6.1f} MB/s{told}",
                flush=True,
            )
        print(f"the bound: {bound_us(found['alone']):.0f} us")
        if options.plot:
            plot(found, options.plot)


if __name__ == "__main__":
    main()
