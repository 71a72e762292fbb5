"""One front end's session: what each message means, as a state machine without a socket.

`Session.receive` takes a message and returns the answer, if one is due. A message that cannot be obeyed is refused:
with an answer when the front end asked for one, else by ending the session, as it would go on believing what is not so.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

from virtflash.logs import Log
from virtflash.vhost_user.backend import Backend, RefusedError, Vring
from virtflash.vhost_user.backend_channel import BackendChannel
from virtflash.vhost_user.listening_socket import leads_here
from virtflash.vhost_user.messages import (
    CONFIG,
    CONFIG_LIMIT,
    SINGLE_REGION,
    U64,
    VERSION,
    VRING_ADDRESS,
    VRING_INDEX_MASK,
    VRING_NO_FD,
    VRING_STATE,
    MemoryRegion,
    Message,
    MessageFlag,
    ProtocolError,
    ProtocolFeature,
    Request,
    unpack_memory_table,
)
from virtflash.virtio.ring_features import RingFeature

PROTOCOL_FEATURES = (
    ProtocolFeature.MQ
    | ProtocolFeature.REPLY_ACK
    | ProtocolFeature.BACKEND_REQ
    | ProtocolFeature.CONFIG
    | ProtocolFeature.RESET_DEVICE
    | ProtocolFeature.CONFIGURE_MEM_SLOTS
    | ProtocolFeature.STATUS
)
MEMORY_SLOTS = 256  # regions of guest memory in all


class Session:
    """The state of one front end. Every descriptor of a message is the session's from `receive` on."""

    def __init__(self, backend: Backend, log: Log) -> None:
        self._backend = backend
        self._log = log
        self._vrings = [Vring() for _ in range(backend.queue_count)]
        self._regions: list[MemoryRegion] = []
        self._features: int | None = None  # None: not negotiated yet
        self._protocol_features = ProtocolFeature(0)
        self._status = 0
        self._channel: BackendChannel | None = None

    def receive(self, message: Message) -> Message | None:
        """Obey a message; returns the answer, if one is due. ProtocolError: this front end must be dropped."""
        try:
            rule = rule_of(message)
            payload = rule.obey(self, message)
        except (RefusedError, ValueError, OSError, MemoryError) as error:
            return self._refuse(message, error)
        finally:
            close_all(message.fds)  # those that the message does not define, or that nobody has taken
        if payload is not None:
            return answer(message, payload)
        return self._acknowledge(message, 0)

    def announce_config_change(self) -> None:
        if self._channel is None:
            return
        try:
            self._channel.announce_config_change()
        except OSError as error:
            self._log.warning("the front end could not be told of the change: %s", error.strerror)

    def close(self) -> None:
        """The front end is gone: stop everything and let go of everything."""
        self._stop_all()
        for vring in self._vrings:
            close_all([fd for fd in (vring.kick, vring.call, vring.error) if fd is not None])
        self._vrings = []
        self._backend.set_memory([])
        self._backend.reset()
        if self._channel is not None:
            self._channel.close()

    def _refuse(self, message: Message, error: Exception) -> Message:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        text = f"{message.name} refused: {reason}"
        kind = message.name if message.request in RULES else "unknown message"  # the log remembers what it has said
        if message.needs_reply and ProtocolFeature.REPLY_ACK in self._protocol_features and not is_get(message):
            self._log.limited(kind, text)
            return answer(message, U64.pack(1))
        if message.request == Request.GET_CONFIG:
            self._log.limited(kind, text)
            return answer(message, b"")  # the protocol's way to say no to it
        raise ProtocolError(text)

    def _acknowledge(self, message: Message, result: int) -> Message | None:
        if message.needs_reply and ProtocolFeature.REPLY_ACK in self._protocol_features:
            return answer(message, U64.pack(result))
        return None

    # Features and the device

    def _get_features(self, _message: Message) -> bytes:
        return U64.pack(self._backend.features | RingFeature.VHOST_USER_PROTOCOL)

    def _set_features(self, message: Message) -> None:
        (features,) = U64.unpack(message.payload)
        alien = features & ~int(self._backend.features | RingFeature.VHOST_USER_PROTOCOL)  # int: a flag's ~ is narrower
        if alien:
            raise RefusedError(f"features {alien:#x} were not offered")
        if features == self._features:
            return
        if any(vring.running for vring in self._vrings):
            raise RefusedError("features cannot change while a ring runs")
        self._features = features
        self._negotiate()

    def _negotiate(self) -> None:
        if self._features is not None:
            driver = self._features & ~int(RingFeature.VHOST_USER_PROTOCOL)
            self._backend.negotiate(driver, reply_ack=ProtocolFeature.REPLY_ACK in self._protocol_features)

    def _get_protocol_features(self, _message: Message) -> bytes:
        return U64.pack(PROTOCOL_FEATURES)

    def _set_protocol_features(self, message: Message) -> None:
        (features,) = U64.unpack(message.payload)
        alien = features & ~int(PROTOCOL_FEATURES)
        if alien:
            raise RefusedError(f"protocol features {alien:#x} were not offered")
        self._protocol_features = ProtocolFeature(features)
        self._negotiate()

    def _get_queue_num(self, _message: Message) -> bytes:
        return U64.pack(self._backend.queue_count)

    def _set_owner(self, _message: Message) -> None:
        """Says only that the session begins."""

    def _reset_device(self, _message: Message) -> None:
        """All rings stopped and disabled, the driver forgotten; guest memory stays (RESET_DEVICE; SET_STATUS 0)."""
        self._stop_all()
        for vring in self._vrings:
            vring.enabled = False
            self._take_kick(vring, None)
        self._features = None
        self._status = 0
        self._backend.reset()

    def _get_status(self, _message: Message) -> bytes:
        return U64.pack(self._status)

    def _set_status(self, message: Message) -> None:
        (status,) = U64.unpack(message.payload)
        if status > 0xFF:
            raise RefusedError(f"a device status of {status:#x}")
        if status == 0:
            self._reset_device(message)
        self._status = status

    def _get_config(self, message: Message) -> bytes:
        offset, size, _ = unpack_config(message)
        space = self._backend.read_config().ljust(CONFIG_LIMIT, b"\0")  # newer front ends know more fields than we do
        return CONFIG.pack(offset, size, 0) + space[offset : offset + size]

    def _set_config(self, message: Message) -> None:
        offset, size, data = unpack_config(message)
        if len(data) != size:
            raise RefusedError(f"{len(data)} bytes of configuration where {size} are announced")
        self._backend.write_config(offset, data)

    def _set_backend_channel(self, message: Message) -> None:
        first_fd(message)
        channel = BackendChannel(message.fds.pop(0))
        if self._channel is not None:
            self._channel.close()
        self._channel = channel

    # Guest memory

    def _set_mem_table(self, message: Message) -> None:
        regions = unpack_memory_table(message.payload)
        if len(regions) > len(message.fds):
            raise RefusedError(f"{len(regions)} regions of guest memory with {len(message.fds)} file descriptors")
        self._backend.set_memory(list(zip(regions, message.fds, strict=False)))
        self._regions = regions

    def _get_max_mem_slots(self, _message: Message) -> bytes:
        return U64.pack(MEMORY_SLOTS)

    def _add_mem_reg(self, message: Message) -> None:
        region = MemoryRegion(*SINGLE_REGION.unpack(message.payload)[1:])
        if not message.fds:
            raise RefusedError("a region of guest memory without a file descriptor")
        if len(self._regions) >= MEMORY_SLOTS:
            raise RefusedError(f"all {MEMORY_SLOTS} regions of guest memory are in use")
        self._backend.set_memory([*((kept, None) for kept in self._regions), (region, message.fds[0])])
        self._regions = [*self._regions, region]

    def _rem_mem_reg(self, message: Message) -> None:
        wanted = MemoryRegion(*SINGLE_REGION.unpack(message.payload)[1:])
        kept = [region for region in self._regions if not same_place(region, wanted)]
        if len(kept) == len(self._regions):
            raise RefusedError(f"no region of {wanted.size:#x} bytes at {wanted.guest_address:#x} is there to remove")
        self._backend.set_memory([(region, None) for region in kept])
        self._regions = kept

    # Rings

    def _set_vring_num(self, message: Message) -> None:
        index, size = VRING_STATE.unpack(message.payload)
        vring = self._resting(index)
        if not 0 < size <= self._backend.queue_size_max or size & (size - 1):
            raise RefusedError(f"a ring of {size} entries: a power of two up to {self._backend.queue_size_max} is due")
        vring.size = size

    def _set_vring_addr(self, message: Message) -> None:
        index, _flags, descriptors, used, available, _log = VRING_ADDRESS.unpack(message.payload)
        vring = self._resting(index)
        vring.descriptors, vring.available, vring.used = descriptors, available, used

    def _set_vring_base(self, message: Message) -> None:
        index, base = VRING_STATE.unpack(message.payload)
        vring = self._resting(index)
        if base > 0xFFFF:
            raise RefusedError(f"a ring index of {base}")
        vring.base = base

    def _get_vring_base(self, message: Message) -> bytes:
        index, _ = VRING_STATE.unpack(message.payload)
        vring = self._vring(index)
        self._stop(index)
        self._take_kick(vring, None)
        return VRING_STATE.pack(index, vring.base)

    def _set_vring_enable(self, message: Message) -> None:
        index, enable = VRING_STATE.unpack(message.payload)
        if enable > 1:
            raise RefusedError(f"a ring is enabled by 1 and disabled by 0, not by {enable}")
        self._vring(index).enabled = enable == 1
        self._settle(index)

    def _set_vring_kick(self, message: Message) -> None:
        index, fd = ring_descriptor(message)
        vring = self._vring(index)
        if fd is None:
            raise RefusedError("a ring without a kick descriptor would have to be polled; give it one")
        if self._features is None:
            raise RefusedError("features have to be negotiated before a ring starts")
        self._stop(index)
        self._take_kick(vring, message.fds.pop(0))
        self._settle(index)

    def _set_vring_call(self, message: Message) -> None:
        index, fd = ring_descriptor(message)
        vring = self._vring(index)
        self._backend.set_call(index, fd)
        close_all([] if vring.call is None else [vring.call])
        vring.call = message.fds.pop(0) if fd is not None else None

    def _set_vring_err(self, message: Message) -> None:
        index, fd = ring_descriptor(message)
        vring = self._vring(index)
        self._backend.set_error(index, fd)
        close_all([] if vring.error is None else [vring.error])
        vring.error = message.fds.pop(0) if fd is not None else None

    def _vring(self, index: int) -> Vring:
        if index >= len(self._vrings):
            raise RefusedError(f"ring {index} of a device that has {len(self._vrings)}")
        return self._vrings[index]

    def _resting(self, index: int) -> Vring:
        vring = self._vring(index)
        if vring.running:
            raise RefusedError(f"ring {index} runs; it has to be stopped first")
        return vring

    def _take_kick(self, vring: Vring, fd: int | None) -> None:
        close_all([] if vring.kick is None else [vring.kick])
        vring.kick = fd

    def _settle(self, index: int) -> None:
        """Let a ring run, or not, as its kick and its being enabled say ("Ring states")."""
        vring = self._vrings[index]
        always_enabled = not (self._features or 0) & RingFeature.VHOST_USER_PROTOCOL
        if vring.kick is None or not (vring.enabled or always_enabled):
            self._stop(index)
        elif not vring.running:
            self._start(index)

    def _start(self, index: int) -> None:
        vring = self._vrings[index]
        try:
            self._backend.start_queue(index, vring)
        except BaseException:
            self._take_kick(vring, None)
            raise
        vring.running = True

    def _stop(self, index: int) -> None:
        vring = self._vrings[index]
        if vring.running:
            vring.base = self._backend.stop_queue(index)
            vring.running = False

    def _stop_all(self, _message: Message | None = None) -> None:
        for index in range(len(self._vrings)):
            self._stop(index)


