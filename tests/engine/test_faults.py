"""Every way in which a ring or a chain makes no sense (HOSTILE rows "ring index" to "direction"): what becomes of it.

A chain with a place for a status is answered with IOERR and the queue goes on. Where there is none, or the ring itself
cannot be trusted, the queue stops with one event, its error descriptor is signalled, and a new start serves again.
"""

import os
from collections.abc import Callable

import pytest
from hand_made_ring import GUEST, INDIRECT, NEXT, WRITE, Memory, Piece, Region, Ring, header, wait_readable
from served_ring import EVERYTHING, IN, IOERR, OK, OUT, UNANSWERED, ServedRing, sector_bytes

from virtflash.engine.reactor import FAULT_WORDS
from virtflash.virtio.ring_features import RingFeature

Serve = Callable[..., ServedRing]
NOWHERE = GUEST + (1 << 40)
SIZE = 64


def jump(ring: Ring) -> None:
    ring.index += SIZE + 1
    ring.publish()


def head_beyond(ring: Ring) -> None:
    ring.publish(SIZE)


def highest_head(ring: Ring) -> None:
    ring.publish(0xFFFF)


def next_beyond(ring: Ring) -> None:
    ring.put_descriptor(0, GUEST, 16, NEXT, SIZE)
    ring.publish(0)


def loop(length: int) -> Callable[[Ring], None]:
    def make(ring: Ring) -> None:
        for position in range(length):
            ring.put_descriptor(position, GUEST, 1, NEXT | WRITE, (position + 1) % length)
        ring.publish(0)

    return make


def loop_of_nothing(ring: Ring) -> None:
    ring.put_descriptor(0, GUEST, 0, NEXT, 0)
    ring.publish(0)


def indirect(length: int, flags: int = INDIRECT, address: int | None = None) -> Callable[[Ring], None]:
    def make(ring: Ring) -> None:
        table = ring.memory.allocate(max(length, 16)) if address is None else address
        ring.put_descriptor(0, table, length, flags, 1)
        ring.publish(0)

    return make


def in_table(*entries: tuple[int, int, int, int]) -> Callable[[Ring], None]:
    """An indirect table of descriptors (address, bytes, flags, next)."""

    def make(ring: Ring) -> None:
        table = ring.memory.allocate(16 * len(entries))
        for position, entry in enumerate(entries):
            ring.put_descriptor(position, *entry, table=table)
        ring.put_descriptor(0, table, 16 * len(entries), INDIRECT)
        ring.publish(0)

    return make


def chain(*pieces: tuple[int, int, int]) -> Callable[[Ring], None]:
    def make(ring: Ring) -> None:
        ring.publish(ring.chain([Piece(*piece) for piece in pieces]))

    return make


STOPS = {
    "the index jumps by more than the ring": (jump, 1, False),
    "a head beyond the ring": (head_beyond, 2, False),
    "the highest head there is": (highest_head, 2, False),
    "next beyond the table": (next_beyond, 4, True),
    "next beyond an indirect table": (in_table((GUEST, 16, NEXT, 2), (GUEST, 1, WRITE, 0)), 4, True),
    "a loop of one": (loop(1), 5, True),
    "a loop of two": (loop(2), 5, True),
    "a loop of all": (loop(SIZE), 5, True),
    "a loop of a descriptor of no bytes": (loop_of_nothing, 5, True),
    "a loop in an indirect table": (in_table((GUEST, 1, NEXT | WRITE, 1), (GUEST, 1, NEXT | WRITE, 0)), 5, True),
    "indirect in indirect": (in_table((GUEST, 16, INDIRECT, 0)), 8, True),
    "indirect with next": (indirect(16, INDIRECT | NEXT), 9, True),
    "an indirect table of no bytes": (indirect(0), 10, True),
    "an indirect table of 15 bytes": (indirect(15), 10, True),
    "an indirect table of 17 bytes": (indirect(17), 10, True),
    "an indirect table of 1027 descriptors": (indirect(16 * 1027), 10, True),
    "an indirect table of 4 GiB": (indirect(0xFFFFFFF0, address=GUEST), 10, True),
    "an indirect table outside memory": (indirect(16, address=NOWHERE), 11, True),
    "an indirect table that wraps": (indirect(32, address=2**64 - 16), 11, True),
    "a status outside memory": (chain((GUEST, 16, 0), (NOWHERE, 1, WRITE)), 11, True),
    "a status at the end of the world": (chain((GUEST, 16, 0), (2**64 - 1, 1, WRITE)), 11, True),
    "no descriptor that the device may write": (chain((GUEST, 16, 0), (GUEST, 512, 0)), 13, True),
    "no bytes at all": (chain(*[(GUEST, 0, WRITE)] * SIZE), 13, True),
}


