"""Descriptors of the host that are of another kind than they should be, full, at their maximum, blocking, or twice."""

import contextlib
import os
import select
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from attacked_server import Attack, on_files_and_flash
from chains import SECTOR

from virtflash.driver.blk import BlkDriver
from virtflash.driver.errors import DeadlineError, QueueStoppedError
from virtflash.driver.split_queue import ONE
from virtflash.vhost_user.messages import U64, VERSION, VRING_NO_FD, VRING_STATE, Message, Request
from virtflash.virtio.blk import RequestType, Status

FULL = (1 << 64) - 2  # the most that an eventfd can hold: one more blocks
ROLES = [Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR, Request.SET_BACKEND_REQ_FD]
SAYS = "(SET_VRING_(KICK|CALL|ERR|ENABLE)|SET_BACKEND_REQ_FD) refused: |kick descriptor is closed or cannot be read"
Open = Callable[[ExitStack, Path], int]


def opened(stack: ExitStack, fd: int) -> int:
    stack.callback(os.close, fd)
    return fd


def fill(fd: int) -> int:
    """Write until there is no room; then let it block those that write."""
    os.set_blocking(fd, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(fd, bytes(4096))
    os.set_blocking(fd, True)
    return fd


def pipe(end: int, *, full: bool = False, alone: bool = False) -> Open:
    """`alone`: the other end is closed."""

    def make(stack: ExitStack, _: Path) -> int:
        ends = os.pipe()
        if alone:
            os.close(ends[1 - end])
        else:
            opened(stack, ends[1 - end])
        opened(stack, ends[end])
        return fill(ends[end]) if full else ends[end]

    return make


def sockets(kind: socket.SocketKind, *, full: bool = False) -> Open:
    def make(stack: ExitStack, _: Path) -> int:
        ours, theirs = (stack.enter_context(end) for end in socket.socketpair(socket.AF_UNIX, kind))
        stack.push(lambda *_: ours.close())
        return fill(theirs.fileno()) if full else theirs.fileno()

    return make


def eventfd(value: int, flags: int = 0) -> Open:
    def make(stack: ExitStack, _: Path) -> int:
        fd = opened(stack, os.eventfd(0, flags))
        os.write(fd, value.to_bytes(8, "little"))
        return fd

    return make


def epoll(stack: ExitStack, _: Path) -> int:
    poll = select.epoll()
    stack.callback(poll.close)
    return poll.fileno()


def listening(stack: ExitStack, path: Path) -> int:
    sock = stack.enter_context(socket.socket(socket.AF_UNIX))
    sock.bind(str(path / "listening"))
    sock.listen()
    return sock.fileno()


def fifo(stack: ExitStack, path: Path) -> int:
    os.mkfifo(path / "fifo")
    return opened(stack, os.open(path / "fifo", os.O_RDWR))


def terminal(stack: ExitStack, _: Path) -> int:
    first, second = os.openpty()
    opened(stack, first)
    return opened(stack, second)


def plain_file(stack: ExitStack, path: Path) -> int:
    (path / "file").write_bytes(b"content")
    return opened(stack, os.open(path / "file", os.O_RDWR))


KINDS: dict[str, Open] = {
    "file": plain_file,
    "directory": lambda stack, path: opened(stack, os.open(path, os.O_RDONLY)),
    "path": lambda stack, path: opened(stack, os.open(path, os.O_PATH)),
    "memory file": lambda stack, _: opened(stack, os.memfd_create("memory")),
    "/dev/null": lambda stack, _: opened(stack, os.open("/dev/null", os.O_RDWR)),
    "/dev/zero": lambda stack, _: opened(stack, os.open("/dev/zero", os.O_RDWR)),
    "terminal": terminal,
    "epoll": epoll,
    "process": lambda stack, _: opened(stack, os.pidfd_open(os.getpid())),
    "fifo": fifo,
    "pipe to read": pipe(0),
    "pipe to write": pipe(1),
    "full pipe to write": pipe(1, full=True),
    "pipe that nobody writes": pipe(0, alone=True),
    "pipe that nobody reads": pipe(1, alone=True),
    "stream socket": sockets(socket.SOCK_STREAM),
    "full stream socket": sockets(socket.SOCK_STREAM, full=True),
    "datagram socket": sockets(socket.SOCK_DGRAM),
    "full datagram socket": sockets(socket.SOCK_DGRAM, full=True),
    "listening socket": listening,
    "network socket": lambda stack, _: stack.enter_context(socket.socket(socket.AF_INET)).fileno(),
    "full eventfd": eventfd(FULL),
    "full eventfd that does not block": eventfd(FULL, os.EFD_NONBLOCK),
    "semaphore": eventfd(5, os.EFD_SEMAPHORE),
    "full semaphore": eventfd(FULL, os.EFD_SEMAPHORE),
}


def poke(fd: int) -> None:
    """Kick, if that is possible without waiting."""
    with contextlib.suppress(OSError):
        if select.select([], [fd], [], 0)[1]:
            os.write(fd, ONE)


def start_with(driver: BlkDriver, role: Request, fd: int) -> None:
    """Start the ring with one descriptor that is not the driver's."""
    queue, front_end = driver.queues[0], driver.front_end
    fds = {
        Request.SET_VRING_CALL: queue.call_fd,
        Request.SET_VRING_ERR: queue.error_fd,
        Request.SET_BACKEND_REQ_FD: None,
        Request.SET_VRING_KICK: queue.kick_fd,
        role: fd,
    }
    user = driver.memory.user_address
    front_end.set_vring_size(0, queue.size)
    front_end.set_vring_address(0, user(queue.descriptors), user(queue.available), user(queue.used))
    for request, given in fds.items():
        if given is not None:
            front_end.acknowledged(request, b"" if request == Request.SET_BACKEND_REQ_FD else U64.pack(0), [given])
    front_end.acknowledged(Request.SET_VRING_ENABLE, VRING_STATE.pack(0, 1))


def use(attack: Attack, driver: BlkDriver, kick_fd: int) -> None:
    """Requests that end well, or not at all where the server is deaf; what matters is that nobody else has to wait."""
    queue = driver.queues[0]
    queue.used_event = queue.last_used  # interrupts are wanted
    pending = [driver.submit(RequestType.IN, i, room=SECTOR, kick=False) for i in range(10)]
    poke(kick_fd)
    attack.server.check_bystander()
    driver.front_end.round_trip()
    with contextlib.suppress(DeadlineError):
        for each in pending:
            assert driver.complete(each, timeout=0.02, poll=True).status == Status.OK
    queue.publish(1000)  # no head: the ring stops, and its error is signalled
    poke(kick_fd)
    attack.may_say("ring 0 stopped: a head beyond the ring")
    attack.server.check_bystander()
    driver.front_end.round_trip()


@on_files_and_flash
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("role", ROLES)
def test_kind(attack: Attack, role: Request, kind: str, tmp_path: Path) -> None:
    """Descriptors of the host: call, kick, error and back-end-request descriptors of another kind, full, blocking."""
    attack.may_say(SAYS)
    driver = attack.driver()
    with ExitStack() as stack:
        fd = KINDS[kind](stack, tmp_path)
        driver.front_end.acknowledged(role, b"" if role == Request.SET_BACKEND_REQ_FD else U64.pack(0), [fd])
        use(attack, driver, fd if role == Request.SET_VRING_KICK else driver.queues[0].kick_fd)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("role", ROLES)
def test_kind_from_the_start(attack: Attack, role: Request, kind: str, tmp_path: Path) -> None:
    """Descriptors of the host: the same, before the ring runs: it may not start, or runs as well as it can."""
    attack.may_say(SAYS)
    driver = attack.driver(start=False)
    driver.negotiate()
    driver.share_memory()
    driver.make_queues()
    with ExitStack() as stack:
        fd = KINDS[kind](stack, tmp_path)
        start_with(driver, role, fd)
        use(attack, driver, fd if role == Request.SET_VRING_KICK else driver.queues[0].kick_fd)


SIGNALLED = {"call": Request.SET_VRING_CALL, "error": Request.SET_VRING_ERR}
BLOCKING: dict[str, Open] = {
    "eventfd": KINDS["full eventfd"],
    "pipe": KINDS["full pipe to write"],
    "stream socket": KINDS["full stream socket"],
    "datagram socket": KINDS["full datagram socket"],
}


@on_files_and_flash
@pytest.mark.parametrize("kind", BLOCKING)
@pytest.mark.parametrize("role", SIGNALLED)
def test_descriptor_made_blocking_again(attack: Attack, role: str, kind: str, tmp_path: Path) -> None:
    """Descriptors of the host: full, and made to block once the server has it: flags are shared by all who have it."""
    driver = attack.driver()
    with ExitStack() as stack:
        fd = BLOCKING[kind](stack, tmp_path)
        assert driver.front_end.acknowledged(SIGNALLED[role], U64.pack(0), [fd]) == 0
        os.set_blocking(fd, True)
        use(attack, driver, driver.queues[0].kick_fd)


@contextmanager
def flickering(fd: int) -> Iterator[None]:
    """Somebody else fills a descriptor, empties it, and makes it block all the while, in a process of its own."""
    code = (
        "import os,sys\n"
        f"fd = {fd}\n"
        "while True:\n"
        "    os.set_blocking(fd, False)\n"
        "    try:\n"
        f"        os.write(fd, ({FULL}).to_bytes(8, 'little'))\n"
        "    except BlockingIOError:\n"
        "        os.set_blocking(fd, True)\n"
        "        os.set_blocking(fd, False)\n"
        "        os.read(fd, 8)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], pass_fds=[fd])
    yield
    process.kill()
    process.wait()


@on_files_and_flash
def test_call_that_fills_and_blocks_at_any_moment(attack: Attack) -> None:
    """Descriptors of the host: a call descriptor that is full, empty, blocking and not, in turn and at any moment."""
    driver = attack.driver()
    fd = os.eventfd(0)
    driver.front_end.set_vring_call(0, fd)
    with flickering(fd):
        for turn in range(300):
            driver.queues[0].used_event = driver.queues[0].last_used
            driver.complete(driver.submit(RequestType.IN, turn, room=SECTOR), poll=True).check()
    os.close(fd)


PAIRS = [
    (Request.SET_VRING_KICK, Request.SET_VRING_CALL),
    (Request.SET_VRING_KICK, Request.SET_VRING_ERR),
    (Request.SET_VRING_CALL, Request.SET_VRING_ERR),
]


@on_files_and_flash
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("kind", ["eventfd", "stream socket"])
def test_same_descriptor_twice(attack: Attack, pair: tuple[Request, Request], kind: str, tmp_path: Path) -> None:
    """Descriptors of the host: the same one twice: the server signals itself, or two things with one signal."""
    driver = attack.driver()
    with ExitStack() as stack:
        fd = (eventfd(0) if kind == "eventfd" else KINDS[kind])(stack, tmp_path)
        attack.may_say(SAYS)
        for role in pair:
            driver.front_end.acknowledged(role, U64.pack(0), [fd])
        use(attack, driver, fd if Request.SET_VRING_KICK in pair else driver.queues[0].kick_fd)


@on_files_and_flash
@pytest.mark.parametrize("role", ROLES)
def test_own_connection(attack: Attack, role: Request) -> None:
    """Descriptors of the host: the front end's own end of the connection: what the server signals, it reads itself."""
    driver = attack.driver()
    attack.may_say(f"front end dropped: |{SAYS}")
    payload = b"" if role == Request.SET_BACKEND_REQ_FD else U64.pack(0)
    driver.front_end.send(Message(role, payload, VERSION, [driver.front_end.fileno()]))
    driver.queues[0].used_event = 0
    driver.submit(RequestType.IN, room=SECTOR)
    attack.server.check_bystander()


@on_files_and_flash
def test_kick_that_somebody_else_reads(attack: Attack) -> None:
    """Descriptors of the host: a kick that is gone again when the server comes to read it, which would wait."""
    driver = attack.driver()
    ours, theirs = os.pipe()
    driver.front_end.set_vring_kick(0, ours)
    attack.may_say(SAYS)
    code = f"import os\nwhile True:\n    os.read({ours}, 1)\n"
    process = subprocess.Popen([sys.executable, "-c", code], pass_fds=[ours])
    for turn in range(300):
        pending = driver.submit(RequestType.IN, turn, room=SECTOR, kick=False)
        os.write(theirs, ONE * 4)
        with contextlib.suppress(DeadlineError):
            driver.complete(pending, timeout=0.02)
    attack.server.check_bystander()
    process.kill()
    process.wait()
    os.close(theirs)
    os.close(ours)


@on_files_and_flash
@pytest.mark.parametrize("role", SIGNALLED)
def test_signals_without_a_descriptor(attack: Attack, role: str) -> None:
    """Descriptors of the host: none at all: the ring is served, and nobody told."""
    driver = attack.driver()
    driver.front_end.command(SIGNALLED[role], U64.pack(VRING_NO_FD))
    driver.complete(driver.submit(RequestType.IN, room=SECTOR), poll=True).check()
    driver.queues[0].publish(1000)
    pending = driver.submit(RequestType.IN, room=SECTOR)
    with pytest.raises((DeadlineError, QueueStoppedError)):
        driver.complete(pending, timeout=0.05)
    attack.may_say("ring 0 stopped: a head beyond the ring")
