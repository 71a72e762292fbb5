"""The log of events on the flash: its bytes, its ring, tears and cuts anywhere, damage, and how often it is written."""

import mmap
import random
import struct
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from errno import EIO
from typing import Any
from uuid import UUID

import pytest
from carved_flash import PLANAR_PAIRS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from virtflash.backing.flash_target import FlashTarget
from virtflash.flash.emulated import EmulatedFlash
from virtflash.ftl.translation import Translation
from virtflash.volumes.blankness import maps_nothing
from virtflash.volumes.errors import VolumeError
from virtflash.volumes.event_log import (
    CHECKSUM,
    HEADER,
    KIND_BYTES,
    LEVELS,
    NAME_BYTES,
    NUMBER_MOST,
    RECORD,
    ROOM,
    RUN_MOST,
    SECONDS_A_WRITE,
    UNIT_BYTES,
    WORDS_BYTES,
    WRITES_AT_ONCE,
    EventLog,
    EventRecord,
    LogUnit,
    believable,
    log_units,
    missing_between,
    packed_record,
    parsed,
    serialised,
    shortened,
    unpacked,
)
from virtflash.volumes.extents import Extent
from virtflash.volumes.pool import Pool
from virtflash.volumes.table import Volume, table_bytes
from virtflash.volumes.wear_record import Owed, WearRecord, WearRecords

SECTOR = 512
GRANULE_BYTES = 65536
GRANULE = GRANULE_BYTES // SECTOR  # sectors
PLACES = 8
DAY_SECONDS = 86400
IDENTITY = bytes(range(16))


def event(number: int, words: str | None = None, **more: Any) -> EventRecord:
    """One that tells its number in its words."""
    return EventRecord(
        kind="io-error",
        name="cluster",
        words=f"event {number}" if words is None else words,
        monotonic_ns=number,
        time_ns=number,
        **more,
    )


def large(number: int) -> EventRecord:
    """Of which PER_UNIT fill a unit."""
    return event(number, f"event {number} ".ljust(WORDS_BYTES, "."))


def told(records: Sequence[EventRecord]) -> list[int]:
    """The numbers in their words."""
    return [int(record.words.split()[1]) for record in records]


PER_UNIT = ROOM // len(packed_record(large(1)))


# Bytes

text = st.text(st.characters(exclude_categories=["Cs"]))
event_records = st.builds(
    EventRecord,
    kind=text.filter(lambda word: 1 <= len(word.encode()) <= KIND_BYTES),
    name=text.filter(lambda word: len(word.encode()) <= NAME_BYTES),
    words=text.filter(lambda word: len(word.encode()) <= WORDS_BYTES),
    monotonic_ns=st.integers(0, (1 << 64) - 1),
    time_ns=st.integers(-(1 << 63), (1 << 63) - 1),
    level=st.sampled_from(LEVELS),
    left_out=st.integers(0, (1 << 32) - 1),
    run=st.integers(1, RUN_MOST - 1),
)
counts = st.integers(1, NUMBER_MOST - 1)
log_unit = st.builds(
    LogUnit,
    counts,
    counts,
    counts,
    st.lists(event_records.map(packed_record), min_size=1, max_size=6).map(tuple),
    st.integers(0, WRITES_AT_ONCE),
    st.integers(-(1 << 63), (1 << 63) - 1),
)


@given(event_records, counts)
def test_a_record_is_read_as_it_was_written(record: EventRecord, number: int) -> None:
    assert unpacked(packed_record(record), number) == replace(record, number=number)


@given(log_unit)
def test_a_unit_is_read_as_it_was_written(unit: LogUnit) -> None:
    data = serialised(unit)
    assert len(data) == UNIT_BYTES
    assert parsed(data) == unit


@given(log_unit, st.integers(0, UNIT_BYTES - 1), st.integers(1, 255))
def test_damage_is_found(unit: LogUnit, place: int, change: int) -> None:
    data = bytearray(serialised(unit))
    data[place] ^= change
    assert parsed(bytes(data)) is None


@pytest.mark.parametrize(
    ("text", "most", "kept"),
    [
        ("abc", 3, b"abc"),
        ("abcd", 3, b"abc"),
        ("a\u20ac", 3, b"a"),
        ("\u20ac", 3, b"\xe2\x82\xac"),
        ("\udcff", 3, b"?"),
    ],
)
def test_words_are_cut_between_letters(text: str, most: int, kept: bytes) -> None:
    assert shortened(text, most) == kept


