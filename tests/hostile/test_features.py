"""Negotiation that does not keep the rules (virtio 1.4 §2.2, §3.1; vhost-user, "Ring states")."""

import pytest
from attacked_server import Attack
from chains import SECTOR

from virtflash.driver.blk import FEATURES
from virtflash.driver.errors import ClosedError, RefusedError
from virtflash.driver.front_end import PROTOCOL_FEATURES, FrontEnd
from virtflash.vhost_user.messages import U64, ProtocolFeature, Request

BITS = range(64)
QUEUES = 1


def dropped(front_end: FrontEnd) -> None:
    with pytest.raises(ClosedError):
        front_end.round_trip()


def test_features_that_were_not_offered(attack: Attack) -> None:
    """Features: acknowledging bits that were not offered, each of them. What was negotiated before stays."""
    driver = attack.driver()
    driver.stop_queues()
    front_end, offered = driver.front_end, driver.front_end.offered
    attack.may_say("SET_FEATURES refused: features 0x[0-9a-f]+ were not offered")
    refused = [bit for bit in BITS if front_end.acknowledged(Request.SET_FEATURES, U64.pack(offered | 1 << bit))]
    assert refused == [bit for bit in BITS if not offered & 1 << bit]
    driver.front_end.set_features(driver.front_end.features)
    driver.start_queues()
    driver.read(0, SECTOR).check()


def test_features_that_were_not_offered_to_one_who_waits_for_no_answer(attack: Attack) -> None:
    """Features: as above, without REPLY_ACK: there is no way to say no but to hang up."""
    attack.may_say("front end dropped: SET_FEATURES refused: features 0x[0-9a-f]+ were not offered")
    for bit in BITS:
        with FrontEnd(attack.socket) as front_end:
            offered = front_end.negotiate(protocol_features=0)
            front_end.set_features(offered | 1 << bit)
            if offered & 1 << bit:
                front_end.round_trip()
            else:
                dropped(front_end)


def test_protocol_features_that_were_not_offered(attack: Attack) -> None:
    """Features: those of the protocol; among them the in-flight region, which is not to be had here."""
    attack.may_say("dropped: SET_PROTOCOL_FEATURES refused: protocol features 0x[0-9a-f]+ were not offered")
    for bit in BITS:
        with FrontEnd(attack.socket) as front_end:
            front_end.negotiate()
            front_end.set_protocol_features(front_end.protocol_features | 1 << bit)
            if front_end.protocol_offered & 1 << bit:
                front_end.round_trip()
            else:
                dropped(front_end)


def test_in_flight_region_is_not_offered(attack: Attack) -> None:
    """In-flight region: not offered; asking for it is refused and harms nothing."""
    front_end = attack.front_end()
    front_end.negotiate()
    assert ProtocolFeature.INFLIGHT_SHMFD not in front_end.protocol_offered
    attack.may_say("SET_INFLIGHT_FD refused|GET_INFLIGHT_FD refused")
    assert front_end.acknowledged(Request.SET_INFLIGHT_FD, bytes(24)) != 0
    front_end.send_bytes(b"\x1f\0\0\0\x01\0\0\0\x18\0\0\0" + bytes(24))
    dropped(front_end)


@pytest.mark.parametrize("ack", [True, False], ids=["acks", "no acks"])
def test_queue_enabled_before_features(attack: Attack, ack: bool) -> None:
    """Features: queues enabled before features. Nothing runs before they are known; afterwards it works."""
    driver = attack.driver(start=False)
    front_end = driver.front_end
    front_end.get_features()
    front_end.get_protocol_features()
    front_end.set_protocol_features(PROTOCOL_FEATURES if ack else 0)
    driver.share_memory()
    driver.make_queues()
    front_end.set_vring_enable(0)
    front_end.set_features(front_end.offered & FEATURES)
    driver.queues[0].event_idx = True
    driver.queues[0].start(front_end, enable=False)
    assert driver.read(0, SECTOR).check()


def test_kick_before_features(attack: Attack) -> None:
    """Features: a ring started before features."""
    driver = attack.driver(start=False)
    front_end = driver.front_end
    front_end.get_features()
    front_end.set_protocol_features(PROTOCOL_FEATURES)
    driver.share_memory()
    driver.make_queues()
    attack.may_say("SET_VRING_KICK refused: features have to be negotiated before a ring starts")
    with pytest.raises(RefusedError):
        driver.queues[0].start(front_end)


