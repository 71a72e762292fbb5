"""`virtflash lab`: the laboratory."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from virtflash.cli import CommandError
from virtflash.cli.bench import Number
from virtflash.cli.percent import Percent

if TYPE_CHECKING:
    from virtflash.lab.ageing import Settings
    from virtflash.lab.ageing_report import AgeingReport
    from virtflash.lab.load import Workload
    from virtflash.report.flash_report import FlashReport

YEARS_MOST = 1000.0
FILE = click.Path(path_type=Path, dir_okay=False)


@click.group()
def lab() -> None:
    """The laboratory: what becomes of a flash over years, in minutes."""


@lab.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.option(
    "--years", type=Number(0.001, YEARS_MOST), help="How long.  [default: 15; with --until-worn: 1000 at most]"
)
@click.option("--until-worn", is_flag=True, help="Until the device takes no more writes.")
@click.option(
    "--temperature",
    default="parked-outdoors-hot",
    show_default=True,
    metavar="PRESET|FILE",
    help="parked-outdoors-hot, garage, constant:CELSIUS; a .csv file of hour,celsius, or a .toml file.",
)
@click.option(
    "--load",
    default="infotainment",
    show_default=True,
    metavar="PRESET|FILE",
    help="idle, infotainment, logger, skewed; a .toml file, or a recorded .csv trace of seconds,op,sector,sectors.",
)
@click.option(
    "--fill", type=Percent(0, 100), metavar="PERCENT", help="Of the device that holds data.  [default: the load's, 80%]"
)
@click.option("--refresh/--no-refresh", default=True, show_default=True, help="The device looks after its data.")
@click.option(
    "--patrol-days", type=Number(0.1, 10000), default=30.0, show_default=True, help="In which it reads all of its data."
)
@click.option("--steps-per-year", type=click.IntRange(1, 8760), default=365, show_default=True)
@click.option("--seed", type=click.IntRange(0, (1 << 63) - 1), default=1, show_default=True, help="Of the load.")
@click.option("--in-place", is_flag=True, help="Age IMAGE itself.")
@click.option("--in-memory", is_flag=True, help="Age a copy in memory, and drop it: what is done anyway.")
@click.option("-o", "--output", type=FILE, metavar="COPY", help="Age a copy that is kept.")
@click.option("--report", type=FILE, metavar="FILE.json", help="Write all figures there.")
@click.option("--plot", type=FILE, metavar="FILE", help="Draw them over the years, as .png or .svg.")
@click.option(
    "--compare",
    type=FILE,
    multiple=True,
    metavar="FILE.json",
    help="Draw earlier runs, by their --report, into that plot too.",
)
def age(
    *,
    image: Path,
    in_place: bool,
    in_memory: bool,
    output: Path | None,
    report: Path | None,
    plot: Path | None,
    compare: tuple[Path, ...],
    **how: object,
) -> None:
    """Run a copy of IMAGE through years: heat, a guest's writes, the device's own care; then read all of it back.

    Every unit that is written can be checked when it is read, and data that IMAGE holds is known by its checksums.
    Loads are shares of the device, so that a small one stands for a large one, and takes less time.

    \b
    virtflash lab age emmc0.vflash --years 15
    virtflash lab age emmc0.vflash --years 3 --temperature constant:85 --load idle --no-refresh
    """
    from virtflash.children import unwind_on_signals  # noqa: PLC0415 - what takes long to import comes when it is used
    from virtflash.lab.ageing_report import read_report  # noqa: PLC0415

    if in_place + in_memory + (output is not None) > 1:
        raise click.UsageError("age either IMAGE, with --in-place, or a copy, --in-memory or -o")
    if compare and plot is None:
        raise click.UsageError("--compare has no effect without --plot")
    unwind_on_signals()
    with told():
        check_outputs(report, plot)
        others = [read_report(path) for path in compare]
        made, flash = run(image, in_place=in_place, output=output, **how)  # type: ignore[arg-type]
        keep(made, others, report, plot)
        show(made, flash)


@contextmanager
def told() -> Iterator[None]:
    """What is in the way, in one line."""
    from virtflash.lab.errors import LabError  # noqa: PLC0415
    from virtflash.report.plotting import PlotError  # noqa: PLC0415

    try:
        yield
    except (LabError, PlotError) as error:
        raise CommandError(str(error)) from error


def check_outputs(report: Path | None, plot: Path | None) -> None:
    """Not after minutes: PlotError, CommandError."""
    from virtflash.report.plotting import check_plot  # noqa: PLC0415

    if plot is not None:
        check_plot(plot)
    if report is not None and not report.parent.is_dir():
        raise CommandError(f"{report}: there is no directory {report.parent}")


def run(
    image: Path,
    *,
    years: float | None,
    until_worn: bool,
    temperature: str,
    load: str,
    fill: float | None,
    refresh: bool,
    patrol_days: float,
    steps_per_year: int,
    seed: int,
    in_place: bool,
    output: Path | None,
) -> "tuple[AgeingReport, FlashReport]":
    from virtflash.lab.ageing import Settings  # noqa: PLC0415
    from virtflash.lab.temperature import load_temperature  # noqa: PLC0415
    from virtflash.lab.working_copy import working_copy  # noqa: PLC0415

    settings = Settings(
        years=years if years is not None else YEARS_MOST if until_worn else 15.0,
        temperature=load_temperature(temperature),
        refresh=refresh,
        steps_per_year=steps_per_year,
        patrol_days=patrol_days,
        until_worn=until_worn,
        seed=seed,
    )
    with working_copy(image, in_place=in_place, output=output) as place:
        return live(place, image, settings, load, fill)


def live(
    place: Path, image: Path, settings: "Settings", load: str, fill: float | None
) -> "tuple[AgeingReport, FlashReport]":
    from virtflash.lab.ageing import Ageing  # noqa: PLC0415
    from virtflash.lab.opened_flash import opened_flash  # noqa: PLC0415
    from virtflash.lab.progress import year_bar  # noqa: PLC0415
    from virtflash.report.flash_report import report_flash  # noqa: PLC0415

    with (
        opened_flash(place, refresh=settings.refresh, name=str(image)) as storage,
        year_bar(image.name, settings.years) as on_progress,
    ):
        units = storage.target.user_sectors * 512 // storage.target.unit_bytes
        workload = load_workload(load, units, storage.target.unit_bytes, settings.seed, fill)
        made = Ageing(str(image), storage, workload, settings, load_name=load).run(on_progress)
        return made, report_flash(image, storage)


def load_workload(text: str, units: int, unit_bytes: int, seed: int, fill: float | None) -> "Workload":
    """A preset, figures of the user's, or a trace. LabError."""
    from virtflash.lab.load import FILLED, GeneratedLoad, load_figures, with_filled  # noqa: PLC0415
    from virtflash.lab.trace import Trace  # noqa: PLC0415

    share = None if fill is None else fill / 100
    if text.endswith(".csv"):
        return Trace(Path(text), units, unit_bytes, FILLED if share is None else share)
    return GeneratedLoad(with_filled(load_figures(text), share), units, unit_bytes, seed)


def keep(made: "AgeingReport", others: "list[AgeingReport]", report: Path | None, plot: Path | None) -> None:
    from virtflash.lab.ageing_plot import plot_ageing  # noqa: PLC0415
    from virtflash.lab.ageing_report import write_report  # noqa: PLC0415

    if report is not None:
        write_report(made, report)
    if plot is not None:
        plot_ageing([*others, made], plot)


def show(made: "AgeingReport", flash: "FlashReport") -> None:
    from virtflash.lab.ageing_report import ageing_lines  # noqa: PLC0415
    from virtflash.standard_output import written_out  # noqa: PLC0415

    with written_out():
        click.echo("\n".join(ageing_lines(made, flash)))
