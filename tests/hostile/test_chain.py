"""Chains of descriptors that are no request, or are one in a shape that nobody expects (virtio 1.4 §2.7.4, §2.7.5)."""

import os
import random
from collections.abc import Callable, Iterable

import pytest
from attacked_server import Attack
from chains import INDIRECT, NEXT, SECTOR, WRITE, answered, header, room, source, stopped

from virtflash.driver.blk import FEATURES, BlkDriver
from virtflash.driver.split_queue import Buffer
from virtflash.virtio.blk import RANGE_SEGMENT, RequestType, Status
from virtflash.virtio.ring_features import RingFeature

SIZE = 16
LOOPS: dict[str, list[int]] = {
    "itself": [0],
    "two": [1, 0],
    "full ring": [(i + 1) % SIZE for i in range(SIZE)],
    "back to the middle": [1, 2, 3, 2],
    "full ring into itself": [*range(1, SIZE), SIZE - 1],
}


@pytest.mark.parametrize("length", [0, 1, SECTOR], ids=["zero-length", "bytes", "sectors"])
@pytest.mark.parametrize("indirect", [False, True], ids=["direct", "indirect"])
@pytest.mark.parametrize("loop", LOOPS)
def test_loop(attack: Attack, loop: str, indirect: bool, length: int) -> None:
    """Chain: a loop (self, two, full ring), which is also a chain longer than the ring."""
    driver = attack.driver(queue_size=SIZE)
    queue, target = driver.queues[0], room(driver, SECTOR)
    links = LOOPS[loop]
    table = driver.memory.allocate(16 * len(links)) if indirect else None
    for index, following in enumerate(links):
        queue.write_descriptor(index, target.address, length, NEXT | WRITE, following, table=table)
    if table is not None:
        queue.write_descriptor(0, table, 16 * len(links), INDIRECT)
    queue.publish(0)
    queue.kick()
    stopped(attack, driver, "a chain that loops")


def test_chain_as_long_as_the_ring_works(attack: Attack) -> None:
    """Chain: as long as the ring is the longest that is allowed."""
    driver = attack.driver(queue_size=SIZE)
    buffers = [header(driver), *(room(driver, 256) for _ in range(SIZE - 2)), room(driver, 1)]
    assert driver.complete(driver.submit_chain(buffers)).status == Status.OK


def test_indirect_table_longer_than_the_ring_works(attack: Attack) -> None:
    """Chain: an indirect table may be longer than a small ring, as Linux makes them; what counts is seg_max."""
    driver = attack.driver(queue_size=SIZE)
    buffers = [header(driver), *(room(driver, SECTOR) for _ in range(126)), room(driver, 1)]
    assert driver.complete(driver.submit_chain(buffers, indirect=True)).status == Status.OK


@pytest.mark.parametrize("place", ["first", "between", "last", "everywhere"])
@pytest.mark.parametrize("flags", [0, WRITE], ids=["readable", "writable"])
@pytest.mark.parametrize("address", [None, 0, (1 << 64) - 1], ids=["somewhere", "at 0", "at the top"])
def test_zero_length_descriptors(attack: Attack, place: str, flags: int, address: int | None) -> None:
    """Chain: zero-length descriptors say nothing, wherever they stand and point; the request is served."""
    driver = attack.driver()
    nothing = Buffer(driver.memory.allocate(1) if address is None else address, 0, flags)
    buffers = [header(driver), room(driver, SECTOR), room(driver, 1)]
    if place == "everywhere":
        buffers = [nothing, *(part for buffer in buffers for part in (buffer, nothing))]
    else:
        buffers.insert({"first": 0, "between": 1, "last": 3}[place], nothing)
    completion = driver.complete(driver.submit_chain(buffers))
    assert (completion.status, completion.used_length) == (Status.OK, SECTOR + 1)


@pytest.mark.parametrize("indirect", [False, True], ids=["direct", "indirect"])
@pytest.mark.parametrize("requests", [1, 100])
def test_thousands_of_zero_length_descriptors(attack: Attack, requests: int, indirect: bool) -> None:
    """Chain: thousands of zero-length descriptors cost a bounded walk, and the request is served."""
    driver = attack.driver(queue_size=1024, indirect=indirect)
    nothing = Buffer(0, 0)
    for _ in range(requests):
        buffers = [*[nothing] * 1000, header(driver), room(driver, SECTOR), room(driver, 1)]
        assert driver.complete(driver.submit_chain(buffers)).status == Status.OK


