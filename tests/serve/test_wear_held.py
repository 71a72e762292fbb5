"""A guest that floods for long, so that its flash has to collect: what is programmed stays within its budget."""

import signal
import time
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from configured import MIB, Configured

from virtflash.backing.emulated_flash import open_storage
from virtflash.bench.measurement import Settings, measure
from virtflash.bench.workload import Workload
from virtflash.driver.blk import BlkDriver

SIZE = "250 MiB"
FAST = "host_sync = false\n"
BURST = 16 * MIB
RATE = 10_000_000  # bytes a second, as the budget says: ten times the life of this part in a day
BUDGET = 'wear_budget = "864 GB/day"\nwear_burst = "16 MiB"\nwhen_spent = "throttle"'
# One request, the cache, 256 KiB of overhead before it is distributed, what is collected between two writes.
RESERVE = 2 * MIB
FLOOD = Workload("write", 4096, 32)
SECONDS = 1.5
KILLS = 3


class Sample(NamedTuple):
    """What the volume's ledger said between two moments, in seconds and bytes."""

    before: float
    after: float
    programmed: int


def wear(configured: Configured) -> Sample:
    before = time.monotonic()
    programmed = configured.ask("wear")[0]["programmed"]
    return Sample(before, time.monotonic(), programmed)


def programmed_by_chip(configured: Configured) -> int:
    """Bytes, as the cells count, on whosever behalf."""
    storage = open_storage(configured.directory / "emmc0.vflash", host_sync=False)
    try:
        counted, geometry = storage.chip.counters(), storage.profile.geometry
        normal, slc = counted["programs"] - counted["slc_programs"], counted["slc_programs"]
        return int(normal * geometry.page_bytes + slc * geometry.slc_page_bytes)
    finally:
        storage.close()


def make_full_and_worn(configured: Configured) -> None:
    """All of the volume is written, then overwritten at random until collection is what it costs."""
    with configured.served():
        with BlkDriver(configured.socket("infotainment")) as driver:
            for sector in range(0, driver.capacity, 2048):
                driver.write(sector, bytes(range(256)) * 4096).check()
            driver.flush().check()
        while configured.ask("wear")[0]["write_amplification"] < 1.5:
            measure(configured.socket("infotainment"), FLOOD, Settings(0.5))


def flood(configured: Configured) -> tuple[list[Sample], int]:
    """For as long as it may; the ledger is looked at all the while. And bytes that were written."""
    samples = [wear(configured)]
    measured = measure(
        configured.socket("infotainment"), FLOOD, Settings(SECONDS), lambda *_: samples.append(wear(configured))
    )
    samples.append(wear(configured))
    (told,) = configured.ask("wear")
    assert measured.wrong == 0
    assert told["budget"]["spent"]
    return samples, told["bytes_written"]


def test_a_flood_is_held_to_its_budget(tmp_path: Path) -> None:
    """Over any interval in which it is watched, and over three kills from the first to the last."""
    configured = Configured(tmp_path, {"infotainment": SIZE}, flash=FAST, capacity=256 * MIB)
    make_full_and_worn(configured)
    configured.write({"infotainment": f"{SIZE}\n{BUDGET}"}, flash=FAST)
    programmed = programmed_by_chip(configured)
    written, begun = 0, time.monotonic()
    for _ in range(KILLS):
        with configured.in_a_child(signal.SIGKILL):
            samples, bytes_written = flood(configured)
        written += bytes_written
        for one, other in combinations(samples, 2):
            allowed = BURST + RATE * (other.after - one.before) + RESERVE
            assert other.programmed - one.programmed <= allowed
    passed = time.monotonic() - begun
    programmed = programmed_by_chip(configured) - programmed
    assert programmed <= BURST + RATE * passed + KILLS * RESERVE
    assert programmed > BURST / 2 + RATE * KILLS * SECONDS / 2, "it is held far below its budget"
    assert programmed > 1.2 * written, "nothing was collected"
