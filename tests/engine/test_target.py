"""Storage that this process emulates: calls on the reactor's thread, syncs of the file below, delays, work of its own.

The target (scripted_target.c) is plain memory that counts its calls and fails, delays or asks for a sync as it is told.
"""

import contextlib
import errno
import os
import random
import struct
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from hand_made_ring import INDIRECT, WRITE, Memory, Piece, eventually, header
from scripted_target import CountingCall, ScriptedTarget
from served_ring import FLUSH, IN, IOERR, OK, OUT, SECTORS, UNSUPP, ServedRing, assert_sleeps, reactor_on

from virtflash.engine import Binding, Queue, Reactor
from virtflash.virtio.blk import RequestType

Serve = Callable[..., ServedRing]
DISCARD, WRITE_ZEROES, SECURE_ERASE = RequestType.DISCARD, RequestType.WRITE_ZEROES, RequestType.SECURE_ERASE
LIFETIME = RequestType.GET_LIFETIME
UNMAP = 1
LIMIT = 1 << 20
RANGES: dict[str, Any] = {
    "discard": True,
    "write_zeroes": True,
    "secure_erase": True,
    "max_segments": 16,
    "max_discard_sectors": LIMIT,
    "max_write_zeroes_sectors": LIMIT,
    "max_secure_erase_sectors": LIMIT,
    "lifetime": True,
}
MILLISECOND = 1_000_000  # ns
TURN_BYTES = 1 << 18  # that are copied for a queue before the next one has its turn
REQUESTS = {
    "read": (IN, b"", 512),
    "write": (OUT, b"x" * 512, 0),
    "flush": (FLUSH, b"", 0),
    "change": (DISCARD, struct.pack("<QII", 8, 8, 0), 0),
    "lifetime": (LIFETIME, b"", 6),
}


def ranges(*each: tuple[int, int, int]) -> bytes:
    return b"".join(struct.pack("<QII", *one) for one in each)


def do(served: ServedRing, name: str) -> int:
    kind, payload, room = REQUESTS[name]
    return served.do(kind, 0, payload, room).status


@pytest.fixture
def image(tmp_path: Path) -> Iterator[int]:
    """A descriptor of the file that would hold what a target keeps."""
    fd = os.open(tmp_path / "image", os.O_RDWR | os.O_CREAT)
    os.write(fd, b"x")
    yield fd
    os.close(fd)


@pytest.fixture
def emulate(serve: Serve) -> Callable[..., tuple[ScriptedTarget, ServedRing]]:
    """Makes a target and a ring that serves it."""

    def make(
        sectors: int = SECTORS, *, sync_fd: int = -1, lifetime: bool = True, **options: Any
    ) -> tuple[ScriptedTarget, ServedRing]:
        target = ScriptedTarget(sectors, sync_fd=sync_fd, lifetime=lifetime)
        return target, serve(-1, sectors, target=target, **{**RANGES, "lifetime": lifetime, **options})

    return make


Emulate = Callable[..., tuple[ScriptedTarget, ServedRing]]


# Data


@pytest.mark.parametrize("taken", [0, 512, 4096])
@pytest.mark.parametrize("sectors", [1, 8, 255, 256, 257, 900])
def test_what_was_written_is_read(emulate: Emulate, sectors: int, taken: int) -> None:
    """In pieces of odd sizes; the target may take less than all of it at once."""
    target, served = emulate(4096)
    target.control.take_bytes = taken
    data = os.urandom(sectors * 512)
    cuts = [16, 17, 528, sectors * 256 + 16]
    assert served.do(OUT, 3, data, cuts=cuts).status == OK
    assert target.memory[3 * 512 : (3 + sectors) * 512] == data
    answer = served.do(IN, 3, room=len(data), room_cuts=[1, 700, sectors * 300])
    assert answer == (OK, len(data) + 1, data)
    counted = served.statistics()
    assert (counted["bytes_read"], counted["bytes_written"]) == (len(data), len(data))
    assert target.control.strangers == 0


