"""The life of a served volume: it grows, front ends come and go, memory comes and goes, signals come."""

import contextlib
import fcntl
import os
import select
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from served_disk import IMAGE_BYTES, Disk, ServeDisk, make_image
from watched_server import WatchedServer, wait_until

from virtflash.driver.blk import BlkDriver
from virtflash.driver.errors import ClosedError, DeadlineError, FrontEndError, QueueStoppedError
from virtflash.driver.front_end import PROTOCOL_FEATURES, FrontEnd
from virtflash.driver.guest_memory import GuestMemory
from virtflash.vhost_user.connection import STALL_SECONDS
from virtflash.vhost_user.messages import CONFIG, HEADER, VERSION, Message, Request
from virtflash.virtio.blk import RequestType, Status

SECTOR = 512
MIB = 1 << 20


@pytest.fixture(params=[(), ("--io", "threads")], ids=["auto", "threads"])
def process(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[WatchedServer]:
    """The program itself, with an image of random content."""
    with WatchedServer(tmp_path, [make_image(tmp_path / "disk.img")], *request.param) as server:
        yield server


# Growing


def test_growing(process: WatchedServer) -> None:
    """SIGHUP after the image was made larger: the front end is told, reads the new capacity, and uses it."""
    path, image = process.sockets[0], process.images[0]
    with BlkDriver(path) as driver:
        assert driver.capacity == IMAGE_BYTES // SECTOR
        assert driver.read(driver.capacity, SECTOR).status == Status.IOERR
        for size in (2 * IMAGE_BYTES, 3 * IMAGE_BYTES):
            os.truncate(image, size)
            process.signal(signal.SIGHUP)
            driver.front_end.wait_config_change()
            assert driver.read_config().capacity == size // SECTOR
            last = driver.capacity - 1
            driver.write(last, b"\x77" * SECTOR).check()
            assert driver.read(last, SECTOR).check().data == b"\x77" * SECTOR
            driver.discard(last - 8, 8).check()
    with BlkDriver(path) as driver:
        assert driver.capacity == 3 * IMAGE_BYTES // SECTOR


def test_nothing_is_announced_where_nothing_grew(process: WatchedServer) -> None:
    """Also not to a volume that shrank: it keeps its size, and what is gone fails."""
    image = process.images[0]
    with BlkDriver(process.sockets[0]) as driver:
        process.signal(signal.SIGHUP)
        os.truncate(image, MIB)
        process.signal(signal.SIGHUP)
        process.wait_line("warning disk: what lies below has shrunk to 2048 sectors; the device keeps its size")
        driver.front_end.round_trip()
        assert driver.backend_requests is not None
        assert not select.select([driver.backend_requests], [], [], 0)[0]
        assert driver.read_config().capacity == IMAGE_BYTES // SECTOR
        os.truncate(image, 2 * IMAGE_BYTES)
        process.signal(signal.SIGHUP)
        driver.front_end.wait_config_change()


def test_growing_without_anybody_to_tell(process: WatchedServer) -> None:
    """No front end, one without a channel, and one that does not read it: none stops the server from growing."""
    path, image = process.sockets[0], process.images[0]
    os.truncate(image, 2 * IMAGE_BYTES)
    process.signal(signal.SIGHUP)
    process.wait_line("grown from 8192 to 16384 sectors")
    with BlkDriver(path, protocol_features=PROTOCOL_FEATURES & ~(1 << 5)) as driver:
        assert driver.capacity == 2 * IMAGE_BYTES // SECTOR
        os.truncate(image, 3 * IMAGE_BYTES)
        process.signal(signal.SIGHUP)
        process.wait_line("grown from 16384 to 24576 sectors")
        assert driver.read_config().capacity == 3 * IMAGE_BYTES // SECTOR


def test_a_channel_that_is_full(serve_disk: ServeDisk) -> None:
    """A front end that never reads its channel is told until there is no more room, and nobody waits for it."""
    disk = serve_disk()
    with BlkDriver(disk.socket) as driver:
        for _ in range(2000):
            disk.server.served[0].door.announce_config_change()
        driver.front_end.round_trip()
        driver.read(0, SECTOR).check()


# Front ends in turn


@pytest.mark.parametrize("leave", ["stops its ring", "hangs up", "hangs up in the middle of requests"])
def test_front_ends_in_turn(process: WatchedServer, leave: str) -> None:
    """Each reads what the one before has written; nothing of it stays behind."""
    path = process.sockets[0]
    with BlkDriver(path) as driver:
        content = driver.read(0, 65536).check().data
    before = process.vitals()
    for turn in range(30):
        driver = BlkDriver(path, queue_size=256, indirect=True)
        assert driver.read(0, 65536).check().data == content
        content = os.urandom(65536)
        driver.write(0, content).check()
        if leave == "stops its ring":
            driver.close()
        else:
            if leave != "hangs up":
                for i in range(64):
                    driver.submit(RequestType.IN, (turn + i) % 64 * 128, room=65536, kick=i % 16 == 15)
            driver.kill()
    with BlkDriver(path) as driver:
        assert driver.read(0, 65536).check().data == content
    wait_until(lambda: process.vitals().descriptors <= before.descriptors, "descriptors are given back")
    assert process.vitals().threads == before.threads
    assert process.vitals().memory_kib < before.memory_kib + 2048
    assert not process.loud_lines()


def test_writes_of_a_front_end_that_left_are_whole(process: WatchedServer) -> None:
    """What was in flight when it left was written as a whole or not at all, and nothing is written once it is gone."""
    path, image = process.sockets[0], process.images[0]
    size, count = 65536, 32
    before = [image.read_bytes()[i * size : (i + 1) * size] for i in range(count)]
    for turn in range(20):
        driver = BlkDriver(path, queue_size=256, indirect=True)
        for i in range(count):
            driver.submit(RequestType.OUT, i * size // SECTOR, bytes([turn]) * size, kick=i % 8 == 7)
        driver.kill()
        with BlkDriver(path) as after:  # it is let in when the one before is done with
            found = after.read(0, count * size).check().data
        assert image.read_bytes()[: count * size] == found
        blocks = [found[i * size : (i + 1) * size] for i in range(count)]
        assert all(now in (old, bytes([turn]) * size) for now, old in zip(blocks, before, strict=True))
        before = blocks


def test_those_who_wait(process: WatchedServer) -> None:
    """Several front ends at once: one is served, the others wait for their turn, and each has it."""
    path = process.sockets[0]
    first = BlkDriver(path)
    waiting = [FrontEnd(path) for _ in range(4)]
    first.read(0, SECTOR).check()
    first.kill()
    for front_end in waiting:
        with BlkDriver(front_end) as driver:
            driver.read(0, SECTOR).check()


def test_a_call_descriptor_is_signalled_once(serve_disk: ServeDisk) -> None:
    """With SET_VRING_CALL on a running ring: a completion may have gone to the old one."""
    disk = serve_disk()
    with BlkDriver(disk.socket) as driver:
        queue = driver.queues[0]
        driver.front_end.round_trip()
        assert queue.take_interrupts() == 1
        for _ in range(3):
            driver.front_end.set_vring_call(0, queue.call_fd)
            driver.front_end.round_trip()
            assert queue.take_interrupts() == 1
        driver.front_end.set_vring_call(0, None)
        driver.complete(driver.submit(RequestType.IN, room=SECTOR), poll=True).check()
        assert queue.take_interrupts() == 0


# Memory that comes and goes


def test_regions_come_and_go_under_load(process: WatchedServer) -> None:
    """ADD_MEM_REG and REM_MEM_REG of one region after another while requests are in flight in others, data checked."""
    regions = [(16 * MIB + i * 2 * MIB, MIB) for i in range(4)]
    memory = GuestMemory((MIB, 8 * MIB), *regions)
    content = process.images[0].read_bytes()
    with BlkDriver(process.sockets[0], memory=memory, memory_slots=True, queue_size=256, indirect=True) as driver:
        for turn in range(40):
            gone = memory.regions[1 + turn % 4]
            driver.front_end.remove_memory_region(gone.layout)
            wanted = []
            for i in range(24):
                place = regions[(turn + 1 + i % 3) % 4][0] + i // 3 * 65536
                sector = (turn * 24 + i) * 128 % (IMAGE_BYTES // SECTOR - 128)
                chain = [(memory.place(bytes(4) + bytes(4) + sector.to_bytes(8, "little")), 16, 0)]
                chain += [(place, 65536, 2), (memory.allocate(1), 1, 2)]
                wanted.append((driver.submit_chain(chain), place, sector))
            driver.front_end.add_memory_region(gone.layout, gone.fd)
            for pending, place, sector in wanted:
                assert driver.complete(pending).status == Status.OK
                assert memory.read(place, 65536) == content[sector * SECTOR : sector * SECTOR + 65536]


# Many queues


@pytest.mark.parametrize("io", ["auto", "threads"])
@pytest.mark.parametrize(("queues", "reactors"), [(4, 1), (4, 2), (4, 4), (7, 3)])
def test_many_queues_on_many_reactors(serve_disk: ServeDisk, queues: int, reactors: int, io: str) -> None:
    """Each queue writes its own sectors, then reads those of another one; all at once."""
    disk = serve_disk(queues=queues, reactors=reactors, io=io)
    assert len(disk.server.reactors) == reactors
    with BlkDriver(disk.socket, queues=queues, queue_size=128, indirect=True) as driver:
        assert driver.front_end.get_queue_count() == driver.config.num_queues == queues
        content = {sector: os.urandom(SECTOR) for sector in range(60 * queues)}
        for sector, data in content.items():
            driver.submit(RequestType.OUT, sector, data, queue=sector % queues)
        assert all(completion.status == Status.OK for completion in driver.complete_all())
        reads = [driver.submit(RequestType.IN, sector, room=SECTOR, queue=(sector + 1) % queues) for sector in content]
        assert [driver.complete(pending).data for pending in reads] == list(content.values())
        assert all(driver.flush(queue=index).status == Status.OK for index in range(queues))
    for sector, data in content.items():
        assert disk.content(sector, SECTOR) == data
    served = [sum(queue.statistics()["requests"].values()) for queue in disk.export.queues]
    assert served == [121] * queues


def test_one_queue_of_several_stops(serve_disk: ServeDisk) -> None:
    """Its ring is broken, or stopped, and the others are served."""
    disk = serve_disk(queues=3, reactors=2)
    with BlkDriver(disk.socket, queues=3) as driver:
        driver.queues[1].publish(1000)
        driver.queues[1].kick()
        driver.queues[1].wait_error()
        driver.queues[2].stop(driver.front_end)
        assert driver.read(0, SECTOR).check()
        with pytest.raises(QueueStoppedError):
            driver.read(0, SECTOR, queue=1)
        driver.queues[2].start(driver.front_end)
        assert driver.read(0, SECTOR, queue=2).check()


# Its end


def test_sigterm_with_requests_in_flight(process: WatchedServer) -> None:
    """Exit status 0, at once, with a front end connected; what it completed is there."""
    driver = BlkDriver(process.sockets[0], queue_size=256, indirect=True)
    for i in range(128):
        driver.submit(RequestType.OUT, i % 64 * 128, bytes(65536), kick=i % 16 == 15)
    assert process.stop() == 0
    with pytest.raises(FrontEndError):
        driver.front_end.round_trip()
    with contextlib.suppress(ClosedError):
        driver.complete_all()
    driver.kill()
    assert not process.sockets[0].exists()
    assert not process.loud_lines()
    process.start()


def test_sigterm_with_a_ring_that_is_broken(process: WatchedServer) -> None:
    with BlkDriver(process.sockets[0]) as driver:
        driver.queues[0].publish(1000)
        driver.queues[0].kick()
        driver.queues[0].wait_error()
        assert process.stop() == 0
    process.start()


@pytest.mark.parametrize("stalls", ["in its header", "behind its header", "with its answers"])
def test_sigterm_with_a_front_end_that_stalls(process: WatchedServer, stalls: str) -> None:
    """Nobody waits for the rest of its message."""
    front_end = FrontEnd(process.sockets[0])
    front_end.round_trip()
    if stalls == "with its answers":
        question = Message(Request.GET_CONFIG, CONFIG.pack(0, 256, 0) + bytes(256))
        with pytest.raises(DeadlineError):
            while True:
                front_end.send(question, timeout=0.1)
    else:
        front_end.send_bytes(HEADER.pack(Request.SET_VRING_NUM, VERSION, 8)[: 5 if stalls == "in its header" else None])
        wait_until(lambda: not unread(front_end), "it has begun to read")
    begun = time.monotonic()
    assert process.stop() == 0
    assert time.monotonic() - begun < STALL_SECONDS / 2
    front_end.close()
    process.start()


def unread(front_end: FrontEnd) -> int:
    """Bytes that the other side has not taken yet (SIOCOUTQ, socket(7))."""
    return int.from_bytes(fcntl.ioctl(front_end.fileno(), termios.TIOCOUTQ, bytes(4)), "little")


INHERIT = """
import os, socket, sys
listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[1])
listening.listen(4)
os.set_inheritable(listening.fileno(), True)
os.execv(sys.argv[2], [sys.argv[2], "serve", "--image", sys.argv[3], "--fd", str(listening.fileno())])
"""


def test_a_socket_that_was_inherited(tmp_path: Path) -> None:
    """`--fd`: made by whoever starts us, as a service manager does; served, and not removed at the end."""
    image, path = tmp_path / "disk.img", tmp_path / "inherited.sock"
    image.write_bytes(os.urandom(MIB))
    program = Path(sys.executable).with_name("virtflash")
    process = subprocess.Popen([sys.executable, "-c", INHERIT, path, program, image], stderr=subprocess.DEVNULL)
    try:
        wait_until(path.exists, "the socket is there")
        connected = socket.socket(socket.AF_UNIX)
        wait_until(lambda: connected.connect_ex(str(path)) == 0, "somebody listens")
        with BlkDriver(FrontEnd(connected)) as driver:
            assert driver.read(0, 4096).check().data == image.read_bytes()[:4096]
        for _ in range(3):
            with BlkDriver(path) as driver:
                driver.read(0, SECTOR).check()
        process.terminate()
        assert process.wait(10) == 0
        assert path.exists()
    finally:
        process.kill()
        process.wait()


def test_queues_that_were_never_started_need_no_stopping(disk_of_many: Disk) -> None:
    with BlkDriver(disk_of_many.socket, queues=2) as driver:
        driver.read(0, SECTOR, queue=1).check()


@pytest.fixture
def disk_of_many(serve_disk: ServeDisk) -> Disk:
    return serve_disk(queues=64)
