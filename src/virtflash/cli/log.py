"""`virtflash log`: the black box of a flash: what happened to it and to its volumes, and when."""

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from virtflash.cli import CommandError

if TYPE_CHECKING:
    from virtflash.volumes.event_log import EventRecord
    from virtflash.volumes.flash import Flash

HELD = "`virtflash ctl SOCKET watch recent=256` tells what happens now; to read the log, stop it or copy the image"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MOMENTS = 'a time is written like 2026-11-25, "2026-11-25 15:04", 2026-11-25T15:04:05Z, or as what has passed: "2 h"'


class Moment(click.ParamType):  # type: ignore[type-arg]  # click became generic in 8.4
    """A moment in nanoseconds since 1970; what names no zone is local time."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from virtflash.config.quantities import Duration  # noqa: PLC0415

        try:
            try:
                moment = datetime.now(UTC) - timedelta(milliseconds=Duration.read(value))
            except ValueError:
                moment = datetime.fromisoformat(str(value)).astimezone()
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no time; {MOMENTS}", param, ctx)
        return (moment - EPOCH) // timedelta(microseconds=1) * 1000


@click.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
@click.option("--since", type=Moment(), help='What happened from then on: 2026-11-25T15:04, or "2 h" for the last two.')
@click.option("--volume", metavar="NAME", help="What happened to this volume, or to the flash of this name.")
def log(*, image: Path, as_json: bool, since: int | None, volume: str | None) -> None:
    """The log of events that IMAGE, an emulated flash that no server uses, keeps of itself. It is not changed.

    A line for each event, the oldest first: wall time, run of the server, seconds of that run's monotonic clock, kind,
    volume or flash, and what happened. Times of different runs can be compared by the wall clock only, which may have
    been set in between.
    """
    from virtflash.backing import BackingError  # noqa: PLC0415 - what takes long to import comes when it is used
    from virtflash.cli.held_image import refuse_held  # noqa: PLC0415
    from virtflash.standard_output import written_out  # noqa: PLC0415
    from virtflash.volumes.errors import VolumeError  # noqa: PLC0415

    refuse_held(image, HELD)
    try:
        records = kept_on(image)
    except BackingError as error:
        raise CommandError(str(error)) from error
    except (VolumeError, OSError) as error:
        raise CommandError(f"{image}: its log cannot be read: {error}") from error
    lines = json_lines if as_json else text_lines
    with written_out():
        for line in lines(records, chosen(records, since, volume)):
            click.echo(line)


def kept_on(image: Path) -> "list[EventRecord]":
    """BackingError, VolumeError, OSError. The table of volumes need not be whole for it."""
    from virtflash.backing.emulated_flash import open_storage  # noqa: PLC0415
    from virtflash.shared_flash import granule_bytes  # noqa: PLC0415
    from virtflash.volumes.event_log import EventLog  # noqa: PLC0415
    from virtflash.volumes.flash import SECTOR_BYTES  # noqa: PLC0415

    storage = open_storage(image, read_only=True, host_sync=False)
    try:
        granule_sectors = granule_bytes(storage) // SECTOR_BYTES
        ring = EventLog(storage.target, granule_sectors)
        refuse_without_volumes(storage.target, granule_sectors)
        return ring.records()
    finally:
        storage.close()


def refuse_without_volumes(flash: "Flash", granule_sectors: int) -> None:
    """VolumeError: all of the flash is one guest's, who can write there what looks like a log."""
    from virtflash.volumes.copies import Copies  # noqa: PLC0415
    from virtflash.volumes.errors import NoTableError  # noqa: PLC0415
    from virtflash.volumes.table import COPIES  # noqa: PLC0415

    copies = Copies(flash, granule_sectors)
    if all(isinstance(copies.read(copy), NoTableError) for copy in range(COPIES)):
        raise NoTableError("it has no volumes; a flash keeps a log when a configuration is served from it")


def chosen(records: "Iterable[EventRecord]", since: int | None, volume: str | None) -> "list[EventRecord]":
    return [
        record
        for record in records
        if (since is None or record.time_ns >= since) and (volume is None or record.name == volume)
    ]


def json_lines(_records: "Sequence[EventRecord]", shown: "Iterable[EventRecord]") -> Iterator[str]:
    return (json.dumps(as_json_says(record)) for record in shown)


def as_json_says(record: "EventRecord") -> dict[str, Any]:
    return {
        "number": record.number,
        "run": record.run,
        "time": record.time_ns / 1e9,
        "monotonic": record.monotonic_ns / 1e9,
        "level": record.level,
        "kind": record.kind,
        "volume": record.name or None,
        "text": record.words,
        "left_out": record.left_out,
    }


def text_lines(records: "Sequence[EventRecord]", shown: "Iterable[EventRecord]") -> Iterator[str]:
    """And a line where some are missing."""
    from virtflash.volumes.event_log import missing_between  # noqa: PLC0415

    missing = missing_between(records)
    for record in shown:
        if record.number in missing:
            yield f"({missing[record.number]} events before the next one are missing: what held them is damaged)"
        yield text_line(record)


def text_line(record: "EventRecord") -> str:
    from virtflash.config.reading import in_one_line  # noqa: PLC0415

    left_out = f" ({record.left_out} more of these before it)" if record.left_out else ""
    kind, name, words = map(in_one_line, (record.kind, record.name or "-", record.words))
    seconds = f"{record.monotonic_ns / 1e9:.3f}"
    return f"{clock(record.time_ns)}  run {record.run}  {seconds:>12} s  {kind:<16} {name:<12} {words}{left_out}"


def clock(time_ns: int) -> str:
    """Local time; what is on the medium may be no time at all."""
    try:
        moment = EPOCH + timedelta(microseconds=time_ns // 1000)
        return moment.astimezone().isoformat(" ", "milliseconds")
    except (ValueError, OverflowError, OSError):
        return f"{time_ns} ns"
