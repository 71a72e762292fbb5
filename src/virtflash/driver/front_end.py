"""A vhost-user front end: all that a virtual machine monitor says to a back end, and all that none would say.

Source: QEMU's docs/interop/vhost-user.rst. The methods named for a message send that message and no other; `send`,
`send_bytes` and `request` send anything.
"""

import os
import socket
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from virtflash.driver.channel import Channel, close_all
from virtflash.driver.deadline import DEFAULT_SECONDS
from virtflash.driver.errors import FrontEndError, RefusedError
from virtflash.vhost_user.messages import (
    CONFIG,
    SINGLE_REGION,
    U64,
    VERSION,
    VRING_ADDRESS,
    VRING_NO_FD,
    VRING_STATE,
    BackendRequest,
    MemoryRegion,
    Message,
    MessageFlag,
    ProtocolFeature,
    Request,
    pack_memory_table,
)
from virtflash.virtio.ring_features import RingFeature

__all__ = ["EVERYTHING", "FrontEnd", "FrontEndError"]

EVERYTHING = (1 << 64) - 1  # a mask of features: whatever is offered
PROTOCOL_FEATURES = (
    ProtocolFeature.MQ
    | ProtocolFeature.REPLY_ACK
    | ProtocolFeature.BACKEND_REQ
    | ProtocolFeature.CONFIG
    | ProtocolFeature.RESET_DEVICE
    | ProtocolFeature.CONFIGURE_MEM_SLOTS
    | ProtocolFeature.STATUS
)


