"""Layout of a split virtqueue (virtio 1.4 §2.7): sizes in bytes, offsets in bytes from the start of each part."""

import struct
from enum import IntFlag

DESCRIPTOR = struct.Struct("<QIHH")  # addr, len, flags, next (§2.7.5)
DESCRIPTOR_BYTES = 16
USED_ELEMENT = struct.Struct("<II")  # id, len (§2.7.8)
USED_ELEMENT_BYTES = 8
RING_HEADER_BYTES = 4  # le16 flags, le16 idx, of the available and of the used ring

DESCRIPTOR_ALIGNMENT = 16  # §2.7
AVAILABLE_ALIGNMENT = 2
USED_ALIGNMENT = 4
QUEUE_SIZE_LIMIT = 32768  # §2.7: a power of two, at most this

AVAIL_F_NO_INTERRUPT = 1  # §2.7.6
USED_F_NO_NOTIFY = 1  # §2.7.8


class DescriptorFlag(IntFlag):
    """Flags of a descriptor (§2.7.5)."""

    NEXT = 1
    WRITE = 2
    INDIRECT = 4


def descriptor_table_bytes(size: int) -> int:
    """Bytes of the descriptor table of a queue with `size` entries."""
    return DESCRIPTOR_BYTES * size


def available_ring_bytes(size: int) -> int:
    """Bytes of the available ring with its trailing `used_event`."""
    return RING_HEADER_BYTES + 2 * size + 2


def used_ring_bytes(size: int) -> int:
    """Bytes of the used ring with its trailing `avail_event`."""
    return RING_HEADER_BYTES + USED_ELEMENT_BYTES * size + 2