@pytest.mark.parametrize("entries", [1027, 4096, 65536])
def test_indirect_table_without_end(attack: Attack, entries: int) -> None:
    """Chain: an indirect table longer than any request could be is not walked."""
    driver = attack.driver(queue_size=SIZE)
    table = driver.memory.allocate(16 * entries)
    queue = driver.queues[0]
    queue.write_descriptor(0, table, 16 * entries, INDIRECT)
    queue.publish(0)
    queue.kick()
    stopped(attack, driver, "an indirect table of no or an odd length")


def test_only_zero_length_descriptors(attack: Attack) -> None:
    """Chain: one that carries nothing at all has no place for a status."""
    driver = attack.driver(queue_size=SIZE)
    driver.submit_chain([Buffer(0, 0, WRITE)] * SIZE)
    stopped(attack, driver, "no byte for the status")


def test_as_many_pieces_as_one_transfer_can_take(attack: Attack) -> None:
    """Chain: 1024 pieces of data, of one byte each, are two sectors."""
    driver = attack.driver(queue_size=SIZE)
    buffers = [header(driver), *(room(driver, 1) for _ in range(2 * SECTOR)), room(driver, 1)]
    completion = driver.complete(driver.submit_chain(buffers, indirect=True))
    assert (completion.status, completion.used_length) == (Status.OK, 2 * SECTOR + 1)


# Direction

Shape = Callable[[BlkDriver], list[Buffer]]
ANSWERED: dict[str, tuple[Shape, str]] = {
    "read into a device-readable buffer": (
        lambda d: [header(d), source(d, bytes(SECTOR)), room(d, 1)],
        "a request that is out of bounds.*",
    ),
    "write from a device-writable buffer": (
        lambda d: [header(d, RequestType.OUT), room(d, SECTOR), room(d, 1)],
        "a request that is out of bounds.*",
    ),
    "header in a device-writable buffer": (
        lambda d: [room(d, 16), room(d, SECTOR), room(d, 1)],
        "a request that is out of bounds.*",
    ),
    "half a header": (
        lambda d: [Buffer(header(d).address, 15), room(d, SECTOR), room(d, 1)],
        "a request that is out of bounds.*",
    ),
    "no header": (lambda d: [room(d, 1)], "a request that is out of bounds.*"),
    "status not last": (
        lambda d: [header(d, RequestType.OUT), room(d, 1), source(d, bytes(SECTOR))],
        "a device-readable buffer behind a device-writable one",
    ),
    "header not first": (
        lambda d: [room(d, SECTOR), header(d), room(d, 1)],
        "a device-readable buffer behind a device-writable one",
    ),
    "readable buffer among writable ones": (
        lambda d: [header(d), room(d, 256), source(d, bytes(256)), room(d, 257)],
        "a device-readable buffer behind a device-writable one",
    ),
}


@pytest.mark.parametrize("indirect", [False, True], ids=["direct", "indirect"])
@pytest.mark.parametrize("shape", ANSWERED)
def test_direction_answered(attack: Attack, shape: str, indirect: bool) -> None:
    """Direction: what has a place for a status is answered with an error."""
    make, words = ANSWERED[shape]
    driver = attack.driver()
    before = attack.content(driver)
    answered(attack, driver, make(driver), words, indirect=indirect)
    assert attack.content(driver) == before


@pytest.mark.parametrize("indirect", [False, True], ids=["direct", "indirect"])
@pytest.mark.parametrize("kind", [RequestType.IN, RequestType.OUT, RequestType.FLUSH, 99])
def test_no_status_byte(attack: Attack, kind: int, indirect: bool) -> None:
    """Direction: no status byte. There is no way to answer, so the queue stops."""
    driver = attack.driver()
    driver.submit_chain([header(driver, kind), source(driver, bytes(SECTOR))], indirect=indirect)
    stopped(attack, driver, "no byte for the status")


def nested(driver: BlkDriver) -> None:
    inner, outer = (driver.memory.allocate(64) for _ in range(2))
    driver.queues[0].write_descriptor(0, inner, 64, INDIRECT, table=outer)
    driver.queues[0].write_descriptor(0, outer, 16, INDIRECT)


def nested_deep(driver: BlkDriver) -> None:
    """A table that is its own table."""
    table = driver.memory.allocate(64)
    driver.queues[0].write_descriptor(0, table, 64, INDIRECT, table=table)
    driver.queues[0].write_descriptor(0, table, 64, INDIRECT)


def with_next(driver: BlkDriver) -> None:
    driver.queues[0].write_descriptor(0, driver.memory.allocate(64), 64, INDIRECT | NEXT, 1)


def of_length(length: int) -> Callable[[BlkDriver], None]:
    return lambda driver: driver.queues[0].write_descriptor(0, driver.memory.allocate(64), length, INDIRECT)


