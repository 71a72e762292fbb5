"""The black box: what happened to a flash and to its volumes, as it stands on that flash, in a ring of units.

A unit is 4 KiB. Each granule of the table keeps some of them, between the table and what is spent of wear budgets; the
places of both granules are numbered in turn, so that neighbours lie in different granules. Unit number n has its home
in place n modulo their number. The newest unit grows: each of its editions is written where the one before does *not*
lie, at home or in the place behind, and a unit that is full has its last edition at home before the next one begins. So
a write that is torn, on whatever flash, hurts no record that was there before.

All numbers are little-endian, what is reserved is 0. A unit:

| offset | type | field |
|---|---|---|
| 0 | 8 bytes | magic: `76 66 65 76 6e 74 0d 0a` ("vfevnt", carriage return, line feed) |
| 8 | u32 | version: 1 |
| 12 | u32 | checksum: CRC-32 (IEEE 802.3) of the whole, with this field 0 |
| 16 | u64 | number of the unit, from 1 |
| 24 | u64 | edition of the unit, from 1 |
| 32 | u64 | number of its first record, from 1; the others follow |
| 40 | u32 | records, at least 1 |
| 44 | u32 | bytes of its records |
| 48 | u32 | writes that may still be made at once |
| 52 | u32 | reserved |
| 56 | i64 | when it was written (nanoseconds since 1970) |
| 64 | | records, one behind the other; then zeroes |

A record:

| offset | type | field |
|---|---|---|
| 0 | u16 | its bytes, these included |
| 2 | u8 | bytes of the kind, 1 to 32 |
| 3 | u8 | bytes of the name, up to 63 |
| 4 | u32 | run: of the servers that wrote here, from 1 |
| 8 | u64 | monotonic time (nanoseconds; to be compared within a run only) |
| 16 | i64 | wall time (nanoseconds since 1970) |
| 24 | u8 | level: 0 debug, 1 info, 2 warning, 3 error |
| 25 | 3 bytes | reserved |
| 28 | u32 | how many of this kind and name were left out before it |
| 32 | | kind, name (of a volume or a flash; empty: of the server), words; UTF-8 |
"""

import struct
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from errno import EIO, ENODATA
from itertools import pairwise

from virtflash.volumes.errors import VolumeError
from virtflash.volumes.flash import SECTOR_BYTES, Flash
from virtflash.volumes.table import COPIES
from virtflash.volumes.wear_record import GRANULE_LEAST, RECORD_BYTES

MAGIC = b"vfevnt\r\n"
VERSION = 1
UNIT_BYTES = 4096
HEADER = struct.Struct("<8sIIQQQIIIIq")
RECORD = struct.Struct("<HBBIQqB3xI")
CHECKSUM = slice(12, 16)
ROOM = UNIT_BYTES - HEADER.size  # for records
SHARE_OF_GRANULE = 4  # a quarter of each is the log's
UNITS_MOST = 64  # in a granule
LEVELS = ("debug", "info", "warning", "error")
KIND_BYTES, NAME_BYTES, WORDS_BYTES = 32, 63, 512
NUMBER_MOST = 1 << 62  # of whatever is counted up here: what is read may be anything, and one more is still a number
RUN_MOST = 1 << 31
LEFT_OUT_MOST = (1 << 32) - 1
WRITES_AT_ONCE = 64
SECONDS_A_WRITE = 120.0  # 720 a day


@dataclass(frozen=True, kw_only=True)
class EventRecord:
    """`number` and `run` 0: it is not in a log yet."""

    kind: str
    name: str
    words: str
    monotonic_ns: int
    time_ns: int
    level: str = "info"
    left_out: int = 0
    run: int = 0
    number: int = 0


@dataclass(frozen=True)
class LogUnit:
    """Records of consecutive numbers, from `first` on."""

    number: int
    edition: int
    first: int
    packed: tuple[bytes, ...] = ()
    writes_left: int = WRITES_AT_ONCE
    at_ns: int = 0

    @property
    def next(self) -> int:
        """The number of the record behind its last."""
        return self.first + len(self.packed)

    @property
    def records(self) -> list[EventRecord]:
        return [unpacked(data, self.first + index) for index, data in enumerate(self.packed)]

    def room_for(self, packed: bytes) -> bool:
        return sum(map(len, self.packed)) + len(packed) <= ROOM


# Bytes


def packed_record(record: EventRecord) -> bytes:
    """Words that are too long are cut."""
    kind, name = shortened(record.kind, KIND_BYTES), shortened(record.name, NAME_BYTES)
    words = shortened(record.words, WORDS_BYTES)
    return (
        RECORD.pack(
            RECORD.size + len(kind) + len(name) + len(words),
            len(kind),
            len(name),
            record.run,
            record.monotonic_ns,
            record.time_ns,
            LEVELS.index(record.level),
            min(record.left_out, LEFT_OUT_MOST),
        )
        + kind
        + name
        + words
    )


