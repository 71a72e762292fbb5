"""The virtio-blk driver against real servers: virtflash, and QEMU's storage daemon, which others wrote."""

import os
from pathlib import Path

import pytest
from driven_servers import QUEUES, Server

from virtflash.driver.blk import FEATURES, LEGACY_FEATURES, BlkDriver, split_points
from virtflash.driver.errors import ClosedError, FrontEndError
from virtflash.driver.guest_memory import GuestMemory, RegionSpec
from virtflash.driver.split_queue import Buffer
from virtflash.virtio.blk import REQUEST_HEADER, BlkFeature, RequestType, Status
from virtflash.virtio.ring_features import RingFeature
from virtflash.virtio.split_ring import DescriptorFlag

WRITE = DescriptorFlag.WRITE
SECTOR = 512


@pytest.mark.parametrize(
    ("readable", "writable", "points", "pieces"),
    [
        (16, 1, [], [(0, 16), (16, 1)]),
        (16, 513, [16, 528], [(0, 16), (16, 512), (528, 1)]),
        (528, 1, [16], [(0, 16), (16, 512), (528, 1)]),
        (16, 1, [0, 16, 17], [(0, 16), (16, 1)]),
        (16, 1, [0, 0, 5, 5, 16, 16, 17, 17], [(0, 0), (0, 5), (5, 0), (5, 11), (16, 0), (16, 1), (17, 0)]),
    ],
)
def test_cutting_a_request(readable: int, writable: int, points: list[int], pieces: list[tuple[int, int]]) -> None:
    assert split_points(readable, writable, points) == pieces


def data(server: Server, sector: int, length: int) -> bytes:
    with server.image.open("rb") as file:
        file.seek(sector * SECTOR)
        return file.read(length)


SETUPS = {
    "usual": {},
    "indirect": {"indirect": True},
    "no event index": {"features": FEATURES & ~RingFeature.EVENT_IDX},
    "legacy": {"features": LEGACY_FEATURES},
    "memory slots": {"memory_slots": True},
    "no protocol features but configuration": {"protocol_features": 1 << 9},
    "nothing negotiated": {"features": 0},
}


@pytest.mark.parametrize("setup", SETUPS)
def test_what_is_written_is_read(server: Server, setup: str) -> None:
    if server.kind == "qemu" and setup in ("legacy", "nothing negotiated"):
        pytest.skip("qemu-storage-daemon drops a front end that does not acknowledge VERSION_1")
    before = data(server, 3, 4096)
    with BlkDriver(server.socket, **SETUPS[setup]) as driver:  # type: ignore[arg-type]
        completion = driver.read(3, 4096).check()
        assert (completion.data, completion.used_length) == (before, 4097)
        written = os.urandom(8192)
        driver.write(100, written).check()
        assert driver.read(100, 8192).check().data == written
        driver.flush().check()
        driver.close()
    assert data(server, 100, 8192) == written


def test_configuration(server: Server) -> None:
    with BlkDriver(server.socket) as driver:
        assert driver.capacity * SECTOR == server.image.stat().st_size
        assert driver.config.num_queues == QUEUES
        assert driver.front_end.get_queue_count() >= QUEUES
        with pytest.raises(FrontEndError):
            driver.front_end.get_config(0, 257)


FRAMINGS = {
    "two descriptors": [],
    "data with status": [16],
    "header at every byte": list(range(1, 16)),
    "header cut in the middle": [8, 528],
    "data at odd places": [17, 100, 333],
    "sectors apart": [16, 16 + 512, 16 + 1024, 16 + 1536],
}


@pytest.mark.parametrize("indirect", [False, True], ids=["direct", "indirect"])
@pytest.mark.parametrize("framing", FRAMINGS)
def test_any_framing(server: Server, framing: str, indirect: bool) -> None:
    points = FRAMINGS[framing]
    with BlkDriver(server.socket) as driver:
        written = os.urandom(2048)
        driver.write(7, written, framing=points, indirect=indirect).check()
        assert driver.read(7, 2048, framing=points, indirect=indirect).check().data == written
        assert driver.read(6, 512).check().data == data(server, 6, 512)


def test_many_in_flight_on_all_queues(server: Server) -> None:
    with BlkDriver(server.socket, queues=QUEUES, queue_size=256) as driver:
        content = {sector: os.urandom(SECTOR) for sector in range(160)}
        for sector, sector_data in content.items():
            driver.submit(RequestType.OUT, sector, sector_data, queue=sector % QUEUES, kick=sector >= 158)
        assert all(completion.status == Status.OK for completion in driver.complete_all())
        reads = [driver.submit(RequestType.IN, sector, room=SECTOR, queue=sector % QUEUES) for sector in content]
        for pending in reversed(reads):
            driver.complete(pending)
        assert [pending.completion and pending.completion.data for pending in reads] == list(content.values())