INDIRECTIONS: dict[str, tuple[Callable[[BlkDriver], None], str]] = {
    "nested": (nested, "an indirect descriptor inside an indirect table"),
    "nested in itself": (nested_deep, "an indirect descriptor inside an indirect table"),
    "with NEXT": (with_next, "an indirect descriptor with NEXT"),
    "of no bytes": (of_length(0), "an indirect table of no or an odd length"),
    "of an odd length": (of_length(17), "an indirect table of no or an odd length"),
    "of half a descriptor": (of_length(8), "an indirect table of no or an odd length"),
    "of 4 GiB": (of_length(0xFFFFFFF0), "an indirect table of no or an odd length"),
}


@pytest.mark.parametrize("case", INDIRECTIONS)
def test_indirection(attack: Attack, case: str) -> None:
    """Direction: nested indirect, indirect with NEXT; and tables whose length cannot be."""
    make, words = INDIRECTIONS[case]
    driver = attack.driver(queue_size=SIZE)
    make(driver)
    driver.queues[0].publish(0)
    driver.queues[0].kick()
    stopped(attack, driver, words)


def test_indirect_that_was_not_negotiated(attack: Attack) -> None:
    """Direction: an indirect descriptor of a driver that did not take the feature."""
    driver = attack.driver(features=FEATURES & ~int(RingFeature.INDIRECT_DESC))
    driver.submit(RequestType.IN, room=SECTOR, indirect=True)
    stopped(attack, driver, "an indirect descriptor although none was negotiated")


def test_indirect_at_the_end_of_a_chain_works(attack: Attack) -> None:
    """Direction: ordinary descriptors, then an indirect one, are a legal chain (§2.7.5.3.1)."""
    driver = attack.driver(queue_size=SIZE)
    queue, first = driver.queues[0], header(driver)
    data = room(driver, SECTOR + 1)
    table = driver.memory.allocate(16)
    queue.write_descriptor(0, data.address, data.length, WRITE, table=table)
    queue.write_descriptor(0, first.address, first.length, NEXT, 1)
    queue.write_descriptor(1, table, 16, INDIRECT)
    queue.publish(0)
    queue.kick()
    assert queue.wait_used()[0].length == SECTOR + 1


# Framing: every legal split works

CUTS: dict[str, Iterable[int]] = {
    "one buffer of data and status": [16],
    "header cut in the middle": [8, 16],
    "header in bytes": range(1, 17),
    "header and data together": [16 + SECTOR],
    "status apart": [16, 16 + SECTOR],
    "everything in bytes": range(1, 17 + SECTOR),
    "odd cuts": [3, 17, 100, 101, 333, 500],
    "with empty ones": [0, 0, 5, 5, 16, 16, 40, 40, 528, 528, 529, 529],
}
SPLITS = {**CUTS, **{f"header cut at {cut}": [cut, 16] for cut in range(1, 16)}}


@pytest.mark.parametrize("indirect", [False, True], ids=["direct", "indirect"])
@pytest.mark.parametrize("split", SPLITS)
def test_framing(attack: Attack, split: str, indirect: bool) -> None:
    """Framing: every legal split of header, data and status over descriptors must work (§2.7.4.1, §5.2.6)."""
    driver = attack.driver(queue_size=1024)
    content, cuts = os.urandom(SECTOR), list(SPLITS[split])
    driver.write(9, content, framing=cuts, indirect=indirect).check()
    found = driver.read(9, SECTOR, framing=cuts, indirect=indirect).check()
    assert (found.data, found.used_length) == (content, SECTOR + 1)
    assert driver.flush(framing=[cut for cut in cuts if cut <= 17]).status == Status.OK
    assert driver.get_id(framing=[cut for cut in cuts if cut <= 37]).check().data.startswith(b"attacked")
    cuts = [cut for cut in cuts if cut <= 33]
    segment = RANGE_SEGMENT.pack(40, 8, 0)
    assert driver.request(RequestType.WRITE_ZEROES, data=segment, framing=cuts, indirect=indirect).status == Status.OK


def test_framing_at_random(attack: Attack) -> None:
    """Framing: as above, cut at random, with several sectors."""
    numbers = random.Random(3)
    driver = attack.driver(queue_size=256)
    for turn in range(60):
        content = numbers.randbytes(SECTOR * numbers.randint(1, 9))
        cuts = [numbers.randrange(17 + len(content)) for _ in range(numbers.randint(0, 40))]
        driver.write(turn, content, framing=cuts, indirect=turn % 2 == 0).check()
        assert driver.read(turn, len(content), framing=cuts, indirect=turn % 3 == 0).check().data == content
