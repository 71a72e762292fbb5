"""The protocol's state machine with a back end that only notes what it is asked."""

import gc
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from virtflash.logs import Log
from virtflash.vhost_user import messages
from virtflash.vhost_user.backend import RefusedError, Vring
from virtflash.vhost_user.messages import (
    CONFIG,
    U64,
    VERSION,
    VRING_ADDRESS,
    VRING_STATE,
    MemoryRegion,
    Message,
    MessageFlag,
    ProtocolError,
    ProtocolFeature,
    Request,
    pack_memory_table,
)
from virtflash.vhost_user.session import MEMORY_SLOTS, PROTOCOL_FEATURES, Session

FEATURES = 1 << 32 | 1 << 29 | 1 << 28 | 1 << 11 | 1 << 9
PROTOCOL = 1 << 30  # of the feature word: protocol features are spoken of, and rings begin disabled
REGION = MemoryRegion(guest_address=0x1000, size=0x4000, user_address=0x7000_0000, offset=0)
NEED_REPLY = VERSION | MessageFlag.NEED_REPLY
REPLY = VERSION | MessageFlag.REPLY


class NotedBackend:
    """Notes each call; refuses what it is told to refuse."""

    features = FEATURES
    queue_count = 2
    queue_size_max = 1024

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.running: set[int] = set()
        self.refusing: set[str] = set()
        self.base = 7

    def _note(self, name: str, *arguments: object) -> None:
        if name in self.refusing:
            raise RefusedError("as told")
        self.calls.append((name, *arguments))

    def negotiate(self, features: int, *, reply_ack: bool) -> None:
        self._note("negotiate", features, reply_ack)

    def read_config(self) -> bytes:
        return bytes(range(96))

    def write_config(self, offset: int, data: bytes) -> None:
        self._note("write_config", offset, data)

    def set_memory(self, regions: Sequence[tuple[MemoryRegion, int | None]]) -> None:
        self._note("set_memory", [(region, fd is not None) for region, fd in regions])

    def start_queue(self, index: int, vring: Vring) -> None:
        self._note("start", index, vring.size, vring.base)
        self.running.add(index)

    def stop_queue(self, index: int) -> int:
        self._note("stop", index)
        self.running.remove(index)
        return self.base

    def set_call(self, index: int, fd: int | None) -> None:
        self._note("set_call", index, fd is not None)

    def set_error(self, index: int, fd: int | None) -> None:
        self._note("set_error", index, fd is not None)

    def reset(self) -> None:
        self._note("reset")


class Talk:
    """A session and its back end, and messages to it in one line each."""

    def __init__(self) -> None:
        self.backend = NotedBackend()
        self.session = Session(self.backend, Log("test"))

    def say(self, request: int, payload: bytes = b"", fds: Sequence[int] = (), flags: int = VERSION) -> Message | None:
        return self.session.receive(Message(request, payload, flags, list(fds)))

    def ask(self, request: int, payload: bytes = b"", fds: Sequence[int] = ()) -> int:
        """Send it with NEED_REPLY; returns the number of the answer: 0 is yes."""
        answer = self.say(request, payload, fds, NEED_REPLY)
        assert answer is not None
        assert answer.flags == REPLY
        (number,) = U64.unpack(answer.payload)
        return int(number)

    def speak_acks(self) -> None:
        self.say(Request.SET_PROTOCOL_FEATURES, U64.pack(PROTOCOL_FEATURES))

    def prepare(self, index: int = 0) -> None:
        """All that a ring needs but its kick."""
        self.say(Request.SET_VRING_NUM, VRING_STATE.pack(index, 128))
        self.say(Request.SET_VRING_ADDR, VRING_ADDRESS.pack(index, 0, 0x7000_0000, 0x7000_2000, 0x7000_1000, 0))
        self.say(Request.SET_VRING_BASE, VRING_STATE.pack(index, 3))

    def kick(self, index: int = 0) -> None:
        self.say(Request.SET_VRING_KICK, U64.pack(index), [os.eventfd(0)])


def open_descriptors() -> int:
    gc.collect()  # what earlier tests left to the garbage collector is not this one's
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def talk() -> Iterator[Talk]:
    """A session; no descriptor of it may be left when it is closed."""
    before = open_descriptors()
    talk = Talk()
    yield talk
    talk.session.close()
    assert not talk.backend.running
    assert open_descriptors() == before


def test_features_offered_include_the_protocols_own(talk: Talk) -> None:
    answer = talk.say(Request.GET_FEATURES)
    assert answer == Message(Request.GET_FEATURES, U64.pack(FEATURES | PROTOCOL), REPLY)


@pytest.mark.parametrize("bit", [0, 31, 34, 63])
def test_features_that_were_not_offered_are_refused(talk: Talk, bit: int) -> None:
    talk.speak_acks()
    assert talk.ask(Request.SET_FEATURES, U64.pack(FEATURES | 1 << bit)) == 1
    assert not any(call[0] == "negotiate" for call in talk.backend.calls)


