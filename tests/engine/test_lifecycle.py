"""Queues that start and stop, reactors that come and go, and a control plane of several threads."""

import errno
import gc
import os
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hand_made_ring import Memory, Piece, eventually, wait_readable
from served_ring import (
    EVERYTHING,
    FLUSH,
    IN,
    OK,
    OUT,
    PATHS,
    SECTORS,
    ServedRing,
    reactor_on,
    sector_bytes,
    threads_called,
)

from virtflash.engine import Binding, Queue, Reactor, versions
from virtflash.virtio.blk import RequestType
from virtflash.virtio.ring_features import RingFeature

Serve = Callable[..., ServedRing]


def open_files() -> int:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def workers() -> int:
    """Threads with the name of the reactor, without itself. The kernel's own for io_uring have other names."""
    return len(threads_called("test")) - 1


# Stopping


def test_stops_with_the_base_that_comes_next(serve: Serve, disk: int) -> None:
    served = serve(disk, ring={"base": 65533})
    assert served.queue.stop() == 65533
    served.start(base=65533)
    for _ in range(6):
        served.read(0)
    assert served.queue.stop() == served.queue.stop() == 3
    assert not served.queue.running


def test_goes_on_where_it_stopped(serve: Serve, disk: int) -> None:
    """The same rings, by the next start: nothing is served twice, nothing is left out."""
    served = serve(disk, ring={"base": 65400, "features": EVERYTHING | RingFeature.EVENT_IDX})
    base = 65400
    for turn in range(200):
        request = served.blk(IN, turn % SECTORS, room=512, at=served.memory.regions[0].guest + (1 << 19))
        served.memory.next_free = served.memory.regions[0].guest + (1 << 18)
        served.ring.publish(request.head)
        if turn % 3:
            served.ring.kick()
        if turn % 2:
            base = served.queue.stop()
            served.start(base=base)
        else:
            served.ring.kick()
        assert served.collect(request)[0].data == sector_bytes(turn % SECTORS)
    assert served.queue.stop() == (65400 + 200) & 0xFFFF


def test_stops_under_load(serve: Serve, disk: int) -> None:
    """Everything before the base is given back, and nothing behind it; the rest is served after the next start."""
    served = serve(disk, ring={"size": 256})
    for turn in range(30):
        requests = [served.blk(OUT if i % 2 else IN, i, b"x" * 512 * (i % 2), 512 * (1 - i % 2)) for i in range(60)]
        first = served.ring.index
        served.ring.offer(*(request.head for request in requests))
        base = served.queue.stop()
        assert served.statistics()["in_flight"] == 0
        assert served.ring.used_index == base
        assert 0 <= (base - first) & 0xFFFF <= 60
        served.start(base=base)
        assert {outcome.status for outcome in served.collect(*requests)} == {OK}, turn
        served.memory.next_free = served.memory.regions[0].guest + (1 << 16)


def test_stops_wait_for_what_is_in_flight(serve: Serve, path: str) -> None:
    if path == "threads":
        pytest.skip("a system call at an offset takes no pipe")
    fd, device = os.pipe()
    served = serve(fd)
    request = served.blk(IN, 0, room=512)
    served.ring.offer(request.head)
    eventually(lambda: served.statistics()["in_flight"] == 1, "the read is under way")
    stopped = threading.Thread(target=served.queue.stop)
    stopped.start()
    other = serve(-1)
    assert other.do(FLUSH).status == OK
    assert stopped.is_alive()
    os.write(device, b"x" * 512)
    stopped.join(10)
    assert not stopped.is_alive()
    assert served.ring.used_index == 1
    os.close(fd)
    os.close(device)