def sealed(body: bytes, **header: int) -> bytes:
    """A unit of any content whose checksum is right."""
    fields = {"number": 1, "edition": 1, "first": 1, "count": 1, "size": len(body), "left": 1, "zero": 0, "at": 0}
    data = bytearray((HEADER.pack(b"vfevnt\r\n", 1, 0, *{**fields, **header}.values()) + body).ljust(UNIT_BYTES, b"\0"))
    data[CHECKSUM] = zlib.crc32(data).to_bytes(4, "little")
    return bytes(data)


GOOD = packed_record(event(1, run=1))


def altered(offset: int, code: str, value: int) -> bytes:
    data = bytearray(GOOD)
    struct.pack_into(code, data, offset, value)
    return bytes(data)


def test_what_is_altered_below_was_good() -> None:
    assert parsed(sealed(GOOD)) == LogUnit(1, 1, 1, (GOOD,), 1, 0)


@pytest.mark.parametrize(
    "crafted",
    [
        sealed(GOOD, number=0),
        sealed(GOOD, number=NUMBER_MOST),
        sealed(GOOD, edition=0),
        sealed(GOOD, first=(1 << 64) - 1),
        sealed(GOOD, count=2),
        sealed(GOOD, count=0),
        sealed(b"", count=0),
        sealed(GOOD, size=ROOM + 1),
        sealed(GOOD, size=len(GOOD) - 1),
        sealed(GOOD, size=len(GOOD) + 1),
        sealed(altered(0, "<H", 0)),
        sealed(altered(0, "<H", RECORD.size - 1)),
        sealed(altered(0, "<H", 0xFFFF)),
        sealed(altered(2, "<B", 0)),
        sealed(altered(2, "<B", KIND_BYTES + 1)),
        sealed(altered(3, "<B", 255)),
        sealed(altered(4, "<I", 0)),
        sealed(altered(4, "<I", RUN_MOST)),
        sealed(altered(24, "<B", 4)),
    ],
)
def test_a_unit_that_says_what_is_never_written_is_none(crafted: bytes) -> None:
    assert parsed(crafted) is None


@given(st.binary(max_size=ROOM), st.integers(0, 130), st.integers(0, ROOM + 1))
def test_crafted_units_are_refused_or_read(body: bytes, count: int, size: int) -> None:
    unit = parsed(sealed(body, count=count, size=size))
    assert unit is None or len(unit.records) == count


# The ring


class CutError(OSError):
    """Power was lost."""


@dataclass
class Sectors:
    """A flash of sectors, of which no more than one is ever written at once: anything larger may be torn.

    `tear`: of the next write, how many sectors are written, and what the one behind becomes; empty: it stays.
    """

    granules: int = 4
    data: mmap.mmap = field(init=False)
    unreadable: int | None = None  # a sector
    tear: tuple[int, bytes] | None = None
    writes: int = 0

    def __post_init__(self) -> None:
        self.data = mmap.mmap(-1, self.granules * GRANULE_BYTES)  # zeroes, and no memory until it is written

    @property
    def user_sectors(self) -> int:
        return self.granules * GRANULE

    @property
    def unit_bytes(self) -> int:
        return SECTOR

    def read(self, sector: int, sectors: int) -> bytes:
        if sector == self.unreadable:
            raise OSError(EIO, "uncorrectable")
        return bytes(self.data[sector * SECTOR : (sector + sectors) * SECTOR])

    def write(self, sector: int, data: bytes, *, reliable: bool = False) -> None:
        assert reliable
        self.writes += 1
        tear, self.tear = self.tear, None
        if tear is not None:
            behind = tear[1].ljust(SECTOR, b"\xff") if tear[1] else b""
            data = (data[: tear[0] * SECTOR] + behind)[: len(data)]
        self.data[sector * SECTOR : sector * SECTOR + len(data)] = data
        if tear is not None:
            raise CutError(EIO, "power was lost")

    def change(self, kind: int, sector: int, sectors: int) -> None:
        """What is erased is zeroes already, in what is tested with this."""

    def flush(self) -> None:
        """All of it is safe at once."""


