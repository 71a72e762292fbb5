"""The front end against a scripted back end: what it sends, what it makes of the answers, and that it never hangs."""

import os
import socket
import time
from pathlib import Path

import pytest
from scripted_back_end import ScriptedBackEnd

from virtflash.driver.channel import Channel
from virtflash.driver.errors import ClosedError, DeadlineError, FrontEndError, RefusedError
from virtflash.driver.front_end import EVERYTHING, FrontEnd
from virtflash.driver.guest_memory import GuestMemory
from virtflash.vhost_user.messages import (
    CONFIG,
    HEADER,
    PAYLOAD_LIMIT,
    U64,
    VERSION,
    VRING_ADDRESS,
    VRING_STATE,
    BackendRequest,
    Message,
    MessageFlag,
    ProtocolFeature,
    Request,
    unpack_memory_table,
)
from virtflash.virtio.ring_features import RingFeature

PROTOCOL = int(RingFeature.VHOST_USER_PROTOCOL)
REPLY = VERSION | MessageFlag.REPLY

Pair = tuple[FrontEnd, socket.socket]
Scripted = tuple[FrontEnd, ScriptedBackEnd]


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def u64_of(message: Message) -> int:
    return int(U64.unpack(message.payload)[0])


@pytest.mark.parametrize(
    ("offered", "wanted", "force", "set_features"),
    [
        (0b1011, EVERYTHING, False, 0b1011),
        (0b1011, 0b0110, False, 0b0010),
        (0b1011, 0b0110, True, 0b0110),
        (0b1011, 0, False, 0),
        (EVERYTHING, 1 << 63, False, 1 << 63),
    ],
)
def test_features_are_those_wanted_of_those_offered(
    scripted: Scripted, offered: int, wanted: int, force: bool, set_features: int
) -> None:
    front_end, back_end = scripted
    back_end.answers = {Request.GET_FEATURES: U64.pack(offered), Request.GET_PROTOCOL_FEATURES: U64.pack(0)}
    assert front_end.negotiate(wanted, force=force) == set_features
    front_end.round_trip()
    assert u64_of(back_end.of(Request.SET_FEATURES)[0]) == set_features


@pytest.mark.parametrize(("offered", "wanted"), [(0, EVERYTHING), (PROTOCOL, 0)])
def test_without_the_protocol_bit_on_both_sides_there_are_no_protocol_features(
    scripted: Scripted, offered: int, wanted: int
) -> None:
    front_end, back_end = scripted
    back_end.answers = {Request.GET_FEATURES: U64.pack(offered)}
    front_end.negotiate(wanted)
    front_end.round_trip()
    seen = [message.request for message in back_end.received]
    assert seen == [Request.GET_FEATURES, Request.SET_OWNER, Request.SET_FEATURES, Request.GET_FEATURES]
    assert not front_end.rings_start_disabled


@pytest.mark.parametrize("reply_ack", [False, True])
def test_an_acknowledgement_is_asked_for_where_it_was_agreed(scripted: Scripted, reply_ack: bool) -> None:
    front_end, back_end = scripted
    offered = ProtocolFeature.REPLY_ACK if reply_ack else ProtocolFeature(0)
    back_end.answers = {
        Request.GET_FEATURES: U64.pack(PROTOCOL),
        Request.GET_PROTOCOL_FEATURES: U64.pack(offered),
    }
    front_end.negotiate()
    front_end.set_vring_size(0, 128)
    front_end.round_trip()
    assert front_end.rings_start_disabled
    (message,) = back_end.of(Request.SET_VRING_NUM)
    assert message.needs_reply is reply_ack
    assert not back_end.of(Request.SET_PROTOCOL_FEATURES)[0].needs_reply


