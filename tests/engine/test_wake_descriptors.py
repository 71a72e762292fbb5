"""Kick, call and error descriptors of every kind and in every state (HOSTILE row "descriptors of the host")."""

import os
import select
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from hand_made_ring import eventually, wait_readable
from served_ring import IN, OK, ServedRing, assert_sleeps, sector_bytes, wait_asleep

from virtflash.engine.reactor import check_wake_descriptor

Serve = Callable[..., ServedRing]
EVENTFD_MAX = 2**64 - 2


class Line(NamedTuple):
    """What one side writes and the other reads; the same descriptor twice for an eventfd."""

    reads: int
    writes: int
    token: bytes

    def send(self) -> None:
        os.write(self.writes, self.token)


def eventfd(flags: int) -> Line:
    fd = os.eventfd(0, flags)
    return Line(fd, fd, (1).to_bytes(8, "little"))


def pipe(blocking: bool) -> Line:
    reads, writes = os.pipe()
    for fd in (reads, writes):
        os.set_blocking(fd, blocking)
    return Line(reads, writes, b"!")


def sockets(kind: socket.SocketKind, blocking: bool) -> Line:
    pair = socket.socketpair(socket.AF_UNIX, kind)
    for end in pair:
        end.setblocking(blocking)
    return Line(pair[0].detach(), pair[1].detach(), b"!")


KINDS = {
    "eventfd": lambda: eventfd(0),
    "eventfd, non-blocking": lambda: eventfd(os.EFD_NONBLOCK),
    "eventfd, semaphore": lambda: eventfd(os.EFD_SEMAPHORE),
    "pipe": lambda: pipe(True),
    "pipe, non-blocking": lambda: pipe(False),
    "stream": lambda: sockets(socket.SOCK_STREAM, True),
    "stream, non-blocking": lambda: sockets(socket.SOCK_STREAM, False),
    "datagrams": lambda: sockets(socket.SOCK_DGRAM, True),
    "packets, non-blocking": lambda: sockets(socket.SOCK_SEQPACKET, False),
}


@pytest.fixture(params=KINDS)
def line(request: pytest.FixtureRequest) -> Iterator[Line]:
    made = KINDS[request.param]()
    yield made
    for fd in set(made[:2]):
        os.close(fd)


@pytest.fixture
def idle(serve: Serve, disk: int) -> ServedRing:
    """A ring that does not run yet."""
    return serve(disk, ring={"run": False})


# Kicks


def test_wakes_by_every_kind_of_kick(idle: ServedRing, line: Line) -> None:
    idle.start(kick=line.reads)
    for sector in range(30):
        idle.ring.publish(idle.blk(IN, sector, room=512).head)
        if sector % 3 == 0:
            wait_asleep(idle.reactor)
        line.send()
        (used,) = idle.ring.wait(1)
        assert idle.outcome(*used) == (OK, 513, sector_bytes(sector))
    assert_sleeps(idle.reactor)
    assert 1 <= idle.statistics()["kicks"] <= 30


def test_counts_each_kick_once(idle: ServedRing, line: Line) -> None:
    idle.start(kick=line.reads)
    for made in range(1, 11):
        wait_asleep(idle.reactor)
        line.send()
        eventually(lambda made=made: idle.statistics()["kicks"] == made, f"{made} kicks are counted")
    assert_sleeps(idle.reactor)
    assert idle.statistics()["kicks"] == 10


@pytest.mark.parametrize("blocking", [False, True])
def test_kick_descriptors_whose_flags_change_while_they_are_in_use(
    idle: ServedRing, line: Line, blocking: bool
) -> None:
    idle.start(kick=line.reads)
    for sector in range(12):
        os.set_blocking(line.reads, blocking == bool(sector & 1))
        idle.ring.publish(idle.blk(IN, sector, room=512).head)
        line.send()
        (used,) = idle.ring.wait(1)
        assert idle.outcome(*used).data == sector_bytes(sector)


def test_kicks_that_somebody_else_takes(idle: ServedRing, line: Line) -> None:
    """The front end still has the descriptor. A read that waits for what was announced would stop everything."""
    idle.start(kick=line.reads)
    os.set_blocking(line.reads, False)
    for _ in range(300):
        line.send()
        try:
            os.read(line.reads, 8)
        except BlockingIOError:
            continue
    idle.reactor.round()
    idle.ring.publish(idle.blk(IN, 3, room=512).head)
    line.send()
    (used,) = idle.ring.wait(1)
    assert idle.outcome(*used).data == sector_bytes(3)


