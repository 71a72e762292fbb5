"""How far each guest is."""

import io

import pytest
from rich.console import Console
from rich.progress import Progress

from virtflash.demo.demo import steps
from virtflash.demo.progress import Bars, Lines

GUEST = "cluster"


def test_a_bar_is_full_when_its_guest_is_through_and_not_before() -> None:
    bars = Progress(console=Console(file=io.StringIO()))
    shown = Bars(bars, [GUEST], steps())
    (task,) = bars.tasks
    for step in range(steps()):
        shown.step(GUEST, str(step))
        assert not task.finished
    shown.end(GUEST, succeeded=True)
    assert task.finished
    assert task.fields["step"] == "done"


def test_the_bar_of_a_guest_that_gave_up_stays_where_it_was() -> None:
    bars = Progress(console=Console(file=io.StringIO()))
    shown = Bars(bars, [GUEST], steps())
    (task,) = bars.tasks
    shown.step(GUEST, "write")
    shown.end(GUEST, succeeded=False)
    assert (task.completed, task.finished, task.fields["step"]) == (1, False, "failed")
    assert task.stop_time is not None


@pytest.mark.parametrize(("succeeded", "word"), [(True, "done"), (False, "failed")])
def test_lines_for_a_log(succeeded: bool, word: str) -> None:
    file = io.StringIO()
    shown = Lines(Console(file=file))
    shown.step(GUEST, "read back")
    shown.end(GUEST, succeeded=succeeded)
    assert [line.split(maxsplit=3)[2:] for line in file.getvalue().splitlines()] == [
        [GUEST, "read back"],
        [GUEST, word],
    ]
