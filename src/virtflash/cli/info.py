"""`virtflash info`: what became of an emulated flash."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from virtflash.cli import CommandError

if TYPE_CHECKING:
    from virtflash.report.flash_report import FlashReport

HELD = "its figures are in the --statistics file that it writes on SIGUSR1, or stop it first"


@click.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print all figures, by block too, as JSON.")
@click.option(
    "--plot", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Draw them, as .png or .svg."
)
def info(*, image: Path, as_json: bool, plot: Path | None) -> None:
    """Geometry, age, wear, errors and lifetime of IMAGE, an emulated flash that no server uses. It is not changed."""
    from virtflash.backing import BackingError  # noqa: PLC0415 - what takes long to import comes when it is used
    from virtflash.cli.held_image import refuse_held  # noqa: PLC0415
    from virtflash.report.plotting import PlotError, check_plot  # noqa: PLC0415

    try:
        if plot is not None:
            check_plot(plot)
        refuse_held(image, HELD)
        report = look_at(image)
        if plot is not None:
            draw(report, plot)
    except (BackingError, PlotError) as error:
        raise CommandError(str(error)) from error
    show(report, as_json=as_json)


def look_at(image: Path) -> "FlashReport":
    from virtflash.backing.emulated_flash import open_storage  # noqa: PLC0415
    from virtflash.report.flash_report import report_flash  # noqa: PLC0415

    storage = open_storage(image, read_only=True, host_sync=False)
    try:
        return report_flash(image, storage)
    finally:
        storage.close()


def draw(report: "FlashReport", path: Path) -> None:
    from virtflash.report.flash_plot import plot_flash  # noqa: PLC0415

    plot_flash(report, path)


def show(report: "FlashReport", *, as_json: bool) -> None:
    from virtflash.report.flash_text import report_lines  # noqa: PLC0415
    from virtflash.standard_output import written_out  # noqa: PLC0415

    lines = [json.dumps(report.to_json(), indent=1)] if as_json else report_lines(report)
    with written_out():
        click.echo("\n".join(lines))
