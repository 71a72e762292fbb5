"""Calls beside a critical volume: how much one of them begins on the flash is bounded by design."""

import itertools
import random
import time

import pytest
from flash_in_memory import PARTS, UNIT_SECTORS, FlashInMemory
from target_calls import TargetCalls
from target_owner import owner_that

from virtflash.backing.flash_target import DISCARD, SECURE_ERASE, UNMAP_ZEROES, WRITE_ZEROES, FlashTarget
from virtflash.flash.emulated import EmulatedFlash
from virtflash.ftl.translation import Translation

SECTOR = 512
UNIT = UNIT_SECTORS * SECTOR
PART_UNITS = 4  # the 16 KiB of a call of the data plane
GRANULE = 64 * UNIT_SECTORS
FRAMES = 11  # one of the host, of trims that wait, of a checkpoint; four moved ahead, and four at the last moment
ERASES = {"shared": 3, "blocks": 10}  # for the host, for metadata, for what is moved; kept apart, that may be for each
FRAME_PAGES = {"slc": 2, "mlc": 1, "tlc": 1}


def most(part: str, isolation: str) -> int:
    """Programs and erases that one call may begin, where no program fails."""
    return FRAMES * FRAME_PAGES[part] + ERASES[isolation]


class Written:
    """What the units hold: a number each; 0: zeroes."""

    def __init__(self, units: int) -> None:
        self.numbers = [0] * units

    def content(self, first: int, count: int) -> bytes:
        return b"".join(number.to_bytes(8, "little") * (UNIT // 8) for number in self.numbers[first : first + count])


def fill(calls: TargetCalls, written: Written) -> None:
    for unit in range(0, len(written.numbers), PART_UNITS):
        written.numbers[unit : unit + PART_UNITS] = [unit + 1] * PART_UNITS
        calls.write(unit * UNIT_SECTORS, written.content(unit, PART_UNITS))


@pytest.mark.parametrize("isolation", ERASES)
@pytest.mark.parametrize("part", PARTS)
def test_a_gentle_call_begins_little(part: str, isolation: str) -> None:
    """A device that is full and overwritten at random, with flushes, trims and zeroes between."""
    flash = FlashInMemory(part, chip={"blocks": 64} if isolation == "blocks" else None, cache_bytes=32 * UNIT)
    units = flash.part.units // PART_UNITS * PART_UNITS
    if isolation == "blocks":
        owners = bytes(1 + i % 3 for i in range(-(-flash.target.user_sectors // GRANULE)))
        flash.target.set_owners(GRANULE, owners, isolated=True)
    chosen, written = random.Random(part), Written(units)
    fill(TargetCalls(flash.target), written)
    gentle = TargetCalls(flash.target, 1, gentle=True)
    for number in range(units, 6 * units):
        unit = chosen.randrange(units - PART_UNITS)
        if number % 7 == 0:
            gentle.flush()
        if number % 11 == 0:
            written.numbers[unit] = 0
            kind = chosen.choice([DISCARD, UNMAP_ZEROES, WRITE_ZEROES])
            gentle.change(kind, unit * UNIT_SECTORS, UNIT_SECTORS)
        else:
            written.numbers[unit : unit + PART_UNITS] = [number] * PART_UNITS
            gentle.write(unit * UNIT_SECTORS, written.content(unit, PART_UNITS))
    assert 2 < gentle.most <= most(part, isolation)
    assert flash.target.translation.counters["moved_units"]["collect"] > units
    assert flash.target.read(0, units * UNIT_SECTORS) == written.content(0, units)
    assert flash.target.translation.check() == []


@pytest.mark.parametrize("part", PARTS)
def test_a_gentle_secure_erase_begins_little(part: str) -> None:
    flash = FlashInMemory(part, cache_bytes=32 * UNIT)
    units = flash.part.units // PART_UNITS * PART_UNITS
    written = Written(units)
    fill(TargetCalls(flash.target), written)
    gentle = TargetCalls(flash.target, 1, gentle=True)
    gentle.change(SECURE_ERASE, 0, units // 2 * UNIT_SECTORS)
    written.numbers[: units // 2] = [0] * (units // 2)
    assert 0 < gentle.most <= most(part, "shared")
    assert flash.target.read(0, units * UNIT_SECTORS) == written.content(0, units)


def test_a_flush_ends_while_its_guest_goes_on_writing() -> None:
    """It is about what was accepted before it: in many calls, between which more comes than each of them takes away."""
    flash = FlashInMemory("tlc", cache_bytes=64 * UNIT)
    gentle, written, numbers = TargetCalls(flash.target, 1, gentle=True), Written(64), itertools.count()
    fill(gentle, written)

    def go_on() -> None:
        for _ in range(4):
            unit = 64 + next(numbers) * PART_UNITS % 1024
            gentle.write(unit * UNIT_SECTORS, bytes(PART_UNITS * UNIT))

    assert 1 < gentle.flush(go_on) < 64
    assert flash.target.cached_units > 0
    flash.lose_power(1)
    assert flash.target.read(0, 64 * UNIT_SECTORS) == written.content(0, 64)


def test_without_it_a_call_may_begin_more() -> None:
    """Else the bound above would be none."""
    flash = FlashInMemory("slc", chip={"blocks": 42}, cache_bytes=32 * UNIT)
    calls, chosen = TargetCalls(flash.target), random.Random(1)
    for _ in range(5 * flash.part.units):
        calls.write(chosen.randrange(flash.part.units - PART_UNITS) * UNIT_SECTORS, bytes(PART_UNITS * UNIT))
    assert calls.most > most("slc", "shared")


def test_what_is_long_does_not_pile_up_on_the_part() -> None:
    """Erased securely, or erased ahead, by the operator or the keeper: the next part begins when the last one is done,
    or reads of a guest would wait for all of them."""
    chip = EmulatedFlash.in_memory(profile="automotive-tlc-emmc", blocks=64, timing="real")
    target = FlashTarget(Translation.format(chip, 4096, reserve_blocks=4), user_sectors=4096 * UNIT_SECTORS)
    target.write(0, bytes(512 * UNIT))
    calls, late = TargetCalls(target), []
    target.owner = owner_that(before=lambda: late.append(calls.busy_ns() > time.monotonic_ns()))
    target.change(SECURE_ERASE, 0, 256 * UNIT_SECTORS)
    for block in range(64):
        target.care(first_block=block, blocks=1)
    target.write(0, bytes(512 * UNIT))
    target.care(refresh=list(range(32)))
    while target.work():
        assert len(late) < 10_000
    assert calls.busy_ns() > 0
    assert len(late) > 64
    assert not any(late[1:])
