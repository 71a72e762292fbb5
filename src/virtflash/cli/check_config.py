"""`virtflash check-config`: is this a configuration that could be served?"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from virtflash.report.quantities import binary_bytes, decimal_bytes
from virtflash.text_table import aligned

if TYPE_CHECKING:
    from virtflash.config import Volume


@click.command("check-config")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--schema", is_flag=True, help="Print a JSON Schema of configurations, for editors, and end.")
def check_config(file: Path | None, schema: bool) -> int:
    """Read FILE, a configuration of flashes and volumes, and tell all that is wrong with it, a line for each mistake.

    Nothing is opened: what is on the flashes, `virtflash serve` sees.
    """
    from virtflash.config.json_schema import json_schema  # noqa: PLC0415
    from virtflash.config.reading import ConfigurationError, read_configuration  # noqa: PLC0415

    if schema:
        click.echo(json.dumps(json_schema(), indent=2))
        return 0
    if file is None:
        raise click.UsageError("name a configuration, or ask for --schema")
    try:
        configuration = read_configuration(file)
    except ConfigurationError as error:
        for problem in error.problems:
            click.echo(problem, err=True)
        return 1
    flashes, volumes = counted(len(configuration.flash), "flash"), counted(len(configuration.volume), "volume")
    click.echo(f"{file}: good: {flashes}, {volumes}")
    for line in aligned([("volume", "flash", "size", "wear budget"), *map(row, configuration.volume.items())], left=2):
        click.echo(f"  {line}")
    return 0


def row(entry: tuple[str, "Volume"]) -> tuple[str, str, str, str]:
    name, volume = entry
    budget = "none" if volume.wear_budget is None else f"{decimal_bytes(volume.wear_budget)} a day"
    return name, volume.flash, binary_bytes(volume.size), budget


def counted(number: int, what: str) -> str:
    plural = {"flash": "flashes"}.get(what, f"{what}s")
    return f"{number} {what if number == 1 else plural}"
