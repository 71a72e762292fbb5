"""Rings whose indices, flags and events are not what a driver may write (virtio 1.4 §2.7)."""

import itertools
import random

import pytest
from attacked_server import Attack
from watched_server import wait_until

from virtflash.driver.blk import FEATURES, BlkDriver, Pending
from virtflash.driver.split_queue import INDEX_MASK, SplitQueue
from virtflash.virtio.blk import RequestType, Status
from virtflash.virtio.ring_features import RingFeature
from virtflash.virtio.split_ring import DescriptorFlag

SIZE = 16
NEXT = DescriptorFlag.NEXT


IN_FLIGHT = "a head that is in flight already"


def stopped(attack: Attack, queue: SplitQueue, words: str) -> None:
    """The device signalled an error, and says why in one line."""
    queue.wait_error()
    attack.says(rf"attacked: ring {queue.index} stopped: {words}$")


def prepared(driver: BlkDriver, sector: int = 0) -> tuple[SplitQueue, int]:
    """A read as a chain in the first descriptors, not available yet: queue and head."""
    queue = driver.queues[0]
    buffers = [driver._buffer(bytes(16), 0, 16, 16), driver._buffer(b"", 0, 512, 512), driver._buffer(b"", 0, 1, 1)]
    return queue, queue.add(buffers)


@pytest.mark.parametrize("base", [0, 5, 0xFFF8])
@pytest.mark.parametrize("jump", [SIZE + 1, 2 * SIZE, 0x7FFF, 0x8000, 0xFFFF])
def test_available_index_jumps(attack: Attack, jump: int, base: int) -> None:
    """Ring index: `avail.idx` that jumps by more than the queue size."""
    driver = attack.driver(queue_size=SIZE, start=False)
    driver.negotiate()
    driver.share_memory()
    driver.make_queues()
    driver.queues[0].reset(base)
    driver.start_queues()
    driver.queues[0].available_index = base + jump
    driver.queues[0].kick(force=True)
    stopped(attack, driver.queues[0], "the available index jumped by more than the ring holds")
    assert driver.queues[0].used_index == base


@pytest.mark.parametrize("head", [SIZE, SIZE + 1, 0x7FFF, 0x8000, 0xFFFF])
def test_head_beyond_the_ring(attack: Attack, head: int) -> None:
    """Ring index: a descriptor index >= queue size."""
    queue = attack.driver(queue_size=SIZE).queues[0]
    queue.publish(head)
    queue.kick()
    stopped(attack, queue, "a head beyond the ring")


@pytest.mark.parametrize("indirect", [False, True], ids=["direct", "indirect"])
@pytest.mark.parametrize("following", [SIZE, 0x8000, 0xFFFF])
def test_next_beyond_the_table(attack: Attack, following: int, indirect: bool) -> None:
    """Ring index: a `next` index >= queue size (or beyond the end of an indirect table)."""
    driver = attack.driver(queue_size=SIZE)
    queue, head = prepared(driver)
    table = queue.memory.allocate(16 * SIZE) if indirect else None
    queue.write_descriptor(0, queue.memory.place(bytes(16)), 16, NEXT, following, table=table)
    if table is not None:
        queue.write_descriptor(head, table, 16 * SIZE, DescriptorFlag.INDIRECT)
    queue.publish(head)
    queue.kick()
    stopped(attack, queue, "a descriptor index beyond the table")


def stopped_or_served(attack: Attack, queue: SplitQueue, times: int) -> None:
    """Where a read or write has come back before its head is met again, that is a new request like any other."""
    if attack.server.medium.answers_at_once:
        attack.may_say(f"ring 0 stopped: {IN_FLIGHT}$")
        wait_until(lambda: queue.used_index == times or queue.stopped, "all are served")
    else:
        stopped(attack, queue, IN_FLIGHT)


def test_whole_ring_of_one_head(attack: Attack) -> None:
    """Same head twice: every entry of the ring names the same chain."""
    driver = attack.driver(queue_size=SIZE)
    queue, head = prepared(driver)
    queue.publish(*[head] * SIZE)
    queue.kick()
    stopped_or_served(attack, queue, SIZE)


@pytest.mark.parametrize("kind", [RequestType.IN, RequestType.OUT, RequestType.FLUSH, RequestType.DISCARD])
def test_same_head_twice(attack: Attack, kind: RequestType) -> None:
    """Same head twice: a head made available again while its request is in flight. That request still completes."""
    driver = attack.driver(queue_size=SIZE)
    data = {RequestType.OUT: bytes(512), RequestType.DISCARD: (0).to_bytes(8, "little") + bytes([8, *bytes(7)])}
    pending = driver.submit(kind, data=data.get(kind, b""), room=512 * (kind == RequestType.IN), kick=False)
    pending.queue.publish(pending.head)
    pending.queue.kick()
    stopped_or_served(attack, pending.queue, 2)
    assert driver.complete(pending, poll=True).status == Status.OK


def test_same_head_again_once_it_came_back(attack: Attack) -> None:
    """Same head twice, one after the other: that is what a driver does all the time, and must work."""
    queue, head = prepared(attack.driver(queue_size=SIZE))
    for _ in range(3 * SIZE):
        queue.write_available(queue.available_index, head)
        queue.in_flight[head] += 1
        queue.available_index += 1
        queue.kick()
        assert [used.head for used in queue.wait_used()] == [head]


def test_used_ring_rewritten_by_the_guest(attack: Attack) -> None:
    """The used ring is the device's: what a guest writes there is neither read nor obeyed."""
    driver = attack.driver(queue_size=SIZE)
    queue = driver.queues[0]
    for index in range(40):
        queue._set(queue.used, 0xFFFF)
        queue._set(queue.used + 2, 12345)
        pending = driver.submit(RequestType.IN, index, room=512, kick=False)
        queue.kick(force=True)
        while queue.used_index != index + 1:
            pass
        queue.last_used = index
        assert driver.complete(pending, poll=True).status == Status.OK


