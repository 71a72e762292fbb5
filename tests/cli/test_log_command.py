"""`virtflash log`: what it shows, what it leaves out, and what may lie on the medium."""

import hashlib
import json
import subprocess
import sys
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from virtflash.backing.emulated_flash import EmulatedStorage, create_flash, open_storage
from virtflash.shared_flash import open_pool
from virtflash.volumes.event_log import CHECKSUM, HEADER, RECORD, UNIT_BYTES, EventLog, EventRecord, LogUnit, serialised

PROGRAM = Path(sys.executable).with_name("virtflash")
MIB = 1 << 20
GRANULE = 1024  # sectors
DEADLINE_SECONDS = 20
NOON = int(datetime(2020, 11, 25, 12, tzinfo=UTC).timestamp())


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(PROGRAM), "log", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=DEADLINE_SECONDS, env={"TZ": "UTC"}
    )


def lines(*arguments: object) -> list[str]:
    ended = run(*arguments)
    assert (ended.returncode, ended.stderr) == (0, "")
    return ended.stdout.splitlines()


def told(*arguments: object) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(*arguments, "--json")]


def record(kind: str, name: str, words: str, second: int, **more: Any) -> EventRecord:
    return EventRecord(
        kind=kind, name=name, words=words, monotonic_ns=second * 10**9, time_ns=(NOON + second) * 10**9, **more
    )


