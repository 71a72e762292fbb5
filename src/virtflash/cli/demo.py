"""`virtflash demo`."""

import signal
import sys

import click


@click.command()
def demo() -> None:
    """Boot two Linux guests on two volumes: they write, read back, compare, delete and trim, at the same time.

    Needs user-mode Linux, kmod and e2fsprogs (and f2fs-tools for the second guest's file system), no privileges and no
    network. Everything is made in a temporary directory and removed at the end.
    """
    from rich.console import Console  # noqa: PLC0415 - what takes long to import is imported by who needs it

    from virtflash.demo.demo import STEPS, parts, run_demo  # noqa: PLC0415
    from virtflash.demo.progress import progress  # noqa: PLC0415
    from virtflash.demo.server_process import ServerError  # noqa: PLC0415
    from virtflash.demo.summary import summary  # noqa: PLC0415
    from virtflash.demo.uml_guest import GuestError  # noqa: PLC0415

    # A terminated demonstration takes its guests and servers along, as an interrupted one does.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    console = Console()
    try:
        with progress(console, [part.name for part in parts()], STEPS) as shown:
            outcomes = run_demo(shown)
    except (GuestError, ServerError, OSError) as error:
        click.echo(f"virtflash demo: failed: {error}", err=True)
        sys.exit(1)
    console.print(summary(outcomes))
