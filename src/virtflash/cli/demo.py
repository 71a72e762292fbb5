"""`virtflash demo`."""

import sys
from tempfile import NamedTemporaryFile
from typing import NoReturn

import click


@click.command()
def demo() -> None:
    """Boot two Linux guests on two emulated eMMCs: they write, read back, compare, delete and trim, at the same time.
    Then two on volumes of one eMMC, of which one writes until its wear budget is spent.

    Needs user-mode Linux, kmod and e2fsprogs (and f2fs-tools for the second guest's file system), no privileges and no
    network. Everything is made in a temporary directory and removed at the end.
    """
    from rich.console import Console  # noqa: PLC0415 - what takes long to import is imported by who needs it

    from virtflash.backing import BackingError  # noqa: PLC0415
    from virtflash.children import unwind_on_signals  # noqa: PLC0415
    from virtflash.control.client import ControlError  # noqa: PLC0415
    from virtflash.demo.demo import parts, run_demo, steps  # noqa: PLC0415
    from virtflash.demo.progress import progress  # noqa: PLC0415
    from virtflash.demo.server_process import ServerError  # noqa: PLC0415
    from virtflash.demo.shared_flash import run_shared, shared_summary  # noqa: PLC0415
    from virtflash.demo.summary import summary  # noqa: PLC0415
    from virtflash.demo.uml_guest import GuestError  # noqa: PLC0415
    from virtflash.standard_output import written_out  # noqa: PLC0415

    unwind_on_signals()
    console = Console()
    try:
        with progress(console, [part.name for part in parts()], steps()) as shown:
            outcomes = run_demo(shown)
        with written_out():
            click.echo("\n".join(["", *summary(outcomes)]))
        shared = run_shared()
        with written_out():
            click.echo("\n".join(["", *shared_summary(shared)]))
    except GuestError as error:
        fail(error.reason, error.console)
    except (BackingError, ControlError, ServerError, OSError) as error:
        fail(str(error))


def fail(reason: str, console: str = "") -> NoReturn:
    click.echo(f"virtflash demo: failed: {reason}", err=True)
    if console:
        click.echo(f"virtflash demo: what the guest printed: {kept(console)}", err=True)
    sys.exit(1)


def kept(text: str) -> str:
    """Put it into a file that stays, and name that; where there is no room, the end of it."""
    try:
        with NamedTemporaryFile("w", prefix="virtflash-demo-", suffix=".log", delete=False) as file:
            file.write(f"{text}\n")
    except OSError:
        return "\n" + "\n".join(text.splitlines()[-15:])
    return file.name
