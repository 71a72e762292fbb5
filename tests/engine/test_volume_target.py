"""Volumes on one target: each is its extents, in their order, and nothing else of what lies below."""

import errno
import os
import random
import struct
from collections.abc import Callable
from typing import Any, cast

import pytest
from hand_made_ring import eventually
from scripted_target import CountingCall, ScriptedTarget
from served_ring import FLUSH, IN, IOERR, OK, OUT, ServedRing

from virtflash.backing.flash_target import FlashTarget
from virtflash.engine import Reactor
from virtflash.flash.emulated import EmulatedFlash
from virtflash.ftl.translation import Translation
from virtflash.virtio.blk import RequestType
from virtflash.volumes.volume_target import VolumeTarget

Serve = Callable[..., ServedRing]
DISCARD, WRITE_ZEROES, SECURE_ERASE = RequestType.DISCARD, RequestType.WRITE_ZEROES, RequestType.SECURE_ERASE
BELOW = 512  # sectors
FIRST = [(64, 32), (300, 8), (8, 16)]  # extents: their place below, and sectors
SECOND = [(96, 64), (24, 8)]
RANGES: dict[str, Any] = {
    "discard": True,
    "write_zeroes": True,
    "secure_erase": True,
    "max_segments": 16,
    "max_discard_sectors": BELOW,
    "max_write_zeroes_sectors": BELOW,
    "max_secure_erase_sectors": BELOW,
    "lifetime": True,
}


def places(extents: list[tuple[int, int]]) -> list[int]:
    """By sector of the volume: which one below it is."""
    return [place + i for place, sectors in extents for i in range(sectors)]


def serve_volume(serve: Serve, below: ScriptedTarget, extents: list[tuple[int, int]]) -> ServedRing:
    target = VolumeTarget(below, extents)
    assert target.sectors == len(places(extents))
    return serve(-1, target.sectors, target=target, **RANGES)


def seen(below: ScriptedTarget, extents: list[tuple[int, int]]) -> bytes:
    return b"".join(below.memory[place * 512 : (place + 1) * 512] for place in places(extents))


@pytest.mark.parametrize("taken", [0, 512, 4096])
@pytest.mark.parametrize(("sector", "sectors"), [(0, 1), (31, 2), (0, 56), (30, 12), (39, 1), (40, 16), (55, 1)])
def test_a_volume_is_its_extents_in_their_order(serve: Serve, taken: int, sector: int, sectors: int) -> None:
    below = ScriptedTarget(BELOW)
    below.control.take_bytes = taken
    served = serve_volume(serve, below, FIRST)
    data = os.urandom(sectors * 512)
    before = below.memory
    assert served.do(OUT, sector, data, cuts=[16, 700]).status == OK
    expected = bytearray(before)
    for number, place in enumerate(places(FIRST)[sector : sector + sectors]):
        expected[place * 512 : (place + 1) * 512] = data[number * 512 : (number + 1) * 512]
    assert below.memory == expected
    assert served.do(IN, sector, room=len(data)).data == data


@pytest.mark.parametrize(("kind", "flags"), [(DISCARD, 0), (WRITE_ZEROES, 0), (WRITE_ZEROES, 1), (SECURE_ERASE, 0)])
@pytest.mark.parametrize("part", [0, 1, 3])
@pytest.mark.parametrize(("sector", "sectors"), [(0, 56), (1, 54), (32, 8), (31, 10), (50, 6)])
def test_a_range_over_several_extents(
    serve: Serve, kind: RequestType, flags: int, part: int, sector: int, sectors: int
) -> None:
    below = ScriptedTarget(BELOW)
    served, other = serve_volume(serve, below, FIRST), serve_volume(serve, below, SECOND)
    assert served.write(0, b"x" * 512 * 56).status == OK
    assert other.write(0, b"y" * 512 * 72).status == OK
    below.control.part_sectors = part
    ranges = struct.pack("<QII", sector, sectors, flags) + struct.pack("<QII", 0, 1, flags)
    assert served.do(kind, 0, ranges).status == OK
    expected = bytearray(b"x" * 512 * 56)
    for first, count in ((sector, sectors), (0, 1)):
        erased = b"\xff" if kind == SECURE_ERASE else b"\0"  # as the scripted target does
        expected[first * 512 : (first + count) * 512] = erased * (count * 512)
    assert seen(below, FIRST) == expected
    assert seen(below, SECOND) == b"y" * 512 * 72


