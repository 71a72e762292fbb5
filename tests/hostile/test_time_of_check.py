"""Memory that another vCPU rewrites while it is being served: the rules of virtio 1.4 §2.7.13 bind no attacker.

What the device has checked it must not read again: each request ends as one of the contents allows, and nothing outside
of what they allow together changes.
"""

import time
from collections.abc import Callable

import pytest
from attacked_server import IMAGE_BYTES, Attack, on_files_and_flash
from chains import INDIRECT, NEXT, SECTOR, WRITE, header, room, source
from other_vcpu import rewriting

from virtflash.driver.blk import BlkDriver
from virtflash.driver.errors import QueueStoppedError
from virtflash.driver.split_queue import Buffer
from virtflash.virtio.blk import RANGE_SEGMENT, REQUEST_HEADER, RequestType, Status
from virtflash.virtio.split_ring import DESCRIPTOR

SECONDS = 0.15
PATIENCE_SECONDS = 10.0
CAPACITY = IMAGE_BYTES // SECTOR
REFUSED = r"ring 0: \d+ requests refused|ring 0 stopped"
MARK = b"\xcd" * SECTOR


class Race:
    """The same chain again and again, while something of it changes. `only`: the sectors that may change."""

    def __init__(self, attack: Attack, driver: BlkDriver, only: range) -> None:
        self.attack, self.driver, self.only = attack, driver, only
        attack.may_say(REFUSED)
        for sector in (0, only.start - 1, only.stop, CAPACITY - 1):
            driver.write(sector, MARK).check()
        self.before = attack.content(driver)

    def run(self, chain: list[Buffer]) -> set[int]:
        """The statuses that were seen: it goes on until there were at least two, or the race would be none."""
        seen: set[int] = set()
        begun = time.monotonic()
        while len(seen) < 2 or time.monotonic() < begun + SECONDS:
            assert time.monotonic() < begun + PATIENCE_SECONDS, f"nothing but {seen}"
            self.driver.memory.write(chain[-1].address, b"\xff")
            self.driver.complete(self.driver.submit_chain(chain))
            seen |= set(self.driver.memory.read(chain[-1].address, 1))
        return seen

    def stopped(self) -> bool:
        return self.driver.queues[0].stopped

    def check(self) -> None:
        after = self.attack.content_left_by(self.driver)
        start, stop = self.only.start * SECTOR, self.only.stop * SECTOR
        assert after[:start] == self.before[:start]
        assert after[stop:] == self.before[stop:]


@on_files_and_flash
@pytest.mark.parametrize("bad", [CAPACITY, 1 << 55])
@pytest.mark.parametrize("kind", [RequestType.IN, RequestType.OUT])
def test_sector_of_the_header(attack: Attack, kind: RequestType, bad: int) -> None:
    """Time of check: the header rewritten between a sector that is there and one that is not."""
    driver = attack.driver()
    race = Race(attack, driver, range(100, 101))
    head = header(driver, kind, 100)
    data = room(driver, SECTOR) if kind == RequestType.IN else source(driver, bytes(SECTOR))
    contents = [REQUEST_HEADER.pack(kind, 0, sector) for sector in (100, bad)]
    with rewriting(driver.memory, head.address, *contents):
        seen = race.run([head, data, room(driver, 1)])
    race.check()
    assert seen <= {Status.OK, Status.IOERR}


def test_type_of_the_header(attack: Attack) -> None:
    """Time of check: a request that is a read, a write, a discard and nothing known, all at the same time."""
    driver = attack.driver()
    race = Race(attack, driver, range(100, 108))
    data = source(driver, RANGE_SEGMENT.pack(100, 8, 0) * 32)
    head = header(driver)
    kinds = [RequestType.IN, RequestType.OUT, RequestType.DISCARD, RequestType.FLUSH, RequestType.WRITE_ZEROES, 99]
    with rewriting(driver.memory, head.address, *(REQUEST_HEADER.pack(kind, 0, 100) for kind in kinds)):
        seen = race.run([head, data, room(driver, 1)])
    race.check()
    assert seen <= {Status.OK, Status.IOERR, Status.UNSUPP}


SEGMENTS = [(CAPACITY - 1, 2, 0), (0, 0xFFFFFFFF, 0), ((1 << 64) - 1, 1, 0), (1 << 55, 8, 0), (100, 8, 0xFFFFFFFE)]


