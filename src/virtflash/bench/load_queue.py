"""Chains that lie ready on a queue, for the compiled load loop to use again and again."""

import os

from virtflash.bench.load import Load
from virtflash.bench.workload import WRITE_PERCENT, Workload
from virtflash.driver.split_queue import SplitQueue
from virtflash.virtio.blk import REQUEST_HEADER_BYTES, STATUS_BYTES
from virtflash.virtio.split_ring import DESCRIPTOR, DESCRIPTOR_BYTES, DescriptorFlag

CHAIN_DESCRIPTORS = 3  # header, data, status
CHAIN_BYTES = CHAIN_DESCRIPTORS * DESCRIPTOR_BYTES
SLOT_BYTES = 64  # a cache line: the header, which the device reads, then the status, which it writes
DATA_ALIGNMENT = 4096  # good for O_DIRECT on either side
FLAGS_OFFSET = DESCRIPTOR.size - 4  # of the flags of a descriptor, bytes
QUEUE_SIZE_MAX = 1024  # what servers take


def queue_size(workload: Workload, *, indirect: bool) -> int:
    """Entries that the queue needs, a power of two. ValueError: more than servers take."""
    needed = workload.depth * (1 if indirect else CHAIN_DESCRIPTORS)
    if needed > QUEUE_SIZE_MAX:
        how = f"depth {workload.depth} with {'indirect' if indirect else 'direct'} chains"
        raise ValueError(f"{how} needs a ring of {needed} entries; {QUEUE_SIZE_MAX} are the most that servers take")
    return max(16, 1 << (needed - 1).bit_length())


def memory_bytes(workload: Workload) -> int:
    """Guest memory for all queues, with room for alignment."""
    each = workload.block_bytes + SLOT_BYTES + CHAIN_BYTES
    rings = QUEUE_SIZE_MAX * (DESCRIPTOR_BYTES + 2 + 8) + (64 << 10)
    return -(-workload.queues * (workload.depth * each + rings) // 4096) * 4096


class LoadQueue:
    """The buffers and chains of one queue, in its region of guest memory. Makes the loads for it, one by one."""

    def __init__(self, queue: SplitQueue, workload: Workload, *, indirect: bool) -> None:
        self.queue, self.workload, self.indirect = queue, workload, indirect
        allocate, depth = queue.memory.allocate, workload.depth
        self._lines = allocate(depth * SLOT_BYTES, alignment=SLOT_BYTES)
        self._data = allocate(depth * workload.block_bytes, alignment=DATA_ALIGNMENT)
        self._tables = allocate(depth * CHAIN_BYTES) if indirect else queue.descriptors
        for slot in range(depth):
            self._write_chain(slot)
            # Not zeroes: a server might treat them as a hole.
            queue.memory.write(self._data + slot * workload.block_bytes, os.urandom(workload.block_bytes))

    def _write_chain(self, slot: int) -> None:
        table = self._tables + slot * CHAIN_BYTES
        first = 0 if self.indirect else slot * CHAIN_DESCRIPTORS
        line, data = self._lines + slot * SLOT_BYTES, self._data + slot * self.workload.block_bytes
        write, following = DescriptorFlag.WRITE, DescriptorFlag.NEXT
        chain = (
            (line, REQUEST_HEADER_BYTES, following, first + 1),
            (data, self.workload.block_bytes, following | write, first + 2),
            (line + REQUEST_HEADER_BYTES, STATUS_BYTES, write, 0),
        )
        for position, descriptor in enumerate(chain):
            self.queue.write_descriptor(position, *descriptor, table=table)
        if self.indirect:
            self.queue.write_descriptor(slot, table, CHAIN_BYTES, DescriptorFlag.INDIRECT)

    def load(
        self, first_block: int, blocks: int, *, fill: bool = False, verify: bool = False, spin_ns: int = 0
    ) -> Load:
        """A load on blocks from `first_block` on. `fill`: write each once, stamped, instead of the workload."""
        queue = self.queue
        region = queue.memory.find(queue.available)
        base = region.guest_address
        return Load(
            region.memory,
            size=queue.size,
            available=queue.available - base,
            used=queue.used - base,
            slot_lines=self._lines - base,
            data=self._data - base,
            descriptor_flags=self._tables - base + DESCRIPTOR_BYTES + FLAGS_OFFSET,
            descriptor_flags_stride=CHAIN_BYTES,
            head_stride=1 if self.indirect else CHAIN_DESCRIPTORS,
            depth=self.workload.depth,
            block_bytes=self.workload.block_bytes,
            first_block=first_block,
            blocks=blocks,
            write_percent=100 if fill else WRITE_PERCENT[self.workload.direction],
            event_idx=queue.event_idx,
            kick_fd=queue.kick_fd,
            call_fd=queue.call_fd,
            error_fd=queue.error_fd,
            peer_fd=-1 if queue.peer is None else queue.peer,
            sequential=fill,
            verify=verify or fill,
            spin_ns=spin_ns,
            seed=queue.index + 1,
        )