def test_the_driver_never_sees_the_protocols_own_bit(talk: Talk) -> None:
    talk.say(Request.SET_FEATURES, U64.pack(FEATURES | PROTOCOL))
    assert talk.backend.calls == [("negotiate", FEATURES, False)]


def test_the_device_learns_of_reply_ack_in_either_order(talk: Talk) -> None:
    talk.say(Request.SET_FEATURES, U64.pack(FEATURES))  # libblkio's order
    talk.speak_acks()
    assert talk.backend.calls == [("negotiate", FEATURES, False), ("negotiate", FEATURES, True)]


def test_features_cannot_change_under_a_running_ring(talk: Talk) -> None:
    talk.speak_acks()
    talk.say(Request.SET_FEATURES, U64.pack(FEATURES))
    talk.prepare()
    talk.kick()
    assert talk.ask(Request.SET_FEATURES, U64.pack(FEATURES)) == 0, "the same ones say nothing new"
    assert talk.ask(Request.SET_FEATURES, U64.pack(0)) == 1


@pytest.mark.parametrize("features", [ProtocolFeature.INFLIGHT_SHMFD, 1 << 63])
def test_protocol_features_that_were_not_offered_are_refused(talk: Talk, features: int) -> None:
    with pytest.raises(ProtocolError, match="were not offered"):
        talk.say(Request.SET_PROTOCOL_FEATURES, U64.pack(features))


RING_STATES = {  # protocol features spoken of, steps: does the ring run after them?
    "kick alone, without the protocol": (False, "k", True),
    "kick alone": (True, "k", False),
    "enabled, no kick": (True, "e", False),
    "kick, then enabled": (True, "ke", True),
    "enabled, then kick": (True, "ek", True),
    "disabled again": (True, "ked", False),
    "and enabled again": (True, "kede", True),
    "base asked for": (True, "keb", False),
    "enabled after that, without a new kick": (True, "kebde", False),
    "a new kick after that": (True, "kebk", True),
    "a second kick": (True, "kek", True),
    "device reset": (True, "ker", False),
    "status 0": (True, "kes", False),
    "owner reset": (True, "keo", False),
}


@pytest.mark.parametrize("case", RING_STATES)
def test_when_a_ring_runs(talk: Talk, case: str) -> None:
    protocol, steps, runs = RING_STATES[case]
    talk.say(Request.SET_FEATURES, U64.pack(FEATURES | (PROTOCOL if protocol else 0)))
    talk.prepare()
    actions = {
        "k": talk.kick,
        "e": lambda: talk.say(Request.SET_VRING_ENABLE, VRING_STATE.pack(0, 1)),
        "d": lambda: talk.say(Request.SET_VRING_ENABLE, VRING_STATE.pack(0, 0)),
        "b": lambda: talk.say(Request.GET_VRING_BASE, VRING_STATE.pack(0, 0)),
        "r": lambda: talk.say(Request.RESET_DEVICE),
        "s": lambda: talk.say(Request.SET_STATUS, U64.pack(0)),
        "o": lambda: talk.say(Request.RESET_OWNER),
    }
    for step in steps:
        actions[step]()
    assert talk.backend.running == ({0} if runs else set())


def test_the_base_is_where_the_ring_stopped_and_where_it_goes_on(talk: Talk) -> None:
    talk.say(Request.SET_FEATURES, U64.pack(FEATURES))
    talk.prepare()
    talk.kick()
    assert talk.backend.calls[-1] == ("start", 0, 128, 3)
    answer = talk.say(Request.GET_VRING_BASE, VRING_STATE.pack(0, 0))
    assert answer is not None
    assert VRING_STATE.unpack(answer.payload) == (0, 7)
    talk.kick()
    assert talk.backend.calls[-1] == ("start", 0, 128, 7)


def test_a_ring_that_cannot_start_lets_go_of_its_kick(talk: Talk) -> None:
    talk.speak_acks()
    talk.say(Request.SET_FEATURES, U64.pack(FEATURES))
    talk.prepare()
    talk.backend.refusing.add("start")
    assert talk.ask(Request.SET_VRING_KICK, U64.pack(0), [os.eventfd(0)]) == 1
    talk.backend.refusing.clear()
    talk.kick()
    assert talk.backend.running == {0}


@pytest.mark.parametrize(
    ("request_", "payload"),
    [
        (Request.SET_VRING_NUM, VRING_STATE.pack(0, 64)),
        (Request.SET_VRING_BASE, VRING_STATE.pack(0, 0)),
        (Request.SET_VRING_ADDR, VRING_ADDRESS.pack(0, 0, 0, 0, 0, 0)),
    ],
)
def test_a_running_ring_keeps_its_shape(talk: Talk, request_: Request, payload: bytes) -> None:
    talk.speak_acks()
    talk.say(Request.SET_FEATURES, U64.pack(FEATURES))
    talk.prepare()
    talk.kick()
    assert talk.ask(request_, payload) == 1


