"""Messages that are none, or come in a way that nobody expects (vhost-user, "Message Specification")."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from attacked_server import Attack
from chains import SECTOR

from virtflash.driver.blk import FEATURES, BlkDriver
from virtflash.driver.errors import ClosedError
from virtflash.driver.front_end import PROTOCOL_FEATURES, FrontEnd, pack_single_region
from virtflash.vhost_user.messages import (
    CONFIG,
    FD_LIMIT,
    HEADER,
    PAYLOAD_LIMIT,
    U64,
    VERSION,
    VRING_ADDRESS,
    VRING_STATE,
    MemoryRegion,
    Message,
    MessageFlag,
    Request,
    pack_memory_table,
)

SAYS = r"refused: |front end dropped: "
KNOWN = sorted(Request)
NUMBERS = [0, *KNOWN, 44, 63, 64, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]
NEED_REPLY = VERSION | MessageFlag.NEED_REPLY


@contextmanager
def spare_descriptors(count: int) -> Iterator[list[int]]:
    fds = [os.eventfd(0, os.EFD_CLOEXEC) for _ in range(count)]
    yield fds
    for fd in fds:
        os.close(fd)


def survive(attack: Attack, number: int, payload: bytes, fds: int, *, first: bool) -> None:
    """A message that may be anything: answered, obeyed, refused or the reason to hang up; the next one is served."""
    with BlkDriver(attack.socket, start=not first) as driver, spare_descriptors(fds) as descriptors:
        try:
            for flags in (VERSION, NEED_REPLY):
                driver.front_end.send(Message(number, payload, flags, descriptors))
            driver.front_end.send(Message(Request.GET_MAX_MEM_SLOTS))
            while driver.front_end.receive().request != Request.GET_MAX_MEM_SLOTS:
                pass
        except ClosedError:
            return


PAYLOADS = {
    "empty": b"",
    "short": bytes(7),
    "ones": b"\xff" * 8,
    "long": bytes(4096),
    "longest": b"\xff" * PAYLOAD_LIMIT,
}


@pytest.mark.parametrize("first", [False, True], ids=["while it runs", "first of all"])
@pytest.mark.parametrize("number", NUMBERS)
def test_any_message(attack: Attack, number: int, first: bool) -> None:
    """Messages: every one, short, long, unknown, out of order, with 0 and with 8 extra file descriptors."""
    attack.may_say(SAYS)
    for payload in PAYLOADS.values():
        for fds in (0, 8):
            survive(attack, number, payload, fds, first=first)


EXACT = {
    Request.SET_FEATURES: U64.size,
    Request.SET_VRING_NUM: VRING_STATE.size,
    Request.SET_VRING_ADDR: VRING_ADDRESS.size,
    Request.SET_VRING_BASE: VRING_STATE.size,
    Request.SET_VRING_KICK: U64.size,
    Request.SET_VRING_CALL: U64.size,
    Request.SET_VRING_ERR: U64.size,
    Request.SET_VRING_ENABLE: VRING_STATE.size,
    Request.ADD_MEM_REG: 40,
    Request.REM_MEM_REG: 40,
    Request.SET_STATUS: U64.size,
    Request.SET_MEM_TABLE: 8,
    Request.SET_CONFIG: CONFIG.size,
    Request.SET_OWNER: 0,
    Request.RESET_DEVICE: 0,
    Request.SET_BACKEND_REQ_FD: 0,
}


@pytest.mark.parametrize("request_", EXACT)
@pytest.mark.parametrize("difference", [-8, -1, 1, 8])
def test_message_a_little_too_short_or_too_long(attack: Attack, request_: Request, difference: int) -> None:
    """Messages: one byte, or one word, less or more than it has. Refused, and the front end is told."""
    size = EXACT[request_] + difference
    if size < 0 or (request_ == Request.SET_MEM_TABLE and difference > 0):
        size = 4097  # UML's memory tables are longer than their regions, so that is allowed
    attack.may_say(SAYS)
    driver = attack.driver()
    allowed = request_ == Request.SET_MEM_TABLE and size >= 8
    assert driver.front_end.acknowledged(request_, b"\x01" * size) != 0 or allowed
    driver.read(0, SECTOR).check()


RING_MESSAGES = [Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR]
STATE_MESSAGES = [Request.SET_VRING_NUM, Request.SET_VRING_BASE, Request.SET_VRING_ENABLE, Request.SET_VRING_ADDR]


@pytest.mark.parametrize("index", [1, 0x7F, 0xFF, 0x100, 0x200, 0x10000, 0x80000000, 0xFFFFFFFF])
@pytest.mark.parametrize("request_", [*RING_MESSAGES, *STATE_MESSAGES])
def test_ring_that_is_not_there(attack: Attack, request_: Request, index: int) -> None:
    """Messages: vring index 0x100 and 0x10000, and others of rings that the device has not."""
    driver = attack.driver()
    if request_ in RING_MESSAGES:
        payload = U64.pack(index)
    else:
        payload = VRING_STATE.pack(index, 1).ljust(EXACT[request_], b"\0")
    attack.may_say(SAYS)
    with spare_descriptors(1) as fds:
        word = driver.front_end.acknowledged(request_, payload, fds)
    absent = index == 0x100 and request_ in RING_MESSAGES  # a flag: ring 0 without this descriptor
    assert (word == 0) == (absent and request_ != Request.SET_VRING_KICK)
    if not (absent and request_ == Request.SET_VRING_CALL):
        driver.read(0, SECTOR).check()


@pytest.mark.parametrize("index", [1, 0x100, 0x10000, 0xFFFFFFFF])
def test_base_of_a_ring_that_is_not_there(attack: Attack, index: int) -> None:
    """Messages: GET_VRING_BASE has no way to say no, so the front end is hung up on."""
    front_end = attack.driver().front_end
    attack.may_say("front end dropped: GET_VRING_BASE refused: ring")
    with pytest.raises(ClosedError):
        front_end.get_vring_base(index)


HEADERS = {
    "version 0": HEADER.pack(1, 0, 0),
    "version 2": HEADER.pack(1, 2, 0),
    "version 3": HEADER.pack(1, 3, 0),
    "4 GiB": HEADER.pack(1, 1, 0xFFFFFFFF),
    "one byte too many": HEADER.pack(1, 1, PAYLOAD_LIMIT + 1),
    "text": b"GET / HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("header", HEADERS)
def test_header(attack: Attack, header: str) -> None:
    """Messages: headers of no message. There is no finding the next one, so the front end is hung up on."""
    front_end = attack.driver().front_end
    attack.may_say("front end dropped: a message of")
    front_end.send_bytes(HEADERS[header])
    front_end.wait_closed()


@pytest.mark.parametrize("flags", [VERSION | MessageFlag.REPLY, 0xFFFFFFFD, NEED_REPLY | MessageFlag.REPLY])
def test_flags(attack: Attack, flags: int) -> None:
    """Messages: flags that a request has not are as if they were not there."""
    driver = attack.driver()
    driver.front_end.send(Message(Request.GET_QUEUE_NUM, b"", flags))
    assert driver.front_end.receive().payload == U64.pack(1)
    driver.read(0, SECTOR).check()


@pytest.mark.parametrize("cut", [1, 11, 12, 13, 19])
def test_half_a_message(attack: Attack, cut: int) -> None:
    """Messages: a front end that leaves in the middle of one, with a descriptor in it."""
    attack.may_say("front end dropped: the front end left in the middle of a message")
    driver = attack.driver()
    with spare_descriptors(8) as fds:
        driver.front_end.send_bytes(Message(Request.SET_VRING_CALL, U64.pack(0)).pack()[:cut], fds)
    driver.kill()


def test_message_in_single_bytes(attack: Attack) -> None:
    """Messages: one that comes byte by byte is still one."""
    driver = attack.driver()
    for byte in Message(Request.SET_VRING_NUM, VRING_STATE.pack(0, 0), NEED_REPLY).pack():
        driver.front_end.send_bytes(bytes([byte]))
    attack.may_say("SET_VRING_NUM refused")
    assert driver.front_end.receive().payload == U64.pack(1)
    driver.read(0, SECTOR).check()


def test_descriptors_without_end(attack: Attack) -> None:
    """Messages: as many descriptors as fit beside each byte of one message, which are 250,000."""
    attack.may_say(f"front end dropped: more than {FD_LIMIT} file descriptors with one message")
    front_end = attack.driver().front_end
    message = Message(Request.SET_MEM_TABLE, bytes(1024)).pack()
    before = attack.server.process.vitals().descriptors
    with spare_descriptors(1) as fds, pytest.raises(ClosedError):
        for byte in message:
            front_end.send_bytes(bytes([byte]), fds * FD_LIMIT)
            assert attack.server.process.vitals().descriptors <= before + 4 * FD_LIMIT
        front_end.round_trip()


def test_most_descriptors_that_one_message_can_have(attack: Attack) -> None:
    """Messages: 253 descriptors where one is due; the rest is closed."""
    driver = attack.driver()
    with spare_descriptors(FD_LIMIT) as fds:
        driver.front_end.command(Request.SET_VRING_ERR, U64.pack(0), fds)
    driver.read(0, SECTOR).check()


def test_unknown_requests_are_not_remembered(attack: Attack) -> None:
    """Messages: 30,000 different unknown requests leave nothing behind."""
    attack.may_say("refused: nothing that was offered here")
    front_end = attack.driver().front_end
    stream(front_end, (Message(1 << 20 | number, b"", NEED_REPLY) for number in range(30_000)), answers=True)


# 10,000 times

TIMES = 10_000


def stream(front_end: FrontEnd, messages: Iterator[Message], *, answers: bool) -> None:
    """Send all, in batches whose answers are read before the next one."""
    unread = 0
    for message in messages:
        front_end.send(message)
        unread += answers
        if unread == 100:
            for _ in range(unread):
                front_end.receive()
            unread = 0
    for _ in range(unread):
        front_end.receive()
    front_end.round_trip()


class Repeated:
    """A driver whose ring runs, and what its messages may hold."""

    def __init__(self, driver: BlkDriver) -> None:
        self.driver, self.queue = driver, driver.queues[0]
        self.regions = [region.layout for region in driver.memory.regions]
        self.fds = [region.fd for region in driver.memory.regions]
        self.more = driver.memory.add((1 << 32, 1 << 20))
        self.socket, self.other = socket.socketpair()

    def close(self) -> None:
        self.socket.close()
        self.other.close()


Make = Callable[[Repeated], list[Message]]


def single(number: Request, payload: bytes = b"") -> Make:
    return lambda r: [Message(number, payload)]


def ring_message(number: Request, fd: str) -> Make:
    return lambda r: [Message(number, U64.pack(0), VERSION, [getattr(r.queue, fd)])]


REPEATED: dict[str, tuple[Make, bool]] = {  # messages of a turn, and whether each is answered
    "GET_FEATURES": (single(Request.GET_FEATURES), True),
    "SET_FEATURES": (lambda r: [Message(Request.SET_FEATURES, U64.pack(r.driver.front_end.features))], False),
    "SET_OWNER": (single(Request.SET_OWNER), False),
    "SET_MEM_TABLE": (lambda r: [Message(Request.SET_MEM_TABLE, pack_memory_table(r.regions), VERSION, r.fds)], False),
    "SET_VRING_KICK": (ring_message(Request.SET_VRING_KICK, "kick_fd"), False),
    "SET_VRING_CALL": (ring_message(Request.SET_VRING_CALL, "call_fd"), False),
    "SET_VRING_ERR": (ring_message(Request.SET_VRING_ERR, "error_fd"), False),
    "SET_VRING_ENABLE": (single(Request.SET_VRING_ENABLE, VRING_STATE.pack(0, 1)), False),
    "disable and enable": (
        lambda r: [Message(Request.SET_VRING_ENABLE, VRING_STATE.pack(0, on)) for on in (0, 1)],
        False,
    ),
    "GET_PROTOCOL_FEATURES": (single(Request.GET_PROTOCOL_FEATURES), True),
    "SET_PROTOCOL_FEATURES": (single(Request.SET_PROTOCOL_FEATURES, U64.pack(PROTOCOL_FEATURES)), False),
    "GET_QUEUE_NUM": (single(Request.GET_QUEUE_NUM), True),
    "SET_BACKEND_REQ_FD": (lambda r: [Message(Request.SET_BACKEND_REQ_FD, b"", VERSION, [r.other.fileno()])], False),
    "GET_CONFIG": (single(Request.GET_CONFIG, CONFIG.pack(0, 96, 0) + bytes(96)), True),
    "GET_CONFIG refused": (single(Request.GET_CONFIG, CONFIG.pack(255, 96, 0)), True),
    "GET_MAX_MEM_SLOTS": (single(Request.GET_MAX_MEM_SLOTS), True),
    "ADD_MEM_REG and REM_MEM_REG": (
        lambda r: [
            Message(Request.ADD_MEM_REG, pack_single_region(r.more.layout), VERSION, [r.more.fd]),
            Message(Request.REM_MEM_REG, pack_single_region(r.more.layout), VERSION, [r.more.fd]),
        ],
        False,
    ),
    "SET_STATUS": (single(Request.SET_STATUS, U64.pack(15)), False),
    "GET_STATUS": (single(Request.GET_STATUS), True),
    "SET_MEM_TABLE refused": (
        lambda r: [
            Message(Request.SET_MEM_TABLE, pack_memory_table([MemoryRegion(0, 0, 0, 0)]), NEED_REPLY, [r.fds[0]] * 8)
        ],
        True,
    ),
    "SET_VRING_NUM refused": (single(Request.SET_VRING_NUM, VRING_STATE.pack(0, 64)), True),
    "unknown": (single(Request.GPU_SET_SOCKET), True),
}


@pytest.mark.parametrize("what", REPEATED)
def test_repeated_ten_thousand_times(attack: Attack, what: str) -> None:
    """Messages: every one repeated 10,000 times leaves nothing behind, and the ring goes on."""
    driver = attack.driver()
    repeated = Repeated(driver)
    make, answered = REPEATED[what]
    messages = make(repeated)
    if "refused" in what or what == "unknown":
        attack.may_say("refused")
        for message in messages:
            message.flags = NEED_REPLY
    driver.read(0, SECTOR).check()
    stream(driver.front_end, (message for _ in range(TIMES) for message in messages), answers=answered)
    driver.read(0, SECTOR).check()
    repeated.close()


def test_reset_ten_thousand_times(attack: Attack) -> None:
    """Messages: RESET_DEVICE, RESET_OWNER, GET_VRING_BASE, which stop the ring, and then a start anew."""
    driver = attack.driver()
    reset = [Message(Request.RESET_DEVICE), Message(Request.RESET_OWNER)]
    stream(driver.front_end, (message for _ in range(TIMES) for message in reset), answers=False)
    base = Message(Request.GET_VRING_BASE, VRING_STATE.pack(0, 0))
    stream(driver.front_end, (base for _ in range(TIMES)), answers=True)
    driver.front_end.set_features(driver.front_end.offered & FEATURES)
    driver.queues[0].reset()
    driver.start_queues()
    driver.read(0, SECTOR).check()


def test_a_thousand_front_ends(attack: Attack) -> None:
    """Messages: none at all, a thousand times; and the log stays readable."""
    for _ in range(1000):
        with socket.socket(socket.AF_UNIX) as front_end:
            front_end.connect(str(attack.socket))
    assert len(attack.server.process.lines()[attack.since :]) < 250
