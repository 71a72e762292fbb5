"""Memory tables that cannot be, and memory that changes while it is used (vhost-user, SET_MEM_TABLE, ADD_MEM_REG)."""

import fcntl
import itertools
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from attacked_server import Attack, on_files_and_flash
from chains import INDIRECT, SECTOR, WRITE, header, room

from virtflash.driver.blk import BlkDriver
from virtflash.driver.errors import RefusedError
from virtflash.driver.front_end import pack_single_region
from virtflash.driver.guest_memory import GuestMemory, RegionSpec
from virtflash.driver.split_queue import ONE, Buffer
from virtflash.vhost_user.messages import MEMORY_COUNT, MemoryRegion, Request, pack_memory_table
from virtflash.virtio.blk import RequestType, Status

MIB, TOP = 1 << 20, 1 << 64
REFUSED = "(SET_MEM_TABLE|ADD_MEM_REG|REM_MEM_REG) refused: "


@contextmanager
def memory_file(size: int) -> Iterator[int]:
    fd = os.memfd_create("guest memory", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    yield fd
    os.close(fd)


Regions = list[tuple[int, int, int, int]]  # guest address, size, front-end address, offset
USER = 1 << 44
BAD: dict[str, Regions] = {
    "size 0": [(MIB, 0, USER, 0)],
    "size 0 among others": [(MIB, MIB, USER, 0), (4 * MIB, 0, USER + 4 * MIB, 0)],
    "guest address and size wrap": [(TOP - 4096, 8192, USER, 0)],
    "guest address and size end at the top": [(TOP - 4096, 4096, USER, 0)],
    "front-end address and size wrap": [(MIB, 8192, TOP - 4096, 0)],
    "offset and size wrap": [(MIB, 8192, USER, TOP - 4096)],
    "offset and size beyond 2^63": [(MIB, 8192, USER, (1 << 63) - 4096)],
    "size 2^64 - 1": [(0, TOP - 1, 0, 0)],
    "size 2^63": [(MIB, 1 << 63, USER, 0)],
    "file smaller than announced": [(MIB, 2 * MIB + 1, USER, 0)],
    "file smaller than its offset": [(MIB, 4096, USER, 2 * MIB)],
    "file one byte smaller": [(MIB, 4096, USER, 2 * MIB - 4095)],
    "overlap": [(MIB, MIB, USER, 0), (MIB + 4096, MIB, USER + 8 * MIB, 0)],
    "overlap by one byte": [(MIB, MIB, USER, 0), (2 * MIB - 1, 4096, USER + 8 * MIB, 0)],
    "one inside the other": [(MIB, MIB, USER, 0), (MIB + 4096, 4096, USER + 8 * MIB, 0)],
    "twice the same": [(MIB, MIB, USER, 0)] * 2,
    "overlap of front-end addresses": [(MIB, MIB, USER, 0), (8 * MIB, MIB, USER + 4096, 0)],
    "overlap, in falling order": [(8 * MIB, MIB, USER + MIB, 0), (7 * MIB + 1, MIB, USER, 0)],
}


@pytest.mark.parametrize("running", [False, True], ids=["at rest", "running"])
@pytest.mark.parametrize("case", BAD)
def test_table(attack: Attack, case: str, running: bool) -> None:
    """Memory table: overlapping, size 0, sums that wrap, a file smaller than announced. What was there before stays."""
    driver = attack.driver(start=running)
    if not running:
        driver.negotiate()
        driver.share_memory()
    attack.may_say(REFUSED)
    regions = [MemoryRegion(*region) for region in BAD[case]]
    with memory_file(2 * MIB) as fd, pytest.raises(RefusedError):
        driver.front_end.set_memory_table(regions, [fd] * len(regions))
    if not running:
        driver.make_queues()
        driver.start_queues()
    driver.read(0, SECTOR).check()


@pytest.mark.parametrize("case", [case for case, regions in BAD.items() if len(regions) == 1])
def test_single_region(attack: Attack, case: str) -> None:
    """Memory table: the same by ADD_MEM_REG."""
    driver = attack.driver(memory_slots=True)
    attack.may_say(REFUSED)
    with memory_file(2 * MIB) as fd, pytest.raises(RefusedError):
        driver.front_end.add_memory_region(MemoryRegion(*BAD[case][0]), fd)
    driver.read(0, SECTOR).check()


COUNTS = {
    "more than there are descriptors": (2, 2, 1),
    "without descriptors": (1, 1, 0),
    "more than there are bytes": (3, 2, 3),
    "2^32 - 1": (0xFFFFFFFF, 1, 1),
    "2^27, which wraps when multiplied": (1 << 27, 1, 1),
    "253 without anything": (253, 0, 253),
}


@pytest.mark.parametrize("case", COUNTS)
def test_count(attack: Attack, case: str) -> None:
    """Memory table: a number of regions that is not what comes."""
    announced, there, descriptors = COUNTS[case]
    driver = attack.driver()
    attack.may_say(REFUSED)
    regions = [MemoryRegion(MIB * (1 + i), MIB, USER + MIB * i, 0) for i in range(there)]
    payload = MEMORY_COUNT.pack(announced, 0) + pack_memory_table(regions)[MEMORY_COUNT.size :]
    with memory_file(2 * MIB) as fd:
        assert driver.front_end.acknowledged(Request.SET_MEM_TABLE, payload, [fd] * descriptors) != 0
    driver.read(0, SECTOR).check()


@pytest.mark.parametrize("count", [1, 2, 64, 253])
def test_many_regions_work(attack: Attack, count: int) -> None:
    """Memory table: 64 regions, and as many as one message can bring; each is used."""
    driver = attack.driver(memory=GuestMemory((MIB, MIB), *((16 * MIB + i * 8192, 4096) for i in range(count - 1))))
    for region in driver.memory.regions[1:]:
        chain = [header(driver), Buffer(region.guest_address, SECTOR, WRITE), room(driver, 1)]
        assert driver.complete(driver.submit_chain(chain)).status == Status.OK
    driver.read(0, SECTOR).check()


def test_slots(attack: Attack) -> None:
    """Memory table: as many regions one by one as there are slots, and one more."""
    slots = 256
    memory = GuestMemory((MIB, MIB), *((16 * MIB + i * 8192, 4096) for i in range(slots - 1)))
    driver = attack.driver(memory=memory, memory_slots=True)
    assert driver.front_end.get_memory_slots() == slots
    more = memory.add((1 << 32, 4096))
    attack.may_say(f"ADD_MEM_REG refused: all {slots} regions")
    with pytest.raises(RefusedError):
        driver.front_end.add_memory_region(more.layout, more.fd)
    driver.front_end.remove_memory_region(memory.regions[7].layout)
    driver.front_end.add_memory_region(more.layout, more.fd)
    driver.read(0, SECTOR).check()


def test_no_region(attack: Attack) -> None:
    """Memory table: 0 regions are none: a ring cannot start, and one that runs keeps its memory."""
    driver = attack.driver()
    attack.may_say(f"{REFUSED}|SET_VRING_(KICK|ENABLE) refused: a part of the ring is not wholly inside")
    with pytest.raises(RefusedError):
        driver.front_end.set_memory_table([], [])
    driver.read(0, SECTOR).check()
    driver.stop_queues()
    driver.front_end.set_memory_table([], [])
    with pytest.raises(RefusedError):
        driver.start_queues()
    driver.share_memory()
    driver.start_queues()
    driver.read(0, SECTOR).check()


def test_address_space(attack: Attack) -> None:
    """Memory table, allocation: memory files of 2^46 bytes and nothing in them, until no volume could map anything."""
    driver = attack.driver()
    attack.may_say(f"{REFUSED}guest memory of .* at most")
    with memory_file(1 << 46) as fd:
        regions = [MemoryRegion((1 << 46) * i, (1 << 46) - MIB, (1 << 46) * i, 0) for i in range(4)]
        for region in regions:
            with pytest.raises(RefusedError):
                driver.front_end.add_memory_region(region, fd)
        with pytest.raises(RefusedError):
            driver.front_end.set_memory_table(regions, [fd] * 4)
    driver.read(0, SECTOR).check()


def test_much_memory_works(attack: Attack) -> None:
    """Memory table: what a large machine has, is mapped: 64 regions of 8 GiB."""
    driver = attack.driver(memory_slots=True)
    size = 8 << 30
    with memory_file(size) as fd:
        for i in range(1, 65):
            driver.front_end.add_memory_region(MemoryRegion(i * size, size, USER + i * size, 0), fd)
        chain = [header(driver), Buffer(65 * size - SECTOR, SECTOR, WRITE), room(driver, 1)]
        driver.submit_chain(chain)
        driver.queues[0].wait_used()
        assert driver.memory.read(chain[-1].address, 1) == bytes([Status.OK])


Open = Callable[[ExitStack, Path], int]


def opened(stack: ExitStack, fd: int) -> int:
    stack.callback(os.close, fd)
    return fd


def sealed(stack: ExitStack, _: Path) -> int:
    fd = stack.enter_context(memory_file(2 * MIB))
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    return fd


def read_only_file(stack: ExitStack, path: Path) -> int:
    (path / "memory").write_bytes(bytes(2 * MIB))
    return opened(stack, os.open(path / "memory", os.O_RDONLY))


def path_only_file(stack: ExitStack, path: Path) -> int:
    (path / "memory").write_bytes(bytes(2 * MIB))
    return opened(stack, os.open(path / "memory", os.O_PATH))


def pipe_end(end: int) -> Open:
    def make(stack: ExitStack, _: Path) -> int:
        return [opened(stack, fd) for fd in os.pipe()][end]

    return make


KINDS: dict[str, Open] = {
    "directory": lambda stack, path: opened(stack, os.open(path, os.O_RDONLY)),
    "pipe": pipe_end(0),
    "socket": lambda stack, _: stack.enter_context(socket.socket(socket.AF_UNIX)).fileno(),
    "eventfd": lambda stack, _: opened(stack, os.eventfd(0)),
    "file that is only to be read": read_only_file,
    "file that is a path only": path_only_file,
    "sealed file": sealed,
    "/dev/null": lambda stack, _: opened(stack, os.open("/dev/null", os.O_RDWR)),
    "/proc": lambda stack, _: opened(stack, os.open("/proc/self/status", os.O_RDONLY)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_memory_of_another_kind(attack: Attack, kind: str, tmp_path: Path) -> None:
    """Memory table: descriptors that are no memory, or none that may be written."""
    driver = attack.driver(memory_slots=True)
    attack.may_say(REFUSED)
    with ExitStack() as stack, pytest.raises(RefusedError):
        driver.front_end.add_memory_region(MemoryRegion(1 << 32, MIB, USER, 0), KINDS[kind](stack, tmp_path))
    driver.read(0, SECTOR).check()


# Memory that goes away

LOST = 32 * MIB + 8192  # a guest address in what is truncated


def lose_ring(driver: BlkDriver, left: int) -> None:
    os.ftruncate(driver.memory.regions[0].fd, left)
    os.write(driver.queues[0].kick_fd, ONE)


def lose_header(driver: BlkDriver, left: int) -> None:
    driver.memory.regions[1].truncate(left)
    driver.submit_chain([Buffer(LOST, 16), room(driver, SECTOR), room(driver, 1)])


def lose_status(driver: BlkDriver, left: int) -> None:
    driver.memory.regions[1].truncate(left)
    driver.submit_chain([header(driver), room(driver, SECTOR), Buffer(LOST, 1, WRITE)])


def lose_indirect_table(driver: BlkDriver, left: int) -> None:
    driver.memory.regions[1].truncate(left)
    driver.queues[0].write_descriptor(0, LOST, 48, INDIRECT)
    driver.queues[0].publish(0)
    driver.queues[0].kick()


LOSSES = [(lose_ring, 0), *itertools.product([lose_header, lose_status, lose_indirect_table], [0, 4096])]


@on_files_and_flash
@pytest.mark.parametrize(("lose", "left"), LOSSES)
def test_memory_truncated_after_mapping(attack: Attack, lose: Callable[[BlkDriver, int], None], left: int) -> None:
    """Memory table: a memory file truncated after mapping. The queue stops, the server lives, and flushes go on."""
    driver = attack.driver(memory=GuestMemory((MIB, 16 * MIB), (32 * MIB, MIB)), queue_size=16)
    driver.read(0, SECTOR).check()
    lose(driver, left)
    driver.queues[0].wait_error()
    attack.says("error   attacked: ring 0 stopped: guest memory was truncated by its owner$")
    attack.may_say("warning|ring 0 stopped: (an indirect table|the available index|a descriptor index|no byte)")


@on_files_and_flash
@pytest.mark.parametrize("kind", [RequestType.IN, RequestType.OUT])
@pytest.mark.parametrize("length", [SECTOR, 65536])
def test_data_truncated_after_mapping(attack: Attack, kind: RequestType, length: int) -> None:
    """Memory table: the data of a request is no longer there. The request fails and the queue stops; flushes go on."""
    driver = attack.driver(memory=GuestMemory((MIB, 16 * MIB), (32 * MIB, MIB)))
    driver.memory.regions[1].truncate(0)
    chain = [header(driver, kind), Buffer(32 * MIB, length, WRITE * (kind == RequestType.IN)), room(driver, 1)]
    driver.submit_chain(chain)
    driver.queues[0].wait_used()
    assert driver.memory.read(chain[-1].address, 1) == bytes([Status.IOERR])
    driver.queues[0].wait_error()
    attack.says("error   attacked: ring 0 stopped: guest memory was truncated by its owner$")
    attack.may_say("ring 0: 1 requests failed: Bad address$")


# Memory in use

ROUNDS = 60
BURST = 12
LONG = 128 * 1024
PLACE = 64 * MIB  # where the data of a burst goes


class Burst:
    """Long reads in flight, into memory that changes meanwhile."""

    def __init__(self, driver: BlkDriver, content: bytes, turn: int) -> None:
        self.driver, self.content = driver, content
        self.sectors = [(turn + i) % BURST * LONG // SECTOR for i in range(BURST)]
        self.chains = [
            [header(driver, sector=sector), Buffer(PLACE + i * LONG, LONG, WRITE), room(driver, 1)]
            for i, sector in enumerate(self.sectors)
        ]
        for chain in self.chains:
            driver.submit_chain(chain)

    def status(self, i: int) -> int:
        return self.driver.memory.read(self.chains[i][-1].address, 1)[0]

    def wanted(self, i: int) -> bytes:
        return self.content[self.sectors[i] * SECTOR : self.sectors[i] * SECTOR + LONG]


@pytest.fixture
def content(attack: Attack) -> bytes:
    """What the first sectors of the volume hold: each its number."""
    content = b"".join(sector.to_bytes(4, "little") * 128 for sector in range(BURST * LONG // SECTOR))
    with BlkDriver(attack.socket) as driver:
        driver.write(0, content).check()
    return content


@on_files_and_flash
def test_region_removed_while_requests_are_in_flight(attack: Attack, content: bytes) -> None:
    """Memory in use: REM_MEM_REG while requests are in flight. What was taken ends well; the rest finds no memory."""
    memory = GuestMemory((MIB, 16 * MIB), (PLACE, BURST * LONG))
    driver = attack.driver(memory=memory, memory_slots=True)
    region, served = memory.regions[1], 0
    attack.may_say("ring 0: .* requests refused, the last one an address that is not guest memory")
    for turn in range(ROUNDS):
        memory.write(PLACE, bytes(BURST * LONG))
        burst = Burst(driver, content, turn)
        driver.front_end.remove_memory_region(region.layout)
        driver.queues[0].wait_used(BURST)
        for i in range(BURST):
            found = memory.read(PLACE + i * LONG, LONG)
            assert (burst.status(i), found) in ((Status.OK, burst.wanted(i)), (Status.IOERR, bytes(LONG)))
            served += burst.status(i) == Status.OK
        late = [header(driver), Buffer(PLACE, SECTOR, WRITE), room(driver, 1)]
        driver.submit_chain(late)
        driver.queues[0].wait_used()
        assert memory.read(late[-1].address, 1) == bytes([Status.IOERR])
        driver.front_end.add_memory_region(region.layout, region.fd)
    assert served > 0


@on_files_and_flash
def test_table_replaced_while_requests_are_in_flight(attack: Attack, content: bytes) -> None:
    """Memory in use: SET_MEM_TABLE while requests are in flight, which puts other memory where their data goes.

    Each request ends in the memory that was there when it was taken, whole; the ring moves to the new mapping.
    """
    memory = GuestMemory((MIB, 16 * MIB))
    with ExitStack() as stack:
        files = [stack.enter_context(memory_file(BURST * LONG)) for _ in range(2)]
        ring, fd = memory.regions[0].layout, memory.regions[0].fd
        place = MemoryRegion(PLACE, BURST * LONG, USER, 0)
        driver = attack.driver(memory=memory, start=False)
        driver.negotiate()
        driver.front_end.set_memory_table([ring, place], [fd, files[0]])
        driver.make_queues()
        driver.start_queues()
        for turn in range(ROUNDS):
            for file in files:
                os.pwrite(file, bytes(BURST * LONG), 0)
            burst = Burst(driver, content, turn)
            driver.front_end.set_memory_table([place, ring], [files[1 - turn % 2], fd])
            driver.queues[0].wait_used(BURST)
            for i in range(BURST):
                assert burst.status(i) == Status.OK
                found = sorted(os.pread(file, LONG, i * LONG) for file in files)
                assert found == sorted([bytes(LONG), burst.wanted(i)])


@on_files_and_flash
def test_table_without_the_ring(attack: Attack, content: bytes) -> None:
    """Memory in use: SET_MEM_TABLE and REM_MEM_REG of what the ring lies in are refused while it runs."""
    driver = attack.driver(memory_slots=True, memory=GuestMemory((MIB, 16 * MIB), (PLACE, BURST * LONG)))
    attack.may_say(REFUSED)
    burst = Burst(driver, content, 0)
    with pytest.raises(RefusedError):
        driver.front_end.remove_memory_region(driver.memory.regions[0].layout)
    with pytest.raises(RefusedError):
        driver.front_end.set_memory_table([driver.memory.regions[1].layout], [driver.memory.regions[1].fd])
    driver.queues[0].wait_used(BURST)
    assert [burst.status(i) for i in range(BURST)] == [Status.OK] * BURST
    assert driver.memory.read(PLACE, LONG) == burst.wanted(0)


def test_region_that_is_not_there_is_removed(attack: Attack) -> None:
    """Memory in use: REM_MEM_REG of a region that differs in its address or size from the one that is there."""
    driver = attack.driver(memory_slots=True)
    layout = driver.memory.regions[0].layout
    attack.may_say(REFUSED)
    for wrong in (
        MemoryRegion(layout.guest_address + 4096, layout.size, layout.user_address, 0),
        MemoryRegion(layout.guest_address, layout.size - 4096, layout.user_address, 0),
        MemoryRegion(layout.guest_address, layout.size, layout.user_address + 4096, 0),
    ):
        assert driver.front_end.acknowledged(Request.REM_MEM_REG, pack_single_region(wrong)) != 0
    driver.read(0, SECTOR).check()


OFFSETS = [1, 511, 512, 4095, 4096, 4097, 65536 + 16]


@pytest.mark.parametrize("slots", [False, True], ids=["table", "slots"])
@pytest.mark.parametrize("offset", OFFSETS)
def test_offsets_in_a_file_work(attack: Attack, offset: int, slots: bool, tmp_path: Path) -> None:
    """Memory in use: file-backed regions at odd offsets must work (with a ring in one that is aligned enough)."""
    spec = RegionSpec(PLACE, MIB, offset=offset, path=tmp_path / "memory")
    aligned = RegionSpec(MIB, 16 * MIB, offset=-(-offset // 16) * 16, path=tmp_path / "ring")
    driver = attack.driver(memory=GuestMemory(aligned, spec), memory_slots=slots)
    written = os.urandom(8 * SECTOR)
    driver.memory.write(PLACE + 13, written)
    chain = [header(driver, RequestType.OUT, 8), Buffer(PLACE + 13, len(written)), room(driver, 1)]
    assert driver.complete(driver.submit_chain(chain)).status == Status.OK
    chain = [
        header(driver, RequestType.IN, 8),
        Buffer(PLACE + MIB - len(written), len(written), WRITE),
        room(driver, 1),
    ]
    assert driver.complete(driver.submit_chain(chain)).data == written
    assert (tmp_path / "memory").read_bytes()[offset + MIB - len(written) :] == written


def test_ring_at_an_odd_offset(attack: Attack, tmp_path: Path) -> None:
    """Memory in use: a ring that is aligned in the guest and not in its file cannot be served as the standard wants."""
    driver = attack.driver(memory=GuestMemory(RegionSpec(MIB, MIB, offset=1, path=tmp_path / "memory")), start=False)
    driver.negotiate()
    driver.share_memory()
    driver.make_queues()
    attack.may_say("refused: a part of the ring is misaligned in its memory file")
    with pytest.raises(RefusedError):
        driver.start_queues()


@pytest.mark.parametrize("offset", [0, 2 * MIB])
def test_huge_pages_work(attack: Attack, offset: int) -> None:
    """Memory in use: regions of hugetlbfs, at the file's begin and behind it, must work."""
    try:
        memory = GuestMemory(RegionSpec(64 * MIB, 2 * MIB, offset=offset, memfd_flags=os.MFD_HUGETLB))
    except OSError as error:
        pytest.skip(f"no huge pages here ({error.strerror}): as root, echo 4 >/proc/sys/vm/nr_hugepages")
    driver = attack.driver(memory=memory)
    content = os.urandom(65536)
    driver.write(0, content).check()
    assert driver.read(0, 65536).check().data == content


def test_closed_before_its_answer(attack: Attack) -> None:
    """Memory in use: a front end that is gone while its requests are in flight; its memory is let go with them."""
    driver = attack.driver(memory=GuestMemory((MIB, 16 * MIB), (PLACE, BURST * LONG)))
    for turn in range(20):
        for i in range(BURST):
            chain = [header(driver, sector=turn), Buffer(PLACE + i * LONG, LONG, WRITE), room(driver, 1)]
            driver.submit_chain(chain)
        driver.kill()
        driver = attack.driver(memory=GuestMemory((MIB, 16 * MIB), (PLACE, BURST * LONG)))
