"""Guest memory whose file its owner truncates (HOSTILE row "memory table"): the queue stops, and nobody else notices.

Each test ends with another ring on the same reactor being served, so a process that died would have told.
"""

import faulthandler
import mmap
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from hand_made_ring import GUEST, Memory, Region, eventually, wait_readable
from served_ring import IN, OK, OUT, ServedRing, sector_bytes

from virtflash.engine.reactor import FAULT_WORDS

Serve = Callable[..., ServedRing]
HALF = 1 << 19
LOST = FAULT_WORDS[14]


@pytest.fixture
def other(serve: Serve, disk: int) -> ServedRing:
    return serve(disk)


def assert_stopped(served: ServedRing, other: ServedRing) -> None:
    assert wait_readable(served.ring.error_fd), "the queue was not stopped"
    assert served.queue.broken
    events = served.events()  # it may have met zeroes first
    eventually(lambda: "memory-lost" in events or bool(events.update(served.events())), "it is told why")
    assert events["memory-lost"] == LOST
    eventually(lambda: served.statistics()["in_flight"] == 0, "what was in flight is done")
    served.queue.stop()
    assert other.read(9) == (OK, 513, sector_bytes(9))


def test_all_of_it(serve: Serve, disk: int, other: ServedRing) -> None:
    served = serve(disk)
    assert served.read(3).status == OK
    os.ftruncate(served.memory.fd, 0)
    served.ring.kick()
    assert_stopped(served, other)


@pytest.mark.parametrize("kind", [IN, OUT])
@pytest.mark.parametrize("part", ["data", "header", "table", "status"])
def test_a_part_of_a_request(serve: Serve, disk: int, other: ServedRing, kind: int, part: str) -> None:
    """The ring is still there. What the kernel cannot copy is an error, and tells that the memory is lost."""
    served = serve(disk)
    memory = served.memory
    payload, room = (b"x" * 512, 0) if kind == OUT else (b"", 512)
    if part in {"header", "status", "data"}:
        gone = {"header": {"at": None}, "status": {"at": GUEST + HALF}, "data": {"at": GUEST + HALF}}[part]
        if part == "header" or (part == "data" and kind == OUT):
            memory.next_free = GUEST + HALF
        request = served.blk(kind, 0, payload, room, **({} if kind == OUT and part != "status" else gone))
    else:
        memory.next_free = GUEST + HALF - 1024
        request = served.blk(kind, 0, payload, room, indirect=True)
        memory.next_free = GUEST + HALF
        table = memory.allocate(48)
        served.ring.put_descriptor(request.head, table, 48, 4)
    os.ftruncate(memory.fd, HALF)
    served.ring.offer(request.head)
    assert_stopped(served, other)
    assert os.pread(disk, 512, 0) == sector_bytes(0) or (kind, part) == (OUT, "status")


def test_while_it_is_served(serve: Serve, disk: int, other: ServedRing) -> None:
    """Requests in flight complete; where to, nobody can tell."""
    served = serve(disk)
    served.memory.next_free = GUEST + HALF
    requests = [served.blk(IN, i, room=4096) for i in range(20)]
    served.ring.offer(*(request.head for request in requests[:19]))
    os.ftruncate(served.memory.fd, HALF)
    served.ring.offer(requests[19].head)
    assert_stopped(served, other)


def test_a_read_in_flight(serve: Serve, path: str, other: ServedRing) -> None:
    if path == "threads":
        pytest.skip("a system call at an offset takes no pipe")
    fd, device = os.pipe()
    served = serve(fd)
    request = served.blk(IN, 0, room=512, at=GUEST + HALF)
    served.ring.offer(request.head)
    eventually(lambda: served.statistics()["in_flight"] == 1, "the read is under way")
    os.ftruncate(served.memory.fd, HALF)
    os.write(device, b"x" * 512)
    assert_stopped(served, other)
    os.close(fd)
    os.close(device)


def test_it_was_lost_before_the_queue_started(serve: Serve, disk: int, other: ServedRing) -> None:
    """With another queue on the same table, which found out."""
    memory = Memory(regions=[Region(GUEST, HALF, 0), Region(GUEST + HALF, HALF, HALF)])
    first, second = serve(disk, ring={"memory": memory}), serve(disk, ring={"memory": memory, "run": False})
    table = memory.table()
    first.queue.stop()
    first.start(table=table)
    request = first.blk(IN, 0, room=512, at=GUEST + HALF)
    os.ftruncate(memory.fd, HALF)
    first.ring.offer(request.head)
    assert wait_readable(first.ring.error_fd)
    assert [mapping.lost for mapping in table.mappings] == [False, True]
    second.start(table=table)
    assert_stopped(second, other)


def test_a_table_that_was_lost_is_adopted(serve: Serve, disk: int, other: ServedRing) -> None:
    served, memory = serve(disk), Memory(regions=[Region(GUEST, HALF, 0), Region(GUEST + HALF, HALF, HALF)])
    lost = memory.table()
    finder = serve(disk, ring={"memory": memory, "run": False})
    finder.start(table=lost)
    request = finder.blk(IN, 0, room=512, at=GUEST + HALF)
    os.ftruncate(memory.fd, HALF)
    finder.ring.offer(request.head)
    assert wait_readable(finder.ring.error_fd)
    assert served.read(0).status == OK
    served.queue.set_memory(lost)
    assert_stopped(served, other)


