"""Random batches of requests in random framing, against a model of the disk's bytes; and any bytes at all as a ring."""

import os
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hand_made_ring import GUEST, Memory, Region, eventually, wait_readable
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from served_ring import EVERYTHING, FLUSH, GET_ID, IN, IOERR, OK, OUT, UNSUPP, Outcome, Request, ServedRing

from virtflash.virtio.blk import RANGE_FLAG_UNMAP, RequestType
from virtflash.virtio.ring_features import RingFeature

Serve = Callable[..., ServedRing]
DISCARD, WRITE_ZEROES = RequestType.DISCARD, RequestType.WRITE_ZEROES
SLICE, SLICES = (
    8,
    16,
)  # requests of a batch have slices of so many sectors to themselves, so that their order is nothing
SECTORS = SLICE * SLICES
SERIAL = b"a serial number"
OPTIONS = {
    "discard": True,
    "write_zeroes": True,
    "max_segments": 2,
    "max_discard_sectors": SLICE - 1,
    "max_write_zeroes_sectors": SLICE - 1,
    "serial": SERIAL,
}
REGIONS = [Region(GUEST, 1 << 19, 4096), Region(GUEST + (1 << 19), 1 << 19, (1 << 19) + 4096)]
FEW = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


class Wish(NamedTuple):
    """A request to be: of which kind, where in its slice, and how it is framed."""

    kind: int
    slice: int
    first: int
    sectors: int
    flags: int
    fill: int
    cuts: list[int]
    room_cuts: list[int]
    indirect: bool
    shift: int


wishes = st.builds(
    Wish,
    kind=st.sampled_from([IN, IN, OUT, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES, 3, 77]),
    slice=st.integers(0, SLICES - 1),
    first=st.integers(0, SLICE - 1),
    sectors=st.integers(0, SLICE),
    flags=st.sampled_from([0, 0, 0, RANGE_FLAG_UNMAP, 2]),
    fill=st.integers(1, 255),
    cuts=st.lists(st.integers(1, 600), max_size=4),
    room_cuts=st.lists(st.integers(1, 600), max_size=4),
    indirect=st.booleans(),
    shift=st.integers(0, 15),
)
batches = st.lists(st.lists(wishes, min_size=1, max_size=6, unique_by=lambda wish: wish.slice), min_size=1, max_size=6)


class Model:
    """What the disk holds, and what a driver must be told."""

    def __init__(self) -> None:
        self.data = bytearray(SECTORS * 512)

    def where(self, wish: Wish) -> slice:
        start = (wish.slice * SLICE + wish.first) * 512
        return slice(start, start + wish.sectors * 512)

    def apply(self, wish: Wish) -> tuple[int, bytes]:
        """Status, and the data that is read."""
        at = self.where(wish)
        inside = at.stop <= len(self.data)
        if wish.kind == IN:
            return (OK, bytes(self.data[at])) if inside else (IOERR, b"")
        if wish.kind == OUT:
            if inside:
                self.data[at] = payload(wish)
            return OK if inside else IOERR, b""
        if wish.kind == GET_ID:
            return OK, SERIAL.ljust(20, b"\0")
        if wish.kind in {DISCARD, WRITE_ZEROES}:
            return self.apply_range(wish, at, inside), b""
        return OK if wish.kind == FLUSH else UNSUPP, b""

    def apply_range(self, wish: Wish, at: slice, inside: bool) -> int:
        if wish.flags & ~(RANGE_FLAG_UNMAP if wish.kind == WRITE_ZEROES else 0):
            return UNSUPP
        if not inside or wish.sectors >= SLICE:
            return IOERR
        self.data[at] = bytes(at.stop - at.start)
        return OK


def payload(wish: Wish) -> bytes:
    if wish.kind == OUT:
        return bytes([wish.fill]) * (512 * wish.sectors)
    if wish.kind in {DISCARD, WRITE_ZEROES}:
        return struct.pack("<QII", wish.slice * SLICE + wish.first, wish.sectors, wish.flags)
    return b""


def confined(wish: Wish) -> Wish:
    """Inside its slice, but for the last one, from which it may reach over the end of the disk."""
    if wish.slice == SLICES - 1:
        return wish
    return wish._replace(sectors=min(wish.sectors, SLICE - wish.first))


def build(served: ServedRing, wish: Wish) -> Request:
    room = {IN: 512 * wish.sectors, GET_ID: 20}.get(wish.kind, 0)
    at = served.memory.allocate(room + 1 + 16) + wish.shift
    framing: dict[str, Any] = {"cuts": wish.cuts, "room_cuts": wish.room_cuts, "indirect": wish.indirect, "at": at}
    return served.blk(wish.kind, wish.slice * SLICE + wish.first, payload(wish), room, **framing)


def check(wish: Wish, outcome: Outcome, expected: tuple[int, bytes]) -> None:
    status, data = expected
    assert outcome.status == status, wish
    if data:
        assert outcome.data == data, wish
    assert outcome.length == len(data) + 1 if status == OK else outcome.length <= 1, wish


@pytest.mark.parametrize("in_memory", [False, True])
def test_serves_like_the_model(serve: Serve, path: str, in_memory: bool) -> None:
    """`in_memory`: small transfers are done by the reactor itself."""
    fd = os.memfd_create("disk")
    model = Model()
    os.pwrite(fd, model.data, 0)
    features = EVERYTHING | (RingFeature.EVENT_IDX if path != "io_uring-plain" else 0)
    ring = {"memory": Memory(regions=REGIONS), "size": 256, "features": features, "base": 65000}
    served = serve(fd, SECTORS, ring=ring, in_memory=in_memory, **OPTIONS)
    mark = served.memory.next_free

    @FEW
    @given(batches)
    def play(batches: list[list[Wish]]) -> None:
        for batch in batches:
            served.memory.next_free = mark
            confined_batch = [confined(wish) for wish in batch]
            outcomes = served.run(*(build(served, wish) for wish in confined_batch))
            for wish, outcome in zip(confined_batch, outcomes, strict=True):
                check(wish, outcome, model.apply(wish))
        assert os.pread(fd, SECTORS * 512, 0) == model.data

    play()
    os.close(fd)


def test_any_bytes_at_all(serve: Serve, disk: int) -> None:
    """A ring and all that it refers to made of noise: the queue may stop, the reactor and its other queues may not."""
    quiet = serve(disk)
    fd = os.memfd_create("disk")
    noisy = serve(fd, 64, ring={"size": 16, "run": False})
    first = noisy.memory.regions[0].guest

    @FEW
    @given(noise=st.binary(min_size=4096, max_size=4096), base=st.integers(0, 65535), count=st.integers(1, 17))
    def play(noise: bytes, base: int, count: int) -> None:
        noisy.memory.write(first, noise)
        noisy.ring.reset(base)
        noisy.ring.index = (base + count) & 0xFFFF
        noisy.start(base=base)
        noisy.memory.write(noisy.ring.available + 2, struct.pack("<H", noisy.ring.index))
        noisy.ring.kick()
        eventually(lambda: noisy.queue.broken or noisy.ring.used_index == noisy.ring.index, "it is served, or stops")
        assert quiet.read(count) == (OK, 513, count.to_bytes(8, "little") * 64)
        noisy.queue.stop()
        assert noisy.statistics()["in_flight"] == 0

    play()
    assert not wait_readable(quiet.ring.error_fd, 0)
    os.close(fd)
