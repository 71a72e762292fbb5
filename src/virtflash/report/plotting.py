"""Plots into files. matplotlib is imported here, and only when somebody wants a plot."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg")
DOTS_PER_INCH = 100


class PlotError(Exception):
    """A plot that cannot be made; one line."""


def check_plot(path: Path) -> None:
    """Before any work is done for a plot: can it be made at all? PlotError."""
    if path.suffix.lower() not in SUFFIXES:
        raise PlotError(f"{path}: a plot is a .png or .svg file")
    if find_spec("matplotlib") is None:
        raise PlotError("plots need matplotlib, which is not installed: pip install 'virtflash[plot]'")
    if not path.parent.is_dir():
        raise PlotError(f"{path}: there is no directory {path.parent}")


@contextmanager
def plotted(path: Path, width: float, height: float) -> Iterator["Figure"]:
    """A figure to draw in, in inches, that is written to `path`. PlotError."""
    check_plot(path)
    from matplotlib import rc_context  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    # The same figures give the same file: a plot in the documentation changes only when they do.
    with rc_context({"svg.hashsalt": "virtflash", "font.size": 9, "axes.titlesize": 10, "path.simplify": True}):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        metadata = {"Date": None} if path.suffix.lower() == ".svg" else None
        try:
            figure.savefig(path, dpi=DOTS_PER_INCH, metadata=metadata)
        except OSError as error:
            raise PlotError(f"{path}: {error.strerror}") from None
