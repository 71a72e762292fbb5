"""Owners kept apart on emulated storage with its cache: what guests see stays the same, and no block is shared."""

import random
import threading
import time
from typing import Any

import pytest
from flash_in_memory import PARTS, UNIT_SECTORS, FlashInMemory
from hypothesis import given, settings
from hypothesis import strategies as st
from target_calls import TargetCalls
from test_flash_target import SECTOR, STEPS, Sectors

UNIT = UNIT_SECTORS * SECTOR
GRANULE = 2 * UNIT_SECTORS  # sectors: small, so that a request meets several owners
OWNERS = 4  # 0 is one of them


def table_of(flash: FlashInMemory, shift: int = 0) -> bytes:
    return bytes((i + shift) % OWNERS for i in range(flash.target.user_sectors // GRANULE))


def shared(flash: FlashInMemory) -> set[int]:
    return {block for block, owners in enumerate(flash.target.owners_of_blocks()) if len(owners) > 1}


def make(part: str, **options: Any) -> FlashInMemory:
    """With over-provisioning enough to keep owners apart."""
    return FlashInMemory(part, chip={"blocks": 64}, **options)


def settle(flash: FlashInMemory) -> None:
    """Idle work, until there is no more."""
    deadline = time.monotonic() + 30
    while flash.target.work():
        assert time.monotonic() < deadline


@pytest.mark.parametrize("part", PARTS)
@settings(deadline=None, max_examples=40)
@given(steps=STEPS, changes=st.sets(st.integers(0, 40), max_size=3))
def test_sectors_read_as_written_and_no_block_is_shared(
    part: str, steps: list[tuple[str, int, int]], changes: set[int]
) -> None:
    flash = make(part, cache_bytes=65536)
    sectors, shift = Sectors(flash), 0
    flash.target.set_owners(GRANULE, table_of(flash), isolated=True)
    for number, step in enumerate(steps):
        target = flash.target
        sectors.step(*step)
        if flash.target is not target or number in changes:
            shift += number in changes
            flash.target.set_owners(GRANULE, table_of(flash, shift), isolated=True)
            settle(flash)
        assert shared(flash) == set()
        assert flash.target.translation.check() == []
    sectors.check()


def test_a_frame_is_filled_with_units_of_one_owner() -> None:
    """Also where their writes come by turns."""
    flash = FlashInMemory("mlc", cache_bytes=32 * UNIT)
    flash.target.set_owners(GRANULE, table_of(flash), isolated=True)
    before = flash.target.translation.counters
    calls = TargetCalls(flash.target)
    for unit in range(320):
        calls.write(unit * UNIT_SECTORS, b"x" * UNIT)
    now = flash.target.translation.counters
    assert now["host_units"] - before["host_units"] == 4 * (now["frames"] - before["frames"]) > 200
    assert shared(flash) == set()


def test_the_ledger_is_right_where_owners_are_kept_apart() -> None:
    flash, random_ = FlashInMemory("tlc", cache_bytes=65536), random.Random(4)
    flash.target.set_owners(GRANULE, table_of(flash), isolated=True)
    calls = [TargetCalls(flash.target, owner) for owner in range(OWNERS)]
    granules = flash.target.user_sectors // GRANULE
    for number in range(8000):
        granule = random_.randrange(granules)
        calls[granule % OWNERS].write(granule * GRANULE, b"x" * UNIT)
        if number % 100 == 0:
            calls[number % OWNERS].flush()
    counted, chip = flash.chip.counters(), flash.part.chip
    programmed = counted["programs"] * chip["page_bytes"] + counted["slc_programs"] * chip["slc_page_bytes"]
    assert sum(flash.target.programmed(owner) for owner in range(128)) == programmed
    assert shared(flash) == set()


@pytest.mark.parametrize("part", PARTS)
def test_isolation_is_switched_on_with_data_there(part: str) -> None:
    sectors, random_ = Sectors(make(part, cache_bytes=65536)), random.Random(1)
    flash = sectors.flash
    for _ in range(600):
        sectors.step("write", random_.randrange(flash.target.user_sectors - 64), random_.randrange(1, 40))
    flash.target.flush()
    assert not any(len(owners) > 1 for owners in flash.target.owners_of_blocks())  # there is nobody yet
    flash.target.set_owners(GRANULE, table_of(flash))
    assert shared(flash)
    flash.target.set_owners(GRANULE, table_of(flash), isolated=True)
    settle(flash)
    assert shared(flash) == set()
    sectors.check()


def test_owners_change_while_guests_write() -> None:
    """Each call has its turn on the flash, from whichever thread; what comes between them is everything."""
    flash, lock = FlashInMemory("mlc", cache_bytes=65536), threading.Lock()
    sectors, over = Sectors(flash), threading.Event()
    flash.target.set_owners(GRANULE, table_of(flash), isolated=True)

    def change() -> None:
        shift = 0
        while not over.is_set():
            shift += 1
            with lock:
                flash.target.set_owners(GRANULE, table_of(flash, shift), isolated=True)

    thread = threading.Thread(target=change)
    thread.start()
    random_ = random.Random(9)
    for _ in range(400):
        place, number = random_.randrange(flash.target.user_sectors - 64), random_.randrange(1, 40)
        with lock:
            sectors.step("write", place, number)
    over.set()
    thread.join()
    settle(flash)
    assert shared(flash) == set()
    sectors.check()


def test_too_little_over_provisioning_is_refused_and_changes_nothing() -> None:
    flash = FlashInMemory("slc", chip={"blocks": 48})
    flash.target.set_owners(GRANULE, b"\1\2")
    many = bytes(i % 128 for i in range(flash.target.user_sectors // GRANULE))
    with pytest.raises(ValueError, match="over-provisioning"):
        flash.target.set_owners(GRANULE, many, isolated=True)
    TargetCalls(flash.target).write(0, b"x" * UNIT)
    flash.target.flush()
    assert flash.target.programmed(1) > 0
