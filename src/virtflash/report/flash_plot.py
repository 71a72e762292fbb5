"""The report on a flash as a plot: wear across the device, cycles by block, valid data, and the age of data."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
from numpy.typing import NDArray

from virtflash.report.flash_report import Bin, FlashReport
from virtflash.report.plotting import plotted
from virtflash.report.quantities import HOURS_PER_DAY, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_flash(report: FlashReport, path: Path) -> None:
    """PlotError: it cannot be drawn or written."""
    with plotted(path, 10, 7) as figure:
        figure.suptitle(f"{Path(report.image).name}: {report.profile}")
        axes = figure.subplots(2, 2)
        draw_wear(axes[0, 0], report)
        draw_histogram(axes[0, 1], report)
        draw_valid(axes[1, 0], report)
        draw_age(axes[1, 1], report)


def draw_wear(axes: "Axes", report: FlashReport) -> None:
    """Each block as a square of a grid, in rows."""
    wear = numpy.where(report.columns.bad, numpy.nan, report.columns.wear)
    columns = math.ceil(math.sqrt(2 * len(wear)))
    grid = numpy.full((math.ceil(len(wear) / columns), columns), numpy.nan)
    grid.flat[: len(wear)] = wear
    image = axes.imshow(grid, aspect="auto", cmap="viridis", vmin=0, interpolation="nearest", rasterized=True)
    axes.set_title(f"cycles by block, {columns} in a row (white: bad)")
    axes.figure.colorbar(image, ax=axes)
    axes.set_xticks([])
    axes.set_yticks([])


def draw_histogram(axes: "Axes", report: FlashReport) -> None:
    draw_bins(axes, report.wear.main, "normal")
    if report.wear.slc:
        draw_bins(axes, report.wear.slc, "in SLC mode")
        axes.legend()
    axes.set_title(f"blocks by cycles; rated: {report.wear.rated_cycles:,}")
    axes.set_xlabel("P/E cycles")
    axes.set_ylabel("blocks")


def draw_bins(axes: "Axes", bins: list[Bin], label: str) -> None:
    edges = [each.first for each in bins] + [bins[-1].last + 1] if bins else [0, 1]
    axes.stairs([each.blocks for each in bins] or [0], edges, fill=True, alpha=0.6, label=label)


def draw_valid(axes: "Axes", report: FlashReport) -> None:
    holding = report.columns.valid_share[report.columns.valid_share > 0]
    axes.hist(100 * holding, bins=20, range=(0, 100))
    axes.set_title(f"data still needed, in the {len(holding):,} blocks that have any")
    axes.set_xlabel("percent of the block")
    axes.set_ylabel("blocks")


def draw_age(axes: "Axes", report: FlashReport) -> None:
    days: NDArray[Any] = report.columns.data_hours[~numpy.isnan(report.columns.data_hours)] / HOURS_PER_DAY
    axes.hist(days, bins=20)
    axes.set_title("age of data")
    axes.set_xlabel(f"days, worth as many at {number(report.age.reference_celsius)} degC")
    axes.set_ylabel("blocks")