def test_many_at_once(emulate: Emulate) -> None:
    target, served = emulate(ring={"size": 256})
    writes = [served.blk(OUT, sector, bytes([sector]) * 512) for sector in range(60)]
    assert {outcome.status for outcome in served.run(*writes)} == {OK}
    reads = [served.blk(IN, sector, room=512) for sector in range(60)]
    assert [outcome.data for outcome in served.run(*reads)] == [bytes([sector]) * 512 for sector in range(60)]
    assert target.calls("read") == target.calls("write") == 60


def test_the_bounds_hold(emulate: Emulate) -> None:
    target, served = emulate()
    assert served.read(SECTORS).status == IOERR
    assert served.write(SECTORS - 1, b"x" * 1024).status == IOERR
    assert target.calls("read") == target.calls("write") == 0


@pytest.mark.parametrize(
    ("kind", "flags", "name"),
    [
        (DISCARD, 0, "discard"),
        (WRITE_ZEROES, 0, "write zeroes"),
        (WRITE_ZEROES, UNMAP, "unmap zeroes"),
        (SECURE_ERASE, 0, "secure erase"),
    ],
)
@pytest.mark.parametrize("part", [0, 1, 3])
def test_ranges(emulate: Emulate, kind: int, flags: int, name: str, part: int) -> None:
    target, served = emulate()
    assert served.write(0, b"x" * 512 * 64).status == OK
    target.control.part_sectors = part
    assert served.do(kind, 0, ranges((8, 8, flags), (20, 0, flags), (32, 1, flags))).status == OK
    assert target.changes() == {name: 2}
    kept = [sector for sector in range(64) if target.memory[sector * 512] == ord("x")]
    assert kept == [sector for sector in range(64) if sector not in {*range(8, 16), 32}]
    assert target.calls("change") == 2 if part == 0 else (-(-8 // part) + 1)


def in_writable_buffers(served: ServedRing, kind: int, payload: bytes) -> tuple[int, int]:
    """Status and used length of a request whose payload lies where the device may write."""
    request = served.blk(kind, 0, room=len(payload))
    served.memory.write(request.room, payload)
    status, length, left = served.run(request)[0]
    assert left == payload
    return status, length


def test_a_secure_erase_as_linux_sends_it(emulate: Emulate) -> None:
    """Its driver (6.1 to 7.2) takes the lowest bit of a type for the direction, and this request's type is even."""
    target, served = emulate(max_segments=2)
    assert in_writable_buffers(served, SECURE_ERASE, ranges((8, 8, 0), (32, 1, 0))) == (OK, 0)
    assert target.changes() == {"secure erase": 2}
    assert in_writable_buffers(served, SECURE_ERASE, ranges((8, 8, 0))[:15]) == (IOERR, 0)
    assert in_writable_buffers(served, SECURE_ERASE, ranges((SECTORS, 1, 0))) == (IOERR, 0)
    assert in_writable_buffers(served, SECURE_ERASE, ranges((0, 1, 2))) == (UNSUPP, 0)
    assert in_writable_buffers(served, SECURE_ERASE, ranges(*[(0, 1, 0)] * 3)) == (UNSUPP, 0)
    for kind in (DISCARD, WRITE_ZEROES):
        assert in_writable_buffers(served, kind, ranges((8, 8, 0))) == (IOERR, 0)
    assert target.changes() == {"secure erase": 2}


def test_the_lifetime(emulate: Emulate) -> None:
    _, served = emulate()
    assert served.do(LIFETIME, room=6) == (OK, 7, struct.pack("<HHH", 2, 4, 11))


def test_no_lifetime_where_none_is_told(emulate: Emulate) -> None:
    _, served = emulate(lifetime=False)
    assert served.do(LIFETIME, room=6).status == UNSUPP
    with pytest.raises(ValueError, match="a lifetime is offered of a target that tells it"):
        Binding(-1, 8, target=ScriptedTarget(8, lifetime=False), lifetime=True)


def test_a_target_instead_of_a_file(disk: int) -> None:
    with pytest.raises(ValueError, match="a target is served instead of a file"):
        Binding(disk, 8, target=ScriptedTarget(8))


def test_only_a_target_is_taken() -> None:
    with pytest.raises(AttributeError):
        Binding(-1, 8, target=cast(Any, object()))
    with pytest.raises(ValueError, match="PyCapsule"):
        Binding(-1, 8, target=CountingCall())


# Stability


@pytest.mark.parametrize("write_through", [False, True])
@pytest.mark.parametrize("with_file", [False, True])
def test_what_is_flushed_and_when(emulate: Emulate, image: int, with_file: bool, write_through: bool) -> None:
    target, served = emulate(sync_fd=image if with_file else -1)
    served.binding.write_through = write_through
    syncs = 0
    for name, stable in (("read", False), ("write", write_through), ("change", False), ("flush", True)):
        flushed = target.calls("flush")
        assert do(served, name) == OK
        assert target.calls("flush") - flushed == stable
        syncs += stable and with_file
        assert target.calls("sync_begins") == target.calls("synced") == syncs
        assert target.control.mark == target.control.begun
    assert served.do(WRITE_ZEROES, 0, ranges((0, 8, 0))).status == OK
    assert target.calls("flush") == 1 + 2 * write_through


def test_a_flush_really_syncs(emulate: Emulate) -> None:
    """On /dev/zero, which knows no sync."""
    fd = os.open("/dev/zero", os.O_RDWR)
    target, served = emulate(sync_fd=fd)
    assert served.write(0, b"x" * 512).status == OK
    assert served.do(FLUSH).status == IOERR
    assert (target.calls("flush"), target.calls("synced")) == (1, 0)
    assert served.events() == {"io-error": os.strerror(errno.EINVAL)}
    os.close(fd)


def test_flushes_share_their_syncs(emulate: Emulate, image: int) -> None:
    """The first begins one; those that come until it ends wait for the next."""
    target, served = emulate(sync_fd=image)
    flushes = [served.blk(FLUSH) for _ in range(8)]
    assert {outcome.status for outcome in served.run(*flushes)} == {OK}
    assert target.calls("flush") == 8
    assert target.calls("synced") == 2
    assert target.control.mark == target.control.begun == 2


@pytest.mark.parametrize("with_file", [False, True])
@pytest.mark.parametrize("name", REQUESTS)
def test_a_target_that_first_needs_a_sync(emulate: Emulate, image: int, name: str, with_file: bool) -> None:
    target, served = emulate(sync_fd=image if with_file else -1)
    target.ask_for_syncs(name, 3)
    assert do(served, name) == OK
    assert target.calls(name) == 4
    assert target.calls("synced") == 3 + (name == "flush" and with_file)
    assert served.statistics()["errors"] == 0


def test_many_that_need_a_sync(emulate: Emulate, image: int) -> None:
    target, served = emulate(sync_fd=image, ring={"size": 256})
    target.ask_for_syncs("write", 100)
    writes = [served.blk(OUT, sector, bytes([sector]) * 512) for sector in range(60)]
    assert {outcome.status for outcome in served.run(*writes)} == {OK}
    assert target.calls("write") == 160
    assert target.calls("synced") < 100
    assert [target.memory[sector * 512] for sector in range(60)] == list(range(60))


def test_a_target_that_needs_syncs_without_end(emulate: Emulate, image: int) -> None:
    target, served = emulate(sync_fd=image)
    target.ask_for_syncs("write", 1 << 30)
    assert do(served, "write") == IOERR
    assert do(served, "read") == OK


@pytest.mark.parametrize("name", ["write", "change", "flush"])
def test_after_a_sync_that_failed_none_is_told_to_have_succeeded(emulate: Emulate, image: int, name: str) -> None:
    """The kernel reports a failure once: what comes after it may succeed for nothing."""
    target, served = emulate(sync_fd=image)
    target.ask_for_syncs(name, 1 if name != "flush" else 0)
    served.binding.inject_fault("sync", errno.EIO)
    assert do(served, name) == IOERR
    assert served.binding.sync_failed
    served.binding.inject_fault("sync", 0)
    target.ask_for_syncs("write", 1)
    assert do(served, "write") == IOERR
    assert do(served, "flush") == IOERR
    with pytest.raises(OSError, match="has failed"):
        served.binding.sync()
    assert target.calls("sync_begins") > 0
    assert target.calls("synced") == 0
    assert do(served, "read") == OK


@pytest.mark.parametrize("with_file", [False, True])
def test_a_sync_of_the_binding(emulate: Emulate, image: int, with_file: bool) -> None:
    """The calls are made by the reactor; what asks for syncs gets them."""
    target, served = emulate(sync_fd=image if with_file else -1)
    assert do(served, "write") == OK
    served.binding.sync()
    assert (target.calls("flush"), target.calls("synced")) == (1, 1)
    target.ask_for_syncs("flush", 2)
    served.binding.sync()
    assert (target.calls("flush"), target.calls("synced")) == (4, 4)
    assert target.control.mark == target.control.begun
    assert target.control.strangers == 0
    target.fail("flush", errno.EIO)
    with pytest.raises(OSError, match="has failed"):
        served.binding.sync()
    assert served.binding.sync_failed


def test_a_write_that_is_late_when_the_mode_changes(emulate: Emulate) -> None:
    """It completes after the change, so it completes stable (virtio 1.4 §5.2.6.2)."""
    target, served = emulate()
    target.control.delay_below, target.control.delay_ns = SECTORS, 100 * MILLISECOND
    request = served.blk(OUT, 0, b"x" * 512)
    served.ring.offer(request.head)
    eventually(lambda: target.calls("write") == 1, "the write was called")
    served.binding.write_through = True
    assert served.collect(request)[0].status == OK
    assert target.calls("flush") == 1


# Failures


@pytest.mark.parametrize(
    ("name", "error", "lost"),
    [
        ("read", errno.EIO, False),
        ("write", errno.EIO, True),
        ("write", errno.EROFS, False),
        ("write", errno.ENOSPC, False),
        ("write", errno.ENODATA, False),
        ("flush", errno.EIO, True),
        ("flush", errno.ENOSPC, False),
        ("flush", errno.EROFS, True),
        ("change", errno.EIO, False),
        ("change", errno.EROFS, False),
        ("lifetime", errno.EIO, False),
    ],
)
def test_a_call_that_fails(emulate: Emulate, name: str, error: int, lost: bool) -> None:
    target, served = emulate()
    target.fail(name, error)
    assert {other: do(served, other) for other in REQUESTS} == {
        other: IOERR if other == name or (other == "flush" and lost) else OK for other in REQUESTS
    }
    assert served.binding.sync_failed == lost
    assert served.events() == {
        "io-error": os.strerror(error),
        **({"sync-failed": os.strerror(error)} if lost else {}),
    }
    target.fail(name, 0)
    assert do(served, name) == (IOERR if name == "flush" and lost else OK)
    assert served.statistics()["in_flight"] == 0


@pytest.mark.parametrize("fault", ["read", "write", "sync", "discard"])
def test_a_fault_that_was_ordered(emulate: Emulate, image: int, fault: str) -> None:
    _, served = emulate(sync_fd=image)
    served.binding.inject_fault(fault, errno.EIO)
    failing = {"read": {"read"}, "write": {"write", "flush"}, "sync": {"flush"}, "discard": {"change"}}[fault]
    assert {name for name in ("read", "write", "change", "flush") if do(served, name) == IOERR} == failing
    assert served.binding.sync_failed == (fault in {"write", "sync"})


@pytest.mark.parametrize("again", [errno.EAGAIN, errno.EINTR])
def test_what_is_to_be_tried_again_is_not_tried_for_ever(emulate: Emulate, again: int) -> None:
    target, served = emulate()
    target.fail("read", again)
    assert served.read(0).status == IOERR
    assert target.calls("read") == 101


def has_read(target: ScriptedTarget, count: int) -> bool:
    return target.calls("read") == count


# Turns


def test_a_long_erase_starves_nobody(emulate: Emulate) -> None:
    """Neither another volume nor its own queue's reads: it goes on by parts, one in each turn."""
    parts = 2000
    slow, greedy = emulate(parts)
    _, quiet = emulate()
    slow.control.part_sectors, slow.control.part_ns = 1, MILLISECOND // 10
    erase = greedy.blk(SECURE_ERASE, 0, ranges((0, parts, 0)))
    greedy.ring.offer(erase.head)
    for turn in range(20):
        done = slow.calls("change")
        assert quiet.read(0).status == OK
        assert slow.calls("change") - done < parts // 10
        greedy.ring.offer(greedy.blk(IN, 0, room=512).head)
        eventually(partial(has_read, slow, turn + 1), "the read passes the erase")
    assert slow.calls("change") < parts
    assert len(greedy.ring.wait(21)) == 21
    assert slow.calls("change") == parts


@pytest.mark.parametrize("flood_first", [False, True])
def test_large_reads_let_others_have_their_turn(serve: Serve, flood_first: bool) -> None:
    """The quiet queue reads from the guest memory of the other one how far that was served when its own turn came."""
    memory, read = Memory(), 65536
    flood = serve(-1, target=ScriptedTarget(SECTORS), ring={"memory": memory, "run": False})
    quiet = serve(memory.fd, 1 << 11, in_memory=True, ring={"run": False})
    for each in (flood, quiet) if flood_first else (quiet, flood):
        each.start()
    at = memory.offset(flood.ring.used + 2)
    request = quiet.blk(IN, at // 512, room=512)
    source, room, table = memory.allocate(16), memory.allocate(read + 1), memory.allocate(32)
    memory.write(source, header(IN))
    flood.ring.link(0, [Piece(source, 16), Piece(room, read + 1, WRITE)], table=table)
    for head in range(flood.ring.size):
        flood.ring.put_descriptor(head, table, 32, INDIRECT)
    assert_sleeps(flood.reactor)
    flood.ring.publish(*range(flood.ring.size))
    quiet.ring.publish(request.head)
    flood.ring.kick()  # it finds both
    (served,) = struct.unpack_from("<H", quiet.collect(request)[0].data, at % 512)
    assert served <= TURN_BYTES // read
    assert len(flood.ring.wait(flood.ring.size)) == flood.ring.size


def test_a_large_read_beside_a_long_erase(emulate: Emulate) -> None:
    """Both go on by parts, in turn."""
    parts = 2000
    target, served = emulate(parts)
    target.control.part_sectors, target.control.part_ns = 1, MILLISECOND // 10
    served.ring.offer(served.blk(SECURE_ERASE, 0, ranges((0, parts, 0))).head)
    eventually(lambda: target.calls("change") > 0, "the erase began")
    read = served.blk(IN, 0, room=1000 * 512)
    served.ring.offer(read.head)
    eventually(lambda: target.calls("read") == 4, "the read passes the erase")
    assert target.calls("change") < parts
    assert len(served.ring.wait(2)) == 2


def test_a_stop_waits_for_what_was_begun(emulate: Emulate, image: int) -> None:
    target, served = emulate(sync_fd=image)
    target.control.part_sectors, target.control.part_ns = 1, MILLISECOND // 10
    target.control.delay_below, target.control.delay_ns = 1, 20 * MILLISECOND
    target.ask_for_syncs("write", 5)
    requests = [
        served.blk(SECURE_ERASE, 0, ranges((1, 200, 0))),
        served.blk(IN, 0, room=512),
        served.blk(OUT, 8, b"x" * 512),
        served.blk(FLUSH),
    ]
    served.ring.offer(*(request.head for request in requests))
    eventually(lambda: target.calls("flush") == 1, "all are taken")
    served.queue.stop()
    assert {outcome.status for outcome in served.collect(*requests)} == {OK}
    assert target.calls("change") == 200
    assert served.statistics()["in_flight"] == 0


# Time


def took(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def test_a_request_completes_no_earlier_than_the_real_part(emulate: Emulate) -> None:
    target, served = emulate()
    _, quiet = emulate()
    target.control.delay_below, target.control.delay_ns = 8, 50 * MILLISECOND
    assert took(lambda: served.read(0)) >= 0.05
    assert took(lambda: served.write(0, b"x" * 512)) >= 0.05
    late = served.blk(IN, 0, room=512)
    served.ring.offer(late.head)
    eventually(lambda: target.calls("read") == 2, "it was called")
    for sector in range(50):
        assert quiet.read(sector).status == OK
    assert served.ring.used_index == 2, "others were not held up"
    assert served.collect(late)[0].status == OK
    counts = served.statistics()["latency"]["read"]
    slowest = max(bound for bound, count in zip(counts["bounds_ns"], counts["counts"], strict=True) if count)
    assert slowest >= 50 * MILLISECOND
    assert target.control.stale_clock == 0
    assert target.calls("work") and target.control.early_work == 0


def test_delayed_requests_complete_in_the_order_of_time(emulate: Emulate) -> None:
    target, served = emulate(ring={"size": 256})
    target.control.delay_below = SECTORS
    ready = {}
    for turn, delay in enumerate(random.Random(7).sample(range(70), 70)):
        target.control.delay_ns = 100 * MILLISECOND + 2 * MILLISECOND * delay
        request = served.blk(IN, turn, room=512)
        served.ring.offer(request.head)
        eventually(partial(has_read, target, turn + 1), "it was called")
        ready[request.head] = target.control.ready_ns
    heads = [head for head, _ in served.ring.wait(70)]
    assert heads == sorted(ready, key=lambda head: ready[head])


def test_while_requests_are_delayed_the_reactor_sleeps(emulate: Emulate) -> None:
    target, served = emulate(ring={"size": 256})
    target.control.delay_below, target.control.delay_ns = SECTORS, 300 * MILLISECOND
    requests = [served.blk(IN, sector, room=512) for sector in range(60)]
    served.ring.offer(*(request.head for request in requests))
    eventually(lambda: target.calls("read") == 60, "all are called")
    assert_sleeps(served.reactor)
    assert {outcome.status for outcome in served.collect(*requests)} == {OK}


# Work of its own


def test_work_goes_on_until_there_is_none(emulate: Emulate) -> None:
    target, served = emulate()
    target.control.work_slices = 1000
    assert served.read(0).status == OK
    eventually(lambda: target.control.work_slices == 0, "all work is done")
    assert_sleeps(served.reactor)
    done = target.calls("work")
    assert_sleeps(served.reactor)
    assert target.calls("work") == done, "an idle target is left alone"
    assert target.control.strangers == 0


def test_requests_pass_work_without_end(emulate: Emulate) -> None:
    target, served = emulate()
    _, quiet = emulate()
    target.control.work_endless = 1
    for sector in range(100):
        assert served.read(sector).status == OK
        assert quiet.read(sector).status == OK
    assert target.calls("work") > 100
    target.control.work_endless = 0
    assert_sleeps(served.reactor)


# Its own thread


def test_calls_run_on_the_reactor(emulate: Emulate) -> None:
    _, served = emulate()
    call = CountingCall()
    for turn in range(100):
        served.reactor.run(call.capsule)
        assert call.count == turn + 1
    with pytest.raises(ValueError, match="PyCapsule"):
        served.reactor.run(ScriptedTarget(8).capsule)


def test_a_call_makes_the_target_look_for_work(emulate: Emulate) -> None:
    target, served = emulate()
    assert_sleeps(served.reactor)
    target.control.work_slices = 10
    served.reactor.run(CountingCall().capsule)
    eventually(lambda: target.control.work_slices == 0, "all work is done")


def test_a_closed_reactor_runs_nothing(path: str) -> None:
    try:
        with reactor_on(path) as reactor:
            pass
    except OSError as error:
        pytest.skip(str(error))
    with pytest.raises(ValueError, match="the reactor test is closed"):
        reactor.run(CountingCall().capsule)


def test_all_queues_are_on_one_reactor(emulate: Emulate, path: str) -> None:
    _, served = emulate()
    Queue(served.reactor, served.binding, 1)
    other = Reactor("other", io=path)
    with contextlib.closing(other), pytest.raises(ValueError, match="all queues of a target run on one reactor"):
        Queue(other, served.binding, 2)


def test_several_queues_and_syncs_side_by_side(emulate: Emulate, image: int, serve: Serve) -> None:
    target, first = emulate(sync_fd=image)
    second = ServedRing(first.reactor, first.binding, index=1)
    try:
        threads = [threading.Thread(target=write_and_flush, args=(served,)) for served in (first, second)]
        for thread in threads:
            thread.start()
        for _ in range(50):
            first.binding.sync()
        for thread in threads:
            thread.join()
    finally:
        second.put_away()
    assert first.statistics()["errors"] == second.statistics()["errors"] == 0
    assert target.calls("flush") == 250
    assert target.control.strangers == 0


def write_and_flush(served: ServedRing) -> None:
    for sector in range(100):
        served.run(served.blk(OUT, sector, b"x" * 512), served.blk(FLUSH))
