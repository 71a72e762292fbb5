"""A hand-made ring that a reactor serves, and block requests through it, framed in any way."""

import os
import select
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from hand_made_ring import WRITE, Memory, Piece, Ring, eventually, header

from virtflash.engine import Binding, MemoryTable, Queue, Reactor
from virtflash.virtio.blk import SECTOR_BYTES, BlkFeature, RequestType, Status
from virtflash.virtio.ring_features import RingFeature

SECTORS = 256  # of a disk, unless said otherwise
PATHS = ("io_uring", "io_uring-plain", "threads")
UNANSWERED = 0x55  # in the status byte until the device writes it
ALL_TYPES = BlkFeature.DISCARD | BlkFeature.WRITE_ZEROES | BlkFeature.SECURE_ERASE | BlkFeature.LIFETIME
EVERYTHING = ALL_TYPES | RingFeature.INDIRECT_DESC

IN, OUT, FLUSH, GET_ID = RequestType.IN, RequestType.OUT, RequestType.FLUSH, RequestType.GET_ID
OK, IOERR, UNSUPP = Status.OK, Status.IOERR, Status.UNSUPP


class Outcome(NamedTuple):
    """What a driver sees of a finished request. `length`: the used length; `data`: all device-writable bytes before
    the status, written or not."""

    status: int
    length: int
    data: bytes


@dataclass
class Request:
    """A request in memory, framed. `status`, `room`: guest addresses; `writable`: bytes, the status included."""

    head: int
    room: int
    writable: int

    @property
    def status(self) -> int:
        return self.room + self.writable - 1


def split(address: int, length: int, cuts: Sequence[int], flags: int = 0) -> list[Piece]:
    """A buffer in several descriptors: cut behind so many bytes."""
    edges = [0, *sorted(cut for cut in cuts if 0 < cut < length), length]
    return [Piece(address + start, end - start, flags) for start, end in pairwise(edges)]