def test_what_the_back_end_refuses_is_said(scripted: Scripted) -> None:
    front_end, back_end = scripted
    front_end.protocol_features = ProtocolFeature.REPLY_ACK
    back_end.word = 22
    with pytest.raises(RefusedError, match=r"refused SET_VRING_NUM \(answered 22\)"):
        front_end.set_vring_size(0, 3)
    assert front_end.acknowledged(99, b"anything") == 22
    assert back_end.received[-1].payload == b"anything"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Message(Request.SET_OWNER, U64.pack(0), REPLY), "the answer to GET_FEATURES is SET_OWNER"),
        (Message(Request.GET_FEATURES, U64.pack(0), VERSION), "with flags 0x1"),
        (Message(Request.GET_FEATURES, b"1234567", REPLY), "has 7 bytes instead of 8"),
        (Message(Request.GET_FEATURES, bytes(PAYLOAD_LIMIT + 1), REPLY), "is the limit"),
    ],
)
def test_an_answer_to_something_else_is_an_error(pair: Pair, answer: Message, words: str) -> None:
    front_end, back_end = pair
    before = open_files()
    socket.send_fds(back_end, [answer.pack()], [0, 1])
    with pytest.raises(FrontEndError, match=words):
        front_end.get_features()
    assert open_files() == before, "descriptors of a message that was not wanted are closed"


@pytest.mark.parametrize("sent", [0, 1, HEADER.size, HEADER.size + 7])
def test_silence_ends_with_the_deadline_wherever_it_begins(pair: Pair, sent: int) -> None:
    front_end, back_end = pair
    back_end.sendall(Message(Request.GET_FEATURES, U64.pack(0), REPLY).pack()[:sent])
    began = time.monotonic()
    with pytest.raises(DeadlineError, match=r"waiting for a message of the back end: nothing happened for 0.2 s"):
        front_end.get_features()
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("sent", [0, 5, HEADER.size + 3])
def test_a_hang_up_is_told_wherever_it_comes(pair: Pair, sent: int) -> None:
    front_end, back_end = pair
    back_end.sendall(Message(Request.GET_FEATURES, U64.pack(0), REPLY).pack()[:sent])
    back_end.close()
    with pytest.raises(ClosedError):
        front_end.receive()
    with pytest.raises(ClosedError):
        front_end.set_owner()


def test_a_back_end_that_does_not_read_ends_with_the_deadline(pair: Pair) -> None:
    front_end, _ = pair
    with pytest.raises(DeadlineError, match="sending to the back end"):
        front_end.send_bytes(bytes(8 << 20))


def test_waiting_for_a_hang_up(pair: Pair) -> None:
    front_end, back_end = pair
    back_end.sendall(b"last words")
    with pytest.raises(DeadlineError):
        front_end.wait_closed()
    back_end.close()
    front_end.wait_closed()


