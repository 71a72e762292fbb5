"""The configuration space, read and written where it is not (virtio 1.4 §5.2.4, §5.2.5; vhost-user, GET_CONFIG)."""

import itertools

import pytest
from attacked_server import IMAGE_BYTES, Attack
from chains import SECTOR

from virtflash.driver.errors import ClosedError, RefusedError
from virtflash.vhost_user.messages import CONFIG, VERSION, Message, MessageFlag, Request
from virtflash.virtio.blk import CONFIG_BYTES, CONFIG_WRITEBACK_OFFSET, BlkConfig

FIELDS = [offset for offset in range(CONFIG_BYTES + 1) if offset != CONFIG_WRITEBACK_OFFSET]
REFUSED = "SET_CONFIG refused: "


FAR = [255, 256, 257, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF - CONFIG_WRITEBACK_OFFSET]


def test_write_of_another_field(attack: Attack) -> None:
    """Configuration: SET_CONFIG of other fields than `writeback`."""
    driver = attack.driver()
    before = driver.front_end.get_config(0, CONFIG_BYTES)
    attack.may_say(REFUSED)
    for offset in [*FIELDS, *FAR]:
        assert driver.front_end.acknowledged(Request.SET_CONFIG, CONFIG.pack(offset, 1, 0) + b"\x01") != 0
        assert driver.front_end.get_config(0, CONFIG_BYTES) == before


@pytest.mark.parametrize("value", [2, 3, 0x7F, 0x80, 0xFF])
def test_write_of_a_value_above_1(attack: Attack, value: int) -> None:
    """Configuration: SET_CONFIG of values above 1."""
    driver = attack.driver()
    attack.may_say(REFUSED + f"writeback set to {value}")
    with pytest.raises(RefusedError):
        driver.front_end.set_config(CONFIG_WRITEBACK_OFFSET, bytes([value]))
    assert driver.read_config().writeback == 1


SIZES = [0, 2, 4, 8, 64, 223, 224]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("offset", [0, 31, 32])
def test_write_of_any_size(attack: Attack, offset: int, size: int) -> None:
    """Configuration: SET_CONFIG of any size and offset, that of `writeback` among others."""
    driver = attack.driver()
    before = driver.front_end.get_config(0, CONFIG_BYTES)
    attack.may_say(REFUSED)
    with pytest.raises(RefusedError):
        driver.front_end.set_config(offset, bytes(size))
    assert driver.front_end.get_config(0, CONFIG_BYTES) == before


@pytest.mark.parametrize(("announced", "sent"), [(1, 0), (1, 2), (0, 1), (0xFFFFFFFF, 1), (0xFFFFFFFF, 0), (96, 4)])
@pytest.mark.parametrize("request_", [Request.SET_CONFIG, Request.GET_CONFIG])
def test_size_that_is_not_what_comes(attack: Attack, request_: Request, announced: int, sent: int) -> None:
    """Configuration: messages that announce more bytes than they have, or fewer."""
    driver = attack.driver()
    attack.may_say("(SET|GET)_CONFIG refused: ")
    payload = CONFIG.pack(CONFIG_WRITEBACK_OFFSET, announced, 0) + bytes(sent)
    if request_ == Request.SET_CONFIG:
        assert driver.front_end.acknowledged(request_, payload) != 0
    else:
        answer = driver.front_end.request(request_, payload).payload
        assert len(answer) == (CONFIG.size + announced if announced <= 256 - CONFIG_WRITEBACK_OFFSET else 0)
    driver.read(0, SECTOR).check()


READS = itertools.product([0, 1, 7, 8, 32, 60, 95, 96, 100, 255, 256], [0, 1, 2, 8, 36, 60, 96, 156, 160, 256])


def test_read_anywhere(attack: Attack) -> None:
    """Configuration: GET_CONFIG at any offset, of any size; behind the last field there are zeroes."""
    front_end = attack.driver().front_end
    whole = front_end.get_config(0, CONFIG_BYTES).ljust(256, b"\0")
    assert BlkConfig.unpack(whole).capacity == IMAGE_BYTES // SECTOR
    for offset, size in READS:
        if offset + size <= 256:
            assert front_end.get_config(offset, size) == whole[offset : offset + size]


@pytest.mark.parametrize("offset", [0, 1, 255, 256, 257, 0xFFFFFFFF, 0xFFFFFF00, 0x80000000])
@pytest.mark.parametrize("size", [0, 1, 256, 257, 0xFFFFFFFF, 0x80000000])
def test_read_that_wraps(attack: Attack, offset: int, size: int) -> None:
    """Configuration: GET_CONFIG that wraps or reaches too far has an empty answer: the protocol says no that way."""
    front_end = attack.driver().front_end
    attack.may_say("GET_CONFIG refused: ")
    answer = front_end.request(Request.GET_CONFIG, CONFIG.pack(offset, size, 0) + bytes(8)).payload
    assert answer == b"" if offset + size > 256 else len(answer) == CONFIG.size + size


def test_write_without_acks_of_what_cannot_be(attack: Attack) -> None:
    """Configuration: one who waits for no answer and writes what cannot be written is hung up on."""
    front_end = attack.front_end()
    front_end.negotiate(protocol_features=1 << 9)
    front_end.set_config(0, b"\x01")
    attack.may_say("front end dropped: " + REFUSED)
    with pytest.raises(ClosedError):
        front_end.round_trip()


def test_ten_thousand_changes_of_the_cache_mode(attack: Attack) -> None:
    """Configuration: a guest that turns its cache on and off without end; the log stays readable."""
    driver = attack.driver()
    for turn in range(10_000):
        message = Message(Request.SET_CONFIG, CONFIG.pack(CONFIG_WRITEBACK_OFFSET, 1, 0) + bytes([turn & 1]), VERSION)
        message.flags |= MessageFlag.NEED_REPLY if turn % 100 == 99 else 0
        driver.front_end.send(message)
        if turn % 100 == 99:
            assert driver.front_end.receive().payload == bytes(8)
    driver.read(0, SECTOR).check()
    assert len(attack.server.process.lines()[attack.since :]) < 300