class ServedRing:
    """`queue` serves `ring` in `memory` for `binding` on `reactor`. Closed in that order."""

    def __init__(
        self,
        reactor: Reactor,
        binding: Binding,
        *,
        memory: Memory | None = None,
        size: int = 64,
        base: int = 0,
        features: int = EVERYTHING,
        index: int = 0,
        run: bool = True,
    ) -> None:
        self.reactor, self.binding, self.features = reactor, binding, features
        self.memory = memory or Memory()
        self.ring = Ring(self.memory, size, base=base, event_idx=bool(features & RingFeature.EVENT_IDX))
        self.queue = Queue(reactor, binding, index)
        self.requests: dict[int, Request] = {}
        binding.negotiate(features)
        if run:
            self._start_or_close(base)

    def start(self, *, base: int = 0, table: MemoryTable | None = None, **others: Any) -> None:
        ring = self.ring
        places = {name: ring.user(getattr(ring, name)) for name in ("descriptors", "available", "used")}
        descriptors = {"kick": ring.kick_fd, "call": ring.call_fd, "error": ring.error_fd}
        arguments = {"size": ring.size, "base": base, "features": self.features, **places, **descriptors, **others}
        self.queue.start(table or self.memory.table(), **arguments)

    def _start_or_close(self, base: int) -> None:
        try:
            self.start(base=base)
        except BaseException:
            self.ring.close()
            raise

    def close(self) -> None:
        self.queue.stop()
        self.ring.close()

    def put_away(self) -> None:
        """With the memory that it has by then."""
        self.close()
        self.memory.close()

    # Requests

    def prepare(
        self,
        readable: bytes,
        writable: int,
        *,
        cuts: Sequence[int] = (),
        room_cuts: Sequence[int] = (),
        indirect: bool = False,
        at: int | None = None,
        alignment: int = 16,
    ) -> Request:
        """Put a request in memory: its readable bytes, then room for `writable` ones, the status included. `at`: where
        the payload behind the header and the room for data lie; by default in space of their own."""
        source = self.memory.allocate(len(readable)) if readable else 0
        room = self.memory.allocate(writable, alignment) if at is None else at
        if readable:
            self.memory.write(source, readable)
        pieces = split(source, len(readable), cuts) if readable else []
        if writable:
            self.memory.write(room + writable - 1, bytes([UNANSWERED]))
            pieces += split(room, writable, room_cuts, WRITE)
        head = self.ring.indirect_chain(pieces) if indirect else self.ring.chain(pieces)
        request = Request(head, room, writable)
        self.requests[head] = request
        return request

    def blk(self, request_type: int, sector: int = 0, payload: bytes = b"", room: int = 0, **framing: Any) -> Request:
        """A block request in the usual three parts, unless framed otherwise."""
        usual = {"cuts": [16], "room_cuts": [room]}
        return self.prepare(header(request_type, sector) + payload, room + 1, **{**usual, **framing})

    def outcome(self, head: int, length: int) -> Outcome:
        request = self.requests.pop(head)
        data = self.memory.read(request.room, request.writable) if request.writable else b""
        return Outcome(data[-1] if data else UNANSWERED, length, data[:-1])

    def run(self, *requests: Request) -> list[Outcome]:
        """Offer all at once, wait for all; outcomes in the order in which they were offered."""
        self.ring.offer(*(request.head for request in requests))
        return self.collect(*requests)

    def collect(self, *requests: Request) -> list[Outcome]:
        used = dict(self.ring.wait(len(requests)))
        return [self.outcome(request.head, used[request.head]) for request in requests]

    def do(self, request_type: int, sector: int = 0, payload: bytes = b"", room: int = 0, **framing: Any) -> Outcome:
        return self.run(self.blk(request_type, sector, payload, room, **framing))[0]

    def read(self, sector: int, sectors: int = 1) -> Outcome:
        return self.do(IN, sector, room=sectors * SECTOR_BYTES)

    def write(self, sector: int, data: bytes) -> Outcome:
        return self.do(OUT, sector, data)

    # What the operator sees

    def statistics(self) -> dict[str, Any]:
        return dict(self.queue.statistics())

    def events(self) -> dict[str, str]:
        """Kinds of what happened since the last look, with the detail of each."""
        return {event["kind"]: event["detail"] for event in self.binding.take_events()}


@contextmanager
def reactor_on(path: str) -> Iterator[Reactor]:
    reactor = Reactor("test", io=path)
    yield reactor
    reactor.close()


def thread_of(reactor: Reactor) -> Path:
    """In /proc. Its workers were made later, and have its name too."""
    return min(threads_called(reactor.name), key=lambda task: int(task.name))


def threads_called(name: str) -> list[Path]:
    """In /proc; some of all threads may be gone before they are looked at."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):
            if (task / "comm").read_text().strip() == name:
                found.append(task)
    return found


def processor_seconds(reactor: Reactor) -> float:
    return int((thread_of(reactor) / "schedstat").read_text().split()[0]) / 1e9


def wait_asleep(reactor: Reactor) -> None:
    thread = thread_of(reactor)
    eventually(lambda: (thread / "stat").read_text().rsplit(")", 1)[1].split()[0] == "S", "the reactor sleeps")


def assert_sleeps(reactor: Reactor, seconds: float = 0.05) -> None:
    """For some time nothing wakes it. What is still on its way, such as a kick that came late, may do so before."""
    for _ in range(10):
        wait_asleep(reactor)
        wakeups, used = reactor.wakeups, processor_seconds(reactor)
        select.select([], [], [], seconds)
        if wakeups == reactor.wakeups:
            break
    assert wakeups == reactor.wakeups
    assert processor_seconds(reactor) - used <= seconds / 5


def make_disk(path: Path, sectors: int) -> int:
    """A file in which every sector says its number; its descriptor."""
    path.write_bytes(b"".join(sector_bytes(number) for number in range(sectors)))
    return os.open(path, os.O_RDWR)


def sector_bytes(number: int) -> bytes:
    return number.to_bytes(8, "little") * (SECTOR_BYTES // 8)


def sectors_bytes(first: int, count: int) -> bytes:
    return b"".join(sector_bytes(first + i) for i in range(count))
