"""Power cuts at every program and erase of every change, in every outcome, some of them again while it recovers.

After each, the volumes are as before the change or as after it; what is in the others is untouched; nobody reads what
was in one that is gone; and of one that was to be erased securely nothing is left in the image.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import pytest
from carved_flash import GRANULE, GRANULE_BYTES, IDENTITY, PARTS, CarvedFlash, stamped

from virtflash.volumes.errors import TableError
from virtflash.volumes.extents import free_extents
from virtflash.volumes.pool import Pool

SECRET = "secret"  # of the volume that goes
RECOVERY_REACH = 14  # operations within which a recovery is cut again
Change = Callable[[Pool], object]

CHANGES: dict[str, Change] = {
    "create": lambda pool: pool.create("new", 3 * GRANULE - 1),
    "create in pieces": lambda pool: pool.create("new", pool.free_sectors),
    "delete": lambda pool: pool.delete("victim"),
    "delete securely": lambda pool: pool.delete("victim", secure=True),
    "grow": lambda pool: pool.grow("first", 5 * GRANULE),
    "mark": lambda pool: pool.mark("victim", read_only=True, secure_delete=True),
}


@dataclass(frozen=True)
class Life:
    """A flash with three volumes, of which the last two are in the way of the first one; what is free is not
    blank. `aged`: it collects."""

    part: str
    aged: bool

    def begin(self) -> CarvedFlash:
        flash = CarvedFlash(self.part)
        pool = flash.open()
        pool.create("first", 2 * GRANULE)
        pool.create("gap", GRANULE)
        pool.create("victim", 2 * GRANULE)
        pool.create("last", GRANULE + 1)
        if self.aged:
            pool.create("filler", pool.free_sectors - 4 * GRANULE)
        for volume in pool.volumes:
            flash.fill(volume.name, SECRET if volume.name == "victim" else volume.name)
        if self.aged:
            flash.age(random.Random(1))
        pool.delete("gap")
        for extent in free_extents(pool.table.taken, pool.table.granules):
            flash.target.write(extent.first * GRANULE, stamped("stray", extent.count * GRANULE))
        flash.target.flush()
        return flash


def summary(pool: Pool) -> list[tuple[str, int, bool]]:
    return [(volume.name, volume.sectors, volume.read_only) for volume in pool.volumes]


def cut_once(life: Life, change: Change, operation: int, how: int, again: random.Random) -> int:
    """Returns the number of cuts; 0: the change had not so many operations."""
    flash = life.begin()
    before = summary(flash.pool)
    flash.chip.arm_cut(operation, how)
    try:
        change(flash.pool)
    except OSError:
        assert flash.chip.lost_power
    if not flash.chip.lost_power:
        return 0
    after = outcome(life, change)

    def cut_recovery() -> None:
        flash.chip.arm_cut(again.randint(1, RECOVERY_REACH), again.randrange(flash.chip.cut_outcomes))

    cuts = 1 + flash.recover(cut_recovery, at_most=again.randrange(3))
    assert summary(flash.pool) in (before, after)
    check_contents(flash)
    check_nothing_is_left(flash, secure=change is CHANGES["delete securely"])
    return cuts


OUTCOMES: dict[tuple[Life, Change], list[tuple[str, int, bool]]] = {}


def outcome(life: Life, change: Change) -> list[tuple[str, int, bool]]:
    """What the volumes are after the change, undisturbed."""
    if (life, change) not in OUTCOMES:
        flash = life.begin()
        change(flash.pool)
        OUTCOMES[life, change] = summary(flash.pool)
    return OUTCOMES[life, change]


def check_contents(flash: CarvedFlash) -> None:
    """What was written is there, and what was not is zeroes."""
    written = {"first": ("first", 2 * GRANULE), "victim": (SECRET, 2 * GRANULE), "last": ("last", GRANULE + 1)}
    filler = [volume.sectors for volume in flash.pool.volumes if volume.name == "filler"]
    written["filler"] = ("filler", sum(filler))
    for volume in flash.pool.volumes:
        text, sectors = written.get(volume.name, ("", 0))
        expected = stamped(text, sectors)
        assert flash.contents(volume.name) == expected + bytes(volume.sectors * 512 - len(expected)), volume.name


def check_nothing_is_left(flash: CarvedFlash, *, secure: bool) -> None:
    """It can be used on: the victim goes at the latest now, and all of the space is somebody's who has not written."""
    assert flash.pool.being_erased == ()
    if any(volume.name == "victim" for volume in flash.pool.volumes):
        flash.pool.delete("victim", secure=secure)
    if secure:
        assert SECRET.encode() not in flash.medium()
    if flash.pool.free_sectors:
        flash.pool.create("heir", flash.pool.free_sectors)
    check_contents(flash)
    flash.recover()
    assert "victim" not in [volume.name for volume in flash.pool.volumes]
    check_contents(flash)


def each_cut(part: str) -> Iterator[tuple[int, int]]:
    outcomes = CarvedFlash(part).chip.cut_outcomes
    return ((operation, how) for operation in range(1, 1000) for how in range(outcomes))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("aged", [pytest.param(False, id="new"), pytest.param(True, id="collecting")])
@pytest.mark.parametrize("change", CHANGES)
def test_every_operation_of_a_change_in_every_outcome(part: str, aged: bool, change: str) -> None:
    life, again, total = Life(part, aged), random.Random(f"{part} {change} {aged}"), 0
    for operation, how in each_cut(part):
        try:
            cuts = cut_once(life, CHANGES[change], operation, how, again)
        except AssertionError as error:
            raise AssertionError(f"{part}, operation {operation}, how {how}: {error}") from error
        if not cuts:
            break
        total += cuts
    assert total >= 8, "it has tested nothing"


@pytest.mark.parametrize("part", PARTS)
def test_a_format_that_is_cut_leaves_a_blank_flash_or_one_with_a_table(part: str) -> None:
    cuts = 0
    for operation, how in each_cut(part):
        flash = CarvedFlash(part)
        flash.target.flush()
        flash.chip.arm_cut(operation, how)
        try:
            flash.open()
        except OSError:
            cuts += 1
        if not flash.chip.lost_power:
            break
        flash.recover()
        assert flash.pool.volumes == ()
        flash.pool.create("a", flash.pool.free_sectors)
        assert not any(flash.contents("a"))
    assert cuts >= 8


@pytest.mark.parametrize("part", PARTS)
def test_a_format_of_what_has_volumes_leaves_all_of_them_or_none(part: str) -> None:
    """Never volumes with holes: what is not whole any more has no table, and is not used before it is formatted."""
    seen = set()
    for operation, how in each_cut(part):
        flash = Life(part, aged=False).begin()
        before = summary(flash.pool)
        flash.chip.arm_cut(operation, how)
        with suppress(OSError):
            Pool.format(flash.target, identity=IDENTITY, granule_bytes=GRANULE_BYTES)
        if not flash.chip.lost_power:
            break
        flash.chip.power_on()
        flash.mount()
        try:
            flash.open()
        except TableError:
            seen.add("refused")
            flash.open(overwrite=True)
        assert summary(flash.pool) in (before, [])
        seen.add("as before" if flash.pool.volumes else "formatted")
        check_contents(flash)
    assert seen >= {"as before", "formatted"}
