"""`virtflash top`: what a server's volumes and flashes do, live."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from virtflash.cli import CommandError

if TYPE_CHECKING:
    from virtflash.observation.status_source import StatusSource


@click.command()
@click.argument("socket", type=click.Path(path_type=Path))
@click.option("--interval", type=click.FloatRange(0.1, 3600), default=1.0, show_default=True, help="Seconds.")
@click.option("--once", is_flag=True, help="Print the rates of one interval, and end.")
@click.option("--json", "as_json", is_flag=True, help="With --once: status and rates as JSON.")
def top(*, socket: Path, interval: float, once: bool, as_json: bool) -> int:
    """Show volumes and flashes of the server whose control socket is SOCKET.

    Keys: q quits, s sorts, p pauses, h helps.
    """
    from virtflash.observation.status_source import SourceError, StatusSource  # noqa: PLC0415

    if as_json and not once:
        raise click.UsageError("--json goes with --once")
    if not once and not (sys.stdout is not None and sys.stdout.isatty()):
        raise CommandError("the standard output is no terminal; use --once")
    try:
        source = StatusSource(socket)
        try:
            return print_once(source, interval, as_json=as_json) if once else live(source, interval)
        finally:
            source.close()
    except SourceError as error:
        raise CommandError(str(error)) from error


def print_once(source: "StatusSource", interval: float, *, as_json: bool) -> int:
    import msgspec  # noqa: PLC0415

    from virtflash.observation.rates import rates_between  # noqa: PLC0415
    from virtflash.observation.top_screen import screen  # noqa: PLC0415
    from virtflash.standard_output import written_out  # noqa: PLC0415

    earlier = source.status()
    time.sleep(interval)
    status = source.status()
    rates = rates_between(earlier, status)
    with written_out():
        if as_json:
            click.echo(msgspec.json.encode({"status": status, "rates": rates}).decode())
        else:
            click.echo("\n".join(line.plain.rstrip() for line in screen(status, rates)))
    return 0


def live(source: "StatusSource", interval: float) -> int:
    from virtflash.observation.keyboard import Terminal  # noqa: PLC0415
    from virtflash.observation.live_view import LiveView  # noqa: PLC0415

    with Terminal() as terminal:
        return LiveView(terminal, source, interval).run()
