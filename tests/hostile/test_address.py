"""Addresses that are not guest memory, or are several pieces of it (virtio 1.4 §2.7.5; vhost-user, "Memory access")."""

import os
from collections.abc import Callable

import pytest
from attacked_server import Attack, on_files_and_flash
from chains import INDIRECT, NEXT, SECTOR, WRITE, answered, header, room, stopped

from virtflash.driver.blk import BlkDriver
from virtflash.driver.errors import RefusedError
from virtflash.driver.guest_memory import GuestMemory
from virtflash.driver.split_queue import Buffer
from virtflash.virtio.blk import REQUEST_HEADER, RequestType, Status
from virtflash.virtio.split_ring import DESCRIPTOR

PAGE = 4096
MIB = 1 << 20
LOW, SECOND, HIGH = MIB, 2 * MIB, 4 * MIB  # two regions that touch, a hole, a third one
NOWHERE = 64 * MIB
TOP = 1 << 64
SIZE = 16


def memory() -> GuestMemory:
    return GuestMemory((LOW, MIB), (SECOND, MIB), (HIGH, MIB))


@pytest.fixture
def driver(attack: Attack) -> BlkDriver:
    return attack.driver(memory=memory(), queue_size=SIZE)


# Buffers

BAD = {
    "nowhere": (NOWHERE, SECTOR),
    "at 0": (0, SECTOR),
    "at the top": (TOP - SECTOR, SECTOR),
    "wraps": (TOP - 256, SECTOR),
    "wraps into memory": (TOP - 1, 0xFFFFFFFF),
    "ends behind the last region": (HIGH + MIB - 256, SECTOR),
    "begins before a region": (HIGH - 256, SECTOR),
    "spans a hole": (SECOND + MIB - 256, HIGH - SECOND - MIB + SECTOR),
    "4 GiB from the first byte": (LOW, 0xFFFFFE00),
    "bit 63": (LOW | 1 << 63, SECTOR),
}


@on_files_and_flash
@pytest.mark.parametrize("indirect", [False, True], ids=["direct", "indirect"])
@pytest.mark.parametrize("kind", [RequestType.IN, RequestType.OUT])
@pytest.mark.parametrize("place", BAD)
def test_data(attack: Attack, driver: BlkDriver, place: str, kind: RequestType, indirect: bool) -> None:
    """Address: an unmapped guest address; address + length that wraps. The request is refused."""
    before = attack.content(driver)
    bad = Buffer(*BAD[place], WRITE if kind == RequestType.IN else 0)
    answered(
        attack,
        driver,
        [header(driver, kind), bad, room(driver, 1)],
        "an address that is not guest.*",
        indirect=indirect,
    )
    assert attack.content(driver) == before


@pytest.mark.parametrize("place", BAD)
def test_header(attack: Attack, driver: BlkDriver, place: str) -> None:
    """Address: a header that is not in memory. There is a place for the status, so it is answered."""
    bad = Buffer(*BAD[place])
    answered(attack, driver, [bad, room(driver, SECTOR), room(driver, 1)], "an address that is not guest.*")


@pytest.mark.parametrize("address", [NOWHERE, 0, TOP - 1, HIGH + MIB, HIGH - 1, 1 << 63])
def test_status(attack: Attack, driver: BlkDriver, address: int) -> None:
    """Address: a status byte that is not in memory. There is no way to answer, so the queue stops."""
    driver.submit_chain([header(driver), room(driver, SECTOR), Buffer(address, 1, WRITE)])
    stopped(attack, driver, "an address that is not guest memory")


@pytest.mark.parametrize("place", ["nowhere", "at 0", "at the top", "bit 63"])
def test_indirect_table(attack: Attack, driver: BlkDriver, place: str) -> None:
    """Address: an indirect table that is not in memory."""
    driver.queues[0].write_descriptor(0, BAD[place][0], 16 * SIZE, INDIRECT)
    driver.queues[0].publish(0)
    driver.queues[0].kick()
    stopped(attack, driver, "an address that is not guest memory")


@pytest.mark.parametrize("cut", [0, 1, 15, 16, 17, 31])
def test_indirect_table_that_leaves_memory(attack: Attack, driver: BlkDriver, cut: int) -> None:
    """Address: an indirect table that begins in a region and ends in none; its chain leads there."""
    table = HIGH + MIB - 16 - cut
    driver.memory.write(table, DESCRIPTOR.pack(LOW, 16, NEXT, 1)[: 16 + cut])
    driver.queues[0].write_descriptor(0, table, 48, INDIRECT)
    if cut >= 16:
        driver.memory.write(table + 16, DESCRIPTOR.pack(LOW, 16, NEXT, 2)[:cut])
    driver.queues[0].publish(0)
    driver.queues[0].kick()
    stopped(attack, driver, "an address that is not guest memory")


