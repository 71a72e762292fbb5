"""Layouts of vhost-user messages, written once for both sides of the socket.

A message is a header of three little-endian words (on the machines we run on, the host's order), a payload and file
descriptors beside it (vhost-user, "Message Specification"). Addresses and sizes are in bytes.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import Self

HEADER = struct.Struct("<III")  # request, flags, size of the payload in bytes
VERSION = 1
VERSION_MASK = 3
PAYLOAD_LIMIT = 32 * 1024  # bytes; the largest message that means anything here is a table of 253 regions
FD_LIMIT = 253  # SCM_MAX_FD: what the kernel takes beside one message
CONFIG_LIMIT = 256  # bytes of configuration space that a message can name ("Virtio device config space")

U64 = struct.Struct("<Q")
VRING_STATE = struct.Struct("<II")  # index, value
VRING_ADDRESS = struct.Struct("<IIQQQQ")  # index, flags, descriptors, used, available (front-end addresses), log
MEMORY_COUNT = struct.Struct("<II")  # regions, padding
MEMORY_REGION = struct.Struct("<QQQQ")  # guest address, size, front-end address, offset in the file
SINGLE_REGION = struct.Struct("<QQQQQ")  # padding, then a region
CONFIG = struct.Struct("<III")  # offset, size, flags; the bytes follow
VRING_INDEX_MASK = 0xFF  # of the u64 that comes with a descriptor
VRING_NO_FD = 0x100  # no descriptor comes with it


class Request(IntEnum):
    """What a front end asks of a back end ("Front-end message types")."""

    GET_FEATURES = 1
    SET_FEATURES = 2
    SET_OWNER = 3
    RESET_OWNER = 4
    SET_MEM_TABLE = 5
    SET_LOG_BASE = 6
    SET_LOG_FD = 7
    SET_VRING_NUM = 8
    SET_VRING_ADDR = 9
    SET_VRING_BASE = 10
    GET_VRING_BASE = 11
    SET_VRING_KICK = 12
    SET_VRING_CALL = 13
    SET_VRING_ERR = 14
    GET_PROTOCOL_FEATURES = 15
    SET_PROTOCOL_FEATURES = 16
    GET_QUEUE_NUM = 17
    SET_VRING_ENABLE = 18
    SEND_RARP = 19
    NET_SET_MTU = 20
    SET_BACKEND_REQ_FD = 21
    IOTLB_MSG = 22
    SET_VRING_ENDIAN = 23
    GET_CONFIG = 24
    SET_CONFIG = 25
    CREATE_CRYPTO_SESSION = 26
    CLOSE_CRYPTO_SESSION = 27
    POSTCOPY_ADVISE = 28
    POSTCOPY_LISTEN = 29
    POSTCOPY_END = 30
    GET_INFLIGHT_FD = 31
    SET_INFLIGHT_FD = 32
    GPU_SET_SOCKET = 33
    RESET_DEVICE = 34
    VRING_KICK = 35
    GET_MAX_MEM_SLOTS = 36
    ADD_MEM_REG = 37
    REM_MEM_REG = 38
    SET_STATUS = 39
    GET_STATUS = 40
    GET_SHARED_OBJECT = 41
    SET_DEVICE_STATE_FD = 42
    CHECK_DEVICE_STATE = 43


class BackendRequest(IntEnum):
    """What a back end asks of its front end, over a socket of its own ("Back-end message types")."""

    IOTLB_MSG = 1
    CONFIG_CHANGE_MSG = 2
    VRING_HOST_NOTIFIER_MSG = 3
    VRING_CALL = 4
    VRING_ERR = 5
    SHARED_OBJECT_ADD = 6
    SHARED_OBJECT_REMOVE = 7
    SHARED_OBJECT_LOOKUP = 8


class ProtocolFeature(IntFlag):
    """What front end and back end agree on about the protocol itself ("Protocol features"), as masks."""

    MQ = 1 << 0
    LOG_SHMFD = 1 << 1
    RARP = 1 << 2
    REPLY_ACK = 1 << 3
    MTU = 1 << 4
    BACKEND_REQ = 1 << 5
    CROSS_ENDIAN = 1 << 6
    CRYPTO_SESSION = 1 << 7
    PAGEFAULT = 1 << 8
    CONFIG = 1 << 9
    BACKEND_SEND_FD = 1 << 10
    HOST_NOTIFIER = 1 << 11
    INFLIGHT_SHMFD = 1 << 12
    RESET_DEVICE = 1 << 13
    INBAND_NOTIFICATIONS = 1 << 14
    CONFIGURE_MEM_SLOTS = 1 << 15
    STATUS = 1 << 16
    XEN_MMAP = 1 << 17
    SHARED_OBJECT = 1 << 18
    DEVICE_STATE = 1 << 19


class MessageFlag(IntFlag):
    """Flags of the header, above the two bits of the version."""

    REPLY = 1 << 2
    NEED_REPLY = 1 << 3


class ProtocolError(Exception):
    """The other side broke the protocol; one line that says how. The connection ends."""


@dataclass
class Message:
    """One message. Whoever holds it owns `fds` and closes them."""

    request: int
    payload: bytes = b""
    flags: int = VERSION
    fds: list[int] = field(default_factory=list)

    def pack(self) -> bytes:
        return HEADER.pack(self.request, self.flags, len(self.payload)) + self.payload

    @property
    def needs_reply(self) -> bool:
        return bool(self.flags & MessageFlag.NEED_REPLY)

    @property
    def name(self) -> str:
        """For logs: the name of a request that the protocol knows, else its number."""
        try:
            return Request(self.request).name
        except ValueError:
            return f"request {self.request}"


@dataclass(frozen=True)
class MemoryRegion:
    """A part of guest memory, bytes: where the guest and the front end see it, and where it lies in its file."""

    guest_address: int
    size: int
    user_address: int
    offset: int

    def pack(self) -> bytes:
        return MEMORY_REGION.pack(self.guest_address, self.size, self.user_address, self.offset)

    @classmethod
    def unpack(cls, data: bytes, at: int = 0) -> Self:
        return cls(*MEMORY_REGION.unpack_from(data, at))


def pack_memory_table(regions: Sequence[MemoryRegion]) -> bytes:
    """The payload of SET_MEM_TABLE."""
    return MEMORY_COUNT.pack(len(regions), 0) + b"".join(region.pack() for region in regions)


def unpack_memory_table(payload: bytes) -> list[MemoryRegion]:
    """ValueError: shorter than the number of regions in it says. It may be longer: UML sends room for two, always."""
    if len(payload) < MEMORY_COUNT.size:
        raise ValueError("a memory table without the number of its regions")
    count, _ = MEMORY_COUNT.unpack_from(payload)
    if len(payload) < MEMORY_COUNT.size + count * MEMORY_REGION.size:
        raise ValueError(f"a memory table of {count} regions in {len(payload)} bytes")
    return [MemoryRegion.unpack(payload, MEMORY_COUNT.size + i * MEMORY_REGION.size) for i in range(count)]