@dataclass(frozen=True)
class Rule:
    """How one request is obeyed, and how many bytes its payload has (None: it varies)."""

    obey: Callable[[Session, Message], bytes | None]
    payload_bytes: int | None = 0


_S = Session
RULES: dict[int, Rule] = {
    Request.GET_FEATURES: Rule(_S._get_features),
    Request.SET_FEATURES: Rule(_S._set_features, U64.size),
    Request.SET_OWNER: Rule(_S._set_owner),
    Request.RESET_OWNER: Rule(_S._stop_all),  # deprecated; what is left of it
    Request.SET_MEM_TABLE: Rule(_S._set_mem_table, None),
    Request.SET_VRING_NUM: Rule(_S._set_vring_num, VRING_STATE.size),
    Request.SET_VRING_ADDR: Rule(_S._set_vring_addr, VRING_ADDRESS.size),
    Request.SET_VRING_BASE: Rule(_S._set_vring_base, VRING_STATE.size),
    Request.GET_VRING_BASE: Rule(_S._get_vring_base, VRING_STATE.size),
    Request.SET_VRING_KICK: Rule(_S._set_vring_kick, U64.size),
    Request.SET_VRING_CALL: Rule(_S._set_vring_call, U64.size),
    Request.SET_VRING_ERR: Rule(_S._set_vring_err, U64.size),
    Request.GET_PROTOCOL_FEATURES: Rule(_S._get_protocol_features),
    Request.SET_PROTOCOL_FEATURES: Rule(_S._set_protocol_features, U64.size),
    Request.GET_QUEUE_NUM: Rule(_S._get_queue_num),
    Request.SET_VRING_ENABLE: Rule(_S._set_vring_enable, VRING_STATE.size),
    Request.SET_BACKEND_REQ_FD: Rule(_S._set_backend_channel),
    Request.GET_CONFIG: Rule(_S._get_config, None),
    Request.SET_CONFIG: Rule(_S._set_config, None),
    Request.RESET_DEVICE: Rule(_S._reset_device),
    Request.GET_MAX_MEM_SLOTS: Rule(_S._get_max_mem_slots),
    Request.ADD_MEM_REG: Rule(_S._add_mem_reg, SINGLE_REGION.size),
    Request.REM_MEM_REG: Rule(_S._rem_mem_reg, SINGLE_REGION.size),
    Request.SET_STATUS: Rule(_S._set_status, U64.size),
    Request.GET_STATUS: Rule(_S._get_status),
}
GETS = {
    Request.GET_FEATURES,
    Request.GET_PROTOCOL_FEATURES,
    Request.GET_QUEUE_NUM,
    Request.GET_VRING_BASE,
    Request.GET_CONFIG,
    Request.GET_MAX_MEM_SLOTS,
    Request.GET_STATUS,
    Request.GET_INFLIGHT_FD,
    Request.GET_SHARED_OBJECT,
}


