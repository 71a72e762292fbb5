"""A split virtqueue, driver side (virtio 1.4 §2.7): it keeps the rules by itself, and every field can be overwritten.

Indices are 16 bits and wrap. Each le16 of a ring is read and written in one go; `fence` stands where the standard wants
a barrier (§2.7.13), which orders more than needed and never less.
"""

import os
import select
import time
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from virtflash.driver.deadline import DEFAULT_SECONDS, Deadline
from virtflash.driver.errors import ClosedError, DeadlineError, FrontEndError, QueueStoppedError
from virtflash.driver.front_end import FrontEnd
from virtflash.driver.guest_memory import GuestMemory
from virtflash.driver.ordering import fence
from virtflash.virtio.split_ring import (
    AVAIL_F_NO_INTERRUPT,
    AVAILABLE_ALIGNMENT,
    DESCRIPTOR,
    DESCRIPTOR_ALIGNMENT,
    DESCRIPTOR_BYTES,
    RING_HEADER_BYTES,
    USED_ALIGNMENT,
    USED_ELEMENT,
    USED_ELEMENT_BYTES,
    USED_F_NO_NOTIFY,
    DescriptorFlag,
    available_ring_bytes,
    descriptor_table_bytes,
    used_ring_bytes,
)

POLL_SECONDS = 0.0002  # between two looks at a used ring that will raise no interrupt
ONE = (1).to_bytes(8, "little")  # what an eventfd takes
INDEX_MASK = 0xFFFF


class Buffer(NamedTuple):
    """One descriptor to be: guest address and length in bytes, and DescriptorFlag.WRITE where the device writes."""

    address: int
    length: int
    flags: int = 0


class Used(NamedTuple):
    """What the device gave back: the head of a chain, and how many bytes it says it wrote."""

    head: int
    length: int


