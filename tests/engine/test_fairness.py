"""None may starve another (HOSTILE row "liveness"): floods of requests, kicks and slow ranges, beside a quiet queue."""

import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hand_made_ring import INDIRECT, WRITE, Memory, Piece, header
from served_ring import FLUSH, OK, SECTORS, ServedRing, assert_sleeps, sector_bytes

from virtflash.virtio.blk import RequestType

Serve = Callable[..., ServedRing]
BATCH = 32  # heads that a reactor takes from a ring in one turn
RANGES = {"write_zeroes": True, "max_write_zeroes_sectors": 1 << 20}
ZEROES = 1 << 15  # sectors: 16 MiB, which take a worker some milliseconds
MANY = 64


def zeroes(sectors: int) -> bytes:
    return struct.pack("<QII", 0, sectors, 0)


def fill(served: ServedRing) -> None:
    """Make as many flushes available as there are entries, without a kick."""
    memory, ring = served.memory, served.ring
    request, answer, table = memory.allocate(16), memory.allocate(1), memory.allocate(32)
    memory.write(request, header(FLUSH))
    ring.link(0, [Piece(request, 16), Piece(answer, 1, WRITE)], table=table)
    for head in range(ring.size):
        ring.put_descriptor(head, table, 32, INDIRECT)
    ring.publish(*range(ring.size))


@pytest.mark.parametrize("flood_first", [False, True])
def test_a_full_ring_lets_others_have_their_turn(serve: Serve, flood_first: bool) -> None:
    """The quiet queue reads from the guest memory of the other one how far that was served when its own turn came."""
    memory = Memory()
    flood = serve(ring={"size": 1024, "memory": memory, "run": False})
    quiet = serve(memory.fd, 1 << 11, in_memory=True, ring={"run": False})
    for each in (flood, quiet) if flood_first else (quiet, flood):
        each.start()
    at = memory.offset(flood.ring.used + 2)
    request = quiet.blk(RequestType.IN, at // 512, room=512)
    assert_sleeps(flood.reactor)
    fill(flood)
    quiet.ring.publish(request.head)
    flood.ring.kick()  # it finds both
    (served,) = struct.unpack_from("<H", quiet.collect(request)[0].data, at % 512)
    assert served <= BATCH
    assert len(flood.ring.wait(1024)) == 1024


def test_a_queue_that_is_kicked_without_end(serve: Serve, disk: int) -> None:
    victim, quiet = serve(disk), serve(disk)
    with storm(victim.ring.kick):
        for sector in range(200):
            assert quiet.read(sector).data == sector_bytes(sector)
            if sector % 10 == 0:
                assert victim.read(sector).data == sector_bytes(sector)
    assert victim.statistics()["kicks"] > 0


def test_a_driver_that_never_looks_at_what_comes_back(serve: Serve, disk: int) -> None:
    """The used ring is overwritten again and again; that is the driver's loss."""
    careless, quiet = serve(disk, ring={"size": 4}), serve(disk)
    head = careless.ring.chain([Piece(careless.memory.allocate(16), 16), Piece(careless.memory.allocate(1), 1, WRITE)])
    for turn in range(1, 100):
        careless.ring.offer(head)
        while careless.ring.used_index != turn:
            assert quiet.read(turn % SECTORS).status == OK


def median_latency(served: ServedRing) -> int:
    """Of its ranges, in nanoseconds, as the device measured it; the upper bound of a bucket."""
    histogram = served.statistics()["latency"]["other"]
    middle, bucket = sum(histogram["counts"]) / 2, 0
    while sum(histogram["counts"][: bucket + 1]) < middle:
        bucket += 1
    return int(histogram["bounds_ns"][bucket])


@pytest.mark.parametrize("attackers", [1, 3])
def test_slow_ranges_leave_workers_for_others(serve: Serve, attackers: int) -> None:
    """Zeroes written as data, a gigabyte for each attacker: queues have turns, and long ranges are done in parts."""
    fd = os.memfd_create("disk")
    os.ftruncate(fd, ZEROES * 512)
    slow = [serve(fd, ZEROES, ring={"size": 256}, **RANGES) for _ in range(attackers)]
    quiet = serve(fd, ZEROES, **RANGES)
    for served in slow:
        requests = [served.blk(RequestType.WRITE_ZEROES, 0, zeroes(ZEROES)) for _ in range(MANY)]
        served.ring.offer(*(request.head for request in requests))
    assert quiet.do(RequestType.WRITE_ZEROES, 0, zeroes(8)).status == OK
    for served in slow:
        assert len(served.ring.wait(MANY)) == MANY
    assert median_latency(quiet) < min(map(median_latency, slow)), "it waited for more than half of the others"
    os.close(fd)


@contextmanager
def storm(attack: Callable[[], None]) -> Iterator[None]:
    """A thread that goes on and on."""
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            attack()

    thread = threading.Thread(target=run)
    thread.start()
    yield
    stop.set()
    thread.join()