def test_a_pipe_of_kicks_never_stays_full(idle: ServedRing) -> None:
    with ExitStack() as stack:
        line = pipe(False)
        for fd in line[:2]:
            stack.callback(os.close, fd)
        idle.start(kick=line.reads)
        for _ in range(5):
            try:
                while True:
                    os.write(line.writes, bytes(4096))
            except BlockingIOError:
                pass
            poll = select.poll()
            poll.register(line.writes, select.POLLOUT)
            assert poll.poll(10_000), "nobody empties the pipe"


def ended(line: Line) -> list[int]:
    os.close(line.writes)
    return [line.reads]


def connected() -> list[int]:
    return [socket.socket(socket.AF_UNIX).detach()]


def listening() -> list[int]:
    listener, client = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    listener.bind(f"\0virtflash-test-{os.getpid()}")
    listener.listen()
    client.connect(listener.getsockname())
    return [listener.detach(), client.detach()]


# The first descriptor is the kick's.
LOST = {
    "a pipe at its end": lambda: ended(pipe(True)),
    "a stream at its end": lambda: ended(sockets(socket.SOCK_STREAM, True)),
    "a stream at its end, non-blocking": lambda: ended(sockets(socket.SOCK_STREAM, False)),
    "packets at their end": lambda: ended(sockets(socket.SOCK_SEQPACKET, False)),
    "a socket that is not connected": connected,
    "a socket that listens": listening,
}


@pytest.mark.parametrize("what", LOST)
def test_a_kick_descriptor_that_will_never_kick(serve: Serve, disk: int, what: str) -> None:
    """It is told once, the reactor does not go round in circles over it, and others are served."""
    broken, other = serve(disk, ring={"run": False}), serve(disk)
    descriptors = LOST[what]()
    broken.start(kick=descriptors[0])
    assert wait_readable(broken.binding.event_fd), "nobody was told"
    assert list(broken.events()) == ["kick-lost"]
    assert_sleeps(broken.reactor)
    assert other.read(9).data == sector_bytes(9)
    assert broken.events() == {}
    broken.queue.stop()
    broken.start()
    assert broken.read(3).data == sector_bytes(3)
    for fd in descriptors:
        os.close(fd)


def test_one_kick_for_two_queues(serve: Serve, disk: int) -> None:
    one, two = serve(disk), serve(disk, ring={"run": False})
    two.start(kick=one.ring.kick_fd)
    for served in (one, two):
        served.ring.publish(served.blk(IN, 1, room=512).head)
    one.ring.kick()
    for served in (one, two):
        assert served.outcome(*served.ring.wait(1)[0]).data == sector_bytes(1)
    assert_sleeps(one.reactor)


def test_one_descriptor_to_kick_and_to_call(idle: ServedRing) -> None:
    idle.start(call=idle.ring.kick_fd)
    idle.ring.offer(idle.blk(IN, 1, room=512).head)
    eventually(lambda: idle.ring.used_index == 1, "the request comes back")
    assert_sleeps(idle.reactor)


# Calls


def test_calls_by_every_kind_of_descriptor(idle: ServedRing, line: Line) -> None:
    idle.start(call=line.writes)
    assert wait_readable(line.reads), "a new descriptor is signalled once"
    os.read(line.reads, 8)
    for sector in range(5):
        idle.ring.offer(idle.blk(IN, sector, room=512).head)
        assert wait_readable(line.reads)
        os.read(line.reads, 8)
        assert idle.ring.used_index == sector + 1


def fill(line: Line) -> None:
    os.set_blocking(line.writes, False)
    try:
        while True:
            os.write(line.writes, EVENTFD_MAX.to_bytes(8, "little") if line.reads == line.writes else bytes(1024))
    except BlockingIOError:
        pass


@pytest.mark.parametrize("blocking", [False, True])
def test_a_full_descriptor_stops_nothing(serve: Serve, disk: int, line: Line, blocking: bool) -> None:
    full, other = serve(disk, ring={"run": False}), serve(disk)
    fill(line)
    os.set_blocking(line.writes, blocking)
    full.start(call=line.writes, error=line.writes)
    for sector in range(10):
        full.ring.offer(full.blk(IN, sector, room=512).head)
        eventually(lambda sector=sector: full.ring.used_index == sector + 1, "the request comes back")
        assert other.read(sector).status == OK
    full.queue.set_call(line.writes)
    full.ring.offer(full.ring.size)
    assert wait_readable(full.binding.event_fd)
    assert full.queue.broken
    assert other.read(0).status == OK