@pytest.mark.parametrize("flags", [0, 1, 2, 0xFFFE, 0xFFFF])
@pytest.mark.parametrize("event_idx", [False, True], ids=["flags", "event-idx"])
def test_flags_of_the_available_ring(attack: Attack, flags: int, event_idx: bool) -> None:
    """Any bit may be set in the flags: only NO_INTERRUPT means something, and that only without EVENT_IDX (§2.7.6)."""
    driver = attack.driver(features=FEATURES if event_idx else FEATURES & ~int(RingFeature.EVENT_IDX))
    queue = driver.queues[0]
    queue.take_interrupts()
    queue.available_flags = flags
    queue.used_event = 0
    driver.complete(driver.submit(RequestType.IN, room=512), poll=True).check()
    driver.front_end.round_trip()
    driver.stop_queues()
    assert queue.take_interrupts() == (1 if event_idx or not flags & 1 else 0)


@pytest.mark.parametrize("base", [0x7FFE, 0xFFFC, 0xFFFF, 0])
@pytest.mark.parametrize(("count", "event"), list(itertools.product([1, 2, 5], [-2, -1, 0, 1, 4, 5])))
def test_used_event_at_each_position(attack: Attack, base: int, count: int, event: int) -> None:
    """Event index: `used_event` at each position, also where indices wrap. It is passed, or there is no interrupt."""
    driver = attack.driver(queue_size=SIZE, start=False)
    driver.negotiate()
    driver.share_memory()
    driver.make_queues()
    queue = driver.queues[0]
    queue.reset(base)
    driver.start_queues()
    driver.front_end.round_trip()
    queue.take_interrupts()
    queue.used_event = base + event
    pending = [driver.submit(RequestType.IN, i, room=512, kick=i == count - 1) for i in range(count)]
    for each in pending:
        driver.complete(each, poll=True).check()
    assert driver.stop_queues() == [(base + count) & INDEX_MASK]
    assert bool(queue.take_interrupts()) == (0 <= event < count)


@pytest.mark.parametrize("base", [0xFFF0, 0xFFFF, 0x7FFF, 0])
@pytest.mark.parametrize("event_idx", [False, True], ids=["flags", "event-idx"])
def test_kicks_only_when_wanted(attack: Attack, base: int, event_idx: bool) -> None:
    """Event index: `avail_event` over all wrap positions. A driver that kicks only when asked to is always heard."""
    features = FEATURES if event_idx else FEATURES & ~int(RingFeature.EVENT_IDX)
    driver = attack.driver(queue_size=SIZE, features=features, start=False)
    driver.negotiate(features)
    driver.share_memory()
    driver.make_queues()
    driver.queues[0].reset(base)
    driver.start_queues()
    for turn in range(2 * SIZE):
        burst: list[Pending] = [driver.submit(RequestType.IN, turn, room=512) for _ in range(1 + turn % 4)]
        for pending in burst:
            driver.complete(pending).check()


def test_event_index_that_is_any_number(attack: Attack) -> None:
    """Event index: a `used_event` that jumps about harms nobody but the driver, which may miss interrupts."""
    driver = attack.driver(queue_size=SIZE)
    numbers = random.Random(7)
    for turn in range(200):
        pending = driver.submit(RequestType.IN, turn, room=512, kick=False)
        pending.queue.used_event = numbers.randrange(1 << 16)
        pending.queue.kick()
        driver.complete(pending, poll=True).check()


OVERLAPS = ["used is available", "used is descriptors", "available is descriptors", "all one"]


@pytest.mark.parametrize("overlap", OVERLAPS)
def test_parts_that_overlap(attack: Attack, overlap: str) -> None:
    """The parts of a ring lie over each other: what the device writes, it reads as the driver's word."""
    driver = attack.driver(queue_size=SIZE, start=False)
    driver.negotiate()
    driver.share_memory()
    driver.make_queues()
    queue = driver.queues[0]
    if overlap in ("used is available", "all one"):
        queue.used = queue.available
    if overlap in ("used is descriptors", "all one"):
        queue.used = queue.descriptors
    if overlap in ("available is descriptors", "all one"):
        queue.available = queue.descriptors
    driver.start_queues()
    attack.may_say("ring 0 stopped|requests refused")
    for turn in range(20):
        queue._set(queue.available + 2, turn)
        queue.kick(force=True)
    driver.front_end.round_trip()


@pytest.mark.parametrize("size", [1, 2, 4, 256, 1024])
def test_any_size_that_is_allowed_works(attack: Attack, size: int) -> None:
    """Ring sizes down to 1 and up to the greatest: full, drained and filled again."""
    driver = attack.driver(queue_size=size, indirect=True)
    for turn in range(3):
        pending = [driver.submit(RequestType.IN, i % 999, room=512, kick=i == size - 1) for i in range(size)]
        assert all(driver.complete(each).status == Status.OK for each in pending), turn


def test_packed_ring_is_not_to_be_had(attack: Attack) -> None:
    """Packed ring: it is not offered, and a driver that takes it all the same is refused."""
    front_end = attack.front_end()
    assert not front_end.get_features() & RingFeature.RING_PACKED
    front_end.negotiate()
    attack.may_say("SET_FEATURES refused: features 0x400000000 were not offered")
    word = front_end.acknowledged(2, (front_end.features | RingFeature.RING_PACKED).to_bytes(8, "little"))
    assert word != 0