def test_nobody_listens(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with pytest.raises(FrontEndError, match=f"{path}: cannot connect: No such file or directory"):
        FrontEnd(path)


def test_a_message_goes_out_in_pieces_with_its_descriptors(pair: Pair) -> None:
    front_end, back_end = pair
    data = Message(200, b"payload", 0xABC).pack()
    with Path("/dev/null").open() as file:
        front_end.send_bytes(data[:5], [file.fileno(), file.fileno()])
        front_end.send_bytes(data[5:])
    message = Channel(back_end).receive()
    assert (message.request, message.payload, message.flags, len(message.fds)) == (200, b"payload", 0xABC, 2)
    for fd in message.fds:
        assert Path(f"/proc/self/fd/{fd}").samefile("/dev/null")
        os.close(fd)


def test_configuration_space(scripted: Scripted) -> None:
    front_end, back_end = scripted
    back_end.answers[Request.GET_CONFIG] = lambda message: message.payload[: CONFIG.size] + b"abcd"
    assert front_end.get_config(32, 4) == b"abcd"
    assert back_end.received[0].payload == CONFIG.pack(32, 4, 0) + bytes(4)
    with pytest.raises(FrontEndError, match=r"answer to GET_CONFIG\(32, 5\)"):
        front_end.get_config(32, 5)
    back_end.answers[Request.GET_CONFIG] = b""
    with pytest.raises(RefusedError, match="refused to read 4 bytes of configuration at 93"):
        front_end.get_config(93, 4)
    front_end.set_config(32, b"\1")
    back_end.answers[Request.GET_FEATURES] = U64.pack(0)
    front_end.round_trip()
    assert back_end.of(Request.SET_CONFIG)[0].payload == CONFIG.pack(32, 1, 0) + b"\1"


def test_memory_is_shared_by_table_and_by_slots(scripted: Scripted) -> None:
    front_end, back_end = scripted
    back_end.answers = {Request.GET_FEATURES: U64.pack(0), Request.GET_MAX_MEM_SLOTS: U64.pack(8)}
    with GuestMemory((0x1000, 4096), (0x10000, 8192)) as memory:
        memory.set_table(front_end)
        memory.add_regions(front_end)
        front_end.remove_memory_region(memory.regions[1].layout)
        assert front_end.get_memory_slots() == 8
        (table,) = back_end.of(Request.SET_MEM_TABLE)
        assert unpack_memory_table(table.payload) == memory.layouts()
        assert [os.fstat(fd).st_ino for fd in table.fds] == [os.fstat(region.fd).st_ino for region in memory.regions]
        added = back_end.of(Request.ADD_MEM_REG)
        assert [(message.payload[8:], len(message.fds)) for message in added] == [
            (layout.pack(), 1) for layout in memory.layouts()
        ]
        (removed,) = back_end.of(Request.REM_MEM_REG)
        assert (removed.payload, removed.fds) == (bytes(8) + memory.layouts()[1].pack(), [])


def test_rings(scripted: Scripted) -> None:
    front_end, back_end = scripted
    back_end.answers = {Request.GET_VRING_BASE: VRING_STATE.pack(2, 65535)}
    front_end.set_vring_address(2, 0x10, 0x20, 0x30, flags=1, log=0x40)
    front_end.set_vring_kick(2, None)
    front_end.set_vring_call(2, 0)
    assert front_end.get_vring_base(2) == 65535
    assert VRING_ADDRESS.unpack(back_end.of(Request.SET_VRING_ADDR)[0].payload) == (2, 1, 0x10, 0x30, 0x20, 0x40)
    assert [(u64_of(m), len(m.fds)) for m in back_end.of(Request.SET_VRING_KICK)] == [(2 | 0x100, 0)]
    assert [(u64_of(m), len(m.fds)) for m in back_end.of(Request.SET_VRING_CALL)] == [(2, 1)]
    with pytest.raises(FrontEndError, match="of ring 1 is about ring 2"):
        front_end.get_vring_base(1)


@pytest.mark.parametrize("need_reply", [False, True])
def test_a_configuration_change_is_waited_for_and_acknowledged(scripted: Scripted, need_reply: bool) -> None:
    front_end, back_end = scripted
    back_end.answers = {Request.GET_FEATURES: U64.pack(0)}
    front_end.open_backend_requests()
    front_end.round_trip()
    (message,) = back_end.of(Request.SET_BACKEND_REQ_FD)
    with Channel(socket.socket(fileno=message.fds.pop())) as channel:
        with pytest.raises(DeadlineError, match="its request socket"):
            front_end.wait_config_change(timeout=0.05)
        flags = VERSION | (MessageFlag.NEED_REPLY if need_reply else 0)
        channel.send(Message(BackendRequest.CONFIG_CHANGE_MSG, b"", flags))
        front_end.wait_config_change()
        if need_reply:
            reply = channel.receive()
            assert (reply.request, reply.flags, u64_of(reply)) == (BackendRequest.CONFIG_CHANGE_MSG, REPLY, 0)
        channel.send(Message(BackendRequest.VRING_CALL))
        with pytest.raises(FrontEndError, match="instead of CONFIG_CHANGE_MSG"):
            front_end.wait_config_change()


def test_nothing_is_left_open(scripted: Scripted) -> None:
    front_end, _ = scripted
    front_end.open_backend_requests()
    front_end.open_backend_requests()
    before = open_files()
    front_end.close()
    assert open_files() == before - 2
