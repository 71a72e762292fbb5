"""Emulated storage with its volatile cache against a plain model of what its sectors may hold."""

import errno
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from flash_in_memory import PARTS, UNIT_SECTORS, FlashInMemory
from hypothesis import given, settings
from hypothesis import strategies as st

from virtflash.backing.flash_target import DISCARD, SECURE_ERASE, UNMAP_ZEROES, WRITE_ZEROES, FlashTarget

SECTOR = 512
ZEROES = bytes(SECTOR)
PLACES = st.integers(0, 300)
LENGTHS = st.integers(1, 120)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), PLACES, LENGTHS),
        st.tuples(st.just("reliable"), PLACES, st.integers(1, 12)),
        st.tuples(st.just("discard"), PLACES, LENGTHS),
        st.tuples(st.just("unmap"), PLACES, LENGTHS),
        st.tuples(st.just("zeroes"), PLACES, LENGTHS),
        st.tuples(st.just("secure"), st.integers(0, 36), st.integers(1, 15)),
        st.tuples(st.just("flush"), st.just(0), st.just(0)),
        st.tuples(st.just("power"), st.just(0), st.integers(0, 2**32)),
    ),
    max_size=40,
)


class Sectors:
    """What each sector may read as: one value, until a power cut leaves the choice of all since the last flush."""

    def __init__(self, flash: FlashInMemory) -> None:
        self.flash = flash
        self.may_be: dict[int, set[bytes]] = {}
        self.now: dict[int, bytes] = {}
        self.stamp = 0

    def fill(self, sectors: int) -> bytes:
        self.stamp += 1
        return b"".join(b"%8d.%7d" % (self.stamp, at) * 32 for at in range(sectors))

    def set(self, sector: int, data: bytes) -> None:
        for at in range(len(data) // SECTOR):
            piece = data[at * SECTOR : (at + 1) * SECTOR]
            self.may_be.setdefault(sector + at, {self.get(sector + at)}).add(piece)
            self.now[sector + at] = piece

    def get(self, sector: int) -> bytes:
        return self.now.get(sector, ZEROES)

    def settle(self) -> None:
        self.may_be = {}

    def cut(self) -> None:
        """After the cut every sector is what it reads as now, if that is allowed."""
        for sector, allowed in self.may_be.items():
            found = self.flash.target.read(sector, 1)
            assert found in allowed, f"sector {sector} holds what was never written since the last flush"
            self.now[sector] = found
        self.settle()

    def step(self, what: str, place: int, number: int) -> None:
        target = self.flash.target
        if what in ("write", "reliable"):
            data = self.fill(number)
            target.write(place, data, reliable=what == "reliable")
            self.set(place, data)
        elif what == "discard":
            first, last = -(-place // UNIT_SECTORS) * UNIT_SECTORS, (place + number) // UNIT_SECTORS * UNIT_SECTORS
            target.change(DISCARD, place, number)
            self.set(first, ZEROES * max(last - first, 0))
        elif what in ("unmap", "zeroes"):
            target.change(UNMAP_ZEROES if what == "unmap" else WRITE_ZEROES, place, number)
            self.set(place, ZEROES * number)
        elif what == "secure":
            target.change(SECURE_ERASE, place * UNIT_SECTORS, number * UNIT_SECTORS)
            self.set(place * UNIT_SECTORS, ZEROES * number * UNIT_SECTORS)
        elif what == "flush":
            target.flush()
            self.settle()
        elif what == "power":
            self.flash.lose_power(number)
            self.cut()
        elif what == "host":
            self.flash.host_crash(number)
            self.cut()

    def check(self) -> None:
        for sector, expected in self.now.items():
            assert self.flash.target.read(sector, 1) == expected, f"sector {sector}"


@pytest.mark.parametrize("part", PARTS)
@settings(deadline=None, max_examples=40)
@given(steps=STEPS)
def test_sectors_read_as_written_and_what_was_flushed_survives(part: str, steps: list[tuple[str, int, int]]) -> None:
    sectors = Sectors(FlashInMemory(part))
    for step in steps:
        sectors.step(*step)
    sectors.check()


@settings(deadline=None, max_examples=60)
@given(steps=STEPS, crash=st.integers(0, 2**32))
def test_what_was_flushed_and_synced_survives_a_crash_of_the_host(
    steps: list[tuple[str, int, int]], crash: int
) -> None:
    sectors = Sectors(FlashInMemory("mlc", host_sync=True))
    for step in steps:
        sectors.step("host" if step[0] == "power" else step[0], *step[1:])
    sectors.step("host", 0, crash)
    sectors.check()


def test_much_more_than_the_cache_under_collection() -> None:
    sectors, rng = Sectors(FlashInMemory("mlc", cache_bytes=65536)), random.Random(1)
    last = sectors.flash.target.user_sectors - 64
    for number in range(6000):
        sectors.step("write", rng.randrange(last), rng.randrange(1, 40))
        if number % 500 == 0:
            sectors.step(rng.choice(["flush", "power"]), 0, number)
    sectors.check()
    assert sectors.flash.target.translation_counters()["erases"] > 100


@pytest.fixture
def flash() -> FlashInMemory:
    return FlashInMemory("mlc", cache_bytes=16 * 4096)


def test_the_cache_is_lost_with_the_power_and_a_flush_saves_it(flash: FlashInMemory) -> None:
    old, new = b"o" * 4096, b"n" * 4096
    outcomes = set()
    for seed in range(40):
        flash.target.write(0, old)
        flash.target.flush()
        flash.target.write(0, new)
        flash.lose_power(seed)
        found = flash.target.read(0, 8)
        outcomes.add("old" if found == old else "new" if found == new else "mixed")
        assert all(found[at : at + SECTOR] in (old[:SECTOR], new[:SECTOR]) for at in range(0, 4096, SECTOR))
    assert outcomes == {"old", "new", "mixed"}


def test_what_is_lost_is_lost_in_any_order(flash: FlashInMemory) -> None:
    earlier_survived = later_survived = False
    for seed in range(30):
        for unit in range(2):
            flash.target.write(unit * UNIT_SECTORS, bytes(4096))
        flash.target.flush()
        for unit in range(2):
            flash.target.write(unit * UNIT_SECTORS, b"x" * 4096)
        flash.lose_power(seed)
        first, second = (flash.target.read(unit * UNIT_SECTORS, 8) == b"x" * 4096 for unit in range(2))
        earlier_survived |= first and not second
        later_survived |= second and not first
    assert earlier_survived
    assert later_survived


def test_without_the_cache_nothing_is_lost(flash: FlashInMemory) -> None:
    flash.target.cache_on = False
    flash.target.write(3, b"y" * 512)
    flash.target.change(WRITE_ZEROES, 8, 8)
    assert flash.target.cached_units == 0
    flash.lose_power(1)
    assert flash.target.read(3, 1) == b"y" * 512
    assert flash.target.translation.is_mapped(1)


def test_a_reliable_write_goes_past_the_cache(flash: FlashInMemory) -> None:
    flash.target.write(0, b"a" * 4096)
    flash.target.write(2, b"b" * 1024, reliable=True)
    assert flash.target.cached_units == 0
    flash.lose_power(3)
    assert flash.target.read(0, 8) == b"a" * 1024 + b"b" * 1024 + b"a" * 2048


def test_zeroes_are_mapped_or_not_as_asked(flash: FlashInMemory) -> None:
    flash.target.write(0, b"z" * 8192)
    flash.target.change(WRITE_ZEROES, 0, 8)
    flash.target.change(UNMAP_ZEROES, 8, 8)
    flash.target.flush()
    assert [flash.target.translation.is_mapped(unit) for unit in range(2)] == [True, False]
    assert flash.target.read(0, 16) == bytes(8192)


def test_edges_of_a_discard_stay_as_they_are_and_edges_of_zeroes_become_zeroes(flash: FlashInMemory) -> None:
    for kind, edge in ((DISCARD, b"e"), (UNMAP_ZEROES, b"\0")):
        flash.target.write(0, b"e" * 4096 * 4)
        flash.target.flush()
        flash.target.change(kind, 5, 20)  # units 1 and 2 are wholly inside
        data = flash.target.read(0, 32)
        assert data == b"e" * 5 * 512 + edge * 3 * 512 + bytes(2 * 4096) + edge * 512 + b"e" * 7 * 512
        assert [flash.target.translation.is_mapped(unit) for unit in range(4)] == [True, False, False, True]


def test_a_range_inside_one_unit(flash: FlashInMemory) -> None:
    flash.target.write(0, b"e" * 8192)
    flash.target.change(UNMAP_ZEROES, 2, 3)
    flash.target.change(DISCARD, 9, 6)
    assert flash.target.read(0, 16) == b"e" * 1024 + bytes(1536) + b"e" * 5632


def test_a_long_discard_is_done_in_parts() -> None:
    flash = FlashInMemory("slc")
    flash.target.write(0, b"q" * 4096 * 500)
    flash.target.change(DISCARD, 0, flash.target.user_sectors)
    assert not any(flash.target.read(0, 500 * UNIT_SECTORS))
    assert flash.target.counters()["units_trimmed"] == flash.part.units


def test_trims_are_remembered_after_a_flush(flash: FlashInMemory) -> None:
    flash.target.write(0, b"t" * 8192)
    flash.target.flush()
    flash.target.change(DISCARD, 0, 8)
    flash.target.flush()
    flash.mount()
    assert flash.target.read(0, 16) == bytes(4096) + b"t" * 4096


def test_secure_erase_takes_whole_units_only(flash: FlashInMemory) -> None:
    with pytest.raises(OSError) as refused:
        flash.target.change(SECURE_ERASE, 1, 8)
    assert refused.value.errno == errno.EINVAL


def test_flash_that_takes_no_more_writes_refuses_them(flash: FlashInMemory) -> None:
    flash.target.write(0, b"k" * 4096)
    wear_out(flash)
    for refused in (
        lambda: flash.target.write(8, b"n" * 4096),
        lambda: flash.target.change(DISCARD, 0, 8),
        lambda: flash.target.change(WRITE_ZEROES, 8, 8),
        lambda: flash.target.change(SECURE_ERASE, 8, 8),
    ):
        with pytest.raises(OSError) as error:
            refused()
        assert error.value.errno == errno.EROFS
    assert flash.target.lifetime()[0] == 3
    flash.target.flush()
    flash.lose_power(0)
    assert flash.target.read(0, 8) == b"k" * 4096


def test_what_the_cache_had_accepted_is_saved_when_the_flash_turns_read_only(flash: FlashInMemory) -> None:
    for unit in range(4):
        flash.target.write(unit * 8, b"%d" % unit * 4096)
    while not flash.target.condition()["read_only"]:
        flash.chip.fail_next("program")
        flash.target.write(80, b"w" * 4096 * 20, reliable=True)
    assert flash.target.cached_units == 4
    flash.target.flush()
    flash.lose_power(0)
    assert [flash.target.read(unit * 8, 8) == b"%d" % unit * 4096 for unit in range(4)] == [True] * 4


def wear_out(flash: FlashInMemory) -> None:
    """Programs fail, block after block, until the spare ones are used up."""
    for number in range(100):
        if flash.target.condition()["read_only"]:
            return
        flash.chip.fail_next("program")
        flash.target.write(80 + number % 10 * 800, b"w" * 4096 * 100)
        flash.target.flush()
    pytest.fail("it took failing programs without end")


def test_a_protected_group_is_neither_written_nor_erased() -> None:
    flash = FlashInMemory("mlc", protection_group_sectors=64)
    flash.target.write(0, b"p" * 128 * 512)
    flash.target.protect(1, 1)
    changes: list[Callable[[], Any]] = [
        lambda: flash.target.write(127, b"n" * 512),
        lambda: flash.target.write(0, b"n" * 65 * 512),
        lambda: flash.target.write(64, b"n" * 512, reliable=True),
        *(lambda kind=kind: flash.target.change(kind, 120, 16) for kind in (DISCARD, UNMAP_ZEROES, WRITE_ZEROES)),
        lambda: flash.target.change(SECURE_ERASE, 64, 8),
    ]
    for change in changes:
        with pytest.raises(OSError) as refused:
            change()
        assert refused.value.errno == errno.EROFS
    assert flash.target.read(0, 128) == b"p" * 128 * 512
    flash.target.protect(1, 0)
    flash.target.write(127, b"n" * 512)
    assert flash.target.read(127, 1) == b"n" * 512


def test_what_lies_behind_the_user_area_is_not_protected() -> None:
    flash = FlashInMemory("mlc", user_sectors=800, protection_group_sectors=100)
    for group in range(8):
        flash.target.protect(group, 3)
    flash.target.write(800, b"b" * 512)
    assert flash.target.read(800, 1) == b"b" * 512
    with pytest.raises(ValueError, match="there are 8"):
        flash.target.protect(8, 1)


@pytest.mark.parametrize("call", [lambda t: t.read(t.sectors, 1), lambda t: t.write(t.sectors - 1, bytes(1024))])
def test_nothing_is_beyond_the_flash(flash: FlashInMemory, call: Callable[[FlashTarget], Any]) -> None:
    with pytest.raises(ValueError, match="the flash has"):
        call(flash.target)


def test_counters_say_what_was_done_and_bytes_are_those_of_guests(flash: FlashInMemory) -> None:
    target = flash.target
    target.write(0, bytes(8192))
    target.write(0, bytes(512))
    target.read(0, 8)
    target.flush()
    target.write(16, bytes(512))
    target.change(SECURE_ERASE, 0, 8)
    counted = target.counters()
    expected = {"bytes_written": 0, "bytes_read": 0, "evicted_units": 2, "flushes": 1, "cache_hits": 2}
    expected |= {"merged_units": 1, "secure_erases": 1, "units_erased_securely": 1}
    assert {name: counted[name] for name in expected} == expected


def test_a_unit_that_cannot_be_read_fails_what_needs_it_and_nothing_else(flash: FlashInMemory) -> None:
    target = flash.target
    for unit in range(8):
        target.write(unit * 8, b"%d" % unit * 4096)
    target.flush()
    spoil(flash, 3)
    assert error_of(lambda: target.read(24, 1)) == errno.EIO
    assert error_of(lambda: target.write(25, b"n" * 512)) == errno.ENODATA
    assert error_of(lambda: target.change(WRITE_ZEROES, 25, 2)) == errno.ENODATA
    target.write(33, b"n" * 512)
    target.flush()
    assert target.cached_units == 0
    assert target.read(32, 2) == b"4" * 512 + b"n" * 512
    target.write(24, b"n" * 4096)
    target.flush()
    assert target.read(24, 8) == b"n" * 4096


def spoil(flash: FlashInMemory, unit: int) -> None:
    """Make the page that holds a unit uncorrectable, with all that it holds, and write the others of it anew."""
    wanted, geometry = b"%d" % unit * 4096, flash.part.chip
    others = [other for other in range(8) if other != unit]
    for block in range(geometry["blocks"]):
        for page in range(geometry["pages_per_block"]):
            status, data, _ = flash.chip.read(block, page)
            if status == 0 and wanted in data:
                flash.chip.spoil(block, page)
    for other in others:
        flash.target.write(other * 8, b"%d" % other * 4096)
    flash.target.flush()


def error_of(call: Callable[[], Any]) -> int | None:
    with pytest.raises(OSError) as raised:
        call()
    return raised.value.errno


def test_the_image_is_synced_where_the_host_may_crash(tmp_path: Path) -> None:
    """With so much written anew, blocks have to be erased that the host's disk still needs: it is asked for a sync."""
    flash = FlashInMemory("mlc", host_sync=True)
    sectors, rng = Sectors(flash), random.Random(4)
    for _ in range(3000):
        sectors.step("write", rng.randrange(1400) * 8, rng.randrange(1, 24))
    sectors.check()
    assert flash.target.translation_counters()["erases"] > 50
    sectors.step("flush", 0, 0)
    sectors.step("host", 0, 11)
    sectors.check()


def test_life_estimates_pass_through_their_values_in_order() -> None:
    flash = FlashInMemory("mlc", chip={"endurance": 30, "slc_endurance": 60}, slc_share=0.1)
    seen_a, seen_b = [1], [1]
    for number in range(30000):
        flash.target.write(number * 7 % 1000 * 8, b"a" * 4096 * 5)
        flash.target.flush()  # a frame, and one unit more, which goes to SLC pages
        _, type_a, type_b = flash.target.lifetime()
        seen_a += [type_a] if type_a != seen_a[-1] else []
        seen_b += [type_b] if type_b != seen_b[-1] else []
        if seen_a[-1] == seen_b[-1] == 11:
            break
    assert seen_a == seen_b == list(range(1, 12))


def test_the_estimates_follow_what_the_cells_went_through() -> None:
    flash = FlashInMemory("mlc", chip={"endurance": 400, "slc_endurance": 1600}, slc_share=0.5)
    for number in range(4000):
        flash.target.write(number * 11 % 1000 * 8, b"a" * 4096 * 5)
        flash.target.flush()
    table, blocks = flash.chip.block_table(), flash.part.chip["blocks"]
    normal, slc = int(table["cycles"].sum()), int(table["slc_cycles"].sum())
    assert normal > 50
    assert slc > 50
    _, type_a, type_b = flash.target.lifetime()
    assert type_a == 1 + int(10 * slc / (0.5 * blocks * 1600))
    assert type_b == 1 + int(10 * (normal / 400 + slc / 1600) / blocks)


def test_spare_blocks_pass_from_normal_to_warning_to_urgent() -> None:
    """80 % of the spare blocks used is a warning, 90 % urgent (EXT_CSD 267)."""
    flash, seen = FlashInMemory("mlc", reserve_blocks=10), {}
    while not flash.target.condition()["read_only"]:
        flash.chip.fail_next("program")
        flash.target.write(80, b"w" * 4096 * 100)
        flash.target.flush()
        seen[flash.target.condition()["bad_blocks"]] = flash.target.lifetime()[0]
    assert seen == {number: 1 if number < 8 else 2 if number < 9 else 3 for number in seen}
    assert set(seen.values()) == {1, 2, 3}


def test_a_flush_is_never_good_where_blocks_fail_faster_than_they_are_replaced(flash: FlashInMemory) -> None:
    """Every program fails at first, and there is no idle time: in the end what the cache has cannot be saved."""
    safe: list[int] = []
    for unit in range(200):
        flash.chip.fail_next("program")
        try:
            flash.target.write(unit * 8, b"%8d" % unit * 512)
        except OSError as error:
            assert error.errno == errno.EROFS
            break
        try:
            flash.target.flush()
        except OSError as error:
            assert error.errno == errno.EIO
            break
        safe.append(unit)
    assert flash.target.condition()["read_only"]
    flash.lose_power(1)
    for unit in safe:
        assert flash.target.read(unit * 8, 8) == b"%8d" % unit * 512


def test_a_reliable_write_is_safe_from_its_pair() -> None:
    """The page that shares cells with the next one would be lost with it."""
    pairs = [page - 1 if page % 2 else None for page in range(16)]
    for how in range(10):
        flash = FlashInMemory(
            "mlc", chip={"slc_page_bytes": 0, "slc_pages_per_block": 0, "pair_table": pairs}, cache_bytes=4096 * 16
        )
        flash.target.write(0, b"r" * 4096, reliable=True)
        flash.chip.arm_cut(1, how)
        flash.target.write(80, b"x" * 4096)
        with suppress(OSError):
            flash.target.flush()
        flash.chip.power_on()
        flash.mount()
        assert flash.target.read(0, 8) == b"r" * 4096, f"outcome {how}"