def shortened(text: str, most: int) -> bytes:
    """Of so many bytes at most, and whole letters."""
    data = text.encode(errors="replace")
    return data if len(data) <= most else data[:most].decode(errors="ignore").encode()


def unpacked(data: bytes, number: int) -> EventRecord:
    """ValueError, struct.error: it is none."""
    length, kind, name, run, monotonic, wall, level, left_out = RECORD.unpack_from(data)
    names = RECORD.size + kind + name
    if length != len(data) or not 1 <= kind <= KIND_BYTES or name > NAME_BYTES or names > length:
        raise ValueError("a record that contradicts itself")
    if level >= len(LEVELS) or not 1 <= run < RUN_MOST:
        raise ValueError(f"a record of level {level}, run {run}")
    return EventRecord(
        kind=data[RECORD.size : RECORD.size + kind].decode(errors="replace"),
        name=data[RECORD.size + kind : names].decode(errors="replace"),
        words=data[names:].decode(errors="replace"),
        monotonic_ns=monotonic,
        time_ns=wall,
        level=LEVELS[level],
        left_out=left_out,
        run=run,
        number=number,
    )


def serialised(unit: LogUnit) -> bytes:
    """ValueError: its records have no room in it."""
    records = b"".join(unit.packed)
    if len(records) > ROOM:
        raise ValueError(f"{len(records)} bytes of records; a unit has room for {ROOM}")
    header = HEADER.pack(
        MAGIC,
        VERSION,
        0,
        unit.number,
        unit.edition,
        unit.first,
        len(unit.packed),
        len(records),
        unit.writes_left,
        0,
        unit.at_ns,
    )
    data = bytearray((header + records).ljust(UNIT_BYTES, b"\0"))
    data[CHECKSUM] = zlib.crc32(data).to_bytes(4, "little")
    return bytes(data)


def parsed(data: bytes) -> LogUnit | None:
    """None: it is no unit of a log, a damaged one, or it says what is never written."""
    magic, version, checksum, number, edition, first, count, size, writes_left, _, at_ns = HEADER.unpack_from(data)
    if (magic, version) != (MAGIC, VERSION):
        return None
    blank = bytearray(data)
    blank[CHECKSUM] = bytes(4)
    if zlib.crc32(blank) != checksum:
        return None
    if not all(1 <= value < NUMBER_MOST for value in (number, edition, first)) or size > ROOM:
        return None
    try:
        records = tuple(split(data[HEADER.size : HEADER.size + size]))
        for record in records:
            unpacked(record, 1)
    except (ValueError, struct.error):
        return None
    if len(records) != count or not records:
        return None
    return LogUnit(number, edition, first, records, min(writes_left, WRITES_AT_ONCE), at_ns)


def split(data: bytes) -> Iterator[bytes]:
    """By the lengths that records tell. ValueError, struct.error."""
    at = 0
    while at < len(data):
        (length,) = struct.unpack_from("<H", data, at)
        if not RECORD.size <= length <= len(data) - at:
            raise ValueError(f"a record of {length} bytes at {at}")
        yield data[at : at + length]
        at += length


# Where it lies


