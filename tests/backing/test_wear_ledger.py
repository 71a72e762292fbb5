"""Who has programmed how much of the flash: what each owner's data took, and its share of what all pay for."""

import random
from typing import Any

import pytest
from flash_in_memory import PARTS, UNIT_SECTORS, FlashInMemory
from hypothesis import given, settings
from hypothesis import strategies as st
from target_calls import TargetCalls

from virtflash.backing.flash_target import DISCARD, SECURE_ERASE, UNMAP_ZEROES, WRITE_ZEROES, FlashTarget
from virtflash.flash.emulated import EmulatedFlash
from virtflash.ftl.translation import Translation
from virtflash.volumes.volume_target import VolumeTarget

UNIT = UNIT_SECTORS * 512
GRANULE = 8 * UNIT_SECTORS  # sectors
OWNERS = 4  # 0 is one of them
WINDOW = 262144  # bytes of overhead that may wait to be distributed

PLACES = st.integers(0, 1 << 16)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["write", "write", "flood", "discard", "zeroes", "unmap", "secure", "flush", "work", "care"]),
        st.integers(0, OWNERS - 1),
        PLACES,
        st.integers(1, 60),
    ),
    max_size=60,
)


def programmed_by_chip(flash: FlashInMemory) -> int:
    """Bytes, as the chip has counted its pages."""
    counted, chip = flash.chip.counters(), flash.part.chip
    return int(counted["programs"] * chip["page_bytes"] + counted["slc_programs"] * chip.get("slc_page_bytes", 0))


