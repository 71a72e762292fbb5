"""Indices that wrap, and who has to wake whom: EVENT_IDX at each position, NO_INTERRUPT, NO_NOTIFY (§2.7.6 ff.)."""

import random
from collections.abc import Callable

import pytest
from hand_made_ring import Piece, Ring, eventually, wait_readable
from served_ring import EVERYTHING, FLUSH, IN, OK, SECTORS, ServedRing, sector_bytes

from virtflash.virtio.ring_features import RingFeature

Serve = Callable[..., ServedRing]
EVENT_IDX = EVERYTHING | RingFeature.EVENT_IDX
NO_NOTIFY, NO_INTERRUPT = 1, 1
BASES = [0, 1, 32767, 32768, 65500, 65530, 65534, 65535]


def offer(served: ServedRing, count: int) -> None:
    """Flushes, all of them published at once, with a kick whatever the device wants."""
    served.ring.offer(*(served.blk(FLUSH).head for _ in range(count)))


def wait_used(ring: Ring, index: int) -> None:
    eventually(lambda: ring.used_index == index & 0xFFFF, f"the used index reaches {index & 0xFFFF}")


@pytest.mark.parametrize("base", BASES)
def test_indices_wrap(serve: Serve, disk: int, base: int) -> None:
    served = serve(disk, ring={"base": base, "size": 8})
    for sector in range(40):
        assert served.read(sector).data == sector_bytes(sector)
    assert served.ring.used_index == (base + 40) & 0xFFFF
    assert served.queue.stop() == (base + 40) & 0xFFFF


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("event", range(-2, 8))
def test_interrupts_when_its_event_is_passed(serve: Serve, base: int, event: int) -> None:
    """`used_event` at each place before, among and behind six completions (§2.7.7.2): once, or not at all."""
    served = serve(ring={"base": base, "features": EVENT_IDX})
    ring = served.ring
    wait_readable(ring.call_fd)
    ring.interrupts()  # of the start
    ring.used_event = base + event
    offer(served, 6)
    wait_used(ring, base + 6)
    passed = 0 <= event < 6
    assert wait_readable(ring.call_fd, 5 if passed else 0.002) == passed
    eventually(lambda: counted(served) == 6, "the batch is accounted for")
    assert served.statistics()["interrupts"] == ring.interrupts() == passed
    served.queue.stop()
    assert ring.interrupts() == 0


def counted(served: ServedRing) -> int:
    statistics = served.statistics()
    return int(statistics["interrupts"] + statistics["interrupts_suppressed"])


@pytest.mark.parametrize("base", BASES)
def test_asks_for_a_kick_at_the_next_entry(serve: Serve, base: int) -> None:
    """`avail_event` of a device that sleeps (§2.7.10.2); its flags stay 0 all the time."""
    served = serve(ring={"base": base, "features": EVENT_IDX})
    for taken in range(0, 12, 3):
        eventually(lambda taken=taken: served.ring.available_event == (base + taken) & 0xFFFF, "it waits for a kick")
        assert served.ring.used_flags == 0
        offer(served, 3)
        wait_used(served.ring, base + taken + 3)


class ObedientDriver:
    """Kicks when the device asked for it, sleeps when it may be interrupted, and does neither otherwise."""

    def __init__(self, served: ServedRing, event_idx: bool) -> None:
        self.served, self.ring, self.event_idx = served, served.ring, event_idx

    def offer(self, count: int) -> None:
        ring, old = self.ring, self.ring.index
        ring.publish(*(self.served.blk(IN, number % SECTORS, room=512, at=self.room).head for number in range(count)))
        if self.event_idx:
            wanted = (ring.index - ring.available_event - 1) & 0xFFFF < (ring.index - old) & 0xFFFF
        else:
            wanted = not ring.used_flags & NO_NOTIFY
        if wanted:
            ring.kick()

    def wait(self, count: int) -> None:
        missing = count - len(self.ring.take_used())
        while missing:
            self.ring.used_event = self.ring.seen + missing - 1
            self.ring.available_flags = 0
            missing -= len(self.ring.take_used())
            if missing:
                assert wait_readable(self.ring.call_fd), "an interrupt was lost, or a kick"
                self.ring.interrupts()
                missing -= len(self.ring.take_used())
        self.ring.available_flags = 0 if self.event_idx else NO_INTERRUPT

    def play(self, seed: int, turns: int) -> None:
        choose = random.Random(seed)
        self.room = self.served.memory.allocate(513)
        for _ in range(turns):
            count = choose.choice([1, 1, 1, 2, 5, 16])
            self.served.memory.next_free = self.room + 1024  # requests are built in the same place every time
            self.offer(count)
            self.wait(count)
            for _ in range(choose.choice([0, 0, 10, 100, 1000])):
                pass  # the device may be looking, falling asleep, or asleep