@dataclass
class Clock:
    """Both clocks at once."""

    seconds: float = 1e6

    def monotonic(self) -> float:
        return self.seconds

    def wall(self) -> int:
        return int(self.seconds * 1e9)


@dataclass
class Logged:
    """A log on a flash, begun. `hurried`: it may be written as often as one likes."""

    flash: Any = field(default_factory=Sectors)
    granule: int = GRANULE
    clock: Clock = field(default_factory=Clock)
    hurried: bool = True
    log: EventLog = field(init=False)

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self.log = EventLog(self.flash, self.granule, clock=self.clock.wall, monotonic=self.clock.monotonic)
        self.log.begin()

    def append(self, *records: EventRecord) -> None:
        """All of them."""
        left = list(records)
        while left:
            if self.hurried:
                self.clock.seconds += WRITES_AT_ONCE * SECONDS_A_WRITE
            count = self.log.append(left)
            assert count, "there was no write left"
            left = left[count:]

    @property
    def places(self) -> int:
        return self.log.places


def test_what_is_appended_is_read_in_order_by_whoever_comes() -> None:
    logged = Logged()
    logged.append(event(1), event(2, level="error", left_out=7))
    logged.append(event(3))
    expected = [
        replace(event(1), number=1, run=1),
        replace(event(2, level="error", left_out=7), number=2, run=1),
        replace(event(3), number=3, run=1),
    ]
    assert logged.log.records() == expected
    logged.begin()
    logged.append(event(4))
    logged.begin()
    assert logged.log.records() == [*expected, replace(event(4), number=4, run=2)]
    assert logged.log.run == 3


def test_a_flash_without_a_log_has_no_records() -> None:
    assert Logged().log.records() == []


def test_the_places_lie_where_the_manual_says() -> None:
    """Of an eMMC with erase groups of 512 KiB, the last two of which are the table's."""
    flash = Sectors(16 * 8)
    log = EventLog(flash, 8 * GRANULE)
    assert (log.places, log_units(8 * GRANULE)) == (64, 32)
    granules = [14 * 524288, 15 * 524288]
    assert [log.position(place) * SECTOR for place in (0, 1, 2, 62, 63)] == [
        granules[0] + 0x5F000,
        granules[1] + 0x5F000,
        granules[0] + 0x60000,
        granules[0] + 0x7E000,
        granules[1] + 0x7E000,
    ]


@pytest.mark.parametrize(
    ("granule_bytes", "units"), [(2048, 0), (65024, 0), (65536, 4), (524288, 32), (1 << 20, 64), (1 << 23, 64)]
)
def test_how_much_of_a_granule_is_the_logs(granule_bytes: int, units: int) -> None:
    assert log_units(granule_bytes // SECTOR) == units


@pytest.mark.parametrize(("granules", "granule"), [(4, 64), (1, GRANULE)])
def test_a_flash_without_room_is_refused(granules: int, granule: int) -> None:
    with pytest.raises(VolumeError, match="no room"):
        EventLog(Sectors(granules), granule)


@pytest.mark.parametrize("at_once", [1, 5, 40])
def test_the_ring_goes_round(at_once: int) -> None:
    logged, total = Logged(), 1000
    for first in range(1, total + 1, at_once):
        logged.append(*(large(number) for number in range(first, min(first + at_once, total + 1))))
        found = logged.log.records()
        assert told(found) == [record.number for record in found] == list(range(found[0].number, found[-1].number + 1))
        assert found[0].number == 1 or len(found) > PER_UNIT * (PLACES - 2)
    assert found[-1].number == total


def test_nothing_of_the_table_and_of_wear_is_written() -> None:
    flash = Sectors()
    flash.data[:] = b"\xa5" * len(flash.data)
    logged = Logged(flash)
    for number in range(1, 200):
        logged.append(large(number))
    for granule in range(4):
        data = bytearray(flash.data[granule * GRANULE_BYTES : (granule + 1) * GRANULE_BYTES])
        ours = slice(0xB000, 0xF000) if granule >= 2 else slice(0, 0)
        assert bytes(data[ours]).count(b"vfevnt\r\n") == (4 if granule >= 2 else 0)
        data[ours] = b""
        assert set(data) == {0xA5}


# Tears and damage

tears = st.tuples(st.integers(0, 8), st.sampled_from([b"", b"\0" * 512, b"torn" * 128, b"vfevnt\r\n"]))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.lists(st.integers(0, WORDS_BYTES), min_size=1, max_size=9)),
        st.tuples(st.just("cut"), tears),
        st.tuples(st.just("restart"), st.none()),
    ),
    max_size=60,
)


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(steps)
def test_any_history_with_tears_against_a_list(history: list[tuple[str, Any]]) -> None:
    """After each step the log is an end of what was appended, and all of it while the ring has not gone round. Of what
    was being appended when power was lost, some may be there."""
    logged, number = Logged(), 0
    kept: list[str] = []
    for what, argument in history:
        if what == "cut":
            logged.flash.tear = argument
        elif what == "restart":
            logged.begin()
        else:
            batch = []
            for size in argument:
                number += 1
                batch.append(event(number, f"event {number} ".ljust(size, ".")))
            try:
                logged.append(*batch)
                kept += [record.words for record in batch]
            except CutError:
                logged.begin()
                kept = as_it_was_cut(logged, kept, [record.words for record in batch])
        check_end_of(kept, logged.log.records())