@pytest.mark.parametrize("size", [0, 3, 1025, 2048, 65536, 0xFFFFFFFF])
def test_ring_sizes_that_are_refused(talk: Talk, size: int) -> None:
    talk.speak_acks()
    assert talk.ask(Request.SET_VRING_NUM, VRING_STATE.pack(0, size)) == 1


@pytest.mark.parametrize("request_", [Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR])
@pytest.mark.parametrize("value", [2, 0xFF, 0x200, 0x10000, 1 << 63])
def test_rings_that_are_not_there(talk: Talk, request_: Request, value: int) -> None:
    talk.speak_acks()
    talk.say(Request.SET_FEATURES, U64.pack(FEATURES))
    assert talk.ask(request_, U64.pack(value), [os.eventfd(0)]) == 1


@pytest.mark.parametrize("request_", [Request.SET_VRING_CALL, Request.SET_VRING_ERR])
def test_a_ring_may_be_without_call_and_error(talk: Talk, request_: Request) -> None:
    talk.say(request_, U64.pack(0), [os.eventfd(0)])
    talk.say(request_, U64.pack(messages.VRING_NO_FD))
    name = "set_call" if request_ == Request.SET_VRING_CALL else "set_error"
    assert talk.backend.calls == [(name, 0, True), (name, 0, False)]


def test_a_ring_without_a_kick_is_refused(talk: Talk) -> None:
    talk.speak_acks()
    talk.say(Request.SET_FEATURES, U64.pack(FEATURES))
    assert talk.ask(Request.SET_VRING_KICK, U64.pack(messages.VRING_NO_FD)) == 1


def test_no_ring_before_features(talk: Talk) -> None:
    talk.speak_acks()
    talk.prepare()
    assert talk.ask(Request.SET_VRING_KICK, U64.pack(0), [os.eventfd(0)]) == 1
    assert not talk.backend.running


CONFIG_READS = [(0, 57), (0, 60), (0, 96), (32, 1), (95, 1), (90, 20), (0, 256), (256, 0), (200, 56), (0, 0)]


@pytest.mark.parametrize(("offset", "size"), CONFIG_READS)
def test_config_space_is_read_at_any_offset_and_size(talk: Talk, offset: int, size: int) -> None:
    answer = talk.say(Request.GET_CONFIG, CONFIG.pack(offset, size, 0) + bytes(size))
    assert answer is not None
    space = bytes(range(96)).ljust(256, b"\0")
    assert answer.payload == CONFIG.pack(offset, size, 0) + space[offset : offset + size]


@pytest.mark.parametrize(("offset", "size"), [(0, 257), (257, 0), (1, 256), (0xFFFFFFFF, 2), (8, 0xFFFFFFFF)])
def test_config_reads_that_wrap_or_reach_too_far_get_an_empty_answer(talk: Talk, offset: int, size: int) -> None:
    answer = talk.say(Request.GET_CONFIG, CONFIG.pack(offset, size, 0))
    assert answer is not None
    assert answer.payload == b""


def test_get_messages_have_one_answer_even_when_a_reply_is_asked_for(talk: Talk) -> None:
    talk.speak_acks()
    answer = talk.say(Request.GET_QUEUE_NUM, flags=NEED_REPLY)
    assert answer is not None
    assert U64.unpack(answer.payload) == (2,)


def test_a_memory_table_takes_a_descriptor_for_each_region(talk: Talk) -> None:
    talk.speak_acks()
    other = MemoryRegion(0x10000, 0x1000, 0x7100_0000, 0)
    table = pack_memory_table([REGION, other])
    assert talk.ask(Request.SET_MEM_TABLE, table, [os.memfd_create("a")]) == 1
    assert talk.ask(Request.SET_MEM_TABLE, table, [os.memfd_create("a"), os.memfd_create("b")]) == 0
    assert talk.backend.calls[-1] == ("set_memory", [(REGION, True), (other, True)])


def test_a_memory_table_may_be_longer_than_its_regions(talk: Talk) -> None:
    """User-mode Linux sends room for two, always."""
    talk.say(Request.SET_MEM_TABLE, pack_memory_table([REGION]) + bytes(32), [os.memfd_create("a")])
    assert talk.backend.calls[-1] == ("set_memory", [(REGION, True)])


@pytest.mark.parametrize("payload", [b"", bytes(4), pack_memory_table([REGION])[:-1], VRING_STATE.pack(0xFFFFFFFF, 0)])
def test_memory_tables_that_are_too_short(talk: Talk, payload: bytes) -> None:
    talk.speak_acks()
    assert talk.ask(Request.SET_MEM_TABLE, payload, [os.memfd_create("a")]) == 1