def test_other_requests(server: Server) -> None:
    with BlkDriver(server.socket) as driver:
        assert driver.get_id().check().data.strip(b"\xff") != b""
        driver.write(8, b"\xaa" * 4096 * 2).check()
        driver.discard(8, 8).check()
        driver.write_zeroes(16, 8).check()
        assert driver.read(16, 4096).check().data == bytes(4096)
        assert driver.request(99, room=16).status == Status.UNSUPP
        assert driver.read(driver.capacity, 512).status == Status.IOERR
        if not driver.front_end.features & BlkFeature.SECURE_ERASE:
            assert driver.secure_erase(0, 8).status == Status.UNSUPP
        if not driver.front_end.features & BlkFeature.LIFETIME:
            assert driver.get_lifetime().status == Status.UNSUPP
        segments = [(16 * i, 8, 0) for i in range(driver.config.max_discard_seg + 1)]
        assert driver.ranges(RequestType.DISCARD, segments).status != Status.OK


def test_a_chain_built_by_hand(server: Server) -> None:
    with BlkDriver(server.socket) as driver:
        memory, queue = driver.memory, driver.queues[0]
        header = memory.place(REQUEST_HEADER.pack(RequestType.IN, 0, 5))
        room = memory.allocate(SECTOR + 1)
        queue.write_descriptor(9, header, 16, DescriptorFlag.NEXT, 2)
        queue.write_descriptor(2, room, SECTOR + 1, WRITE)
        queue.publish(9)
        queue.kick()
        (used,) = queue.wait_used()
        assert (used.head, used.length) == (9, SECTOR + 1)
        assert memory.read(room, SECTOR + 1) == data(server, 5, SECTOR) + bytes(1)
        buffers = [Buffer(header, 16), Buffer(room, SECTOR + 1, WRITE)]
        assert driver.complete(driver.submit_chain(buffers)).check().data == data(server, 5, SECTOR)


def test_buffers_over_several_regions(server: Server, tmp_path: Path) -> None:
    size = 1 << 20
    memory = GuestMemory(
        (0x100000, size),
        RegionSpec(0x100000 + size, 4096, offset=4096, path=tmp_path / "memory"),
        (0x100000 + size + 4096, size),
    )
    with BlkDriver(server.socket, memory=memory) as driver:
        header = memory.place(REQUEST_HEADER.pack(RequestType.IN, 0, 0))
        room = 0x100000 + size - 512
        buffers = [Buffer(header, 16), Buffer(room, 512 + 4096 + 512, WRITE), Buffer(header + 16, 1, WRITE)]
        assert driver.complete(driver.submit_chain(buffers)).check().data == data(server, 0, 5120)


def test_without_interrupts(server: Server) -> None:
    with BlkDriver(server.socket, features=FEATURES & ~RingFeature.EVENT_IDX) as driver:
        queue = driver.queues[0]
        queue.take_interrupts()  # a new call descriptor is signalled once
        queue.forbid_interrupts()
        for sector in range(20):
            driver.complete(driver.submit(RequestType.IN, sector, room=512), poll=True).check()
        assert queue.take_interrupts() == 0
        driver.read(0, 512).check()


def test_a_ring_that_is_stopped_goes_on_where_it_was(server: Server) -> None:
    with BlkDriver(server.socket) as driver:
        for sector in range(5):
            driver.read(sector, 512).check()
        assert driver.stop_queues() == [5]
        driver.start_queues()
        assert driver.read(9, 512).check().data == data(server, 9, 512)
        assert driver.stop_queues() == [6]


def test_ring_indices_wrap(server: Server) -> None:
    with BlkDriver(server.socket, start=False) as driver:
        driver.negotiate()
        driver.share_memory()
        driver.make_queues()
        driver.queues[0].reset(65530)
        driver.start_queues()
        for sector in range(20):
            assert driver.read(sector, 512).check().data == data(server, sector, 512)
        assert driver.stop_queues() == [14]


def test_one_front_end_after_another(server: Server) -> None:
    for turn in range(5):
        driver = BlkDriver(server.socket, queues=QUEUES)
        pending = [driver.submit(RequestType.IN, sector, room=4096) for sector in range(30)]
        assert driver.complete(pending[0]).status == Status.OK
        driver.kill()
        with BlkDriver(server.socket) as after:
            assert after.read(turn, 512).check().data == data(server, turn, 512)


def test_a_server_that_dies_is_noticed_at_once(server: Server) -> None:
    with BlkDriver(server.socket) as driver:
        driver.read(0, 512).check()
        server.process.kill()
        server.process.wait()
        with pytest.raises(ClosedError):
            driver.read(0, 512)
        with pytest.raises(ClosedError):
            driver.front_end.round_trip()
