"""A split ring written by hand, field by field with `struct`, and the guest memory it lies in.

Memory is a file that is read and written by system calls only: tests truncate it, and must survive that themselves.
"""

import os
import select
import struct
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

from virtflash.engine import Mapping, MemoryTable

GUEST, USER = 0x4000_0000, 0x7000_0000_0000
NEXT, WRITE, INDIRECT = 1, 2, 4
SECONDS = 10.0  # after which what should have happened is taken not to happen any more


class Piece(NamedTuple):
    """A descriptor to be: guest address, bytes, flags without NEXT."""

    address: int
    length: int
    flags: int = 0


class Region(NamedTuple):
    guest: int
    size: int
    offset: int  # in the file


class Memory:
    """Guest memory: regions of one file. Addresses are the guest's."""

    def __init__(self, size: int = 1 << 20, *, regions: Sequence[Region] | None = None, fd: int = -1) -> None:
        self.regions = list(regions or [Region(GUEST, size, 0)])
        self.fd = os.memfd_create("guest") if fd < 0 else fd
        os.ftruncate(self.fd, max(region.offset + region.size for region in self.regions))
        self.next_free = self.regions[0].guest

    def close(self) -> None:
        """Once is enough, also where rings share it."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def mappings(self, user: int = USER) -> list[Mapping]:
        return [
            Mapping(
                self.fd,
                guest_address=region.guest,
                size=region.size,
                user_address=user + region.guest - self.regions[0].guest,
                offset=region.offset,
            )
            for region in self.regions
        ]

    def table(self, user: int = USER) -> MemoryTable:
        return MemoryTable(self.mappings(user))

    def offset(self, address: int) -> int:
        """Where in the file a guest address lies."""
        region = next(region for region in self.regions if 0 <= address - region.guest < region.size)
        return region.offset + address - region.guest

    def write(self, address: int, data: bytes) -> None:
        assert os.pwrite(self.fd, data, self.offset(address)) == len(data)

    def read(self, address: int, length: int) -> bytes:
        return os.pread(self.fd, length, self.offset(address))

    def allocate(self, length: int, alignment: int = 16) -> int:
        """Space in the first region that nobody else uses; never given back."""
        address = -(-self.next_free // alignment) * alignment
        self.next_free = address + length
        assert self.next_free <= self.regions[0].guest + self.regions[0].size, "guest memory is used up"
        return address


class Ring:
    """The three parts of a ring and its descriptors. Nothing is kept from being wrong."""

    def __init__(self, memory: Memory, size: int = 64, *, base: int = 0, event_idx: bool = False) -> None:
        self.memory, self.size, self.event_idx = memory, size, event_idx
        self.descriptors = memory.allocate(16 * size)
        self.available = memory.allocate(6 + 2 * size, 2)
        self.used = memory.allocate(6 + 8 * size, 4)
        self.kick_fd, self.call_fd, self.error_fd = (os.eventfd(0, os.EFD_NONBLOCK) for _ in range(3))
        self.reset(base)

    def reset(self, base: int = 0) -> None:
        self.index = self.seen = base  # of the next available entry to fill, of the next used one to look at
        self.next_descriptor = 0
        self.memory.write(self.available, struct.pack("<HH", 0, base))
        self.memory.write(self.used, struct.pack("<HH", 0, base))
        self.used_event = base

    def close(self) -> None:
        for fd in (self.kick_fd, self.call_fd, self.error_fd):
            os.close(fd)

    def user(self, address: int) -> int:
        return address - self.memory.regions[0].guest + USER

    # Fields

    def half(self, address: int) -> int:
        return int(struct.unpack("<H", self.memory.read(address, 2))[0])

    def set_half(self, address: int, value: int) -> None:
        self.memory.write(address, struct.pack("<H", value & 0xFFFF))

    @property
    def used_index(self) -> int:
        return self.half(self.used + 2)

    @property
    def used_flags(self) -> int:
        return self.half(self.used)

    @property
    def available_event(self) -> int:
        return self.half(self.used + 4 + 8 * self.size)

    @property
    def used_event(self) -> int:
        return self.half(self.available + 4 + 2 * self.size)

    @used_event.setter
    def used_event(self, index: int) -> None:
        self.set_half(self.available + 4 + 2 * self.size, index)

    @property
    def available_flags(self) -> int:
        return self.half(self.available)

    @available_flags.setter
    def available_flags(self, flags: int) -> None:
        self.set_half(self.available, flags)

    def put_descriptor(
        self, position: int, address: int, length: int, flags: int, following: int = 0, *, table: int | None = None
    ) -> None:
        at = (self.descriptors if table is None else table) + 16 * position
        self.memory.write(at, struct.pack("<QIHH", address, length, flags, following))

    # Chains

    def chain(self, pieces: Sequence[Piece]) -> int:
        """Write a chain into the next descriptors, all in a row; returns its head."""
        if self.next_descriptor + len(pieces) > self.size:
            self.next_descriptor = 0
        head = self.next_descriptor
        self.next_descriptor += len(pieces)
        self.link(head, pieces)
        return head

    def link(self, first: int, pieces: Sequence[Piece], *, table: int | None = None) -> None:
        for position, piece in enumerate(pieces):
            following = position + 1 < len(pieces)
            flags = piece.flags | (NEXT if following else 0)
            self.put_descriptor(first + position, piece.address, piece.length, flags, first + position + 1, table=table)

    def indirect_chain(self, pieces: Sequence[Piece], *, before: Sequence[Piece] = ()) -> int:
        """The same in a table of its own, behind the pieces that are to stay in the ring."""
        table = self.memory.allocate(16 * len(pieces))
        self.link(0, pieces, table=table)
        return self.chain([*before, Piece(table, 16 * len(pieces), INDIRECT)])

    def publish(self, *heads: int) -> None:
        for head in heads:
            self.set_half(self.available + 4 + 2 * (self.index % self.size), head)
            self.index = (self.index + 1) & 0xFFFF
        self.set_half(self.available + 2, self.index)

    def kick(self) -> None:
        os.eventfd_write(self.kick_fd, 1)

    def offer(self, *heads: int) -> None:
        self.publish(*heads)
        self.kick()

    # What comes back

    def take_used(self) -> list[tuple[int, int]]:
        """Elements (head, length) that are new."""
        fresh = []
        while self.seen != self.used_index:
            at = self.used + 4 + 8 * (self.seen % self.size)
            fresh.append(struct.unpack("<II", self.memory.read(at, 8)))
            self.seen = (self.seen + 1) & 0xFFFF
        return fresh

    def wait(self, count: int) -> list[tuple[int, int]]:
        """Wait for interrupts until `count` more elements were given back."""
        fresh = self.take_used()
        while len(fresh) < count:
            self.used_event = self.seen
            found = self.take_used()
            if not found:
                assert wait_readable(self.call_fd), f"{count - len(fresh)} of {count} chains did not come back"
                os.eventfd_read(self.call_fd)
            fresh += found
        return fresh

    def interrupts(self) -> int:
        """How many there were since the last look."""
        return os.eventfd_read(self.call_fd) if wait_readable(self.call_fd, 0) else 0


def wait_readable(fd: int, seconds: float = SECONDS) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def eventually(condition: Callable[[], bool], what: str, seconds: float = SECONDS) -> None:
    """For what raises no event: look until it is so."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"not within {seconds} s: {what}"
        time.sleep(0.0005)


def header(request_type: int, sector: int = 0) -> bytes:
    return struct.pack("<IIQ", request_type, 0, sector)