@pytest.mark.parametrize("what", STOPS)
def test_stops_the_queue(serve: Serve, disk: int, what: str) -> None:
    make, fault, answered = STOPS[what]
    served = serve(disk)
    make(served.ring)
    served.ring.kick()
    assert wait_readable(served.ring.error_fd), "the error descriptor was not signalled"
    head = served.memory.read(served.ring.available + 4, 2)
    assert served.ring.wait(1)[0] == (int.from_bytes(head, "little"), 0) if answered else True
    assert served.queue.broken
    assert served.events() == {"queue-broken": FAULT_WORDS[fault]}
    statistics = served.statistics()
    assert (statistics["malformed"], statistics["in_flight"]) == (int(answered), 0)
    assert_serves_again(served)


def assert_serves_again(served: ServedRing) -> None:
    """Stopped and started anew, as by the next front end."""
    served.queue.stop()
    served.ring.reset()
    served.start()
    assert not served.queue.broken
    assert served.read(7).data == sector_bytes(7)


def test_ignores_a_ring_that_stopped(serve: Serve, disk: int) -> None:
    served = serve(disk)
    served.ring.offer(SIZE)
    assert wait_readable(served.ring.error_fd)
    served.ring.offer(served.blk(IN, 0, room=512).head)
    served.reactor.round()
    served.reactor.round()
    assert served.ring.take_used() == []


def test_refuses_a_head_that_is_in_flight(serve: Serve, disk: int) -> None:
    """CVE-2026-45782. The first use of it completes; one batch holds both, so the first is in flight then."""
    served = serve(disk)
    request = served.blk(IN, 5, room=512)
    served.ring.offer(request.head, request.head)
    assert served.collect(request)[0] == (OK, 513, sector_bytes(5))
    assert wait_readable(served.ring.error_fd)
    assert served.events() == {"queue-broken": FAULT_WORDS[3]}
    served.reactor.round()
    assert served.ring.take_used() == []
    assert_serves_again(served)


def test_takes_a_head_again_when_it_was_given_back(serve: Serve, disk: int) -> None:
    served = serve(disk)
    for sector in range(5):
        served.ring.next_descriptor = 0
        assert served.read(sector).data == sector_bytes(sector)


def test_refuses_indirect_that_was_not_negotiated(serve: Serve, disk: int) -> None:
    served = serve(disk, ring={"features": EVERYTHING & ~RingFeature.INDIRECT_DESC})
    served.ring.offer(served.blk(IN, 0, room=512, indirect=True).head)
    assert wait_readable(served.ring.error_fd)
    assert served.events() == {"queue-broken": FAULT_WORDS[7]}


def many(count: int) -> list[Piece]:
    return [Piece(GUEST, 1, 0)] * count


ANSWERED = {
    "too many pieces": (lambda s: s.ring.indirect_chain([*many(1025), status(s)], before=many(8)), 6),
    "a header outside memory": (lambda s: s.ring.chain([Piece(NOWHERE, 16), status(s)]), 11),
    "data outside memory": (lambda s: s.ring.chain([head(s, OUT), Piece(NOWHERE, 512), status(s)]), 11),
    "data that ends outside memory": (lambda s: s.ring.chain([head(s, OUT), Piece(top(s) - 8, 512), status(s)]), 11),
    "data that wraps": (lambda s: s.ring.chain([head(s, OUT), Piece(2**64 - 512, 1024), status(s)]), 11),
    "4 GiB of data": (lambda s: s.ring.chain([head(s, IN), Piece(GUEST, 2**32 - 512, WRITE), status(s)]), 11),
    "readable behind writable": (lambda s: s.ring.chain([head(s, IN), room(s), Piece(GUEST, 512), status(s)]), 12),
    "a header that is writable": (lambda s: s.ring.chain([head(s, IN)._replace(flags=WRITE), status(s)]), 15),
    "a header of 15 bytes": (lambda s: s.ring.chain([head(s, IN)._replace(length=15), room(s), status(s)]), 15),
    "no header": (lambda s: s.ring.chain([status(s)]), 15),
    "a read into a readable buffer": (lambda s: s.ring.chain([head(s, IN), Piece(GUEST, 512), status(s)]), 15),
    "a write out of a writable buffer": (lambda s: s.ring.chain([head(s, OUT), room(s), status(s)]), 15),
    "a write with a payload and room": (
        lambda s: s.ring.chain([head(s, OUT), Piece(GUEST, 512), room(s), status(s)]),
        15,
    ),
}


def head(served: ServedRing, request_type: int) -> Piece:
    address = served.memory.allocate(16)
    served.memory.write(address, header(request_type))
    return Piece(address, 16)