def as_it_was_cut(logged: Logged, kept: list[str], batch: list[str]) -> list[str]:
    """What was there, and behind it the first of the others."""
    found = logged.log.records()
    words = [record.words for record in found]
    if not words:
        assert not kept
        return []
    for count in range(len(batch), -1, -1):
        expected = kept + batch[:count]
        if words == expected[len(expected) - len(words) :]:
            return expected
    raise AssertionError(f"{words} is no end of {kept} and some of {batch}")


def check_end_of(kept: list[str], found: list[EventRecord]) -> None:
    assert [record.words for record in found] == kept[len(kept) - len(found) :]
    assert [record.number for record in found] == list(range(len(kept) - len(found) + 1, len(kept) + 1))
    size = sum(len(packed_record(record)) for record in found)
    assert len(found) == len(kept) or size > (PLACES - 2) * (ROOM - RECORD.size - WORDS_BYTES - 15), "lost too early"


@pytest.mark.parametrize("torn", range(9))
@pytest.mark.parametrize("appended", [1, 2, PER_UNIT - 1, PER_UNIT, PER_UNIT + 1, 2 * PER_UNIT, 10 * PER_UNIT])
def test_a_torn_write_of_each_length_hurts_nothing_that_was_there(appended: int, torn: int) -> None:
    logged = Logged()
    for number in range(1, appended + 1):
        logged.append(large(number))
    before, number = told(logged.log.records()), appended + 1
    logged.flash.tear = torn, b"torn"
    with pytest.raises(CutError):
        logged.append(large(number))
    logged.begin()
    after = told(logged.log.records())
    assert after in (before, [*before, number], [*before[PER_UNIT:], number], before[PER_UNIT:])
    logged.append(large(number + 100))
    assert told(logged.log.records())[-2:] == [after[-1], number + 100]


def test_of_a_unit_in_both_places_either_may_be_damaged() -> None:
    for place in range(2):
        logged = Logged()
        logged.append(event(1))  # the first edition at home, place 1; the second one behind
        logged.append(event(2))
        damage(logged, 1 + place)
        logged.begin()
        assert told(logged.log.records()) == ([1, 2] if place == 0 else [1])
        logged.append(event(3))
        assert told(logged.log.records()) == ([1, 2, 3] if place == 0 else [1, 3])


def damage(logged: Logged, place: int) -> None:
    at = logged.log.position(place) * SECTOR
    logged.flash.data[at + 100] ^= 1


def test_damage_costs_the_unit_that_it_hits_and_is_told() -> None:
    logged = Logged()
    for number in range(1, 3 * PER_UNIT + 1):
        logged.append(large(number))
    damage(logged, 2)
    logged.begin()
    found, after = logged.log.records(), 2 * PER_UNIT + 1
    assert told(found) == [*range(1, PER_UNIT + 1), *range(after, 3 * PER_UNIT + 1)]
    assert missing_between(found) == {after: PER_UNIT}


def test_a_unit_that_cannot_be_read_is_left_out() -> None:
    logged = Logged()
    for number in range(1, 2 * PER_UNIT + 1):
        logged.append(large(number))
    logged.flash.unreadable = logged.log.position(1)
    assert told(logged.log.records()) == list(range(PER_UNIT + 1, 2 * PER_UNIT + 1))