def log_units(granule_sectors: int) -> int:
    """Units that each granule of the table keeps for the log; 0: it is too small."""
    granule_bytes = granule_sectors * SECTOR_BYTES
    if granule_bytes < GRANULE_LEAST:
        return 0
    return min(granule_bytes // SHARE_OF_GRANULE // UNIT_BYTES, UNITS_MOST)


def log_room(granule_sectors: int) -> int:
    """Bytes that each granule of the table keeps for the log."""
    return log_units(granule_sectors) * UNIT_BYTES


class EventLog:
    """Of a flash. `clock`: nanoseconds since 1970; `monotonic`: seconds. VolumeError: its granules are too small."""

    def __init__(
        self,
        flash: Flash,
        granule_sectors: int,
        *,
        clock: Callable[[], int] = time.time_ns,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.places = COPIES * log_units(granule_sectors)
        if not self.places or flash.user_sectors // granule_sectors < COPIES:
            raise VolumeError(
                f"a flash of {flash.user_sectors} sectors in granules of {granule_sectors} has no room for a log of"
                f" events; a part needs {COPIES} erase groups of {GRANULE_LEAST >> 10} KiB at least"
            )
        self._flash, self._granule_sectors = flash, granule_sectors
        self._clock, self._monotonic = clock, monotonic
        self.run = 0
        self._unit = LogUnit(1, 0, 1)
        self._place: int | None = None  # of the newest edition of the unit; None: there is none yet
        self._writes_left, self._paid = float(WRITES_AT_ONCE), 0.0

    def position(self, place: int) -> int:
        """Its first sector."""
        granule, index = place % COPIES, place // COPIES
        end = (self._flash.user_sectors // self._granule_sectors - COPIES + granule + 1) * self._granule_sectors
        units = log_units(self._granule_sectors)
        return end - (RECORD_BYTES + (units - index) * UNIT_BYTES) // SECTOR_BYTES

    # Reading

    def units(self) -> list[LogUnit]:
        """Those that are whole, in order, the newest edition of each. OSError."""
        return [unit for unit, _ in self._found()]

    def records(self) -> list[EventRecord]:
        """All, the oldest first. A number that is missing between two tells of damage. OSError."""
        return [record for unit in self.units() for record in unit.records]

    def _found(self) -> list[tuple[LogUnit, int]]:
        """With their places."""
        newest: dict[int, tuple[LogUnit, int]] = {}
        for place in range(self.places):
            unit = self._read(place)
            if unit is not None and place in self._places_of(unit.number):
                found = (unit, place)
                newest[unit.number] = max(newest.get(unit.number, found), found, key=lambda each: each[0].edition)
        return believable([newest[number] for number in sorted(newest)], self.places)

    def _places_of(self, number: int) -> tuple[int, int]:
        """Home, and the place behind."""
        return number % self.places, (number + 1) % self.places

    def _read(self, place: int) -> LogUnit | None:
        try:
            return parsed(self._flash.read(self.position(place), UNIT_BYTES // SECTOR_BYTES))
        except OSError as error:
            if error.errno not in (EIO, ENODATA):
                raise
            return None

    # Writing

    def begin(self) -> None:
        """A new run: what is there is read, and what follows is written behind it. OSError."""
        found = self._found()
        runs = [record.run for unit, _ in found for record in unit.records]
        self.run = min(max(runs, default=0) + 1, RUN_MOST - 1)
        self._writes_left, self._paid = float(WRITES_AT_ONCE), self._monotonic()
        if found:
            self._unit, self._place = found[-1]
            passed = max(self._clock() - self._unit.at_ns, 0) / 1e9  # a clock that went back pays nothing
            self._writes_left = min(self._unit.writes_left + passed / SECONDS_A_WRITE, WRITES_AT_ONCE)

    def append(self, records: Sequence[EventRecord], *, reserve: int = 0) -> int:
        """As many of them as one unit takes, from the first on; they survive a power cut when this returns. How many:
        0, where less than `reserve` writes would be left. `begin` was called. OSError: none of them is there, as far as
        is known; they can be appended again."""
        if not records or self.seconds_to_wait(reserve) > 0:
            return 0
        packed = [packed_record(replace(record, run=self.run)) for record in records]
        if self._unit.packed and not self._unit.room_for(packed[0]):
            self._bring_home()
            self._unit, self._place = LogUnit(self._unit.number + 1, 0, self._unit.next), None
        taken = tuple(fitting(self._unit, packed))
        self._write(replace(self._unit, edition=self._unit.edition + 1, packed=self._unit.packed + taken))
        return len(taken)

    def seconds_to_wait(self, reserve: int = 0) -> float:
        """Until there are writes for one more call of `append`, which may take two."""
        now = self._monotonic()
        self._writes_left = min(self._writes_left + (now - self._paid) / SECONDS_A_WRITE, WRITES_AT_ONCE)
        self._paid = now
        return max(reserve + 2 - self._writes_left, 0) * SECONDS_A_WRITE

    def _bring_home(self) -> None:
        """The place behind is the home of the next unit."""
        home, _ = self._places_of(self._unit.number)
        if self._place != home:
            self._write(self._unit)

    def _write(self, unit: LogUnit) -> None:
        """Where the edition before does not lie."""
        home, behind = self._places_of(unit.number)
        place = behind if self._place == home else home
        self._writes_left = max(self._writes_left - 1, 0)  # also of one that fails
        unit = replace(unit, writes_left=int(self._writes_left), at_ns=self._clock())
        self._flash.write(self.position(place), serialised(unit), reliable=True)
        self._unit, self._place = unit, place


def fitting(unit: LogUnit, packed: Iterable[bytes]) -> Iterator[bytes]:
    """As many of these records as it has room for."""
    room = ROOM - sum(map(len, unit.packed))
    for record in packed:
        room -= len(record)
        if room < 0:
            return
        yield record


def believable(found: Sequence[tuple[LogUnit, int]], places: int) -> list[tuple[LogUnit, int]]:
    """Of units in the order of their numbers, those that can stand in one ring with the newest, whose records have
    numbers between those of their neighbours."""
    kept: list[tuple[LogUnit, int]] = []
    for unit, place in reversed(found):
        if kept and (unit.next > kept[-1][0].first or unit.number <= kept[0][0].number - places):
            continue
        kept.append((unit, place))
    return kept[::-1]


def missing_between(records: Iterable[EventRecord]) -> dict[int, int]:
    """How many numbers are left out before the record of a number."""
    return {
        later.number: later.number - earlier.number - 1
        for earlier, later in pairwise(records)
        if later.number > earlier.number + 1
    }