def rule_of(message: Message) -> Rule:
    """RefusedError: not a request of the features offered here, or not as long as it has to be."""
    rule = RULES.get(message.request)
    if rule is None:
        raise RefusedError("nothing that was offered here")
    if rule.payload_bytes is not None and len(message.payload) != rule.payload_bytes:
        raise RefusedError(f"{len(message.payload)} bytes where {rule.payload_bytes} are due")
    return rule


def is_get(message: Message) -> bool:
    """Is its answer of its own kind? Then a REPLY_ACK would be misread as that."""
    return message.request in GETS


def answer(message: Message, payload: bytes) -> Message:
    return Message(message.request, payload, VERSION | MessageFlag.REPLY)


def close_all(fds: list[int]) -> None:
    while fds:
        os.close(fds.pop())


def first_fd(message: Message) -> int:
    """RefusedError: there is none, or keeping it would keep a front end here that has left."""
    if not message.fds:
        raise RefusedError("its file descriptor is missing")
    if leads_here(message.fds[0]):
        raise RefusedError("its file descriptor is a connection to this server")
    return message.fds[0]


def ring_descriptor(message: Message) -> tuple[int, int | None]:
    """Ring and descriptor of a kick, call or error message; the descriptor stays in the message until it is taken."""
    (value,) = U64.unpack(message.payload)
    if value & ~(VRING_INDEX_MASK | VRING_NO_FD):
        raise RefusedError(f"a ring index of {value:#x}")
    if value & VRING_NO_FD:
        return value & VRING_INDEX_MASK, None
    return value & VRING_INDEX_MASK, first_fd(message)


def unpack_config(message: Message) -> tuple[int, int, bytes]:
    """Offset, size and the bytes that came with them, of a message about the configuration space."""
    if len(message.payload) < CONFIG.size:
        raise RefusedError(f"{len(message.payload)} bytes where at least {CONFIG.size} are due")
    offset, size, _flags = CONFIG.unpack_from(message.payload)
    if offset > CONFIG_LIMIT or size > CONFIG_LIMIT - offset:
        raise RefusedError(f"{size} bytes at {offset} of a configuration space of at most {CONFIG_LIMIT}")
    return offset, size, message.payload[CONFIG.size :]


def same_place(region: MemoryRegion, wanted: MemoryRegion) -> bool:
    """The offset in the file does not count (REM_MEM_REG)."""
    return (region.guest_address, region.size, region.user_address) == (
        wanted.guest_address,
        wanted.size,
        wanted.user_address,
    )
