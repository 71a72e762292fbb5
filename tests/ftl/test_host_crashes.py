"""Crashes of the host with `host_sync`: mapped pages reach its disk in any order, or not at all."""

import contextlib

import pytest
from crash_model import PARTS, UNIT_BYTES, Run
from host_crashes import crashing_life
from power_cuts import Life, Tally

from virtflash.ftl.sizing import units_per_block

EACH_PART = pytest.mark.parametrize("part", PARTS)


@EACH_PART
@pytest.mark.parametrize("aged", [pytest.param(False, id="new"), pytest.param(True, id="collecting")])
def test_a_long_life_on_a_host_that_crashes(part: str, aged: bool) -> None:
    tally = Tally()
    for seed in range(1, 13):
        tally.add(crashing_life(Life(part, seed, 1000, aged, host_sync=True)))
    assert not tally.violations, "\n".join(tally.violations)
    assert tally.cuts >= 1000


def fill_a_block(run: Run) -> int:
    """Write units from 0 on, just as many as a block takes. How many that are."""
    units, frame = units_per_block(run.layer.sizes, UNIT_BYTES), run.part.frame_units
    for first in range(0, units, frame):
        run.take(("write", tuple(range(first, first + frame)), False))
    return units


@EACH_PART
@pytest.mark.parametrize("cut", range(1, 9))
def test_nothing_is_erased_before_the_trim_that_freed_it_is_on_the_disk(part: str, cut: int) -> None:
    """Another frame between the trim and the one that tells of it had been taken for that one."""
    for seed in range(20):
        run = Run.begin(PARTS[part].on_a_disk())
        units = fill_a_block(run)
        run.take(("checkpoint",))
        run.take(("trim", 0, units))
        run.take(("write", (units,), False))
        run.layer.sync()
        run.flash.arm_cut(cut, 4)
        with contextlib.suppress(OSError):
            run.take(("secure", 0, units))
        run.crash_host(seed)
        run.settle()


@pytest.mark.parametrize("part", PARTS)
def test_a_mark_of_a_mount_that_reached_the_disk_in_part_costs_no_block(part: str) -> None:
    """The page looks erased, and cannot be programmed: that is no fault of its block."""
    for seed in range(30):
        run = Run.begin(PARTS[part].on_a_disk())
        run.take(("write", (1,), False))
        run.layer.close()
        run.flash.arm_cut(2, 0)
        with contextlib.suppress(OSError):
            run.part.mount(run.flash)
        run.crash_host(seed)
        run.layer.close()
        run.layer = run.part.mount(run.flash)
        assert run.layer.space["spare_left"] == run.layer.space["spare"]