def unit(number: int, first: int, count: int = 1, edition: int = 1) -> LogUnit:
    return LogUnit(number, edition, first, (GOOD,) * count)


@pytest.mark.parametrize(
    ("found", "kept"),
    [
        ([unit(1, 1, 5), unit(2, 6)], [1, 2]),
        ([unit(1, 1, 5), unit(2, 5)], [2]),
        ([unit(1, 900), unit(2, 6)], [2]),
        ([unit(1, 1), unit(9, 6)], [9]),
        ([unit(2, 1), unit(9, 6)], [2, 9]),
        ([unit(3, 1), unit(4, 50), unit(5, 9)], [3, 5]),
    ],
)
def test_units_that_contradict_the_newest_are_not_believed(found: list[LogUnit], kept: list[int]) -> None:
    assert [one.number for one, _ in believable([(one, 0) for one in found], PLACES)] == kept


@pytest.mark.parametrize("number", [NUMBER_MOST - 1, NUMBER_MOST - 2, 1 << 61])
def test_numbers_at_their_end_stop_nobody(number: int) -> None:
    """Only who writes past the server brings them there."""
    logged = Logged()
    data = serialised(LogUnit(number, NUMBER_MOST - 1, NUMBER_MOST - 1, (altered(4, "<I", RUN_MOST - 1),)))
    at = logged.log.position(number % PLACES) * SECTOR
    logged.flash.data[at : at + UNIT_BYTES] = data
    logged.begin()
    for one in range(1, 20):
        logged.append(large(one))
    logged.begin()
    logged.append(large(20))


def test_a_run_of_the_last_number_is_followed_by_one_that_can_be_read() -> None:
    logged = Logged()
    at = logged.log.position(1) * SECTOR
    logged.flash.data[at : at + UNIT_BYTES] = serialised(LogUnit(1, 1, 1, (altered(4, "<I", RUN_MOST - 1),)))
    logged.begin()
    logged.append(event(2))
    assert told(logged.log.records()) == [1, 2]


