"""`virtflash provision`: a raw image, such as a boot image, into a volume, before its machine ever runs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from virtflash.cli import CommandError
from virtflash.cli.held_image import refuse_held
from virtflash.report.quantities import binary_bytes

if TYPE_CHECKING:
    from virtflash.config import Configuration
    from virtflash.shared_flash import SharedFlash


@click.command()
@click.argument("configuration", type=click.Path(path_type=Path))
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--volume", metavar="NAME", required=True, help="Which of its volumes.")
def provision(configuration: Path, file: Path, volume: str) -> int:
    """Write FILE, a raw image, into a volume of CONFIGURATION, and read it back. No server uses the flash meanwhile.

    The volume is made if it is not there yet; what it held is erased. It may be read-only for its machine.
    """
    from virtflash.config import ConfigurationError, read_configuration  # noqa: PLC0415

    try:
        read = read_configuration(configuration)
    except ConfigurationError as error:
        for problem in error.problems:
            click.echo(problem, err=True)
        return 1
    if volume not in read.volume:
        raise CommandError(f"{configuration}: there is no [volume.{volume}]; there are: {', '.join(read.volume)}")
    with opened(configuration, read, volume) as flash:
        fill(flash, read, volume, file)
    return 0


@contextmanager
def opened(path: Path, read: "Configuration", volume: str) -> "Iterator[SharedFlash]":
    """The flash of a volume. CommandError."""
    from virtflash.shared_flash import SharedFlash  # noqa: PLC0415

    section = read.flash[read.volume[volume].flash]
    image = path.parent / section.path
    refuse_held(image, "stop it first")
    with complaining():
        flash = SharedFlash.open(read.volume[volume].flash, section, image)
    try:
        yield flash
    finally:
        flash.close()


def fill(flash: "SharedFlash", read: "Configuration", volume: str, file: Path) -> None:
    from virtflash.volumes.provisioning import provision as write_and_verify  # noqa: PLC0415

    with complaining(str(file)), file.open("rb") as image, bar(file.name) as progress:
        size = image.seek(0, 2)
        flash.make(volume, read.volume[volume])
        done = write_and_verify(flash.pool.window(volume), image, size, lambda what, at: progress(what, at, size))
    click.echo(f"{file}: {binary_bytes(done.written)} are in volume {volume}, and read as they were written")


@contextmanager
def complaining(what: str = "") -> Iterator[None]:
    from virtflash.service import TROUBLE, in_words  # noqa: PLC0415

    try:
        yield
    except TROUBLE as error:
        text = in_words(error)
        raise CommandError(f"{what}: {text}" if what and isinstance(error, OSError) else text) from error


@contextmanager
def bar(title: str) -> Iterator[Callable[[str, int, int], None]]:
    """A function of what is done, how many bytes of it, out of how many. Shown on a terminal only."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _what, _done, _size: None
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task(title, total=None)
        yield lambda what, done, size: bars.update(task, description=f"{what} {title}", completed=done, total=size)