class Shared:
    """A flash whose granules belong to several owners in turn."""

    def __init__(self, part: str = "mlc", owners: int = OWNERS, **options: Any) -> None:
        self.flash = FlashInMemory(part, **options)
        self.target = self.flash.target
        self.granules = self.target.user_sectors // GRANULE
        self.table = bytes(i % owners for i in range(self.granules))
        self.target.set_owners(GRANULE, self.table)
        self.calls = [TargetCalls(self.target, owner) for owner in range(owners)]

    def sector(self, owner: int, place: int) -> int:
        """A unit in one of the owner's granules."""
        own = [i for i, other in enumerate(self.table) if other == owner]
        unit = place % (8 * len(own))
        return own[unit // 8] * GRANULE + unit % 8 * UNIT_SECTORS

    def each(self) -> list[int]:
        return [self.target.programmed(owner) for owner in range(128)]

    def step(self, what: str, owner: int, place: int, number: int) -> None:
        calls, sector = self.calls[owner], self.sector(owner, place)
        if what == "write":
            calls.write(sector + place % 3, b"w" * 512 * min(number, 4))
        elif what == "flood":
            for i in range(20 * number):
                calls.write(self.sector(owner, place + i * i), b"f" * UNIT)
        elif what == "flush":
            calls.flush()
        elif what == "work":
            for _ in range(number):
                self.target.work()
        elif what == "care":
            self.target.care(refresh=[place % 48], frames=number, blocks=4)
        else:
            kind = {"discard": DISCARD, "zeroes": WRITE_ZEROES, "unmap": UNMAP_ZEROES, "secure": SECURE_ERASE}[what]
            calls.change(kind, sector, UNIT_SECTORS)


@pytest.mark.parametrize("part", PARTS)
@settings(deadline=None, max_examples=40)
@given(steps=STEPS)
def test_every_byte_is_somebodys_and_nobodys_twice(part: str, steps: list[tuple[str, int, int, int]]) -> None:
    shared = Shared(part, cache_bytes=65536)
    before = shared.each()
    for step in steps:
        shared.step(*step)
        seen_cheaply = [shared.calls[0].programmed(owner) for owner in range(OWNERS)]
        waiting = programmed_by_chip(shared.flash) - sum(seen_cheaply)
        assert 0 <= waiting < WINDOW
        now = shared.each()
        assert all(old <= new for old, new in zip(before, now, strict=True))
        assert sum(now) == programmed_by_chip(shared.flash)
        before = now


def test_without_owners_everything_is_nobodys() -> None:
    flash = FlashInMemory("mlc")
    calls = TargetCalls(flash.target, 3)
    calls.write(0, b"x" * UNIT)
    flash.target.flush()
    assert flash.target.programmed(0) == programmed_by_chip(flash) > 0
    assert flash.target.programmed(3) == 0


@pytest.mark.parametrize("part", ["slc", "tlc"])
def test_a_unit_written_alone_costs_its_owner_a_whole_frame(part: str) -> None:
    shared = Shared(part)
    before = shared.each()
    shared.calls[2].write(shared.sector(2, 0), b"x" * UNIT)
    shared.calls[2].flush()
    spent = [now - old for now, old in zip(shared.each(), before, strict=True)]
    frame = {"slc": 4096, "tlc": 16384}[part]  # of several pages; of SLC mode
    assert spent[2] == frame
    assert sum(spent) == frame


def test_a_frame_is_paid_by_the_owners_of_its_units_whoever_evicts_it() -> None:
    shared = Shared("mlc", cache_bytes=4 * UNIT)
    shared.calls[1].write(shared.sector(1, 0), b"a" * 3 * UNIT)
    shared.calls[2].write(shared.sector(2, 0), b"b" * UNIT)
    before = shared.each()
    while shared.target.translation.counters["host_units"] < 4:
        place = shared.target.cached_units
        shared.calls[3].write(shared.sector(3, place), b"c" * UNIT)
    spent = [now - old for now, old in zip(shared.each(), before, strict=True)]
    assert spent[1:4] == [3 * UNIT, UNIT, 0]


def test_trims_are_paid_by_the_owners_of_what_is_trimmed_and_by_who_flushes() -> None:
    shared = Shared("mlc")
    for owner in (1, 2):
        shared.calls[owner].write(shared.sector(owner, 0), b"x" * 8 * UNIT)
        shared.calls[owner].flush()
    before = shared.each()
    for unit in (0, 2, 4):  # ranges that do not touch
        shared.calls[1].change(DISCARD, shared.sector(1, unit), UNIT_SECTORS)
    shared.calls[2].change(DISCARD, shared.sector(2, 0), UNIT_SECTORS)
    shared.calls[2].flush()
    spent = [now - old for now, old in zip(shared.each(), before, strict=True)]
    assert spent[:3] == [0, 16384 // 8 * 3, 16384 // 8 * (1 + 4)]


def test_a_flush_leaves_what_others_have_written_in_the_cache() -> None:
    """They would pay for frames that are not full, and who flushes would wait for them."""
    shared = Shared("mlc")
    for unit in range(3):
        shared.calls[1].write(shared.sector(1, unit), b"a" * UNIT)
        shared.calls[2].write(shared.sector(2, unit), b"b" * UNIT)
    before = shared.target.programmed(2)
    for _ in range(10):
        shared.calls[1].flush()
        shared.calls[3].flush()
    assert shared.target.cached_units == 3
    assert shared.target.programmed(2) == before
    shared.flash.mount()  # the cache is gone
    assert shared.flash.target.read(shared.sector(1, 0), 3 * UNIT_SECTORS) == b"a" * 3 * UNIT
    assert shared.flash.target.read(shared.sector(2, 0), 3 * UNIT_SECTORS) == bytes(3 * UNIT)


@pytest.mark.parametrize("flushing", [0, 1, 2])
def test_a_flush_saves_what_its_caller_has_written_whoever_wrote_to_the_unit_too(flushing: int) -> None:
    shared = Shared("mlc")
    sector = shared.sector(1, 0)
    shared.calls[1].write(sector, b"a" * 512)
    shared.calls[2].write(sector + 1, b"b" * 512)
    shared.calls[flushing].flush()
    assert shared.target.cached_units == 0
    shared.flash.mount()
    assert shared.flash.target.read(sector, 2) == b"a" * 512 + b"b" * 512


def test_without_the_cache_a_flush_leaves_nothing() -> None:
    shared = Shared("mlc")
    shared.calls[1].write(shared.sector(1, 0), b"a" * UNIT)
    shared.target.cache_on = False
    shared.calls[2].write(shared.sector(2, 0), b"b" * UNIT)
    assert shared.target.cached_units == 0


def test_the_records_behind_frames_of_nor_are_counted_too() -> None:
    chip = EmulatedFlash.in_memory(kind="nor", page_bytes=256, spare_bytes=0, pages_per_block=256, blocks=40)
    translation = Translation.format(chip, 150, reserve_blocks=4)
    target = FlashTarget(translation, user_sectors=150 * UNIT_SECTORS)
    target.set_owners(UNIT_SECTORS, b"\1\2")
    before = target.programmed(2)
    target.write(UNIT_SECTORS, b"x" * UNIT, reliable=True)
    assert target.programmed(2) - before == UNIT + 64
    assert target.programmed(0) + target.programmed(2) == translation.counters["frames"] * (UNIT + 64)


def test_what_a_flush_pads_is_paid_by_who_asked_for_it() -> None:
    """A lower page of a pair is not safe before the upper one is programmed."""
    pairs = [0xFFFF if page < 3 or page % 2 == 0 else page - 3 for page in range(16)]
    without_slc = {"slc_page_bytes": 0, "slc_pages_per_block": 0}
    shared = Shared("mlc", chip={"pair_table": pairs, "bits_per_cell": 2, **without_slc})
    before = shared.target.translation.counters["padding_units"]
    shared.calls[1].write(shared.sector(1, 0), b"x" * 4 * UNIT)
    shared.calls[1].flush()
    padded = shared.target.translation.counters["padding_units"] - before
    assert padded > 0
    assert shared.target.programmed(1) == (4 + padded) * UNIT


def test_collection_is_paid_by_who_writes_not_by_who_has_data() -> None:
    shared, random_ = Shared("mlc", cache_bytes=65536, chip={"blocks": 50}), random.Random(2)
    for owner in range(1, OWNERS):
        for unit in range(8 * shared.table.count(owner)):
            shared.calls[owner].write(shared.sector(owner, unit), b"o" * UNIT)
    shared.calls[1].flush()
    for _ in range(6):  # what the filling weighs is forgotten
        for _ in range(500):
            shared.calls[1].write(shared.sector(1, random_.randrange(1 << 16)), b"n" * UNIT)
        shared.each()
    before = shared.each()
    moved = shared.target.translation.counters["moved_units"]["collect"]
    for i in range(6000):
        owner = 2 if i % 4 == 0 else 1
        shared.calls[owner].write(shared.sector(owner, random_.randrange(1 << 16)), b"n" * UNIT)
        shared.calls[owner].programmed(owner)
    spent = [now - old for now, old in zip(shared.each(), before, strict=True)]
    assert shared.target.translation.counters["moved_units"]["collect"] - moved > 500
    assert spent[3] == 0
    assert 0.9 < spent[1] / (3 * spent[2]) < 1.1


def test_refresh_is_nobodys() -> None:
    shared = Shared("mlc")
    for unit in range(200):  # so that blocks are closed
        shared.calls[1].write(shared.sector(1, unit), b"x" * UNIT)
    shared.calls[1].flush()
    while shared.target.work():
        pass
    before = shared.each()
    moved = shared.target.translation.counters["moved_units"]["refresh"]
    used = [i for i, valid in enumerate(shared.target.translation.snapshot()[0]["valid"]) if valid]
    shared.target.care(refresh=used)
    for _ in range(10000):
        if not shared.target.work():
            break
    refreshed = shared.target.translation.counters["moved_units"]["refresh"] - moved
    spent = [now - old for now, old in zip(shared.each(), before, strict=True)]
    assert refreshed > 0
    assert spent[0] >= refreshed * UNIT


def test_what_a_secure_erase_moves_is_paid_by_who_asked_for_it() -> None:
    shared = Shared("mlc")
    for unit in range(64):
        shared.calls[1].write(shared.sector(1, unit), b"x" * UNIT)
        shared.calls[2].write(shared.sector(2, unit), b"y" * UNIT)
    shared.calls[1].flush()
    before = shared.each()
    shared.calls[2].change(SECURE_ERASE, shared.sector(2, 0), UNIT_SECTORS)
    spent = [now - old for now, old in zip(shared.each(), before, strict=True)]
    moved = shared.target.translation.counters["moved_units"]["purge"]
    assert moved > 0
    assert spent[1] == 0
    assert spent[2] >= moved * UNIT


def test_a_volume_calls_for_its_owner() -> None:
    shared = Shared("mlc")
    volume = TargetCalls(VolumeTarget(shared.target, [(GRANULE, GRANULE)], owner=1))
    for unit in range(8):
        volume.write(unit * UNIT_SECTORS, b"x" * UNIT)
    volume.flush()
    before = shared.target.programmed(1)
    assert before >= 8 * UNIT
    volume.change(SECURE_ERASE, 0, UNIT_SECTORS)
    assert shared.target.programmed(1) > before
    assert volume.programmed(0) == shared.target.programmed(1)
    assert sum(shared.each()[2:]) == 0


def test_no_volume_has_an_owner_beyond_the_last() -> None:
    with pytest.raises(ValueError, match="owner 128"):
        VolumeTarget(FlashInMemory("mlc").target, [(0, 8)], owner=128)


def test_owners_change_and_what_was_counted_stays() -> None:
    shared = Shared("mlc")
    shared.calls[1].write(shared.sector(1, 0), b"x" * UNIT)
    shared.calls[1].flush()
    counted = shared.target.programmed(1)
    shared.target.set_owners(GRANULE, bytes(2 if owner == 1 else owner for owner in shared.table))
    shared.calls[2].write(shared.sector(1, 0), b"x" * UNIT)
    shared.calls[2].flush()
    assert shared.target.programmed(1) == counted
    assert shared.target.programmed(2) > 0


@pytest.mark.parametrize(
    ("granule", "owners", "told"),
    [
        (0, b"", "granules of 0"),
        (UNIT_SECTORS + 1, b"\1", "multiple"),
        (GRANULE, b"\1" * 2000, "no room"),
        (GRANULE, b"\1\x80", "owner 128"),
    ],
)
def test_what_are_no_owners_is_refused(granule: int, owners: bytes, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        FlashInMemory("mlc").target.set_owners(granule, owners)


def test_no_owner_has_such_a_number() -> None:
    with pytest.raises(ValueError, match="owner 128"):
        FlashInMemory("mlc").target.programmed(128)