RECORDS = [
    record("server-started", "emmc0", "as it was left", 0),
    record("io-error", "cluster", "ring 0: 2 requests failed", 60, level="warning", left_out=3),
    record("sync-failed", "", "a write or a sync failed", 120, level="error"),
]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A flash with volumes and three events."""
    path = tmp_path / "emmc0.vflash"
    create_flash(path, "automotive-tlc-emmc", capacity_bytes=32 * MIB, seed=1)
    note(path, RECORDS)
    return path


def opened(path: Path) -> EmulatedStorage:
    storage = open_storage(path, host_sync=False)
    open_pool(storage)
    return storage


def note(path: Path, records: Sequence[EventRecord]) -> None:
    storage = opened(path)
    log = EventLog(storage.target, GRANULE)
    log.begin()
    assert log.append(records) == len(records)
    storage.close()


def craft(path: Path, place: int, data: bytes) -> None:
    """Bytes in a place of the log."""
    storage = opened(path)
    storage.target.write(EventLog(storage.target, GRANULE).position(place), data, reliable=True)
    storage.close()


def test_a_line_for_each_event(image: Path) -> None:
    before = hashlib.sha256(image.read_bytes()).digest()
    assert lines(image) == [
        "2020-11-25 12:00:00.000+00:00  run 1         0.000 s  server-started   emmc0        as it was left",
        "2020-11-25 12:01:00.000+00:00  run 1        60.000 s  io-error         cluster      ring 0: 2 requests failed"
        " (3 more of these before it)",
        "2020-11-25 12:02:00.000+00:00  run 1       120.000 s  sync-failed      -            a write or a sync failed",
    ]
    assert hashlib.sha256(image.read_bytes()).digest() == before


def test_as_json(image: Path) -> None:
    _, second, third = told(image)
    assert second == {
        "number": 2,
        "run": 1,
        "time": NOON + 60,
        "monotonic": 60,
        "level": "warning",
        "kind": "io-error",
        "volume": "cluster",
        "text": "ring 0: 2 requests failed",
        "left_out": 3,
    }
    assert third["volume"] is None


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        (["--since", "2020-11-25"], [1, 2, 3]),
        (["--since", "2020-11-25T12:01:00Z"], [2, 3]),
        (["--since", "2020-11-25 13:01:00.5+01:00"], [3]),
        (["--since", "2020-11-26"], []),
        (["--since", "0.001 s"], []),
        (["--since", "99999 days"], [1, 2, 3]),
        (["--since", "1000-01-01"], [1, 2, 3]),
        (["--volume", "cluster"], [2]),
        (["--volume", "emmc0"], [1]),
        (["--volume", "radio"], []),
        (["--volume", "cluster", "--since", "2020-11-25T12:02"], []),
    ],
)
def test_what_is_chosen(image: Path, options: list[str], numbers: list[int]) -> None:
    assert [one["number"] for one in told(image, *options)] == numbers


HOSTILE = "\x1b[2J\x1b]0;owned\x07\r\n\u202egpj\u2028\u00e9"


def test_nothing_on_the_medium_reaches_the_terminal_as_it_is(image: Path) -> None:
    note(image, [record(HOSTILE[:12], HOSTILE, HOSTILE, 180)])
    line = lines(image)[-1]
    assert line.isprintable()
    assert "\\x1b[2J\\x1b]0;owned\\x07\\r\\n\\u202egpj\\u2028\u00e9" in line
    (ended,) = [one for one in run(image, "--json").stdout.splitlines() if "owned" in one]
    assert ended.isascii()
    assert ended.isprintable()
    assert json.loads(ended)["text"] == HOSTILE


def crafted_record(**fields: int) -> bytes:
    values = {"kind": 1, "name": 0, "run": 1, "monotonic": 0, "wall": 0, "level": 1, "left_out": 0} | fields
    return RECORD.pack(RECORD.size + 4, *values.values()) + b"\xff\xfe\x00\x1b"


def crafted_unit(body: bytes, count: int, first: int = 4, number: int = 2) -> bytes:
    header = HEADER.pack(b"vfevnt\r\n", 1, 0, number, 1, first, count, len(body), 0, 0, 0)
    data = bytearray((header + body).ljust(UNIT_BYTES, b"\0"))
    data[CHECKSUM] = zlib.crc32(data).to_bytes(4, "little")
    return bytes(data)


@pytest.mark.parametrize(
    ("crafted", "shown"),
    [
        (crafted_unit(crafted_record(wall=(1 << 63) - 1), 1), 4),
        (crafted_unit(crafted_record(wall=-(1 << 63)), 1), 4),
        (crafted_unit(crafted_record(monotonic=(1 << 64) - 1, left_out=(1 << 32) - 1), 1), 4),
        (crafted_unit(crafted_record() * 100, 100), 103),
        (crafted_unit(crafted_record(level=9), 1), 3),
        (crafted_unit(crafted_record(kind=255), 1), 3),
        (crafted_unit(b"", 0), 3),
        (crafted_unit(crafted_record(), 1, number=(1 << 64) - 1), 3),
        (crafted_unit(crafted_record(), 1, first=1), 1),
        (b"\xff" * UNIT_BYTES, 3),
        (b"vfevnt\r\n".ljust(UNIT_BYTES, b"\xff"), 3),
    ],
)
def test_crafted_units(image: Path, crafted: bytes, shown: int) -> None:
    craft(image, 2, crafted)
    found = lines(image)
    assert len([line for line in found if not line.startswith("(")]) == shown
    assert all(line.isprintable() for line in found)
    assert len(told(image)) == shown


def test_what_is_missing_is_told(image: Path) -> None:
    craft(image, 2, serialised(LogUnit(2, 1, 10, (crafted_record(),))))
    assert "(6 events before the next one are missing: what held them is damaged)" in lines(image)


def test_the_log_is_read_although_the_table_of_volumes_is_damaged(image: Path) -> None:
    storage = opened(image)
    for granule in (62, 63):
        storage.target.write(granule * GRANULE, b"vfvols\r\n".ljust(4096, b"\xff"), reliable=True)
    storage.close()
    assert len(told(image)) == 3


def test_a_flash_that_is_one_guests_has_no_log(tmp_path: Path) -> None:
    """He can write there what he likes."""
    path = tmp_path / "whole.vflash"
    create_flash(path, "automotive-tlc-emmc", capacity_bytes=32 * MIB, seed=1)
    storage = open_storage(path, host_sync=False)
    storage.target.write(
        EventLog(storage.target, GRANULE).position(1), crafted_unit(crafted_record(), 1), reliable=True
    )
    storage.close()
    refused(run(path), "has no volumes")


def test_an_empty_log_is_nothing(tmp_path: Path) -> None:
    path = tmp_path / "new.vflash"
    create_flash(path, "slc-nand-256m", seed=1)
    opened(path).close()
    assert lines(path) == []


def refused(ended: subprocess.CompletedProcess[str], named: str) -> None:
    assert ended.returncode > 0
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert named in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("{tmp}/no", "No such file"),
        ("{tmp}", "not a file"),
        ("{tmp}/odd", "not an image"),
        ("{image} --since tomorrow", "is written like"),
        ("{image} --since 0001-01-01", "is written like"),
        ("{image} --since 99999999999_days", "is written like"),
        ("{image} --since 9999999999days", "is written like"),
    ],
)
def test_what_a_user_got_wrong_is_told_in_one_line(image: Path, tmp_path: Path, arguments: str, named: str) -> None:
    (tmp_path / "odd").write_bytes(bytes(10000))
    refused(run(*arguments.format(tmp=tmp_path, image=image).split()), named)


def test_an_image_in_use_is_left_alone(image: Path) -> None:
    storage = opened(image)
    try:
        refused(run(image), "a server uses it")
    finally:
        storage.close()
