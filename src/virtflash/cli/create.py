"""`virtflash create`: a new image of emulated flash."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from virtflash.cli import CommandError
from virtflash.cli.percent import Percent
from virtflash.cli.sizes import Size

if TYPE_CHECKING:
    from virtflash.flash.profile_sections import Profile
    from virtflash.report.flash_report import FlashReport

DEFAULT_PROFILES = {"emmc": "automotive-tlc-emmc", "nand": "slc-nand-256m", "nor": "qspi-nor-64m"}
SEED_MOST = (1 << 64) - 1


@click.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--kind", type=click.Choice(list(DEFAULT_PROFILES)), help="What the flash is to be.")
@click.option("--capacity", type=Size(), help="What guests will see (8GiB). Raw parts: as much as they hold.")
@click.option(
    "--profile",
    metavar="NAME|FILE.toml",
    help="The part, by its name or as a file of yours.  [default: by kind, "
    + ", ".join(DEFAULT_PROFILES.values())
    + "]",
)
@click.option(
    "--over-provisioning",
    type=Percent(1, 400),
    metavar="PERCENT",
    help="Raw space beyond the capacity, in percent of it; more makes writing cheaper.  [default: the profile's]",
)
@click.option(
    "--seed",
    type=click.IntRange(0, SEED_MOST),
    metavar="N",
    help="Of all that is random in the device: the same seed is the same device.",
)
@click.option("--force", is_flag=True, help="Replace IMAGE where it exists.")
def create(
    *,
    image: Path,
    kind: str | None,
    capacity: int | None,
    profile: str | None,
    over_provisioning: float | None,
    seed: int | None,
    force: bool,
) -> None:
    """Make IMAGE, a new emulated eMMC, raw NAND or raw NOR, formatted and empty.

    The file is sparse: it takes room on the host as the flash is written.

    \b
    virtflash create emmc0.vflash --kind emmc --capacity 8GiB
    virtflash create nand0.vflash --kind nand --over-provisioning 28%
    """
    from virtflash.backing import BackingError  # noqa: PLC0415 - what takes long to import comes when it is used
    from virtflash.children import unwind_on_signals  # noqa: PLC0415

    unwind_on_signals()
    part = load_part(kind, profile)
    bytes_ = capacity_for(part, capacity)
    try:
        with new_place(image, force=force) as place:
            make(place, part, bytes_, over_provisioning, seed)
            lines = describe(place, image, over_provisioning)
    except BackingError as error:
        raise CommandError(str(error)) from error
    say(lines, asked=capacity, made=bytes_)


def load_part(kind: str | None, profile: str | None) -> "Profile":
    """The profile that was named, or is meant by its kind. click.UsageError, CommandError."""
    from virtflash.flash.profiles import ProfileError, load_profile  # noqa: PLC0415

    if kind is None and profile is None:
        raise click.UsageError("name what to make: --kind emmc, nand or nor, or a --profile")
    try:
        part = load_profile(profile if profile is not None else DEFAULT_PROFILES[kind or ""])
    except ProfileError as error:
        raise CommandError(str(error)) from error
    if kind not in (None, part.part.kind):
        raise click.UsageError(
            f"the profile {profile} is of kind {part.part.kind}: leave out --kind {kind}, or name it"
        )
    return part


def capacity_for(part: "Profile", capacity: int | None) -> int | None:
    """Rounded up to whole units; None: what the part holds. click.UsageError."""
    from virtflash.backing.emulated_flash import UNIT_BYTES  # noqa: PLC0415

    if capacity is None:
        if not part.geometry.blocks:
            raise click.UsageError("name a --capacity: a part of this profile comes in any size")
        return None
    if capacity == 0:
        raise click.UsageError("--capacity: it has to hold something")
    return -(-capacity // UNIT_BYTES) * UNIT_BYTES


@contextlib.contextmanager
def new_place(image: Path, *, force: bool) -> Iterator[Path]:
    """Where to make the image: the place itself, or beside what it replaces once it is there. CommandError."""
    if not os.path.lexists(image):
        yield image
        return
    if not force:
        raise CommandError(f"{image}: it exists already; name another file, or replace it with --force")
    refuse_what_is_used(image)
    beside = image.with_name(f".{image.name}.{os.getpid()}.new")
    try:
        yield beside
        beside.replace(image)
    finally:
        beside.unlink(missing_ok=True)


def refuse_what_is_used(image: Path) -> None:
    """CommandError: it is no file, or a server has it open."""
    from virtflash.cli.held_image import refuse_held  # noqa: PLC0415

    if image.is_symlink() or not image.is_file():
        raise CommandError(f"{image}: not a file, and not replaced; name another path")
    refuse_held(image, "stop it first")


def make(place: Path, part: "Profile", capacity: int | None, over_provisioning: float | None, seed: int | None) -> None:
    from virtflash.backing import create_flash  # noqa: PLC0415

    create_flash(place, part, capacity_bytes=capacity, over_provisioning=over_provisioning, seed=seed)


def describe(place: Path, image: Path, over_provisioning: float | None) -> list[str]:
    """What was made, in a few lines. `place`: where it is now."""
    from virtflash.backing.emulated_flash import open_storage  # noqa: PLC0415
    from virtflash.report.flash_report import report_flash  # noqa: PLC0415

    storage = open_storage(place, read_only=True, host_sync=False)
    try:
        report = report_flash(image, storage)
        spare = storage.profile.over_provisioning.default_percent if over_provisioning is None else over_provisioning
        return made_lines(report, spare)
    finally:
        storage.close()


def made_lines(report: "FlashReport", over_provisioning: float) -> list[str]:
    from virtflash.report.flash_text import block_text  # noqa: PLC0415
    from virtflash.report.quantities import binary_bytes, counted  # noqa: PLC0415
    from virtflash.text_table import aligned  # noqa: PLC0415

    shape, blocks = report.geometry, report.blocks
    rows = [
        ("for guests", f"{binary_bytes(shape.capacity_bytes)} ({shape.capacity_bytes:,} bytes)"),
        ("flash", f"{counted(shape.blocks, 'block')} of {block_text(shape)}"),
        ("over-provisioning", f"{over_provisioning:g} %"),
        (
            "blocks beside data",
            f"{blocks.spare:,} spare, {blocks.bad:,} bad from the factory, {blocks.metadata:,} metadata",
        ),
        ("endurance", endurance_text(report, over_provisioning)),
    ]
    return [f"{report.image}: {report.profile} ({report.kind})", *(f"  {line}" for line in aligned(rows, left=2))]


def endurance_text(report: "FlashReport", over_provisioning: float) -> str:
    from virtflash.report.endurance import bytes_until_worn  # noqa: PLC0415
    from virtflash.report.quantities import decimal_bytes  # noqa: PLC0415

    most, least = bytes_until_worn(report, over_provisioning)
    cycles = f"{report.wear.rated_cycles:,} cycles"
    return f"{cycles}: about {decimal_bytes(least)} of random writes, {decimal_bytes(most)} of sequential ones"


def say(lines: list[str], *, asked: int | None, made: int | None) -> None:
    from virtflash.standard_output import written_out  # noqa: PLC0415

    rounded = [f"  the capacity was rounded up from {asked:,} bytes, to whole units of 4096"] if asked != made else []
    with written_out():
        click.echo("\n".join([*lines, *rounded]))