def test_two_volumes_never_meet(serve: Serve) -> None:
    """At random, against two models; what is nobody's stays as it was."""
    below, random_ = ScriptedTarget(BELOW), random.Random(5)
    volumes = [
        (serve_volume(serve, below, extents), bytearray(512 * len(places(extents)))) for extents in (FIRST, SECOND)
    ]
    nobodys = sorted(set(range(BELOW)) - set(places(FIRST)) - set(places(SECOND)))
    before = [below.memory[place * 512 : (place + 1) * 512] for place in nobodys]
    for _ in range(300):
        served, model = random_.choice(volumes)
        sectors = random_.randint(1, 20)
        sector = random_.randint(0, len(model) // 512 - sectors)
        span = slice(sector * 512, (sector + sectors) * 512)
        match random_.randrange(3):
            case 0:
                model[span] = random_.randbytes(sectors * 512)
                assert served.write(sector, bytes(model[span])).status == OK
            case 1:
                model[span] = bytes(sectors * 512)
                assert served.do(DISCARD, 0, struct.pack("<QII", sector, sectors, 0)).status == OK
            case _:
                assert served.read(sector, sectors).data == model[span]
    assert [seen(below, FIRST), seen(below, SECOND)] == [bytes(model) for _, model in volumes]
    assert [below.memory[place * 512 : (place + 1) * 512] for place in nobodys] == before


def test_nothing_behind_its_end_can_be_named(serve: Serve) -> None:
    """Not even where the device were told to be larger than its extents are."""
    below = ScriptedTarget(BELOW)
    target = VolumeTarget(below, FIRST)
    served = serve(-1, BELOW, target=target, **RANGES)
    assert served.read(target.sectors).status == IOERR
    assert served.write(target.sectors, b"x" * 512).status == IOERR
    assert served.read(target.sectors - 1, 2).status == IOERR
    assert served.do(DISCARD, 0, struct.pack("<QII", target.sectors - 4, 8, 0)).status == IOERR
    assert below.memory[40 * 512 :].count(b"x") == 0


def test_flush_lifetime_and_work_are_those_of_what_is_below(serve: Serve) -> None:
    below = ScriptedTarget(BELOW)
    below.control.work_slices = 3
    served = serve_volume(serve, below, FIRST)
    assert served.write(0, b"x" * 512).status == OK
    assert served.do(FLUSH).status == OK
    assert served.do(RequestType.GET_LIFETIME, 0, room=6).status == OK
    assert (below.calls("flush"), below.calls("lifetime")) == (1, 1)
    eventually(lambda: below.control.work_slices == 0, "all of the work is done")
    below.control.errors[0] = -errno.EIO
    assert served.read(0).status == IOERR


@pytest.mark.parametrize(
    ("pieces", "told"), [([], "without extents"), ([(0, 0)], "empty"), ([(8, 8), (0, 0)], "empty")]
)
def test_what_is_no_volume_is_refused(pieces: list[tuple[int, int]], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        VolumeTarget(ScriptedTarget(BELOW), pieces)


def test_something_else_than_a_target_is_refused() -> None:
    with pytest.raises(AttributeError):
        VolumeTarget(cast(Any, object()), [(0, 8)])
    with pytest.raises(ValueError, match="incorrect name"):
        VolumeTarget(cast(Any, CountingCall()), [(0, 8)])


UNIT = 8  # sectors
FLASH_UNITS = 600
GRANULE = 16 * UNIT


def shared_flash(reactor: Reactor) -> FlashTarget:
    chip = EmulatedFlash.in_memory(page_bytes=16384, spare_bytes=80, pages_per_block=16, blocks=56)
    translation = Translation.format(chip, FLASH_UNITS, reserve_blocks=4)
    target = FlashTarget(translation, user_sectors=FLASH_UNITS * UNIT, cache_bytes=65536)
    target.owner = reactor.run
    return target


def test_volumes_of_a_flash_write_for_their_owners_while_these_are_told_anew(serve: Serve, reactor: Reactor) -> None:
    """A third volume comes and goes; no erase block ever holds data of two, and each pays for its own."""
    flash, random_ = shared_flash(reactor), random.Random(3)
    granules = FLASH_UNITS * UNIT // GRANULE
    table = bytes(1 + i % 2 if i < granules - 4 else 0 for i in range(granules))
    flash.set_owners(GRANULE, table, isolated=True)
    volumes = []
    for owner in (1, 2):
        extents = [(i * GRANULE, GRANULE) for i in range(granules) if table[i] == owner]
        target = VolumeTarget(flash, extents, owner)
        volumes.append((serve(-1, target.sectors, target=target, **RANGES), bytearray(512 * target.sectors)))
    for number in range(600):
        served, model = volumes[number % 3 == 0]
        sectors = random_.randint(1, 40)
        sector = random_.randint(0, len(model) // 512 - sectors)
        model[sector * 512 : (sector + sectors) * 512] = data = random_.randbytes(sectors * 512)
        served.memory.next_free = served.memory.regions[0].guest + (1 << 16)
        assert served.write(sector, data).status == OK
        if number % 7 == 0:
            assert served.do(FLUSH).status == OK
            third = bytes([number % 2 * 3] * 4)
            flash.set_owners(GRANULE, table[:-4] + third, isolated=True)
            assert all(len(owners) < 2 for owners in flash.owners_of_blocks())
    for served, model in volumes:
        for sector in range(0, len(model) // 512, 64):
            served.memory.next_free = served.memory.regions[0].guest + (1 << 16)
            assert served.read(sector, 64).data == model[sector * 512 : (sector + 64) * 512]
    first, second = flash.programmed(1), flash.programmed(2)
    assert 1.5 < first / second < 2.5
    assert flash.programmed(3) == 0