@pytest.mark.parametrize("event_idx", [False, True])
@pytest.mark.parametrize("base", [0, 65000])
def test_no_kick_and_no_interrupt_is_lost(serve: Serve, disk: int, base: int, event_idx: bool) -> None:
    features = EVENT_IDX if event_idx else EVERYTHING
    served = serve(disk, ring={"base": base, "features": features, "size": 64})
    ObedientDriver(served, event_idx).play(base, 800)
    assert served.statistics()["errors"] == 0
    read = served.statistics()["requests"]["read"]
    eventually(lambda: counted(served) == read, "each completion is accounted for")


# Without EVENT_IDX


def test_no_interrupt_is_a_wish_that_is_heard(serve: Serve) -> None:
    served = serve()
    wait_readable(served.ring.call_fd)
    served.ring.interrupts()
    served.ring.available_flags = NO_INTERRUPT
    for turn in range(1, 6):
        offer(served, 3)
        wait_used(served.ring, 3 * turn)
    eventually(lambda: counted(served) == 15, "the batches are accounted for")
    assert (served.statistics()["interrupts"], served.ring.interrupts()) == (0, 0)
    served.ring.available_flags = 0
    offer(served, 1)
    assert wait_readable(served.ring.call_fd)


def test_what_was_not_negotiated_means_nothing(serve: Serve) -> None:
    """`used_event` without EVENT_IDX; the flag with it."""
    plain, event = serve(), serve(ring={"features": EVENT_IDX})
    for served in (plain, event):
        assert wait_readable(served.ring.call_fd)
        served.ring.interrupts()
    plain.ring.used_event = 100
    event.ring.used_event = 0
    event.ring.available_flags = NO_INTERRUPT
    for served in (plain, event):
        offer(served, 1)
        assert wait_readable(served.ring.call_fd)


def test_wants_no_kicks_while_it_looks(serve: Serve, disk: int) -> None:
    served = serve(disk, ring={"size": 1024})
    requests = [served.blk(IN, i % SECTORS, room=512, cuts=[], room_cuts=[]) for i in range(400)]
    eventually(lambda: served.ring.used_flags == 0, "it sleeps")
    served.ring.offer(*(request.head for request in requests))
    eventually(lambda: served.ring.used_flags == NO_NOTIFY or served.ring.used_index == 400, "it is awake")
    assert served.ring.used_flags == NO_NOTIFY or served.ring.used_index == 400
    assert {outcome.status for outcome in served.collect(*requests)} == {OK}
    eventually(lambda: served.ring.used_flags == 0, "it sleeps again")


@pytest.mark.parametrize("features", [EVERYTHING, EVENT_IDX])
def test_a_ring_that_was_left_asks_for_kicks(serve: Serve, features: int) -> None:
    """Who serves it next may look only when it is kicked."""
    for _ in range(20):
        served = serve(ring={"features": features})
        offer(served, 3)
        base = served.queue.stop()
        assert served.ring.used_flags == 0
        if features & RingFeature.EVENT_IDX:
            assert served.ring.available_event == base


def test_spurious_kicks_are_borne(serve: Serve, disk: int) -> None:
    served = serve(disk)
    for _ in range(50):
        served.ring.kick()
    assert served.read(1).data == sector_bytes(1)


def test_what_waits_in_the_ring_needs_no_kick_at_the_start(serve: Serve, disk: int) -> None:
    served = serve(disk, ring={"run": False})
    requests = [served.blk(IN, i, room=512) for i in range(5)]
    served.ring.publish(*(request.head for request in requests))
    served.start()
    assert [outcome.data for outcome in served.collect(*requests)] == [sector_bytes(i) for i in range(5)]


def test_a_ring_of_one(serve: Serve, disk: int) -> None:
    served = serve(disk, ring={"size": 1, "base": 65535, "features": EVENT_IDX})
    for sector in range(5):
        request = served.blk(IN, sector, room=512, indirect=True)
        assert request.head == 0
        assert served.run(request)[0].data == sector_bytes(sector)


def test_the_index_may_jump_by_all_of_the_ring_and_no_more(serve: Serve) -> None:
    served = serve(ring={"size": 4, "base": 65534})
    answer = served.memory.allocate(1)
    for head in range(4):
        served.ring.link(head, [Piece(served.memory.allocate(16), 16)])
        served.ring.put_descriptor(head, answer, 1, 2)  # no header: refused, and given back
    served.ring.offer(0, 1, 2, 3)
    assert len(served.ring.wait(4)) == 4
    assert not served.queue.broken
    served.ring.offer(0, 1, 2, 3, 0)
    assert wait_readable(served.ring.error_fd)
    assert served.queue.stop() == 2
