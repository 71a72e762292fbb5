"""The driver's side of a split virtqueue, against a device that is played by hand."""

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from virtflash.driver.errors import ClosedError, DeadlineError, FrontEndError, QueueStoppedError
from virtflash.driver.guest_memory import GuestMemory
from virtflash.driver.split_queue import ONE, Buffer, SplitQueue, Used
from virtflash.virtio.split_ring import DESCRIPTOR, DESCRIPTOR_BYTES, USED_ELEMENT, DescriptorFlag

SIZE = 8
NEXT, WRITE, INDIRECT = DescriptorFlag.NEXT, DescriptorFlag.WRITE, DescriptorFlag.INDIRECT
CHAIN = [Buffer(0x2000, 16), Buffer(0x3000, 512, WRITE), Buffer(0x4000, 1, WRITE)]


class Device:
    """The other side, done by hand: gives chains back and raises interrupts."""

    def __init__(self, queue: SplitQueue) -> None:
        self.queue = queue

    @property
    def index(self) -> int:
        return self.queue.used_index

    def give(self, *elements: tuple[int, int]) -> None:
        queue = self.queue
        for offset, element in enumerate(elements):
            at = queue.used + 4 + 8 * ((self.index + offset) % queue.size)
            queue.memory.write(at, USED_ELEMENT.pack(*element))
        queue._set(queue.used + 2, self.index + len(elements))

    def wants_kick_at(self, index: int) -> None:
        self.queue._set(self.queue.used + 4 + 8 * self.queue.size, index)

    def flags(self, flags: int) -> None:
        self.queue._set(self.queue.used, flags)


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    with GuestMemory((0x100000, 1 << 20)) as memory:
        yield memory


@pytest.fixture(params=[False, True], ids=["flags", "event-idx"])
def queue(request: pytest.FixtureRequest, memory: GuestMemory) -> Iterator[SplitQueue]:
    queue = SplitQueue(memory, SIZE, event_idx=request.param)
    yield queue
    queue.close()


def descriptors(queue: SplitQueue, table: int, count: int) -> list[tuple[int, ...]]:
    data = queue.memory.read(table, count * DESCRIPTOR_BYTES)
    return [DESCRIPTOR.unpack_from(data, i * DESCRIPTOR_BYTES) for i in range(count)]


LINKED = [(0x2000, 16, NEXT, 1), (0x3000, 512, NEXT | WRITE, 2), (0x4000, 1, WRITE, 0)]


def test_a_chain_as_the_standard_lays_it_out(queue: SplitQueue) -> None:
    assert queue.add(CHAIN) == 0
    assert queue.available_index == 0, "not before it is published"
    queue.publish(0)
    assert descriptors(queue, queue.descriptors, 3) == LINKED
    assert queue.memory.read(queue.available, 6) == b"\0\0\1\0\0\0"


def test_an_indirect_chain_takes_one_descriptor(queue: SplitQueue) -> None:
    head = queue.add(CHAIN, indirect=True)
    ((table, length, flags, _),) = descriptors(queue, queue.descriptors, 1)
    assert (head, length, flags) == (0, 3 * DESCRIPTOR_BYTES, INDIRECT)
    assert descriptors(queue, table, 3) == LINKED


def test_descriptors_are_free_again_once_given_back(queue: SplitQueue) -> None:
    device = Device(queue)
    heads = [queue.add(CHAIN), queue.add(CHAIN)]
    with pytest.raises(FrontEndError, match="3 descriptors were asked for, 2 are free"):
        queue.add(CHAIN)
    queue.publish(*heads)
    device.give((heads[1], 513), (heads[0], 1))
    assert queue.take_used() == [Used(heads[1], 513), Used(heads[0], 1)]
    assert queue.in_flight.total() == 0
    assert queue.add([Buffer(0, 1)] * SIZE) is not None


def test_indices_wrap(memory: GuestMemory) -> None:
    queue = SplitQueue(memory, SIZE, event_idx=True, base=65534)
    device = Device(queue)
    for turn in range(5):
        head = queue.add([Buffer(0x2000, 16)])
        queue.publish(head)
        assert queue.available_index == (65535 + turn) % 65536
        device.wants_kick_at(65534 + turn)
        assert queue.kick()
        assert not queue.kick(), "there is nothing new to tell"
        device.give((head, turn))
        assert queue.take_used() == [Used(head, turn)]
    queue.close()


@pytest.mark.parametrize(
    ("old", "new", "event", "kick"),
    [
        (0, 1, 0, True),
        (0, 1, 1, False),
        (0, 1, 65535, False),
        (5, 8, 5, True),
        (5, 8, 7, True),
        (5, 8, 8, False),
        (5, 8, 4, False),
        (65535, 1, 65535, True),
        (65535, 1, 0, True),
        (65535, 1, 1, False),
        (3, 3, 2, False),
    ],
)
def test_a_kick_is_due_when_the_event_index_was_passed(
    memory: GuestMemory, old: int, new: int, event: int, kick: bool
) -> None:
    queue = SplitQueue(memory, SIZE, event_idx=True, base=old)
    queue.available_index = new
    Device(queue).wants_kick_at(event)
    assert queue.wants_kick() is kick
    assert queue.kick() is kick
    assert (queue.kick_fd in pending_kicks(queue)) is kick
    queue.close()


