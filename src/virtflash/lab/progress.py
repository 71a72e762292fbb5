"""How far an experiment is: a bar on a terminal, silence elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def year_bar(title: str, years: float) -> Iterator[Callable[[float], None]]:
    """A function of the years done, out of `years`. Shown on standard error, so that a report can be piped."""
    from rich.console import Console  # noqa: PLC0415 - what takes long to import is imported by who needs it
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _done: None
        return
    text = TextColumn("{task.description} {task.completed:.1f} of {task.total:.4g} years", markup=False)
    with Progress(text, BarColumn(), TimeRemainingColumn(), console=console, transient=True) as bars:
        task = bars.add_task(title, total=years)
        yield lambda done: bars.update(task, completed=done)