def region_message(region: MemoryRegion) -> bytes:
    return bytes(8) + region.pack()


def test_regions_come_and_go_one_by_one(talk: Talk) -> None:
    talk.speak_acks()
    other = MemoryRegion(0x10000, 0x1000, 0x7100_0000, 0)
    assert talk.ask(Request.ADD_MEM_REG, region_message(REGION), [os.memfd_create("a")]) == 0
    assert talk.ask(Request.ADD_MEM_REG, region_message(other), [os.memfd_create("b")]) == 0
    assert talk.backend.calls[-1] == ("set_memory", [(REGION, False), (other, True)])
    moved = MemoryRegion(REGION.guest_address, REGION.size, REGION.user_address, 0x9000)
    assert talk.ask(Request.REM_MEM_REG, region_message(moved), [os.memfd_create("c")]) == 0, (
        "the offset does not count"
    )
    assert talk.backend.calls[-1] == ("set_memory", [(other, False)])
    assert talk.ask(Request.REM_MEM_REG, region_message(REGION)) == 1, "it is gone"


def test_memory_slots_are_limited(talk: Talk) -> None:
    talk.speak_acks()
    answer = talk.say(Request.GET_MAX_MEM_SLOTS)
    assert answer is not None
    assert U64.unpack(answer.payload) == (MEMORY_SLOTS,)
    for slot in range(MEMORY_SLOTS):
        region = MemoryRegion(slot << 20, 0x1000, slot << 20, 0)
        assert talk.ask(Request.ADD_MEM_REG, region_message(region), [os.memfd_create("a")]) == 0
    beyond = MemoryRegion(MEMORY_SLOTS << 20, 0x1000, MEMORY_SLOTS << 20, 0)
    assert talk.ask(Request.ADD_MEM_REG, region_message(beyond), [os.memfd_create("a")]) == 1


def test_a_region_without_a_descriptor_is_refused(talk: Talk) -> None:
    talk.speak_acks()
    assert talk.ask(Request.ADD_MEM_REG, region_message(REGION)) == 1


def test_memory_stays_over_a_reset_of_the_device(talk: Talk) -> None:
    """QEMU sends only what changed when it starts the device again."""
    talk.speak_acks()
    talk.ask(Request.ADD_MEM_REG, region_message(REGION), [os.memfd_create("a")])
    talk.say(Request.RESET_DEVICE)
    assert talk.ask(Request.REM_MEM_REG, region_message(REGION)) == 0


def test_status_is_kept_and_0_resets(talk: Talk) -> None:
    talk.say(Request.SET_STATUS, U64.pack(15))
    answer = talk.say(Request.GET_STATUS)
    assert answer is not None
    assert U64.unpack(answer.payload) == (15,)
    talk.say(Request.SET_STATUS, U64.pack(0))
    assert ("reset",) in talk.backend.calls


@pytest.mark.parametrize("request_", sorted(set(range(64)) | {0xFFFFFFFF}))
@pytest.mark.parametrize("payload", [b"", b"\xff" * 3, b"\xff" * 4096])
@pytest.mark.parametrize("fds", [0, 8])
def test_any_message_is_survived(talk: Talk, request_: int, payload: bytes, fds: int) -> None:
    """Answered, or the front end is dropped; no descriptor is left either way (the fixture counts)."""
    talk.speak_acks()
    try:
        talk.say(request_, payload, [os.eventfd(0) for _ in range(fds)], NEED_REPLY)
    except ProtocolError as error:
        assert "\n" not in str(error)


def test_a_refusal_is_answered_only_where_acks_are_spoken(talk: Talk) -> None:
    with pytest.raises(ProtocolError, match="SET_VRING_NUM refused"):
        talk.say(Request.SET_VRING_NUM, VRING_STATE.pack(9, 128), flags=NEED_REPLY)
    talk.speak_acks()
    with pytest.raises(ProtocolError, match="SET_VRING_NUM refused"):
        talk.say(Request.SET_VRING_NUM, VRING_STATE.pack(9, 128))


def test_ten_thousand_repetitions_leave_nothing(talk: Talk) -> None:
    before = open_descriptors()
    for _ in range(10_000):
        talk.say(Request.SET_VRING_CALL, U64.pack(0), [os.eventfd(0), os.eventfd(0)])
    assert open_descriptors() == before + 1  # the one that is in use


def test_back_end_requests_need_a_socket(talk: Talk) -> None:
    talk.speak_acks()
    assert talk.ask(Request.SET_BACKEND_REQ_FD, fds=[os.eventfd(0)]) == 1
    assert talk.ask(Request.SET_BACKEND_REQ_FD) == 1