CASES = [*((RequestType.DISCARD, segment) for segment in SEGMENTS), (RequestType.WRITE_ZEROES, SEGMENTS[1])]


@on_files_and_flash
@pytest.mark.parametrize(("kind", "bad"), CASES)
def test_segment(attack: Attack, kind: RequestType, bad: tuple[int, int, int]) -> None:
    """Time of check: segments of discard and write zeroes rewritten while they are served."""
    driver = attack.driver()
    race = Race(attack, driver, range(100, 108))
    good = RANGE_SEGMENT.pack(100, 8, 0)
    data = source(driver, good * 16)
    with rewriting(driver.memory, data.address, good * 16, RANGE_SEGMENT.pack(*bad) * 16):
        seen = race.run([header(driver, kind), data, room(driver, 1)])
    race.check()
    assert seen <= {Status.OK, Status.IOERR, Status.UNSUPP}


LENGTHS = (SECTOR, 0xFFFFFE00)
Descriptors = Callable[[Buffer], list[bytes]]
DESCRIPTORS: dict[str, Descriptors] = {
    "length": lambda b: [DESCRIPTOR.pack(b.address, length, NEXT | WRITE, 2) for length in LENGTHS],
    "address": lambda b: [DESCRIPTOR.pack(address, SECTOR, NEXT | WRITE, 2) for address in (b.address, 1 << 63)],
    "next": lambda b: [DESCRIPTOR.pack(b.address, SECTOR, NEXT | WRITE, following) for following in (2, 1, 0xFFFF)],
    "direction": lambda b: [DESCRIPTOR.pack(b.address, SECTOR, NEXT | flag, 2) for flag in (0, WRITE)],
    "everything": lambda b: [DESCRIPTOR.pack(b.address, SECTOR, NEXT | WRITE, 2), bytes(16), b"\xff" * 16],
}


@pytest.mark.parametrize("indirect", [False, True], ids=["direct", "indirect"])
@pytest.mark.parametrize("what", DESCRIPTORS)
def test_descriptor(attack: Attack, what: str, indirect: bool) -> None:
    """Time of check: a descriptor rewritten while the chain is walked and served; it may be no chain for a moment."""
    driver = attack.driver(queue_size=16)
    race = Race(attack, driver, range(100, 101))
    queue, chain = driver.queues[0], [header(driver, sector=100), room(driver, SECTOR), room(driver, 1)]
    table = driver.memory.allocate(16 * 3) if indirect else queue.descriptors
    queue.write_descriptor(0, chain[0].address, 16, NEXT, 1, table=table)
    queue.write_descriptor(2, chain[2].address, 1, WRITE, 0, table=table)
    if indirect:
        queue.write_descriptor(5, table, 16 * 3, INDIRECT)
    with rewriting(driver.memory, table + 16, *DESCRIPTORS[what](chain[1])):
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            queue.publish(5 if indirect else 0)
            queue.kick()
            try:
                queue.wait_used()
            except QueueStoppedError:
                break
    race.check()


def test_available_ring(attack: Attack) -> None:
    """Time of check: the heads of the available ring rewritten while they are taken."""
    driver = attack.driver(queue_size=16)
    race = Race(attack, driver, range(100, 101))
    chain = [header(driver, sector=100), room(driver, SECTOR), room(driver, 1)]
    queue = driver.queues[0]
    for first in (0, 3):
        for index, (address, length, flags) in enumerate(chain):
            queue.write_descriptor(
                first + index, address, length, flags | (NEXT if index < 2 else 0), first + index + 1
            )
    entries = [bytes(32), b"\x03\0" * 16, b"\x01\0" * 16]
    with rewriting(driver.memory, queue.available + 4, *entries):
        until = time.monotonic() + SECONDS
        while time.monotonic() < until and not race.stopped():
            before = queue.used_index
            queue.available_index += 1
            queue.kick(force=True)
            while queue.used_index == before and not race.stopped():
                pass
    race.check()


def test_available_index(attack: Attack) -> None:
    """Time of check: an index of the available ring that jumps about while it is looked at."""
    driver = attack.driver(queue_size=16)
    race = Race(attack, driver, range(100, 101))
    queue = driver.queues[0]
    with rewriting(driver.memory, queue.available + 2, b"\0\0", b"\x01\0", b"\xff\xff", b"\x10\0"):
        queue.kick(force=True)
        queue.wait_error()
    race.check()
