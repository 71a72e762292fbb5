"""Guest memory: what may be mapped, where a ring may lie, and tables that are replaced while requests are in flight."""

import gc
import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hand_made_ring import GUEST, USER, Memory, Region, eventually
from served_ring import IN, OK, SECTORS, ServedRing, sector_bytes

from virtflash.engine import Binding, Mapping, MemoryTable, Reactor

Serve = Callable[..., ServedRing]
PAGE = 4096


def maps() -> int:
    """How often guest memory is mapped."""
    gc.collect()
    return Path("/proc/self/maps").read_text().count("/memfd:guest")


@pytest.fixture
def file() -> Iterator[int]:
    fd = os.memfd_create("guest")
    os.ftruncate(fd, 16 * PAGE)
    yield fd
    os.close(fd)


REFUSED = {
    "empty": ({"size": 0}, "empty"),
    "one byte more than the file": ({"size": 16 * PAGE + 1}, "a region of 65537 bytes in a memory file of 65536"),
    "behind the file": ({"offset": 16 * PAGE, "size": 1}, "a region of 65537 bytes in a memory file of 65536"),
    "a sum that wraps": ({"offset": 2**64 - PAGE, "size": 2 * PAGE}, "wraps"),
    "an offset that no file has": ({"offset": 2**63, "size": PAGE}, "wraps"),
    "all of the world": ({"size": 2**64 - 1, "guest_address": 1}, "wraps"),
    "guest addresses that wrap": ({"guest_address": 2**64 - PAGE, "size": 2 * PAGE}, "wraps"),
    "guest addresses up to the very top": ({"guest_address": 2**64 - PAGE, "size": PAGE}, "wraps"),
    "user addresses that wrap": ({"user_address": 2**64 - PAGE, "size": 2 * PAGE}, "wraps"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refuses_regions(file: int, what: str) -> None:
    changed, words = REFUSED[what]
    region = {"guest_address": 0, "size": PAGE, "user_address": 0, "offset": 0} | changed
    with pytest.raises(ValueError, match=words):
        Mapping(file, **region)


FILES = {
    "a socket": lambda: socket.socket(socket.AF_UNIX).detach(),
    "an io_uring or the like": lambda: os.pidfd_open(os.getpid()),
    "an eventfd": lambda: os.eventfd(0),
    "a directory": lambda: os.open("/", os.O_RDONLY),
    "a file of the kernel": lambda: os.open("/proc/self/status", os.O_RDONLY),
}


@pytest.mark.parametrize("what", FILES)
def test_refuses_files_that_are_no_memory(what: str) -> None:
    fd = FILES[what]()
    with pytest.raises(ValueError, match=r"guest memory cannot be mapped|in a memory file of 0"):
        Mapping(fd, guest_address=0, size=PAGE, user_address=0, offset=0)
    os.close(fd)


def test_refuses_a_file_that_is_not_writable(tmp_path: Path) -> None:
    (tmp_path / "memory").write_bytes(bytes(PAGE))
    fd = os.open(tmp_path / "memory", os.O_RDONLY)
    with pytest.raises(ValueError, match="cannot be mapped: Permission denied"):
        Mapping(fd, guest_address=0, size=PAGE, user_address=0, offset=0)
    os.close(fd)


def test_refuses_a_closed_descriptor() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        Mapping(-1, guest_address=0, size=PAGE, user_address=0, offset=0)


@pytest.mark.parametrize("offset", [0, 1, 16, PAGE - 16, PAGE, PAGE + 48])
def test_regions_at_odd_offsets_of_their_file(
    serve: Serve, reactor: Reactor, disk: int, tmp_path: Path, offset: int
) -> None:
    """They must work, as long as the ring itself is aligned; the file is one on a disk."""
    fd = os.open(tmp_path / "memory", os.O_RDWR | os.O_CREAT)
    memory = Memory(regions=[Region(GUEST, 1 << 18, offset)], fd=fd)
    if offset % 16:
        memory.next_free += 16 - offset % 16  # no address that is aligned for the guest is aligned in the file
        with memory, pytest.raises(ValueError, match="misaligned in its memory file"):
            ServedRing(reactor, Binding(disk, SECTORS), memory=memory)
        return
    served = serve(disk, ring={"memory": memory})
    assert served.read(5).data == sector_bytes(5)
    data = os.urandom(4096)
    assert served.write(5, data).status == OK
    assert os.pread(disk, 4096, 5 * 512) == data


def test_the_mapping_goes_with_what_uses_it(file: int) -> None:
    before = maps()
    mapping = Mapping(file, guest_address=0, size=PAGE, user_address=0, offset=PAGE)
    table = MemoryTable([mapping])
    del mapping
    assert maps() == before + 1
    del table
    assert maps() == before


def test_many_mappings_and_tables_leak_nothing(file: int) -> None:
    before = maps()
    for _ in range(5000):
        MemoryTable([Mapping(file, guest_address=0, size=PAGE, user_address=0, offset=0)])
    assert maps() == before


def regions(*places: tuple[int, int, int]) -> Callable[[int], list[Mapping]]:
    return lambda fd: [
        Mapping(fd, guest_address=guest, size=size, user_address=user, offset=0) for guest, size, user in places
    ]


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize(
    ("places", "address"),
    [
        ([(0, 2 * PAGE, 0), (PAGE, PAGE, 8 * PAGE)], "guest address 0x1000"),
        ([(0, 2 * PAGE, 0), (8 * PAGE, PAGE, PAGE)], "user address 0x1000"),
        ([(PAGE, PAGE, 0), (PAGE, PAGE, 8 * PAGE)], "guest address 0x1000"),
        ([(0, 9 * PAGE, 0), (2 * PAGE, 1, 16 * PAGE)], "guest address 0x2000"),
    ],
)
def test_refuses_regions_that_overlap(file: int, places: list[tuple[int, int, int]], address: str, swap: bool) -> None:
    with pytest.raises(ValueError, match=f"overlap at {address}"):
        MemoryTable(regions(*(reversed(places) if swap else places))(file))


@pytest.mark.parametrize("count", [0, 1, 64, 512])
def test_tables_of_many_regions(serve: Serve, disk: int, count: int) -> None:
    """In no order, with and without holes between them."""
    places = [Region(GUEST, 1 << 18, 0)]
    places += [Region(GUEST + (1 << 20) + i * PAGE * (1 + i % 2), PAGE, (1 << 18) + i * PAGE) for i in range(count)]
    places = [places[0], *sorted(places[1:], key=lambda region: hash(str(region)))]
    memory = Memory(regions=[places[0], *{region.guest: region for region in places[1:]}.values()])
    memory.regions = [region for region in memory.regions if not overlaps(region, memory.regions)]
    served = serve(disk, ring={"memory": memory})
    for number, region in enumerate(memory.regions[1:]):
        request = served.blk(IN, number % SECTORS, room=512, at=region.guest + PAGE - 513)
        assert served.run(request)[0].data == sector_bytes(number % SECTORS)
    assert served.read(1).status == OK


def overlaps(region: Region, others: list[Region]) -> bool:
    return any(other.guest < region.guest < other.guest + other.size for other in others)


# Where a ring may lie


PLACES = {
    "descriptors misaligned": ({"descriptors": USER + 8}, "misaligned"),
    "available misaligned": ({"available": USER + 8193}, "misaligned"),
    "used misaligned": ({"used": USER + 16386}, "misaligned"),
    "descriptors outside": ({"descriptors": USER - 16}, "not wholly inside one region"),
    "available outside": ({"available": 0}, "not wholly inside one region"),
    "used at the top of the world": ({"used": 2**64 - 4}, "not wholly inside one region"),
    "descriptors over the end": ({"descriptors": USER + (1 << 20) - 1008}, "not wholly inside one region"),
    "available over the end": ({"available": USER + (1 << 20) - 132}, "not wholly inside one region"),
    "used over the end": ({"used": USER + (1 << 20) - 516}, "not wholly inside one region"),
    "guest addresses": ({"descriptors": GUEST}, "not wholly inside one region"),
    "no entries": ({"size": 0}, "power of two up to 1024"),
    "three entries": ({"size": 3}, "power of two up to 1024"),
    "2048 entries": ({"size": 2048}, "power of two up to 1024"),
    "65536 entries": ({"size": 65536}, "power of two up to 1024"),
}


@pytest.mark.parametrize("what", PLACES)
def test_refuses_rings(serve: Serve, disk: int, what: str) -> None:
    changed, words = PLACES[what]
    served = serve(disk, ring={"run": False})
    with pytest.raises(ValueError, match=words):
        served.start(**changed)
    served.start()
    assert served.read(0).status == OK


def test_parts_of_a_ring_up_to_the_last_byte(serve: Serve, disk: int) -> None:
    """Each part ends where its region ends."""
    served = serve(disk, ring={"run": False})
    ring, top = served.ring, GUEST + (1 << 20)
    for name, size in (("descriptors", 16 * 64), ("available", 2 * 64 + 6), ("used", 8 * 64 + 6)):
        alignment = {"descriptors": 16, "available": 2, "used": 4}[name]
        setattr(ring, name, (top - size) // alignment * alignment)
        ring.reset()
        served.start()
        assert served.read(3).data == sector_bytes(3)
        served.queue.stop()
        setattr(ring, name, served.memory.allocate(size))


def test_refuses_a_ring_that_spans_regions(reactor: Reactor, disk: int) -> None:
    memory = SplitMemory(1 << 17)
    memory.next_free = GUEST + PAGE - 512
    with memory, pytest.raises(ValueError, match="not wholly inside one region"):
        ServedRing(reactor, Binding(disk, SECTORS), memory=memory)


class SplitMemory(Memory):
    """One region for who writes it, two that touch for the device."""

    def mappings(self, user: int = USER) -> list[Mapping]:
        return [
            Mapping(self.fd, guest_address=GUEST + start, size=size, user_address=user + start, offset=start)
            for start, size in ((0, PAGE), (PAGE, 1 << 16))
        ]


@pytest.mark.parametrize("size", [1, 2, 4, 512, 1024])
def test_every_ring_size(serve: Serve, disk: int, size: int) -> None:
    served = serve(disk, ring={"size": size})
    for sector in range(5):
        assert served.do(IN, sector, room=512, indirect=True).data == sector_bytes(sector)


# Tables that are replaced


def moved(memory: Memory) -> Memory:
    """The same bytes elsewhere: in another file, at the same addresses."""
    copy = Memory(regions=memory.regions)
    os.pwrite(copy.fd, os.pread(memory.fd, 1 << 20, 0), 0)
    copy.next_free = memory.next_free
    return copy


def test_a_new_table_is_used_at_once(serve: Serve, disk: int) -> None:
    served = serve(disk)
    for turn in range(20):
        served.read(turn)
        old, served.memory = served.memory, moved(served.memory)
        served.ring.memory = served.memory
        served.queue.set_memory(served.memory.table())
        os.pwrite(old.fd, b"\xff" * (1 << 16), 0)
        old.close()
        assert served.read(turn).data == sector_bytes(turn)


def test_a_request_in_flight_keeps_the_table_that_it_came_with(serve: Serve, path: str) -> None:
    if path == "threads":
        pytest.skip("a system call at an offset takes no pipe")
    before = maps()
    fd, device = os.pipe()
    served = serve(fd)
    old = served.memory
    request = served.blk(IN, 0, room=512)
    served.ring.offer(request.head)
    eventually(lambda: served.statistics()["in_flight"] == 1, "the read is under way")
    served.memory = served.ring.memory = moved(old)
    served.queue.set_memory(served.memory.table())
    assert maps() == before + 2
    assert not served.queue.release_memory()
    os.write(device, b"x" * 512)
    served.ring.wait(1)  # the used ring is the new table's
    assert old.read(request.room, 513) == b"x" * 512 + bytes([OK])
    assert served.memory.read(request.room, 512) != b"x" * 512
    assert served.queue.release_memory()
    assert maps() == before + 1
    served.queue.stop()
    assert maps() == before
    old.close()
    os.close(fd)
    os.close(device)


def test_a_table_in_which_the_ring_has_no_place_is_refused(serve: Serve, disk: int, file: int) -> None:
    served = serve(disk)
    elsewhere = MemoryTable([Mapping(file, guest_address=0, size=PAGE, user_address=0, offset=0)])
    for table in (elsewhere, MemoryTable([])):
        with pytest.raises(ValueError, match="not wholly inside one region"):
            served.queue.set_memory(table)
    assert served.read(5).data == sector_bytes(5)


def test_set_memory_wants_a_ring_that_runs(serve: Serve) -> None:
    served = serve(ring={"run": False})
    with pytest.raises(ValueError, match="does not run"):
        served.queue.set_memory(served.memory.table())


def test_tables_change_under_load(serve: Serve, disk: int) -> None:
    """The same file every time, so that the driver need not care; nothing is lost, nothing is left."""
    before = maps()
    served = serve(disk)
    table = served.memory.table()
    for turn in range(200):
        requests = [served.blk(IN, i, room=512) for i in range(4)]
        served.ring.offer(*(request.head for request in requests))
        served.queue.set_memory(table if turn % 2 else served.memory.table())
        assert [outcome.data for outcome in served.collect(*requests)] == [sector_bytes(i) for i in range(4)]
    served.queue.stop()
    del table
    assert maps() == before


# FUSE: memory whose pages another process gives, or does not

FUSE_SERVER = """
    import ctypes, os, struct, sys
    READ = 15
    def attributes(node):
        mode = 0o040700 if node == 1 else 0o100600
        return struct.pack("<6Q10I", node, 1 << 20, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
    fuse = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={fuse},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}".encode()
    if ctypes.CDLL(None).mount(b"test", sys.argv[1].encode(), b"fuse", 0, options):
        sys.exit("not allowed")
    print("mounted", flush=True)
    answers = {
        26: lambda node: struct.pack("<IIIIHHIIHHI28x", 7, 31, 65536, 0, 8, 8, 65536, 1, 16, 0, 0),  # INIT
        1: lambda node: struct.pack("<QQQQII", 2, 0, 1, 1, 0, 0) + attributes(2),  # LOOKUP
        3: lambda node: struct.pack("<QII", 1, 0, 0) + attributes(node),  # GETATTR
        14: lambda node: struct.pack("<QII", 1, 0, 0),  # OPEN
        17: lambda node: struct.pack("<5QIIII24x", 1, 1, 1, 1, 1, 4096, 255, 4096, 0),  # STATFS
    }
    while True:
        request = os.read(fuse, 1 << 17)
        _, opcode, unique, node = struct.unpack_from("<IIQQ", request)
        if opcode == READ:
            continue  # the page never comes
        answer = answers[opcode](node) if opcode in answers else b""
        os.write(fuse, struct.pack("<IiQ", 16 + len(answer), 0 if opcode in answers else -38, unique) + answer)
"""


@pytest.fixture
def fuse_file(tmp_path: Path) -> Iterator[int]:
    program = [sys.executable, "-c", textwrap.dedent(FUSE_SERVER), str(tmp_path)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        if server.stdout is None or not server.stdout.readline():
            pytest.skip("mounting FUSE is not allowed here")
        fd = os.open(tmp_path / "memory", os.O_RDWR)
        yield fd
        os.close(fd)
        subprocess.run(["umount", "--lazy", tmp_path], check=True)
        server.kill()


def test_refuses_memory_whose_pages_another_process_gives(fuse_file: int) -> None:
    """It could withhold them, and a reactor that waits for one stops every volume."""
    with pytest.raises(ValueError, match="on a FUSE file system, whose server may withhold it"):
        Mapping(fuse_file, guest_address=0, size=PAGE, user_address=0, offset=0)
