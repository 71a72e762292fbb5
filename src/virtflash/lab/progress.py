"""How far an experiment is: a bar on a terminal, silence elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def year_bar(title: str) -> Iterator[Callable[[float, float], None]]:
    """A function of years done and years in all. It is shown on standard error, so that a report can be piped."""
    from rich.console import Console  # noqa: PLC0415 - what takes long to import is imported by who needs it
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _years, _of: None
        return
    text = TextColumn("{task.description} {task.completed:.1f} of {task.total:.4g} years")
    with Progress(text, BarColumn(), TimeRemainingColumn(), console=console, transient=True) as bars:
        task = bars.add_task(title, total=None)
        yield lambda years, of: bars.update(task, completed=years, total=of)