class FrontEnd:
    """One connection to a back end. A context manager: leaving it hangs up, without a word to the back end.

    `path`: the back end's socket, or a connected socket, which is taken over. `timeout`: seconds for each message.
    `features` and `protocol_features` are what was set last, `offered` and `protocol_offered` what was offered last.

    FrontEndError: the back end cannot be reached. So every method: the back end did not answer in time, closed the
    connection, or answered with something else; RefusedError where it answered that it refuses.
    """

    def __init__(self, path: str | os.PathLike[str] | socket.socket, *, timeout: float = DEFAULT_SECONDS) -> None:
        if isinstance(path, socket.socket):
            self.channel = Channel(path, timeout=timeout)
        else:
            self.channel = Channel.connect(path, timeout=timeout)
        self.backend_requests: Channel | None = None
        self.offered = 0
        self.features = 0
        self.protocol_offered = ProtocolFeature(0)
        self.protocol_features = ProtocolFeature(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.channel.close()
        if self.backend_requests is not None:
            self.backend_requests.close()

    def fileno(self) -> int:
        return self.channel.fileno()

    @property
    def rings_start_disabled(self) -> bool:
        """Where VHOST_USER_PROTOCOL was negotiated, a ring does nothing until SET_VRING_ENABLE."""
        return bool(self.features & RingFeature.VHOST_USER_PROTOCOL)

    # Anything at all

    def send(self, message: Message, *, timeout: float | None = None) -> None:
        """Send a message as it is: any number, flags, payload, descriptors (which stay the caller's)."""
        self.channel.send(message, timeout=timeout)

    def send_bytes(self, data: bytes, fds: Sequence[int] = (), *, timeout: float | None = None) -> None:
        """Send any bytes, such as the first half of a message; `fds` travel with the first of them."""
        self.channel.send_bytes(data, fds, timeout=timeout)

    def receive(self, *, timeout: float | None = None) -> Message:
        """The next message of the back end; its descriptors are the caller's."""
        return self.channel.receive(timeout=timeout)

    def wait_closed(self, *, timeout: float | None = None) -> None:
        """Wait until the back end hangs up; DeadlineError when it does not."""
        self.channel.wait_closed(timeout=timeout)

    def request(
        self,
        number: int,
        payload: bytes = b"",
        fds: Sequence[int] = (),
        *,
        flags: int = VERSION,
        size: int | None = None,
    ) -> Message:
        """Send a message and return the answer, which must be one to it, of `size` bytes if that is given."""
        self.send(Message(number, payload, flags, list(fds)))
        reply = self.receive()
        name = Message(number).name
        if reply.request != number or reply.flags != VERSION | MessageFlag.REPLY:
            close_all(reply.fds)
            raise FrontEndError(f"the answer to {name} is {reply.name} with flags {reply.flags:#x}")
        if size is not None and len(reply.payload) != size:
            close_all(reply.fds)
            raise FrontEndError(f"the answer to {name} has {len(reply.payload)} bytes instead of {size}")
        return reply

    def acknowledged(self, number: int, payload: bytes = b"", fds: Sequence[int] = ()) -> int:
        """Send with NEED_REPLY, whatever was negotiated, and return the back end's word: 0 is success."""
        flags = VERSION | MessageFlag.NEED_REPLY
        reply = self.request(number, payload, fds, flags=flags, size=U64.size)
        return int(U64.unpack(reply.payload)[0])

    def command(
        self, number: int, payload: bytes = b"", fds: Sequence[int] = (), *, acknowledge: bool | None = None
    ) -> None:
        """Send a message that has no answer of its own; where REPLY_ACK was negotiated, wait until it was obeyed.

        `acknowledge` overrides whether to ask for that. RefusedError: it was not obeyed.
        """
        if acknowledge is None:
            acknowledge = ProtocolFeature.REPLY_ACK in self.protocol_features
        if not acknowledge:
            self.send(Message(number, payload, VERSION, list(fds)))
            return
        word = self.acknowledged(number, payload, fds)
        if word != 0:
            raise RefusedError(f"the back end refused {Message(number).name} (answered {word})")

    def round_trip(self) -> None:
        """Return once the back end has dealt with everything sent before; it changes nothing there."""
        self._get_u64(Request.GET_FEATURES)

    def _get_u64(self, request: Request) -> int:
        return int(U64.unpack(self.request(request, size=U64.size).payload)[0])

    # Features

    def negotiate(
        self,
        features: int = EVERYTHING,
        *,
        force: bool = False,
        protocol_features: int = PROTOCOL_FEATURES,
        force_protocol: bool = False,
    ) -> int:
        """The usual opening; returns the features that were set.

        What is not offered is left out of both masks, unless forced. Without VHOST_USER_PROTOCOL in `features` the
        protocol features are left alone, and rings are enabled from the start.
        """
        self.get_features()
        self.set_owner()
        if self.offered & features & RingFeature.VHOST_USER_PROTOCOL:
            self.get_protocol_features()
            offered = EVERYTHING if force_protocol else self.protocol_offered
            self.set_protocol_features(protocol_features & offered)
        self.set_features(features if force else features & self.offered)
        return self.features

    def get_features(self) -> int:
        self.offered = self._get_u64(Request.GET_FEATURES)
        return self.offered

    def set_features(self, features: int) -> None:
        self.command(Request.SET_FEATURES, U64.pack(features))
        self.features = features

    def get_protocol_features(self) -> ProtocolFeature:
        self.protocol_offered = ProtocolFeature(self._get_u64(Request.GET_PROTOCOL_FEATURES))
        return self.protocol_offered

    def set_protocol_features(self, features: int) -> None:
        # Whether it may be acknowledged is only agreed by the message itself.
        self.command(Request.SET_PROTOCOL_FEATURES, U64.pack(features), acknowledge=False)
        self.protocol_features = ProtocolFeature(features)

    def set_owner(self) -> None:
        self.command(Request.SET_OWNER)

    # Device

    def get_queue_count(self) -> int:
        """How many queues the back end supports (GET_QUEUE_NUM; needs MQ)."""
        return self._get_u64(Request.GET_QUEUE_NUM)

    def get_config(self, offset: int, size: int, *, flags: int = 0) -> bytes:
        """`size` bytes of configuration space from `offset`. RefusedError: the back end will not read there."""
        payload = CONFIG.pack(offset, size, flags) + bytes(size)
        reply = self.request(Request.GET_CONFIG, payload).payload
        if len(reply) == 0:  # "to indicate an error"
            raise RefusedError(f"the back end refused to read {size} bytes of configuration at {offset}")
        if len(reply) != len(payload) or reply[: CONFIG.size] != payload[: CONFIG.size]:
            raise FrontEndError(f"the answer to GET_CONFIG({offset}, {size}) is {reply[: CONFIG.size].hex()}...")
        return reply[CONFIG.size :]

    def set_config(self, offset: int, data: bytes, *, flags: int = 0) -> None:
        """Write configuration space. RefusedError: the back end said no, which it can only where REPLY_ACK is set."""
        self.command(Request.SET_CONFIG, CONFIG.pack(offset, len(data), flags) + data)

    def get_status(self) -> int:
        return self._get_u64(Request.GET_STATUS)

    def set_status(self, status: int) -> None:
        self.command(Request.SET_STATUS, U64.pack(status))

    def reset_device(self) -> None:
        self.command(Request.RESET_DEVICE)

    def reset_owner(self) -> None:
        self.command(Request.RESET_OWNER)

    # Memory

    def set_memory_table(self, regions: Sequence[MemoryRegion], fds: Sequence[int]) -> None:
        self.command(Request.SET_MEM_TABLE, pack_memory_table(regions), fds)

    def get_memory_slots(self) -> int:
        """How many regions the back end can hold (needs CONFIGURE_MEM_SLOTS)."""
        return self._get_u64(Request.GET_MAX_MEM_SLOTS)

    def add_memory_region(self, region: MemoryRegion, fd: int) -> None:
        self.command(Request.ADD_MEM_REG, pack_single_region(region), [fd])

    def remove_memory_region(self, region: MemoryRegion, fds: Sequence[int] = ()) -> None:
        self.command(Request.REM_MEM_REG, pack_single_region(region), fds)

    # Rings

    def set_vring_size(self, index: int, size: int) -> None:
        self._set_vring_state(Request.SET_VRING_NUM, index, size)

    def set_vring_base(self, index: int, base: int) -> None:
        self._set_vring_state(Request.SET_VRING_BASE, index, base)

    def set_vring_enable(self, index: int, enable: int = 1) -> None:
        self._set_vring_state(Request.SET_VRING_ENABLE, index, enable)

    def set_vring_address(
        self, index: int, descriptors: int, available: int, used: int, *, flags: int = 0, log: int = 0
    ) -> None:
        """Where the ring's parts lie, in front-end ("user") addresses."""
        payload = VRING_ADDRESS.pack(index, flags, descriptors, used, available, log)
        self.command(Request.SET_VRING_ADDR, payload)

    def set_vring_kick(self, index: int, fd: int | None) -> None:
        self._set_vring_descriptor(Request.SET_VRING_KICK, index, fd)

    def set_vring_call(self, index: int, fd: int | None) -> None:
        self._set_vring_descriptor(Request.SET_VRING_CALL, index, fd)

    def set_vring_error(self, index: int, fd: int | None) -> None:
        self._set_vring_descriptor(Request.SET_VRING_ERR, index, fd)

    def get_vring_base(self, index: int) -> int:
        """Stop a ring; returns the index of the available entry that would have been taken next."""
        reply = self.request(Request.GET_VRING_BASE, VRING_STATE.pack(index, 0), size=VRING_STATE.size)
        answered, base = VRING_STATE.unpack(reply.payload)
        if answered != index:
            raise FrontEndError(f"the answer to GET_VRING_BASE of ring {index} is about ring {answered}")
        return int(base)

    def _set_vring_state(self, request: Request, index: int, value: int) -> None:
        self.command(request, VRING_STATE.pack(index, value))

    def _set_vring_descriptor(self, request: Request, index: int, fd: int | None) -> None:
        if fd is None:
            self.command(request, U64.pack(index | VRING_NO_FD))
        else:
            self.command(request, U64.pack(index), [fd])

    # What the back end asks

    def open_backend_requests(self) -> Channel:
        """Give the back end a socket for requests of its own (needs BACKEND_REQ)."""
        ours, theirs = socket.socketpair()
        with theirs:
            channel = Channel(ours, timeout=self.channel.timeout, peer="the back end (its request socket)")
            if self.backend_requests is not None:
                self.backend_requests.close()
            self.backend_requests = channel
            self.command(Request.SET_BACKEND_REQ_FD, fds=[theirs.fileno()])
        return channel

    def wait_config_change(self, *, timeout: float | None = None) -> None:
        """Wait until the back end tells that its configuration changed, and acknowledge where it asks for that."""
        if self.backend_requests is None:
            raise FrontEndError("open_backend_requests() comes before waiting for one")
        message = self.backend_requests.receive(timeout=timeout)
        close_all(message.fds)
        if message.request != BackendRequest.CONFIG_CHANGE_MSG:
            raise FrontEndError(f"the back end asked {message.request} instead of CONFIG_CHANGE_MSG")
        if message.needs_reply:
            flags = VERSION | MessageFlag.REPLY
            self.backend_requests.send(Message(message.request, U64.pack(0), flags))


def pack_single_region(region: MemoryRegion) -> bytes:
    """The payload of ADD_MEM_REG and REM_MEM_REG."""
    return SINGLE_REGION.pack(0, region.guest_address, region.size, region.user_address, region.offset)
