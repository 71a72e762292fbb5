"""How far each guest is: bars on a terminal, lines elsewhere."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from virtflash.standard_output import written_out


class Progress(Protocol):
    def step(self, guest: str, text: str) -> None:
        """The guest begins this step."""

    def end(self, guest: str, *, succeeded: bool) -> None:
        """The guest is through, or gave up."""


def outcome(*, succeeded: bool) -> str:
    return "done" if succeeded else "failed"


class Lines:
    """One line a step, for logs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = time.monotonic()

    def step(self, guest: str, text: str) -> None:
        with written_out():
            self._console.print(f"{time.monotonic() - self._started:6.1f} s  {guest:<13} {text}", highlight=False)

    def end(self, guest: str, *, succeeded: bool) -> None:
        self.step(guest, outcome(succeeded=succeeded))


class Bars:
    """One bar a guest."""

    def __init__(self, bars: RichProgress, guests: Sequence[str], steps: int) -> None:
        self._bars = bars
        self._steps = steps + 1  # to boot is one
        self._tasks = {guest: bars.add_task(guest, total=self._steps, step="boot") for guest in guests}

    def step(self, guest: str, text: str) -> None:
        self._bars.update(self._tasks[guest], advance=1, step=text)

    def end(self, guest: str, *, succeeded: bool) -> None:
        completed = self._steps if succeeded else None
        self._bars.update(self._tasks[guest], completed=completed, step=outcome(succeeded=succeeded))
        self._bars.stop_task(self._tasks[guest])


@contextmanager
def progress(console: Console, guests: Sequence[str], steps: int) -> Iterator[Progress]:
    if not console.is_terminal:
        yield Lines(console)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[step]}"))
    with RichProgress(*columns, TimeElapsedColumn(), console=console) as bars:
        yield Bars(bars, guests, steps)
