"""Power cuts at every operation, in every outcome, and again in the recovery. `scripts/cut-power` does many more."""

import pytest
from crash_model import PARTS, Run
from power_cuts import Life, Tally, cut_everywhere, cut_once, cut_recovery_everywhere, long_life, operations_of

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
def test_mounts_without_an_orderly_end_use_up_nothing(part: str) -> None:
    """A car that is started and stopped, again and again, and writes nothing."""
    life = Life(part, 5, 0, aged=True)
    run = life.begin()
    for _ in range(100):
        run.recover()
        run.settle()


@pytest.mark.parametrize(
    ("life", "operation", "how"),
    [
        (Life("two pages a unit", 1, 13, aged=True), 31, 1),
        (Life("paired pages, SLC mode", 1, 13, aged=True), 134, 0),
        (Life("paired pages, SLC mode", 16, 28, aged=True), 454, 3),
    ],
)
def test_what_could_not_be_mounted_any_more(life: Life, operation: int, how: int) -> None:
    """All old metadata was kept when the newest checkpoint might have been in flight, nearly all blocks were kept,
    and each recovery that was cut left more blocks half written than were there to be taken."""
    none_violated(cut_once(life, operation, how), 1)


def test_a_violation_is_seen() -> None:
    """The model itself: data that goes back behind a flush, and a unit that reads as another."""
    run = Run.begin(PARTS["one unit a page"])
    run.take(("write", (3,), False))
    run.take(("flush",))
    run.model.may_be[3] = [run.model.next_version()]
    with pytest.raises(AssertionError, match="unit 3 reads as version 1"):
        run.settle()