def pending_kicks(queue: SplitQueue) -> list[int]:
    try:
        os.read(queue.kick_fd, 8)
    except BlockingIOError:
        return []
    return [queue.kick_fd]


def test_without_event_index_the_flag_decides(memory: GuestMemory) -> None:
    queue = SplitQueue(memory, SIZE)
    device = Device(queue)
    queue.publish(queue.add([Buffer(0, 1)]))
    device.flags(1)
    assert not queue.kick()
    assert queue.kick(force=True)
    device.flags(0)
    assert queue.kick()
    queue.close()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([(1, 0)], "gave back head 1, which is not in flight"),
        ([(SIZE, 0)], "gave back head 8, which is not in flight"),
        ([(0, 0), (0, 0)], "gave 2 chains back, but 1 are in flight"),
    ],
)
def test_a_device_that_gives_back_what_it_was_not_given(
    queue: SplitQueue, given: list[tuple[int, int]], words: str
) -> None:
    queue.publish(queue.add([Buffer(0, 1)]))
    Device(queue).give(*given)
    with pytest.raises(FrontEndError, match=words):
        queue.take_used()


def test_waiting_sleeps_until_the_interrupt(queue: SplitQueue) -> None:
    heads = [queue.add([Buffer(0, 1)]) for _ in range(3)]
    queue.publish(*heads)

    def serve() -> None:
        Device(queue).give(*((head, head) for head in heads))
        os.write(queue.call_fd, ONE)

    thread = threading.Timer(0.05, serve)
    thread.start()
    assert queue.wait_used(3) == [Used(head, head) for head in heads]
    thread.join()


def test_waiting_asks_for_the_interrupt_that_it_needs(queue: SplitQueue) -> None:
    queue.publish(*[queue.add([Buffer(0, 1)]) for _ in range(3)])
    queue.forbid_interrupts()
    assert (queue.used_event, queue.available_flags) == ((65535, 0) if queue.event_idx else (65535, 1))
    with pytest.raises(DeadlineError, match=r"waiting for 3 of 3 chains in flight: nothing happened for 0\.01 s"):
        queue.wait_used(3, timeout=0.01)
    assert (queue.used_event, queue.available_flags) == ((2, 0) if queue.event_idx else (65535, 0))


def test_what_came_back_before_is_not_slept_for(queue: SplitQueue) -> None:
    queue.publish(queue.add([Buffer(0, 1)]))
    Device(queue).give((0, 7))
    assert queue.wait_used(timeout=0) == [Used(0, 7)]
    assert not queue.allow_interrupts(0)


def test_polling_needs_no_interrupt(queue: SplitQueue) -> None:
    queue.publish(queue.add([Buffer(0, 1)]))
    with pytest.raises(DeadlineError, match="1 chains did not come back"):
        queue.poll_used(timeout=0.01)
    Device(queue).give((0, 7))
    assert queue.poll_used() == [Used(0, 7)]


def test_a_device_that_stopped_the_queue_ends_the_wait(queue: SplitQueue) -> None:
    queue.publish(queue.add([Buffer(0, 1)]))
    with pytest.raises(DeadlineError):
        queue.wait_error(timeout=0.01)
    os.write(queue.error_fd, ONE)
    queue.wait_error()
    with pytest.raises(QueueStoppedError):
        queue.wait_used()


def test_a_back_end_that_left_ends_the_wait(memory: GuestMemory) -> None:
    ours, theirs = socket.socketpair()
    queue = SplitQueue(memory, SIZE, peer=ours.fileno())
    queue.publish(queue.add([Buffer(0, 1)]))
    theirs.close()
    with pytest.raises(ClosedError, match="waiting for 1 of 1 chains in flight: the back end closed"):
        queue.wait_used()
    ours.close()
    queue.close()


def test_interrupts_are_counted(queue: SplitQueue) -> None:
    assert queue.take_interrupts() == 0
    for _ in range(3):
        os.write(queue.call_fd, ONE)
    assert queue.take_interrupts() == 3
    reader, writer = os.pipe()
    os.write(writer, b"12345")
    os.close(queue.call_fd)
    queue.call_fd = reader
    assert queue.take_interrupts() == 5
    os.close(writer)


def test_every_field_can_be_overwritten(queue: SplitQueue) -> None:
    queue.write_descriptor(3, 1 << 63, 0xFFFFFFFF, 0xFFFF, 0xFFFF)
    assert descriptors(queue, queue.descriptors, 4)[3] == (1 << 63, 0xFFFFFFFF, 0xFFFF, 0xFFFF)
    queue.write_available(3, 0xFFFF)
    queue.available_index = 1000
    queue.available_flags = 0xFFFF
    queue.used_event = 77
    ring = queue.memory.read(queue.available, 4 + 2 * SIZE + 2)
    assert ring == b"\xff\xff\xe8\x03" + bytes(6) + b"\xff\xff" + bytes(8) + b"\x4d\0"


def test_starting_anew(queue: SplitQueue) -> None:
    queue.publish(queue.add(CHAIN))
    queue.reset(7)
    assert (queue.available_index, queue.used_index, queue.last_used, queue.in_flight.total()) == (7, 7, 7, 0)
    assert queue.add([Buffer(0, 1)] * SIZE) == 0