def test_stops_a_queue_that_broke_while_requests_are_in_flight(serve: Serve, path: str) -> None:
    """What was taken before is given back, also to a ring that cannot be trusted."""
    if path == "threads":
        pytest.skip("a system call at an offset takes no pipe")
    fd, device = os.pipe()
    served = serve(fd)
    requests = [served.blk(IN, 0, room=512) for _ in range(3)]
    served.ring.offer(*(request.head for request in requests), served.ring.size)
    assert wait_readable(served.ring.error_fd)
    assert served.statistics()["in_flight"] == 3
    os.write(device, b"x" * 1536)
    assert {outcome.status for outcome in served.collect(*requests)} == {OK}
    assert served.queue.stop() == 4
    os.close(fd)
    os.close(device)


def test_more_in_flight_than_the_kernel_has_entries(serve: Serve, path: str) -> None:
    """256 submissions and 4096 completions are what io_uring was given; nothing that goes beyond is lost."""
    fd, device = os.pipe()
    memory = Memory(1 << 23)
    count = 1000
    rings = [serve(fd if path != "threads" else -1, ring={"size": 1024, "memory": memory}) for _ in range(5)]
    for served in rings:
        request, answer = memory.allocate(16), memory.allocate(1)
        memory.write(request, struct.pack("<IIQ", IN, 0, 0))
        for head in range(count):  # each a table of its own, with room of its own
            table, room = memory.allocate(48), memory.allocate(512)
            served.ring.link(0, [Piece(request, 16), Piece(room, 512, 2), Piece(answer, 1, 2)], table=table)
            served.ring.put_descriptor(head, table, 48, 4)
        served.ring.offer(*range(count))
    if path != "threads":
        eventually(lambda: all(s.statistics()["in_flight"] == count for s in rings), "all are in flight")
        for _ in range(5 * count // 100):
            os.write(device, bytes(512 * 100))
    for served in rings:
        assert sorted(head for head, _ in served.ring.wait(count)) == list(range(count))
        assert served.statistics()["errors"] == 0
    os.close(fd)
    os.close(device)


@pytest.mark.parametrize("kicks", [0, 1, 1000])
def test_stops_with_kicks_pending_and_none(serve: Serve, disk: int, kicks: int) -> None:
    served = serve(disk)
    for _ in range(50):
        for _ in range(kicks // 50 + (kicks == 1)):
            served.ring.kick()
        assert served.queue.stop() == 0
        served.start()
    assert served.read(1).data == sector_bytes(1)


def test_starts_twice_and_stops_what_never_ran(serve: Serve, reactor: Reactor) -> None:
    served = serve()
    with pytest.raises(ValueError, match="runs already"):
        served.start()
    assert Queue(reactor, Binding(-1, 8), 0).stop() == 0


def test_starts_again_and_again_without_leaks(serve: Serve, disk: int) -> None:
    served = serve(disk)
    served.queue.stop()
    files, tasks = open_files(), threads()
    for _ in range(300):
        served.ring.reset()
        served.start()
        assert served.do(FLUSH, at=served.memory.regions[0].guest + (1 << 19)).status == OK
        served.memory.next_free = served.memory.regions[0].guest + (1 << 18)
        served.queue.stop()
    assert open_files() <= files
    assert threads() <= tasks + 2  # a worker may have been made, here or by the kernel


def test_keeps_its_counters_over_restarts(serve: Serve, disk: int) -> None:
    served = serve(disk)
    for _ in range(3):
        served.read(0)
        served.queue.stop()
        served.ring.reset()
        served.start()
    assert served.statistics()["requests"]["read"] == 3


def test_nothing_waits_for_the_garbage_collector(reactor: Reactor) -> None:
    """Descriptors and mappings go with the last reference."""
    files = open_files()
    gc.disable()
    try:
        for _ in range(5):
            served = ServedRing(reactor, Binding(-1, 8))
            assert served.do(FLUSH).status == OK
            served.close()
            served.memory.close()
            del served
        left = len(list(Path("/proc/self/fd").iterdir()))
    finally:
        gc.enable()
    assert left == files


# Reactors


@pytest.mark.parametrize("io", PATHS)
def test_reactors_come_and_go_without_leaks(io: str) -> None:
    files, tasks = open_files(), threads()
    for _ in range(100):
        with reactor_on(io) as reactor:
            assert reactor.io_path == io
            reactor.round()
    assert (open_files(), threads()) == (files, tasks)


def test_takes_the_best_path_there_is() -> None:
    reactor = Reactor("auto")
    assert reactor.io_path in PATHS
    assert bool(reactor.io_reason) == (reactor.io_path != PATHS[0])
    reactor.close()
    reactor.close()
    reactor.round()


def test_an_io_path_that_nobody_knows() -> None:
    with pytest.raises(ValueError, match="no I/O path is called 'magic': one of auto, io_uring"):
        Reactor("x", io="magic")


def test_a_reactor_with_queues_is_not_closed(serve: Serve, reactor: Reactor) -> None:
    served = serve()
    with pytest.raises(RuntimeError, match="after its queues have stopped"):
        reactor.close()
    assert served.do(FLUSH).status == OK


def test_a_closed_reactor_starts_nothing(path: str) -> None:
    reactor = Reactor("test", io=path)
    served = ServedRing(reactor, Binding(-1, 8), run=False)
    reactor.close()
    files = open_files()
    with pytest.raises(ValueError, match="the reactor test is closed"):
        served.start()
    assert open_files() == files
    served.close()
    served.memory.close()


def test_as_many_queues_as_a_reactor_serves(serve: Serve, reactor: Reactor) -> None:
    memory = Memory(1 << 24)
    queues = [serve(ring={"memory": memory, "size": 2, "index": i}) for i in range(256)]
    one_more = ServedRing(reactor, Binding(-1, 8), memory=memory, size=2, run=False)
    with pytest.raises(ValueError, match="serves up to 256 queues"):
        one_more.start()
    for served in queues[::17]:
        assert served.do(FLUSH, cuts=[], room_cuts=[]).status == OK
    queues[100].queue.stop()
    one_more.start()
    assert one_more.do(FLUSH).status == OK
    one_more.close()


def run_program(program: str) -> subprocess.CompletedProcess[str]:
    """In an interpreter of its own, with what `served_ring` has."""
    start = f"import gc, os, sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\nfrom served_ring import *\n"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    arguments = [sys.executable, "-c", start + textwrap.dedent(program)]
    return subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False, timeout=30)


def test_a_running_queue_that_everybody_forgot_is_served(path: str) -> None:
    """Nothing that a reactor uses may be collected under it."""
    program = f"""
        served = ServedRing(Reactor("forgotten", io={path!r}), Binding(-1, 8))
        ring, head = served.ring, served.blk(FLUSH).head
        del served
        gc.collect()
        ring.offer(head)
        print(ring.wait(1)[0] == (head, 1))
    """
    run = run_program(program)
    assert (run.returncode, run.stdout) == (0, "True\n"), run.stderr


def test_the_interpreter_may_end_while_a_queue_is_served(path: str) -> None:
    """As after an error in the control plane: the process ends with its own status, not by a signal."""
    program = f"""
        served = ServedRing(Reactor("x", io={path!r}), Binding(os.memfd_create("disk"), 8), size=256)
        served.ring.publish(*(served.blk(IN, 0, room=512).head for _ in range(60)))
        served.ring.kick()
        sys.exit(3)
    """
    assert [run_program(program).returncode for _ in range(5)] == [3] * 5


def test_workers_are_few_and_made_when_needed(serve: Serve, path: str) -> None:
    fd = os.memfd_create("disk")
    os.ftruncate(fd, 1 << 20)
    served = serve(fd, 2048, ring={"size": 256}, write_zeroes=True, max_write_zeroes_sectors=2048)
    if path != "threads":
        served.read(0)
        assert workers() == 0
    payload = struct.pack("<QII", 0, 2048, 0)
    requests = [served.blk(RequestType.WRITE_ZEROES, 0, payload) for _ in range(60)]
    assert {outcome.status for outcome in served.run(*requests)} == {OK}
    assert 0 < workers() <= 10
    os.close(fd)


# Several threads of the control plane


def test_control_from_several_threads(serve: Serve, disk: int) -> None:
    """Each call is whole; what comes at a wrong time is refused and does no harm."""
    served, quiet = serve(disk), serve(disk)
    until = time.monotonic() + 0.5
    refused: list[str] = []

    def again(call: Callable[[], object]) -> threading.Thread:
        def run() -> None:
            while time.monotonic() < until:
                try:
                    call()
                except ValueError as error:
                    refused.append(str(error))

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    calls = [
        served.queue.stop,
        served.queue.stop,
        served.start,
        served.start,
        served.queue.statistics,
        lambda: served.queue.set_call(served.ring.call_fd),
        lambda: served.queue.set_error(-1),
        lambda: served.queue.set_memory(served.memory.table()),
        lambda: setattr(served.binding, "write_through", not served.binding.write_through),
        served.binding.take_events,
        served.queue.release_memory,
    ]
    started = [again(call) for call in calls]
    while time.monotonic() < until:
        assert quiet.read(3).data == sector_bytes(3)
        quiet.memory.next_free = quiet.memory.regions[0].guest + (1 << 16)
    for thread in started:
        thread.join(10)
        assert not thread.is_alive()
    assert set(refused) <= {"the queue runs already", "the queue does not run"}
    served.queue.stop()
    served.ring.reset()
    served.start()
    assert served.read(3).data == sector_bytes(3)


# Bindings


WRONG = {
    "an alignment of 0": ({"memory_alignment": 0}, "an alignment of 0 bytes"),
    "an alignment of 3": ({"offset_alignment": 3, "fd_unaligned": 0}, "an alignment of 3 bytes"),
    "nowhere for what is not aligned": ({"offset_alignment": 512}, "a second descriptor"),
    "no ranges": ({"max_segments": 0}, "0 ranges"),
    "too many ranges": ({"max_segments": 17}, "17 ranges in a request: 1 to 16"),
    "secure erase of nothing": ({"secure_erase_alignment_sectors": 0}, "alignment of 0 sectors"),
}


@pytest.mark.parametrize("what", WRONG)
def test_bindings_that_make_no_sense(what: str) -> None:
    options, words = WRONG[what]
    with pytest.raises(ValueError, match=words):
        Binding(-1, 8, **options)


@pytest.mark.parametrize("sectors", [2**54, 2**64 - 1])
def test_a_capacity_that_no_file_has(sectors: int) -> None:
    with pytest.raises(ValueError, match=f"a capacity of {sectors} sectors"):
        Binding(-1, sectors)
    binding = Binding(-1, 8)
    with pytest.raises(ValueError, match=f"a capacity of {sectors} sectors"):
        binding.capacity_sectors = sectors
    assert binding.capacity_sectors == 8


def test_a_volume_grows_while_it_is_served(serve: Serve, disk: int) -> None:
    served = serve(disk, 100)
    assert served.read(100).status != OK
    served.binding.capacity_sectors = SECTORS
    assert served.read(100).data == sector_bytes(100)
    with pytest.raises(ValueError, match="only grow"):
        served.binding.capacity_sectors = 100


def test_events_are_announced_once(serve: Serve, disk: int) -> None:
    served = serve(disk)
    fd = served.binding.event_fd
    assert not wait_readable(fd, 0)
    served.binding.inject_fault("read", errno.EIO)
    served.read(0)
    assert wait_readable(fd)
    assert served.events() == {"io-error": os.strerror(errno.EIO)}
    assert not wait_readable(fd, 0)
    served.read(0)
    assert wait_readable(fd)


def test_says_what_was_compiled_in() -> None:
    assert set(versions()) == {"cython", "liburing", "compiler"}
    assert all(versions().values())