@on_files_and_flash
@pytest.mark.parametrize("cut", [1, 100, 511, 512, 513])
def test_data_over_two_regions_works(attack: Attack, driver: BlkDriver, cut: int) -> None:
    """Address: a buffer that begins in one region and ends in the next, where these touch: it must work."""
    content = os.urandom(4 * SECTOR)
    driver.memory.write(SECOND - cut, content)
    wrote = [header(driver, RequestType.OUT, 20), Buffer(SECOND - cut, len(content)), room(driver, 1)]
    assert driver.complete(driver.submit_chain(wrote)).status == Status.OK
    driver.memory.write(SECOND - cut, bytes(len(content)))
    read = [header(driver, RequestType.IN, 20), Buffer(SECOND - cut, len(content), WRITE), room(driver, 1)]
    assert driver.complete(driver.submit_chain(read)).data == content


@pytest.mark.parametrize("cut", range(1, 16))
def test_header_over_two_regions_works(attack: Attack, driver: BlkDriver, cut: int) -> None:
    """Address: a header in two regions that touch."""
    driver.memory.write(SECOND - cut, REQUEST_HEADER.pack(RequestType.IN, 0, 0))
    chain = [Buffer(SECOND - cut, 16), room(driver, SECTOR), room(driver, 1)]
    assert driver.complete(driver.submit_chain(chain)).status == Status.OK


@pytest.mark.parametrize("cut", [1, 8, 15, 16, 24, 32])
def test_indirect_table_over_two_regions_works(attack: Attack, driver: BlkDriver, cut: int) -> None:
    """Address: an indirect table in two regions that touch, cut inside a descriptor or between two."""
    table, queue = SECOND - cut, driver.queues[0]
    first, second = header(driver), room(driver, SECTOR + 1)
    queue.write_descriptor(0, first.address, 16, NEXT, 2, table=table)
    queue.write_descriptor(2, second.address, second.length, WRITE, table=table)
    queue.write_descriptor(0, table, 48, INDIRECT)
    queue.publish(0)
    queue.kick()
    assert queue.wait_used()[0].length == SECTOR + 1


@on_files_and_flash
def test_data_and_status_over_two_regions_works(attack: Attack, driver: BlkDriver) -> None:
    """Address: the status alone lies in the next region."""
    chain = [header(driver), Buffer(SECOND - SECTOR, SECTOR + 1, WRITE)]
    assert driver.complete(driver.submit_chain(chain)).status == Status.OK


@on_files_and_flash
def test_more_pieces_than_one_transfer_can_take(attack: Attack) -> None:
    """Address: buffers that each cross a border make more pieces than there are descriptors."""
    driver = attack.driver(memory=memory(), queue_size=1024)
    chain = [header(driver), *[Buffer(SECOND - 1, 2, WRITE)] * 1000, room(driver, 1)]
    answered(attack, driver, chain, "a request of too many pieces")


# Parts of the ring

PARTS = ["descriptors", "available", "used"]
Move = Callable[[int], int]
PLACES: dict[str, Move] = {
    "nowhere": lambda user: user - LOW + NOWHERE,
    "at 0": lambda user: 0,
    "at the top": lambda user: TOP - 64,
    "wraps": lambda user: TOP - 16,
    "a guest address": lambda user: LOW + 4096,
    "over a border": lambda user: user // MIB * MIB + MIB - 32,
    "leaves the last region": lambda user: user // MIB * MIB + (HIGH - LOW) + MIB - 32,
    "one byte too far": lambda user: user + 1,
    "two bytes too far": lambda user: user + 2,
}


CASES = [(part, place) for part in PARTS for place in PLACES if (part, place) != ("available", "two bytes too far")]


@pytest.mark.parametrize(("part", "place"), CASES)  # two bytes are all the alignment that the available ring needs
def test_part_of_the_ring(attack: Attack, part: str, place: str) -> None:
    """Address: a ring that begins in one region and ends in another, or is not in memory, or not aligned (§2.7)."""
    driver = attack.driver(memory=memory(), queue_size=SIZE, start=False)
    driver.negotiate()
    driver.share_memory()
    driver.make_queues()
    queue = driver.queues[0]
    addresses = {name: driver.memory.user_address(getattr(queue, name)) for name in PARTS}
    addresses[part] = PLACES[place](addresses[part])
    driver.front_end.set_vring_size(0, SIZE)
    driver.front_end.set_vring_address(0, **addresses)
    attack.may_say("SET_VRING_(KICK|ENABLE) refused: a part of the ring is")
    with pytest.raises(RefusedError):
        driver.front_end.set_vring_kick(0, queue.kick_fd)
        driver.front_end.set_vring_enable(0)
    queue.start(driver.front_end)
    driver.read(0, SECTOR).check()