class SplitQueue:
    """`size` entries in `memory` (its region number `region`). Three descriptors, eventfds until replaced, are its own.

    `event_idx`: VIRTIO_F_EVENT_IDX was negotiated. `base`: index of the first entry, as after a migration. `peer`: a
    socket whose hang-up ends every wait. `descriptors`, `available`, `used` are guest addresses and may be changed.
    """

    def __init__(
        self,
        memory: GuestMemory,
        size: int = 128,
        *,
        index: int = 0,
        event_idx: bool = False,
        region: int = 0,
        base: int = 0,
        peer: int | None = None,
    ) -> None:
        self.memory, self.size, self.index, self.region, self.event_idx = memory, size, index, region, event_idx
        self.peer = peer
        allocate = memory.allocate
        self.descriptors = allocate(descriptor_table_bytes(size), alignment=DESCRIPTOR_ALIGNMENT, region=region)
        self.available = allocate(available_ring_bytes(size), alignment=AVAILABLE_ALIGNMENT, region=region)
        self.used = allocate(used_ring_bytes(size), alignment=USED_ALIGNMENT, region=region)
        self.kick_fd, self.call_fd, self.error_fd = (
            os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in ("kick", "call", "error")
        )
        self.reset(base)

    def reset(self, base: int = 0) -> None:
        """Forget everything, as a driver that starts anew: empty rings, all descriptors free. Not while it runs."""
        self._free = list(range(self.size))
        self._chains: dict[int, tuple[list[int], int | None]] = {}
        self.in_flight: Counter[int] = Counter()  # by head
        self.last_used = self._kicked_index = base & INDEX_MASK
        self.available_flags = 0
        self.available_index = base
        self._set(self.used, 0)
        self._set(self.used + 2, base)
        self._set(self._available_event_address, base)  # the device's field: it waits for the next entry
        self.used_event = (base - 1) & INDEX_MASK  # the one that was passed last: no interrupt before we want one

    def close(self) -> None:
        for fd in (self.kick_fd, self.call_fd, self.error_fd):
            os.close(fd)

    # The fields, raw

    def _get(self, address: int) -> int:
        return self.memory.halfwords(address, 1)[0]

    def _set(self, address: int, value: int) -> None:
        self.memory.halfwords(address, 1)[0] = value & INDEX_MASK

    @property
    def available_flags(self) -> int:
        return self._get(self.available)

    @available_flags.setter
    def available_flags(self, flags: int) -> None:
        self._set(self.available, flags)

    @property
    def available_index(self) -> int:
        return self._get(self.available + 2)

    @available_index.setter
    def available_index(self, index: int) -> None:
        fence()  # what it announces is written before it (§2.7.13.3)
        self._set(self.available + 2, index)

    @property
    def used_event(self) -> int:
        return self._get(self.available + RING_HEADER_BYTES + 2 * self.size)

    @used_event.setter
    def used_event(self, index: int) -> None:
        self._set(self.available + RING_HEADER_BYTES + 2 * self.size, index)

    @property
    def used_flags(self) -> int:
        return self._get(self.used)

    @property
    def used_index(self) -> int:
        index = self._get(self.used + 2)
        fence()  # what it announces is read after it
        return index

    @property
    def available_event(self) -> int:
        return self._get(self._available_event_address)

    @property
    def _available_event_address(self) -> int:
        return self.used + RING_HEADER_BYTES + USED_ELEMENT_BYTES * self.size

    def write_available(self, position: int, head: int) -> None:
        """Entry `position` (cut to the ring's size) of the available ring; it does not move the index."""
        self._set(self.available + RING_HEADER_BYTES + 2 * (position % self.size), head)

    def read_used(self, position: int) -> Used:
        """Element `position` (cut to the ring's size) of the used ring."""
        at = self.used + RING_HEADER_BYTES + USED_ELEMENT_BYTES * (position % self.size)
        return Used(*USED_ELEMENT.unpack(self.memory.read(at, USED_ELEMENT_BYTES)))

    def write_descriptor(
        self, index: int, address: int, length: int, flags: int = 0, following: int = 0, *, table: int | None = None
    ) -> None:
        """Descriptor `index` of the table at guest address `table`, by default the queue's; `following` is `next`."""
        at = (self.descriptors if table is None else table) + DESCRIPTOR_BYTES * index
        self.memory.write(at, DESCRIPTOR.pack(address, length, flags, following))

    # Chains

    def add(self, buffers: Sequence[Buffer | tuple[int, int, int]], *, indirect: bool = False) -> int:
        """Write a chain of descriptors, in a table of their own if `indirect`; returns its head, not yet available.

        FrontEndError: too few descriptors are free. They are again when the device has given the chain back.
        """
        needed = 1 if indirect else len(buffers)
        if needed > len(self._free):
            raise FrontEndError(f"queue {self.index}: {needed} descriptors were asked for, {len(self._free)} are free")
        taken = [self._free.pop(0) for _ in range(needed)]
        table = None
        if indirect:
            table = self.write_indirect_table(buffers)
            self.write_descriptor(taken[0], table, DESCRIPTOR_BYTES * len(buffers), DescriptorFlag.INDIRECT)
        else:
            self._link(buffers, taken, None)
        self._chains[taken[0]] = (taken, table)
        return taken[0]

    def write_indirect_table(self, buffers: Sequence[Buffer | tuple[int, int, int]]) -> int:
        """Allocate and write a table of linked descriptors; returns its guest address."""
        size = descriptor_table_bytes(len(buffers))
        table = self.memory.allocate(size, alignment=DESCRIPTOR_ALIGNMENT, region=self.region)
        self._link(buffers, range(len(buffers)), table)
        return table

    def _link(
        self, buffers: Sequence[Buffer | tuple[int, int, int]], indices: Sequence[int], table: int | None
    ) -> None:
        for position, (address, length, flags) in enumerate(buffers):
            last = position == len(buffers) - 1
            following = 0 if last else indices[position + 1]
            linked = flags if last else flags | DescriptorFlag.NEXT
            self.write_descriptor(indices[position], address, length, linked, following, table=table)

    def publish(self, *heads: int) -> None:
        """Make chains available, in this order and at once. It does not kick."""
        index = self.available_index
        for offset, head in enumerate(heads):
            self.write_available(index + offset, head)
            self.in_flight[head] += 1
        self.available_index = index + len(heads)

    def release(self, head: int) -> None:
        """Take the descriptors of a chain back, as when it was given back; a chain written by hand has none to take."""
        taken, table = self._chains.pop(head, ([], None))
        self._free += taken
        if table is not None:
            self.memory.free(table)

    # Notifications to the device

    def wants_kick(self) -> bool:
        """Does the device want to be told of what was published since the last kick() (§2.7.10)?"""
        fence()  # the index must be visible before the device's wish is read, or both sides may sleep
        if not self.event_idx:
            return not self.used_flags & USED_F_NO_NOTIFY
        published = self.available_index
        passed = (published - self.available_event - 1) & INDEX_MASK
        return passed < ((published - self._kicked_index) & INDEX_MASK)

    def kick(self, *, force: bool = False) -> bool:
        """Notify the device if it wants that, or if forced. Whether it was notified."""
        wanted = self.wants_kick()
        self._kicked_index = self.available_index
        if wanted or force:
            os.write(self.kick_fd, ONE)
        return wanted or force

    # What the device gives back

    def take_used(self) -> list[Used]:
        """What was given back since the last call; their descriptors are free again.

        FrontEndError: the device gave back more than there was, or what it was not given.
        """
        fresh = (self.used_index - self.last_used) & INDEX_MASK
        there = self.in_flight.total()
        if fresh > there:
            raise FrontEndError(f"queue {self.index}: the device gave {fresh} chains back, but {there} are in flight")
        elements = [self.read_used(self.last_used + i) for i in range(fresh)]
        for element in elements:
            self._retire(element.head)
        self.last_used = (self.last_used + fresh) & INDEX_MASK
        return elements

    def _retire(self, head: int) -> None:
        if self.in_flight[head] == 0:
            raise FrontEndError(f"queue {self.index}: the device gave back head {head}, which is not in flight")
        self.in_flight[head] -= 1
        if self.in_flight[head] == 0:
            del self.in_flight[head]
            self.release(head)

    def wait_used(self, count: int = 1, *, timeout: float = DEFAULT_SECONDS) -> list[Used]:
        """Wait for interrupts until at least `count` chains were given back; `timeout` in seconds.

        DeadlineError; QueueStoppedError: the device signalled an error; ClosedError: the back end left.
        """
        deadline = Deadline(timeout)
        done = self.take_used()
        while len(done) < count:
            self._sleep(count - len(done), deadline)
            done += self.take_used()
        return done

    def _sleep(self, missing: int, deadline: Deadline) -> None:
        if not self.allow_interrupts(missing):
            return
        what = f"queue {self.index}: waiting for {missing} of {self.in_flight.total()} chains in flight"
        events = {self.call_fd: select.POLLIN, self.error_fd: select.POLLIN}
        if self.peer is not None:
            events[self.peer] = select.POLLRDHUP
        ready = deadline.wait(events, what)
        if self.call_fd in ready:
            self.take_interrupts()
        elif self.error_fd in ready:
            raise QueueStoppedError(f"{what}: the device signalled an error")
        else:
            raise ClosedError(f"{what}: the back end closed the connection")

    def allow_interrupts(self, after: int = 1) -> bool:
        """Ask for an interrupt when `after` more chains were given back. False: they were already, do not sleep."""
        if self.event_idx:
            self.used_event = self.last_used + after - 1
        else:
            self.available_flags = 0
        fence()  # our wish must be visible before we look for the last time
        return (self.used_index - self.last_used) & INDEX_MASK < after

    def forbid_interrupts(self) -> None:
        """Ask for none; with EVENT_IDX the flag means nothing and an index that was passed says it (§2.7.7.1)."""
        if self.event_idx:
            self.used_event = self.last_used - 1
        else:
            self.available_flags = AVAIL_F_NO_INTERRUPT

    def take_interrupts(self) -> int:
        """How many interrupts came since the last call; of a call descriptor that is no eventfd, how many bytes."""
        try:
            data = os.read(self.call_fd, 4096)
        except BlockingIOError:
            return 0
        return int.from_bytes(data, "little") if len(data) == len(ONE) else len(data)

    def poll_used(self, count: int = 1, *, timeout: float = DEFAULT_SECONDS) -> list[Used]:
        """As wait_used, by looking at the used ring again and again: for queues that raise no interrupts."""
        deadline = Deadline(timeout)
        done = self.take_used()
        while len(done) < count:
            if deadline.left == 0:
                missing = count - len(done)
                raise DeadlineError(f"queue {self.index}: {missing} chains did not come back in {timeout:g} s")
            time.sleep(POLL_SECONDS)
            done += self.take_used()
        return done

    def wait_error(self, *, timeout: float = DEFAULT_SECONDS) -> None:
        """Wait until the device says that it stopped the queue (its error descriptor). DeadlineError: it did not."""
        deadline = Deadline(timeout)
        deadline.wait({self.error_fd: select.POLLIN}, f"queue {self.index}: waiting for the device to signal an error")

    @property
    def stopped(self) -> bool:
        """The device has said that it stopped the queue."""
        return bool(select.select([self.error_fd], [], [], 0)[0])

    # Life

    def start(self, front_end: FrontEnd, *, base: int | None = None, enable: bool | None = None) -> None:
        """Tell the back end all about the ring and let it run, from where it stands unless `base` says otherwise.

        `enable`: by default where protocol features were negotiated, since rings are disabled at first only then.
        """
        address = self.memory.user_address
        front_end.set_vring_size(self.index, self.size)
        front_end.set_vring_base(self.index, self.last_used if base is None else base)
        front_end.set_vring_address(self.index, address(self.descriptors), address(self.available), address(self.used))
        front_end.set_vring_call(self.index, self.call_fd)
        front_end.set_vring_error(self.index, self.error_fd)
        front_end.set_vring_kick(self.index, self.kick_fd)
        if front_end.rings_start_disabled if enable is None else enable:
            front_end.set_vring_enable(self.index)

    def stop(self, front_end: FrontEnd) -> int:
        """Stop the ring; returns the base that the back end reports."""
        return front_end.get_vring_base(self.index)