def test_features_changed_under_a_running_ring(attack: Attack) -> None:
    """Features: changed while a ring runs. Refused; the same ones again are no change."""
    driver = attack.driver()
    front_end = driver.front_end
    front_end.set_features(front_end.features)
    attack.may_say("SET_FEATURES refused: features cannot change while a ring runs")
    with pytest.raises(RefusedError):
        front_end.set_features(0)
    driver.read(0, SECTOR).check()


@pytest.mark.parametrize("size", [0, 3, 5, 100, 1023, 1025, 2048, 32768, 65535, 65536, 65537, 0x80000000, 0xFFFFFFFF])
def test_ring_size(attack: Attack, size: int) -> None:
    """Features: ring size 0, 3, 65536, and others that are none. The ring keeps what it had."""
    driver = attack.driver(start=False)
    driver.negotiate()
    driver.share_memory()
    driver.make_queues()
    attack.may_say(f"SET_VRING_NUM refused: a ring of {size} entries")
    driver.front_end.set_vring_size(0, driver.queue_size)
    with pytest.raises(RefusedError):
        driver.front_end.set_vring_size(0, size)
    driver.start_queues()
    driver.read(0, SECTOR).check()


def test_ring_size_twice(attack: Attack) -> None:
    """Features: SET_VRING_NUM twice. Before the ring runs the last one counts."""
    driver = attack.driver(start=False, queue_size=64)
    driver.negotiate()
    driver.share_memory()
    driver.make_queues()
    for size in (1024, 1, 256):
        driver.front_end.set_vring_size(0, size)
    driver.start_queues()
    driver.read(0, SECTOR).check()


CHANGES = {
    "size": lambda f: f.set_vring_size(0, 8),
    "the same size": lambda f: f.set_vring_size(0, 128),
    "addresses": lambda f: f.set_vring_address(0, 0, 0, 0),
    "base": lambda f: f.set_vring_base(0, 77),
}


@pytest.mark.parametrize("change", CHANGES)
def test_change_of_a_running_ring(attack: Attack, change: str) -> None:
    """Features: SET_VRING_NUM (and its like) on a ring that runs. Refused; the ring goes on."""
    driver = attack.driver()
    driver.read(0, SECTOR).check()
    attack.may_say("refused: ring 0 runs; it has to be stopped first")
    with pytest.raises(RefusedError):
        CHANGES[change](driver.front_end)
    driver.read(0, SECTOR).check()


@pytest.mark.parametrize("order", ["nothing", "no size", "no addresses", "no memory"])
def test_start_of_a_ring_that_is_not_all_there(attack: Attack, order: str) -> None:
    """Features, out of order: a ring started before its size, its addresses or the memory are known."""
    driver = attack.driver(start=False)
    driver.negotiate()
    driver.make_queues()
    front_end, queue, user = driver.front_end, driver.queues[0], driver.memory.user_address
    if order != "no memory":
        driver.share_memory()
    if order not in ("nothing", "no size"):
        front_end.set_vring_size(0, queue.size)
    if order not in ("nothing", "no addresses"):
        front_end.set_vring_address(0, user(queue.descriptors), user(queue.available), user(queue.used))
    attack.may_say("SET_VRING_ENABLE refused: (a queue of 0 entries|a part of the ring is)")
    front_end.set_vring_kick(0, queue.kick_fd)
    with pytest.raises(RefusedError):
        front_end.set_vring_enable(0)
    if order == "no memory":
        driver.share_memory()
    queue.start(front_end)
    driver.read(0, SECTOR).check()


@pytest.mark.parametrize("value", [0, 1, 2, 0x7F, 0xFF, 0x100, (1 << 64) - 1])
def test_status(attack: Attack, value: int) -> None:
    """Features: a device status out of order, or that is none. 0 resets; the driver can begin anew."""
    driver = attack.driver()
    attack.may_say("SET_STATUS refused: a device status of")
    assert driver.front_end.acknowledged(Request.SET_STATUS, U64.pack(value)) == (1 if value > 0xFF else 0)
    if value == 0:
        driver.front_end.set_features(driver.front_end.offered & FEATURES)
        driver.queues[0].reset()
        driver.start_queues()
    driver.read(0, SECTOR).check()