def room(served: ServedRing) -> Piece:
    return Piece(served.memory.allocate(512), 512, WRITE)


def status(served: ServedRing) -> Piece:
    """The last byte of memory."""
    return Piece(top(served) - 1, 1, WRITE)


def top(served: ServedRing) -> int:
    return served.memory.regions[-1].guest + served.memory.regions[-1].size


@pytest.mark.parametrize("what", ANSWERED)
def test_answers_and_goes_on(serve: Serve, disk: int, what: str) -> None:
    make, fault = ANSWERED[what]
    served = serve(disk)
    entry = make(served)
    served.ring.offer(entry)
    (used,) = served.ring.wait(1)
    assert used[0] == entry
    assert served.memory.read(top(served) - 1, 1)[0] == IOERR
    assert served.events() == {"malformed": FAULT_WORDS[fault]}
    assert not served.queue.broken
    assert os.pread(disk, 512, 0) == sector_bytes(0)
    assert served.read(3) == (OK, 513, sector_bytes(3))


def test_every_fault_is_reached() -> None:
    """Lost memory has tests of its own (test_guest_memory_lost.py)."""
    stops = {fault for _, fault, _ in STOPS.values()}
    answered = {fault for _, fault in ANSWERED.values()}
    elsewhere = {0, 3, 7, 14}
    assert stops | answered | elsewhere == set(range(len(FAULT_WORDS)))


def test_a_buffer_that_wraps_has_no_last_byte(serve: Serve, disk: int) -> None:
    """Memory at address 0, where a buffer lands that begins at the top: its last byte is no place for a status."""
    served = serve(disk, ring={"memory": Memory(regions=[Region(0, 1 << 20, 0)])})
    served.memory.write(0xFFF0, bytes([UNANSWERED]))
    served.ring.offer(served.ring.chain([head(served, IN), Piece(2**64 - 1, 0xFFF2, WRITE)]))
    assert wait_readable(served.ring.error_fd)
    assert served.events() == {"queue-broken": FAULT_WORDS[11]}
    assert served.memory.read(0xFFF0, 1)[0] == UNANSWERED


TWO_REGIONS = [Region(GUEST, 1 << 19, 0), Region(GUEST + (1 << 19), 1 << 19, 1 << 19)]
WITH_A_HOLE = [Region(GUEST, 1 << 19, 0), Region(GUEST + (1 << 20), 1 << 19, 1 << 19)]


def test_a_buffer_may_span_regions_that_touch(serve: Serve, disk: int) -> None:
    served = serve(disk, ring={"memory": Memory(regions=TWO_REGIONS)})
    border = TWO_REGIONS[1].guest
    for split in (1, 15, 16, 100, 512, 700):
        request = served.blk(IN, 9, room=1024, at=border - split)
        assert served.run(request)[0].data == sector_bytes(9) + sector_bytes(10)
    assert served.run(served.blk(IN, 9, room=512, at=border - 512))[0] == (OK, 513, sector_bytes(9))


def test_a_header_and_a_table_may_span_regions_that_touch(serve: Serve, disk: int) -> None:
    served = serve(disk, ring={"memory": Memory(regions=TWO_REGIONS)})
    border = TWO_REGIONS[1].guest
    memory, ring = served.memory, served.ring
    for offset in (8, 16, 24, 40):
        memory.write(border - 7, header(IN, 4)[:7])
        memory.write(border, header(IN, 4)[7:])
        data, answer = memory.allocate(512), memory.allocate(1)
        table = border - 4096 - offset
        ring.link(0, [Piece(border - 7, 16), Piece(data, 512, WRITE), Piece(answer, 1, WRITE)], table=table)
        ring.offer(ring.chain([Piece(table, 48, INDIRECT)]))
        ring.wait(1)
        assert (memory.read(data, 512), memory.read(answer, 1)) == (sector_bytes(4), b"\0")


@pytest.mark.parametrize("part", ["data", "header"])
def test_a_buffer_over_a_hole_is_refused(serve: Serve, disk: int, part: str) -> None:
    served = serve(disk, ring={"memory": Memory(regions=WITH_A_HOLE)})
    border = WITH_A_HOLE[0].guest + WITH_A_HOLE[0].size
    pieces = [head(served, OUT), Piece(border - 256, 512), status(served)]
    if part == "header":
        pieces[0] = Piece(border - 8, 16)
    served.ring.offer(served.ring.chain(pieces))
    served.ring.wait(1)
    assert served.memory.read(pieces[2].address, 1)[0] == IOERR
    assert os.pread(disk, 512, 0) == sector_bytes(0)