def test_a_pipe_keeps_its_flags(idle: ServedRing) -> None:
    """They are the front end's. An eventfd's are changed, since there is no other way not to wait for it."""
    with ExitStack() as stack:
        line = pipe(True)
        for fd in line[:2]:
            stack.callback(os.close, fd)
        idle.start(call=line.writes)
        assert os.get_blocking(line.writes)
        fill(line)
        os.set_blocking(line.writes, True)
        assert idle.do(IN, 0, room=512).status == OK if wait_readable(idle.ring.call_fd, 0) else True
        idle.ring.offer(idle.blk(IN, 0, room=512).head)
        eventually(lambda: idle.ring.used_index == 1, "the request comes back")


NO_READER = """
    import os, signal, socket, sys
    sys.path.insert(0, {here!r})
    from served_ring import *
    from hand_made_ring import eventually
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    kind, path = sys.argv[1:]
    if kind == "pipe":
        reads, writes = os.pipe()
    else:
        reads, writes = (end.detach() for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM))
    os.close(reads)
    with reactor_on(path) as reactor:
        served = ServedRing(reactor, Binding(-1, 8), run=False)
        served.start(call=writes, error=writes)
        served.queue.set_call(writes)
        served.ring.offer(served.blk(IN, 0, room=512).head)
        eventually(lambda: served.ring.used_index == 1, "the request comes back")
        served.ring.offer(served.ring.size)
        eventually(lambda: served.queue.broken, "the queue stops")
        served.close()
    print("alive")
"""


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_nobody_reads_the_calls_any_more(path: str, kind: str) -> None:
    """A write to such a pipe or socket raises SIGPIPE, which ends a process that does not ignore it."""
    program = textwrap.dedent(NO_READER.format(here=str(Path(__file__).parent)))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(
        [sys.executable, "-c", program, kind, path], env=environment, capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout) == (0, "alive\n"), f"{signal.Signals(-run.returncode)}: {run.stderr}"


def test_without_a_call_descriptor_nobody_is_interrupted(idle: ServedRing) -> None:
    idle.start(call=-1)
    idle.ring.offer(idle.blk(IN, 0, room=512).head)
    eventually(lambda: idle.ring.used_index == 1, "the request comes back")
    statistics = idle.statistics()
    assert (statistics["interrupts"], statistics["interrupts_suppressed"], idle.ring.interrupts()) == (0, 1, 0)
    idle.queue.set_call(idle.ring.call_fd)
    assert wait_readable(idle.ring.call_fd), "a completion may have gone to the old one"
    idle.queue.set_call(-1)
    idle.ring.interrupts()
    idle.ring.offer(idle.blk(IN, 0, room=512).head)
    eventually(lambda: idle.ring.used_index == 2, "the request comes back")
    assert idle.ring.interrupts() == 0


def test_an_error_descriptor_that_comes_late(serve: Serve, disk: int) -> None:
    served = serve(disk, ring={"run": False})
    served.start(error=-1)
    served.queue.set_error(served.ring.error_fd)
    served.ring.offer(served.ring.size)
    assert wait_readable(served.ring.error_fd)


# What can wake nobody


def directory() -> int:
    return os.open("/", os.O_RDONLY)


def epoll() -> int:
    with select.epoll() as poll:
        return os.dup(poll.fileno())


REFUSED = {
    "a file": lambda: os.memfd_create("file"),
    "a directory": directory,
    "a device": lambda: os.open("/dev/zero", os.O_RDWR),
    "epoll": epoll,
    "a process": lambda: os.pidfd_open(os.getpid()),
}


@pytest.mark.parametrize("role", ["kick", "call", "error"])
@pytest.mark.parametrize("what", REFUSED)
def test_refuses_what_wakes_nobody(idle: ServedRing, what: str, role: str) -> None:
    fd = REFUSED[what]()
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(ValueError, match=f"the {role} descriptor is no eventfd, pipe or socket"):
        idle.start(**{role: fd})
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
    os.close(fd)
    assert not idle.queue.running
    idle.start()
    assert idle.read(0).status == OK
    with pytest.raises(OSError, match="Bad file descriptor"):
        check_wake_descriptor(-1, role)
