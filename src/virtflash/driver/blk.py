"""A virtio-blk driver over a vhost-user front end (virtio 1.4 §5.2): every request, in any framing, on any queue."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import TracebackType
from typing import NamedTuple, Self

from virtflash.driver.channel import Channel
from virtflash.driver.deadline import DEFAULT_SECONDS, Deadline
from virtflash.driver.errors import FrontEndError, RefusedError
from virtflash.driver.front_end import PROTOCOL_FEATURES, FrontEnd
from virtflash.driver.guest_memory import GuestMemory
from virtflash.driver.split_queue import Buffer, SplitQueue, Used
from virtflash.vhost_user.messages import ProtocolFeature
from virtflash.virtio.blk import (
    DEVICE_ID_BYTES,
    LIFETIME_BYTES,
    RANGE_FLAG_UNMAP,
    RANGE_SEGMENT,
    REQUEST_HEADER,
    REQUEST_HEADER_BYTES,
    SECTOR_BYTES,
    STATUS_BYTES,
    BlkConfig,
    BlkFeature,
    RequestType,
    Status,
)
from virtflash.virtio.device_status import DeviceStatus
from virtflash.virtio.ring_features import RingFeature
from virtflash.virtio.split_ring import DescriptorFlag

FEATURES = int(
    RingFeature.VHOST_USER_PROTOCOL | RingFeature.VERSION_1 | RingFeature.EVENT_IDX | RingFeature.INDIRECT_DESC
) | int(
    BlkFeature.SIZE_MAX | BlkFeature.SEG_MAX | BlkFeature.GEOMETRY | BlkFeature.RO | BlkFeature.BLK_SIZE
    | BlkFeature.FLUSH | BlkFeature.TOPOLOGY | BlkFeature.CONFIG_WCE | BlkFeature.MQ | BlkFeature.DISCARD
    | BlkFeature.WRITE_ZEROES | BlkFeature.LIFETIME | BlkFeature.SECURE_ERASE
)  # fmt: skip
LEGACY_FEATURES = FEATURES & ~RingFeature.VERSION_1
CONFIG_LENGTHS = (96, 72, 60, 36)  # bytes of `struct virtio_blk_config` in virtio 1.3 and later, 1.2, 1.1 and 1.0
MEMORY = (1 << 20, 64 << 20)  # where a guest's memory may begin, and bytes enough for most tests
UNTOUCHED = 0xFF  # the status byte before the device writes it


class Completion(NamedTuple):
    """How a request ended: its status byte, the whole of its room for data, and how much the device says it wrote."""

    status: int
    data: bytes
    used_length: int

    def check(self) -> Self:
        """Itself, if the status is OK. FrontEndError: it is not."""
        if self.status != Status.OK:
            raise FrontEndError(f"the request ended with status {status_name(self.status)}")
        return self


def status_name(status: int) -> str:
    """For messages: the name that the standard gives to a status byte, else its number."""
    return {member.value: member.name for member in Status}.get(status, f"{status:#x}")


@dataclass
class Pending:
    """A chain that was made available. `completion` is set when the device has given it back."""

    queue: SplitQueue
    head: int
    buffers: list[Buffer]
    own: bool  # the buffers are the driver's, to be freed
    completion: Completion | None = None

    def finish(self, used_length: int) -> None:
        written = self._written()
        status = written[-1] if written else UNTOUCHED
        self.completion = Completion(status, written[:-1], used_length)
        for buffer in self.buffers if self.own else ():
            self.queue.memory.free(buffer.address)

    def _written(self) -> bytes:
        """What lies where the device writes; nothing, where such a buffer is not in guest memory."""
        try:
            room = [buffer for buffer in self.buffers if buffer.flags & DescriptorFlag.WRITE]
            return b"".join(self.queue.memory.read(buffer.address, buffer.length) for buffer in room)
        except ValueError:
            return b""


def split_points(readable: int, writable: int, points: Iterable[int]) -> list[tuple[int, int]]:
    """The pieces of a request as (first byte, length), cut at `points`, which count its bytes from the header's first.

    What the device reads and what it writes never share a piece. A point named twice makes a piece of length 0; the
    borders at 0, `readable` and the end are there anyway, so naming one of them once changes nothing.

    >>> split_points(16, 513, [])
    [(0, 16), (16, 513)]
    >>> split_points(16, 513, [8, 8, 528])
    [(0, 8), (8, 0), (8, 8), (16, 512), (528, 1)]
    """
    cuts = Counter(points)
    for border in {0, readable, readable + writable}:
        cuts[border] = max(cuts[border], 1)
    ordered = sorted(cuts.elements())
    return [(start, end - start) for start, end in pairwise(ordered)]


class BlkDriver:
    """A driver of one device: connects, negotiates, shares memory, starts queues. A context manager.

    `path`: the back end's socket, or a FrontEnd, which is taken over. `features` is a mask over what is offered or,
    with `force`, all that is acknowledged, offered or not. `memory`: shared as it is; by default one region.
    `memory_slots`: share it by ADD_MEM_REG instead of SET_MEM_TABLE. `indirect`: put chains into indirect tables.
    `timeout`: seconds for whatever is waited for. With `start=False` nothing happens beyond connecting: `negotiate`,
    `share_memory`, `make_queues` and `start_queues` are the steps.

    FrontEndError of every method: see FrontEnd and SplitQueue.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | FrontEnd,
        *,
        queues: int = 1,
        queue_size: int = 128,
        features: int = FEATURES,
        force: bool = False,
        protocol_features: int = PROTOCOL_FEATURES,
        memory: GuestMemory | None = None,
        memory_slots: bool = False,
        indirect: bool = False,
        timeout: float = DEFAULT_SECONDS,
        start: bool = True,
    ) -> None:
        self.front_end = path if isinstance(path, FrontEnd) else FrontEnd(path, timeout=timeout)
        self.memory = memory or GuestMemory(MEMORY)
        self.queue_count, self.queue_size = queues, queue_size
        self.queues: list[SplitQueue] = []
        self.indirect, self.timeout = indirect, timeout
        self.config = BlkConfig(0)
        self._pending: dict[tuple[int, int], Pending] = {}
        self._memory_slots = memory_slots
        if start:
            try:
                self.negotiate(features, force=force, protocol_features=protocol_features)
                self.share_memory()
                self.make_queues()
                self.start_queues()
            except BaseException:
                self.kill()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    # Life

    def negotiate(
        self, features: int = FEATURES, *, force: bool = False, protocol_features: int = PROTOCOL_FEATURES
    ) -> None:
        self.front_end.negotiate(features, force=force, protocol_features=protocol_features)
        if ProtocolFeature.STATUS in self.front_end.protocol_features:
            self.front_end.set_status(DeviceStatus.ACKNOWLEDGE | DeviceStatus.DRIVER | DeviceStatus.FEATURES_OK)
        if ProtocolFeature.BACKEND_REQ in self.front_end.protocol_features:
            self.front_end.open_backend_requests()
        if ProtocolFeature.CONFIG in self.front_end.protocol_features:
            self.read_config()

    def read_config(self) -> BlkConfig:
        """Read the configuration space anew, as long as the back end has it. FrontEndError: none of it can be read."""
        for length in CONFIG_LENGTHS:
            try:
                self.config = BlkConfig.unpack(self.front_end.get_config(0, length))
            except RefusedError:
                continue
            return self.config
        raise FrontEndError("the back end lets no configuration space of the block device be read")

    def share_memory(self) -> None:
        if self._memory_slots:
            self.memory.add_regions(self.front_end)
        else:
            self.memory.set_table(self.front_end)

    def make_queues(self) -> None:
        event_idx = bool(self.front_end.features & RingFeature.EVENT_IDX)
        for index in range(len(self.queues), self.queue_count):
            peer = self.front_end.fileno()
            queue = SplitQueue(self.memory, self.queue_size, index=index, event_idx=event_idx, peer=peer)
            self.queues.append(queue)

    def start_queues(self) -> None:
        for queue in self.queues:
            queue.start(self.front_end)
        if ProtocolFeature.STATUS in self.front_end.protocol_features:
            ready = DeviceStatus.ACKNOWLEDGE | DeviceStatus.DRIVER | DeviceStatus.FEATURES_OK | DeviceStatus.DRIVER_OK
            self.front_end.set_status(ready)

    def stop_queues(self) -> list[int]:
        """Stop all rings; returns the base of each. What the device took before is complete then."""
        return [queue.stop(self.front_end) for queue in self.queues]

    def close(self) -> None:
        """Leave as a well-behaved front end does: stop the rings, then hang up."""
        try:
            self.stop_queues()
        finally:
            self.kill()

    def kill(self) -> None:
        """Drop everything at once, as a front end does that was killed: no message, requests still in flight."""
        self.front_end.close()
        while self.queues:
            self.queues.pop().close()
        self._pending.clear()
        self.memory.close()

    @property
    def backend_requests(self) -> Channel | None:
        return self.front_end.backend_requests

    @property
    def capacity(self) -> int:
        """Sectors of 512 bytes, as read last."""
        return self.config.capacity

    # Requests, any

    def submit(
        self,
        kind: int,
        sector: int = 0,
        data: bytes = b"",
        room: int = 0,
        *,
        framing: Sequence[int] | None = None,
        indirect: bool | None = None,
        queue: int = 0,
        reserved: int = 0,
        alignment: int = SECTOR_BYTES,
        kick: bool = True,
    ) -> Pending:
        """Make a request available: `data` goes to the device, `room` bytes can come from it, before the status.

        `framing`: where header, data, room and status, taken as one run of bytes, are cut into descriptors (see
        split_points); by default header, data and status have one each. Each piece is a buffer apart from the others;
        `alignment` (bytes) is that of its address where it is at least so long.
        """
        message = REQUEST_HEADER.pack(kind, reserved, sector) + data
        usual = {REQUEST_HEADER_BYTES, REQUEST_HEADER_BYTES + len(data) + room}
        cuts = split_points(len(message), room + STATUS_BYTES, usual if framing is None else framing)
        buffers = [self._buffer(message, start, length, alignment) for start, length in cuts]
        return self.submit_chain(buffers, indirect=indirect, queue=queue, own=True, kick=kick)

    def _buffer(self, message: bytes, start: int, length: int, alignment: int) -> Buffer:
        """A new buffer for one piece: what the device reads or, beyond that, room that shows whether it was written."""
        alignment = alignment if length >= alignment else 1
        address = self.memory.allocate(length, alignment=alignment)
        if start + length <= len(message):
            self.memory.write(address, message[start : start + length])
            return Buffer(address, length)
        self.memory.write(address, bytes([UNTOUCHED]) * length)
        return Buffer(address, length, DescriptorFlag.WRITE)

    def submit_chain(
        self,
        buffers: Sequence[Buffer | tuple[int, int, int]],
        *,
        indirect: bool | None = None,
        queue: int = 0,
        own: bool = False,
        kick: bool = True,
    ) -> Pending:
        """Make any chain available. Its completion holds what lies in the buffers that the device writes, the last byte
        of them as the status. `own`: the buffers were allocated for it and are freed when it comes back.
        """
        ring = self.queues[queue]
        head = ring.add(buffers, indirect=self.indirect if indirect is None else indirect)
        pending = Pending(ring, head, [Buffer(*buffer) for buffer in buffers], own)
        self._pending[queue, head] = pending
        ring.publish(head)
        if kick:
            ring.kick()
        return pending

    def complete(self, pending: Pending, *, timeout: float | None = None, poll: bool = False) -> Completion:
        """Wait for one request; others that come back meanwhile are completed too. `poll`: without interrupts."""
        deadline = Deadline(self.timeout if timeout is None else timeout)
        wait = pending.queue.poll_used if poll else pending.queue.wait_used
        while pending.completion is None:
            for used in wait(timeout=deadline.left):
                self._finish(pending.queue.index, used)
        return pending.completion

    def _finish(self, queue: int, used: Used) -> None:
        pending = self._pending.pop((queue, used.head), None)  # a chain that was published by hand has none
        if pending is not None:
            pending.finish(used.length)

    def complete_all(self, *, timeout: float | None = None) -> list[Completion]:
        """Wait for everything in flight, in the order in which it was submitted."""
        return [self.complete(pending, timeout=timeout) for pending in list(self._pending.values())]

    def request(
        self,
        kind: int,
        sector: int = 0,
        data: bytes = b"",
        room: int = 0,
        *,
        framing: Sequence[int] | None = None,
        indirect: bool | None = None,
        queue: int = 0,
        reserved: int = 0,
        alignment: int = SECTOR_BYTES,
        timeout: float | None = None,
    ) -> Completion:
        """submit() and complete() in one."""
        pending = self.submit(
            kind, sector, data, room,
            framing=framing, indirect=indirect, queue=queue, reserved=reserved, alignment=alignment,
        )  # fmt: skip
        return self.complete(pending, timeout=timeout)

    # Requests, by type. Sectors are 512 bytes; `framing`, `queue` and `indirect` as in submit().

    def read(
        self,
        sector: int,
        length: int,
        *,
        framing: Sequence[int] | None = None,
        queue: int = 0,
        indirect: bool | None = None,
    ) -> Completion:
        """`length` in bytes."""
        return self.request(RequestType.IN, sector, room=length, framing=framing, queue=queue, indirect=indirect)

    def write(
        self,
        sector: int,
        data: bytes,
        *,
        framing: Sequence[int] | None = None,
        queue: int = 0,
        indirect: bool | None = None,
    ) -> Completion:
        return self.request(RequestType.OUT, sector, data, framing=framing, queue=queue, indirect=indirect)

    def flush(self, *, framing: Sequence[int] | None = None, queue: int = 0) -> Completion:
        return self.request(RequestType.FLUSH, framing=framing, queue=queue)

    def discard(self, sector: int, count: int, flags: int = 0, *, queue: int = 0) -> Completion:
        return self.ranges(RequestType.DISCARD, [(sector, count, flags)], queue=queue)

    def write_zeroes(self, sector: int, count: int, *, unmap: bool = False, queue: int = 0) -> Completion:
        return self.ranges(RequestType.WRITE_ZEROES, [(sector, count, RANGE_FLAG_UNMAP if unmap else 0)], queue=queue)

    def secure_erase(self, sector: int, count: int, flags: int = 0, *, queue: int = 0) -> Completion:
        return self.ranges(RequestType.SECURE_ERASE, [(sector, count, flags)], queue=queue)

    def ranges(
        self,
        kind: int,
        segments: Sequence[tuple[int, int, int]],
        *,
        framing: Sequence[int] | None = None,
        queue: int = 0,
    ) -> Completion:
        """Discard, write zeroes or secure erase of (sector, number of sectors, flags), as many as you like."""
        data = b"".join(RANGE_SEGMENT.pack(*segment) for segment in segments)
        return self.request(kind, data=data, framing=framing, queue=queue)

    def get_id(
        self, length: int = DEVICE_ID_BYTES, *, framing: Sequence[int] | None = None, queue: int = 0
    ) -> Completion:
        return self.request(RequestType.GET_ID, room=length, framing=framing, queue=queue)

    def get_lifetime(
        self, length: int = LIFETIME_BYTES, *, framing: Sequence[int] | None = None, queue: int = 0
    ) -> Completion:
        return self.request(RequestType.GET_LIFETIME, room=length, framing=framing, queue=queue)
