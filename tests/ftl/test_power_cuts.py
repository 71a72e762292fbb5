"""Power cuts at every operation, in every outcome, and again in the recovery. `scripts/cut-power` does many more."""

import pytest
from crash_model import PARTS, Run
from power_cuts import (
    Life,
    Tally,
    cut_everywhere,
    cut_once,
    cut_once_again,
    cut_recovery_everywhere,
    long_life,
    operations_of,
    run_until_cut,
)

AGED = [pytest.param(False, id="new"), pytest.param(True, id="collecting")]
EACH_PART = pytest.mark.parametrize("part", PARTS)


def none_violated(tally: Tally, at_least: int) -> None:
    assert not tally.violations, "\n".join(tally.violations)
    assert tally.cuts >= at_least  # else it has tested nothing


@EACH_PART
@pytest.mark.parametrize("aged", AGED)
def test_every_operation_in_every_outcome(part: str, aged: bool) -> None:
    tally = Tally()
    for seed, length in ((1, 15), (2, 30), (3, 30)):
        tally.add(cut_everywhere(Life(part, seed, length, aged)))
    none_violated(tally, 500)


@EACH_PART
@pytest.mark.parametrize("aged", AGED)
def test_every_operation_of_a_recovery(part: str, aged: bool) -> None:
    life = Life(part, 4, 20, aged)
    last = operations_of(life)
    tally = Tally()
    for operation, how in ((1, 2), (last // 2, 1), (last // 2, 7), (last, 2), (last, 3)):
        tally.add(cut_recovery_everywhere(life, operation, how))
    none_violated(tally, 200)


@EACH_PART
def test_a_long_life_with_many_cuts(part: str) -> None:
    tally = Tally()
    for seed in range(1, 9):
        tally.add(long_life(Life(part, seed, 2000)))
    none_violated(tally, 500)


@EACH_PART
def test_a_life_with_many_cuts_in_which_programs_and_erases_fail(part: str) -> None:
    tally = Tally()
    for seed in range(1, 9):
        tally.add(long_life(Life(part, seed, 2000, failing=True)))
    none_violated(tally, 300)


@EACH_PART
def test_mounts_without_an_orderly_end_use_up_nothing(part: str) -> None:
    """A car that is started and stopped, again and again, and writes nothing."""
    life = Life(part, 5, 0, aged=True)
    run = life.begin()
    for _ in range(100):
        run.recover()
        run.settle()


def test_old_metadata_is_let_go_although_the_newest_checkpoint_may_have_been_in_flight() -> None:
    """The device could not be mounted any more: every block that was free had once held metadata."""
    none_violated(cut_once(Life("two pages a unit", 1, 13, aged=True), 31, 1), 1)


def test_an_end_that_is_damaged_by_what_was_in_flight_is_not_relied_on() -> None:
    """It reads by turns: old metadata had been let go when it read, and was missed when it did not."""
    none_violated(cut_once(Life("paired pages", 20003, 15, aged=True), 41, 9), 1)


@pytest.mark.parametrize("part", ["NOR", "two pages a unit"])
@pytest.mark.parametrize("how", range(5))
def test_a_block_that_was_blank_at_a_stop_may_not_be_at_the_mount_after_the_next(part: str, how: int) -> None:
    """A frame that is cut before its last page leaves no trace, so that the stop before seems to be the last event."""
    for checkpoints in range(4, 12):
        run = Run.begin(PARTS[part])
        for unit in [*range(16), *range(16)]:
            run.take(("write", (unit,), False))
        run.take(("sanitize",))
        for _ in range(checkpoints):
            run.take(("checkpoint",))
        run.take(("remount", True))
        run.flash.arm_cut(1, how)
        assert run_until_cut(run, [("trim", 5, 2), ("flush",)])
        run.recover()
        run.settle()
        for step in (("trim", 7, 2), ("flush",), ("write", (3,), False), ("write", (5,), False), ("flush",)):
            run.take(step)
        run.recover()
        run.settle()


@EACH_PART
@pytest.mark.parametrize("checkpoints", range(8))
def test_what_follows_a_mount_is_never_taken_for_the_clean_stop_before_it(part: str, checkpoints: int) -> None:
    """Not even where all that was programmed since has been erased."""
    for operation in range(1, 40):
        run = Run.begin(PARTS[part])
        run.take(("write", (36, 37), False) if run.part.frame_units > 1 else ("write", (36,), False))
        run.take(("trim", 36, 2))
        for _ in range(checkpoints):  # the END comes to lie anywhere in its block
            run.take(("checkpoint",))
        run.take(("remount", True))
        run.flash.arm_cut(operation, 0)
        run_until_cut(run, [("sanitize",)])
        run.recover()
        run.settle()
        for unit in range(4):
            run.take(("write", (unit,), False))
        run.take(("flush",))
        run.recover()
        run.settle()


def test_a_recovery_that_passed_unseen_does_not_come_back() -> None:
    """All of it was one frame, which could not be read at one mount, and at the next it could."""
    for reading in range(10):
        life = Life("two pages a unit", 1002, 30 + reading)  # another course of chance for each
        none_violated(cut_once_again(life, (3, 2), (3, 2)), 2)


@EACH_PART
@pytest.mark.parametrize("how", [1, 3, 4, 6])
def test_when_too_many_recoveries_are_cut_it_becomes_read_only(part: str, how: int) -> None:
    """Each costs a block. When none is left for another, what was accepted can still be read, at every mount."""
    for operation in range(1, 14):
        life = Life(part, 3, 30, aged=True)
        run = life.begin()
        run.mortal = True
        run.flash.arm_cut(5, how)
        assert run_until_cut(run, life.steps())
        run.recover(lambda: run.flash.arm_cut(operation, how), at_most=40)  # noqa: B023 - called at once
        run.settle_twice()


def test_a_violation_is_seen() -> None:
    """The model itself: data that goes back behind a flush, and a unit that reads as another."""
    run = Run.begin(PARTS["one unit a page"])
    run.take(("write", (3,), False))
    run.take(("flush",))
    run.model.may_be[3] = [run.model.next_version()]
    with pytest.raises(AssertionError, match="unit 3 reads as version 1,"):
        run.settle()