@given(st.lists(st.tuples(st.integers(0, PLACES - 1), log_unit), max_size=8))
@settings(deadline=None, suppress_health_check=list(HealthCheck))
def test_any_units_anywhere_are_read_in_ascending_order_and_written_behind(placed: list[tuple[int, LogUnit]]) -> None:
    logged = Logged()
    for place, one in placed:
        at = logged.log.position(place) * SECTOR
        number = one.number // PLACES * PLACES + place or PLACES
        logged.flash.data[at : at + UNIT_BYTES] = serialised(replace(one, number=min(number, NUMBER_MOST // 2)))
    logged.begin()
    numbers = [record.number for record in logged.log.records()]
    assert numbers == sorted(set(numbers))
    logged.append(event(1), event(2))


# How often it is written


def flood(logged: Logged, seconds: float, step: float, *, restarts: bool = False) -> int:
    """Appended whenever there is a write for it; how many there were."""
    before, end, number = logged.flash.writes, logged.clock.seconds + seconds, 0
    while logged.clock.seconds < end:
        number += 1
        logged.log.append([large(number)])
        if restarts:
            logged.begin()
        logged.clock.seconds += step
    return int(logged.flash.writes - before)


@pytest.mark.parametrize(("step", "restarts"), [(1.0, False), (10.0, True)])
def test_a_day_of_flood_is_so_many_writes_at_most(step: float, restarts: bool) -> None:
    logged = Logged(hurried=False)
    writes = flood(logged, DAY_SECONDS, step, restarts=restarts)
    assert 0.4 * DAY_SECONDS / SECONDS_A_WRITE < writes <= WRITES_AT_ONCE + DAY_SECONDS / SECONDS_A_WRITE == 784


@pytest.mark.parametrize(("passed", "writes"), [(-1e5, 1), (0, 1), (10 * SECONDS_A_WRITE, 11), (1e9, WRITES_AT_ONCE)])
def test_what_is_left_outlives_the_server(passed: float, writes: int) -> None:
    """By the wall clock, which may go back or jump."""
    logged = Logged(hurried=False)
    while logged.log.append([event(1)]):
        pass
    logged.clock.seconds += passed
    logged.begin()
    assert int(logged.log._writes_left) == writes


def test_a_reserve_is_kept() -> None:
    logged = Logged(hurried=False)
    while logged.log.append([event(1)], reserve=8):
        pass
    assert logged.log.seconds_to_wait(8) > 0
    assert logged.log.seconds_to_wait() == 0
    count = 0
    while logged.log.append([event(2)]):
        count += 1
    assert count >= 4


def test_a_write_that_fails_is_counted() -> None:
    logged = Logged(hurried=False)
    for _ in range(WRITES_AT_ONCE - 1):
        logged.flash.tear = 0, b""
        with suppress(CutError):
            logged.log.append([event(1)])
    assert logged.log.append([event(1)]) == 0


# On real flash

PARTS: dict[str, dict[str, Any]] = {
    "SLC": {"page_bytes": 4096, "spare_bytes": 64, "pages_per_block": 16, "blocks": 40},
    "pages smaller than a unit of the log": {
        "page_bytes": 512,
        "spare_bytes": 32,
        "pages_per_block": 64,
        "blocks": 80,
        "unit_bytes": 512,
    },
    "TLC with SLC mode": {
        "page_bytes": 12288,
        "spare_bytes": 64,
        "pages_per_block": 8,
        "blocks": 36,
        "bits_per_cell": 3,
        "slc_page_bytes": 4096,
        "slc_pages_per_block": 8,
    },
    "paired pages": {
        "page_bytes": 8192,
        "spare_bytes": 64,
        "pages_per_block": 16,
        "blocks": 28,
        "bits_per_cell": 2,
        "pair_table": PLANAR_PAIRS,
    },
    "NOR": {"kind": "nor", "page_bytes": 256, "spare_bytes": 0, "pages_per_block": 144, "blocks": 60},
}
USER_BYTES = 4 * GRANULE_BYTES


@dataclass
class RealFlash:
    """A small chip with a table of volumes, and a log."""

    part: str
    chip: EmulatedFlash = field(init=False)
    target: FlashTarget = field(init=False)
    pool: Pool = field(init=False)
    logged: Logged = field(init=False)

    def __post_init__(self) -> None:
        figures = dict(PARTS[self.part])
        self.unit_bytes = figures.pop("unit_bytes", 4096)
        self.chip = EmulatedFlash.in_memory(seed=1, **figures)
        self.units = USER_BYTES // self.unit_bytes
        translation = Translation.format(self.chip, self.units, unit_bytes=self.unit_bytes, reserve_blocks=2)
        self._stand_on(translation)

    def _stand_on(self, translation: Translation) -> None:
        self.target = FlashTarget(translation, user_sectors=USER_BYTES // SECTOR)
        self.pool = Pool.open(
            self.target,
            identity=IDENTITY,
            granule_bytes=GRANULE_BYTES,
            is_blank=lambda: maps_nothing(self.target),
        )
        self.logged = Logged(self.target)

    def remount(self) -> None:
        self.chip.power_on()
        self._stand_on(Translation.mount(self.chip, self.units, unit_bytes=self.unit_bytes, reserve_blocks=2))


def wear(flash: RealFlash) -> WearRecords:
    return WearRecords(flash.target, GRANULE)


def lived(part: str, before: int) -> RealFlash:
    """With a volume, a record of wear, and so many events."""
    flash = RealFlash(part)
    flash.pool.create("cluster", 100)
    flash.pool.window("cluster").write(0, b"c" * 51200)
    wear(flash).write(WearRecord(1, {flash.pool.find("cluster").uuid: Owed(7, 0)}))
    for number in range(1, before + 1):
        flash.logged.append(large(number))
    flash.target.flush()
    return flash


def check_the_others(flash: RealFlash) -> None:
    assert [volume.name for volume in flash.pool.volumes] == ["cluster"]
    assert flash.pool.window("cluster").read(0, 100) == b"c" * 51200
    assert wear(flash).newest().owed == {flash.pool.find("cluster").uuid: Owed(7, 0)}


APPENDED = PER_UNIT + 2  # after those that were there before: more than fill a unit


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    "before", [pytest.param(3, id="first round"), pytest.param(10 * PER_UNIT + 1, id="later round")]
)
def test_a_cut_at_every_operation_in_every_outcome(part: str, before: int) -> None:
    """What was appended is there, and of what was being appended all or nothing; then it goes on, cut again."""
    again, cuts = random.Random(f"{part} {before}"), 0
    for how in range(RealFlash(part).chip.cut_outcomes):
        for operation in range(1, 1000):
            flash = lived(part, before)
            if not cut_once(flash, before, operation, how, again):
                break
            cuts += 1
    assert cuts >= APPENDED, "it has tested nothing"


def cut_once(flash: RealFlash, before: int, operation: int, how: int, again: random.Random) -> bool:
    flash.chip.arm_cut(operation, how)
    number = append_until_cut(flash, before + 1, APPENDED)
    if number is None:
        return False
    number = check_after_cut(flash, number)
    flash.chip.arm_cut(again.randint(1, 6), again.randrange(flash.chip.cut_outcomes))
    cut = append_until_cut(flash, number + 1, 3)
    flash.chip.power_on()
    check_after_cut(flash, number + 3 if cut is None else cut)
    return True


def append_until_cut(flash: RealFlash, first: int, count: int) -> int | None:
    """The number that was cut. None: none was."""
    for number in range(first, first + count):
        try:
            flash.logged.append(large(number))
        except OSError:
            assert flash.chip.lost_power
            return number
    return None


def check_after_cut(flash: RealFlash, number: int) -> int:
    """Returns the last number that is there: the one that was cut, or the one before."""
    flash.remount()
    found = told(flash.logged.log.records())
    last = found[-1]
    assert last in (number, number - 1)
    assert found == list(range(found[0], last + 1))
    assert found[0] == 1 or len(found) > PER_UNIT * (PLACES - 2)
    check_the_others(flash)
    return last


@pytest.mark.parametrize("part", PARTS)
def test_the_ring_goes_round_on_real_flash(part: str) -> None:
    flash = lived(part, 120)
    flash.remount()
    found = told(flash.logged.log.records())
    assert found == list(range(found[0], 121))
    assert len(found) > PER_UNIT * (PLACES - 2)
    check_the_others(flash)
    flash.pool.create("radio", 100)
    assert told(flash.logged.log.records())[-1] == 120


# Its room, and the table's


VOLUMES, EXTENTS = 100, 64
TABLE_MOST = GRANULE_BYTES - 4096 - 4 * UNIT_BYTES


def carved() -> tuple[Sectors, Pool]:
    flash = Sectors(VOLUMES * EXTENTS + 2)
    return flash, Pool.open(
        flash, identity=IDENTITY, granule_bytes=GRANULE_BYTES, overwrite=True, is_blank=lambda: True
    )


def scattered(count: int) -> tuple[Volume, ...]:
    """Volumes whose entries are as large as they can be."""
    return tuple(
        Volume(
            name=f"v{number}",
            uuid=UUID(int=number),
            sectors=EXTENTS * GRANULE,
            extents=tuple(Extent(number + VOLUMES * index, 1) for index in range(EXTENTS)),
        )
        for number in range(count)
    )


def test_a_table_does_not_grow_into_the_log() -> None:
    _, pool = carved()
    most = max(n for n in range(VOLUMES) if table_bytes(replace(pool.table, volumes=scattered(n))) <= TABLE_MOST)
    pool._check_room(scattered(most))
    with pytest.raises(VolumeError, match="delete a volume"):
        pool._check_room(scattered(most + 1))
    assert pool.has_room_for_log


def test_an_old_table_that_lies_in_the_room_of_the_log_stays_and_there_is_no_log() -> None:
    """Made when a table had all of a granule: it is used on as it was, until it is small enough."""
    flash, pool = carved()
    old = replace(pool.table, volumes=scattered(80), generation=2)
    assert TABLE_MOST < table_bytes(old) < GRANULE_BYTES - 4096
    pool._copies.write(old)
    pool = Pool.open(flash, identity=IDENTITY, granule_bytes=GRANULE_BYTES)
    assert not pool.has_room_for_log
    pool._check_room(scattered(90))
    pool.mark("v1", read_only=True)
    for number in range(20):
        pool.delete(f"v{number}")
    assert pool.has_room_for_log


def test_small_granules_have_no_log() -> None:
    pool = Pool.open(Sectors(), identity=IDENTITY, granule_bytes=2048, overwrite=True)
    assert not pool.has_room_for_log
    pool.create("a", 4)