def test_new_memory_heals(serve: Serve, disk: int) -> None:
    served = serve(disk)
    os.ftruncate(served.memory.fd, 0)
    served.ring.kick()
    assert wait_readable(served.ring.error_fd)
    served.queue.stop()
    os.ftruncate(served.memory.fd, 1 << 20)
    served.ring.reset()
    served.start()
    assert served.read(5).data == sector_bytes(5)


def test_other_regions_are_not_touched(serve: Serve, disk: int, other: ServedRing) -> None:
    """The page that is put over the lost one lies there, and nowhere else."""
    memory = Memory(regions=[Region(GUEST, HALF, 0), Region(GUEST + HALF, HALF, HALF)])
    served = serve(disk, ring={"memory": memory})
    memory.write(GUEST + HALF - 4096, b"z" * 4096)
    request = served.blk(IN, 0, room=512, at=GUEST + HALF - 100)
    os.ftruncate(memory.fd, HALF)
    served.ring.offer(request.head)
    assert_stopped(served, other)
    assert memory.read(GUEST + HALF - 4096, 3996) == b"z" * 3996


def test_again_and_again(serve: Serve, disk: int, other: ServedRing) -> None:
    """No memory and no guard is used up by it."""
    before = maps()
    for _ in range(100):
        served = serve(disk)
        os.ftruncate(served.memory.fd, 0)
        served.ring.kick()
        assert wait_readable(served.ring.error_fd)
        served.queue.stop()
    assert other.read(9).data == sector_bytes(9)
    assert maps() - before < 50


def maps() -> int:
    """But for the small rings that queues keep."""
    return sum("io_uring" not in line for line in Path("/proc/self/maps").read_text().splitlines())


def test_when_another_handler_came_later(serve: Serve, disk: int, other: ServedRing) -> None:
    """Python's own, which writes where a program died, replaces ours; the next mapping puts ours before it."""
    was_enabled = faulthandler.is_enabled()
    faulthandler.disable()
    faulthandler.enable()
    try:
        served = serve(disk)
        os.ftruncate(served.memory.fd, 0)
        served.ring.kick()
        assert_stopped(served, other)
    finally:
        if not was_enabled:
            faulthandler.disable()


FAULTS = {
    "a file of one's own": """
        import mmap, os
        fd = os.memfd_create("own")
        os.ftruncate(fd, 4096)
        memory = mmap.mmap(fd, 4096)
        os.ftruncate(fd, 0)
        memory[0]
    """,
    "a signal": """
        import os, signal
        os.kill(os.getpid(), signal.SIGBUS)
    """,
}


@pytest.mark.parametrize("handler", ["none", "faulthandler before", "faulthandler after", "faulthandler between"])
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_that_are_not_ours_end_the_process_as_ever(fault: str, handler: str) -> None:
    program = "import faulthandler\n"
    program += "faulthandler.enable()\n" if "before" in handler or "between" in handler else ""
    program += "import os\nfrom virtflash.engine import Mapping\n"
    program += "faulthandler.disable()\nfaulthandler.enable()\n" if "after" in handler or "between" in handler else ""
    program += "fd = os.memfd_create('g')\nos.ftruncate(fd, 4096)\n"
    program += "kept = Mapping(fd, guest_address=0, size=4096, user_address=0, offset=0)\n"
    program += textwrap.dedent(FAULTS[fault])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False, timeout=20
    )
    assert run.returncode == -7, run.stderr
    assert ("Bus error" in run.stderr) == (handler != "none")
    assert len(run.stderr) < 10_000


def test_hugetlbfs_memory(serve: Serve, disk: int, other: ServedRing) -> None:
    """Its pages are larger, and so is the page that is put over a lost one."""
    huge = 2 << 20
    fd = os.memfd_create("huge", os.MFD_HUGETLB)
    try:
        os.ftruncate(fd, 2 * huge)
        mmap.mmap(fd, 2 * huge).close()
    except OSError:
        os.close(fd)
        pytest.skip("no huge pages are free (sysctl vm.nr_hugepages)")
    memory = HugeMemory(fd, regions=[Region(GUEST, huge, 0), Region(GUEST + huge, huge, huge)])
    served = serve(disk, ring={"memory": memory})
    assert served.read(3).data == sector_bytes(3)
    request = served.blk(IN, 0, room=512, at=GUEST + huge - 100)
    os.ftruncate(fd, huge)
    served.ring.offer(request.head)
    assert_stopped(served, other)


class HugeMemory(Memory):
    """Files of huge pages are written through a mapping only."""

    def __init__(self, fd: int, regions: list[Region]) -> None:
        self.mapping = mmap.mmap(fd, sum(region.size for region in regions))
        super().__init__(regions=regions, fd=fd)

    def write(self, address: int, data: bytes) -> None:
        self.mapping[self.offset(address) : self.offset(address) + len(data)] = data

    def read(self, address: int, length: int) -> bytes:
        return self.mapping[self.offset(address) : self.offset(address) + length]
