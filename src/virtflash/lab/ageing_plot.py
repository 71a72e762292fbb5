"""Ageing runs as a plot over the years, one line for each run."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from virtflash.lab.ageing_report import AgeingReport, Sample
from virtflash.report.plotting import plotted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLES = ("-", "--", "-.", ":")  # so that equal lines do not hide each other


def plot_ageing(reports: Sequence[AgeingReport], path: Path) -> None:
    """PlotError: it cannot be drawn or written."""
    with plotted(path, 10, 6.5) as figure:
        axes = figure.subplots(2, 2)
        panels: tuple[tuple[str, str, Callable[[Sample], float]], ...] = (
            ("data that cannot be read, or reads wrong", "percent", bad_percent),
            ("bits corrected when 4 KiB are read", "bits", corrected_bits),
            ("rated cycles used", "percent", lambda sample: sample.used_percent),
            ("written, dotted: by the guest", "GB", lambda sample: sample.flash_bytes / 1e9),
        )
        for place, (title, unit, value) in zip(axes.flat, panels, strict=True):
            for number, report in enumerate(reports):
                style = STYLES[number % len(STYLES)]
                place.plot(years(report), [value(each) for each in report.samples], style, label=label(report))
            dress(place, title, unit)
        draw_host_bytes(axes[1, 1], reports)
        axes[0, 0].set_ylim(top=max(axes[0, 0].get_ylim()[1], 1))  # nothing lost is a line along the bottom
        axes[0, 0].legend()


def dress(axes: "Axes", title: str, unit: str) -> None:
    axes.set_title(title)
    axes.set_xlabel("years")
    axes.set_ylabel(unit)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)


def draw_host_bytes(axes: "Axes", reports: Sequence[AgeingReport]) -> None:
    for number, report in enumerate(reports):
        axes.plot(years(report), [each.host_bytes / 1e9 for each in report.samples], ":", color=f"C{number}")


def label(report: AgeingReport) -> str:
    return f"{report.temperature}, {report.load}, {'refreshed' if report.refresh else 'not refreshed'}"


def years(report: AgeingReport) -> list[float]:
    return [sample.years for sample in report.samples]


def bad_percent(sample: Sample) -> float:
    return 100 * (sample.unreadable_units + sample.wrong_units) / max(sample.probed_units, 1)


def corrected_bits(sample: Sample) -> float:
    return sample.corrected_bits_per_unit
