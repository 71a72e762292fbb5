"""The compiled load loop: against real servers, and against devices that misbehave."""

import os
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from driven_servers import IMAGE_BYTES, QUEUES, Server

from virtflash.bench.load import Load, bucket_bounds
from virtflash.bench.load_queue import LoadQueue, memory_bytes, queue_size
from virtflash.bench.measured_server import write_image
from virtflash.bench.measurement import Measurement, Settings, measure, run_loads
from virtflash.bench.workload import Workload, size_text
from virtflash.driver.blk import FEATURES, BlkDriver
from virtflash.driver.errors import ClosedError, DeadlineError, FrontEndError, QueueStoppedError
from virtflash.driver.guest_memory import GuestMemory
from virtflash.driver.split_queue import ONE, SplitQueue
from virtflash.virtio.ring_features import RingFeature
from virtflash.virtio.split_ring import USED_ELEMENT

SECONDS = 0.2
BLOCKS = IMAGE_BYTES // 4096

WORKLOADS = [
    Workload("read", 4096, 1),
    Workload("read", 512, 32),
    Workload("write", 4096, 8, QUEUES),
    Workload("mixed", 65536, 16),
]


@pytest.mark.parametrize("spin_ns", [0, 20_000, -1])
@pytest.mark.parametrize("indirect", [False, True], ids=["direct", "indirect"])
def test_chains_and_waiting(server: Server, indirect: bool, spin_ns: int) -> None:
    workload = Workload("read", 4096, 16)
    measured = measure(server.socket, workload, Settings(SECONDS, spin_ns, indirect))
    assert measured.requests == sum(measured.counts) > 100
    assert measured.failed == 0


@pytest.mark.parametrize("workload", WORKLOADS, ids=str)
def test_every_sector_comes_from_where_it_belongs(server: Server, workload: Workload) -> None:
    measured = measure(server.socket, workload, Settings(SECONDS, verify=True))
    assert measured.requests > 10
    assert (measured.failed, measured.mismatched) == (0, 0)
    with server.image.open("rb") as file:
        for sector in (0, 1, 777, IMAGE_BYTES // 512 - 1):
            file.seek(sector * 512)
            assert int.from_bytes(file.read(8), "little") == sector


def with_driver(server: Server, workload: Workload, *, features: int = FEATURES) -> tuple[BlkDriver, LoadQueue]:
    size = queue_size(workload, indirect=False)
    memory = GuestMemory((1 << 20, memory_bytes(workload)))
    driver = BlkDriver(server.socket, queue_size=size, memory=memory, features=features)
    return driver, LoadQueue(driver.queues[0], workload, indirect=False)


def test_without_event_index_and_again_on_the_same_ring(server: Server) -> None:
    driver, queue = with_driver(server, Workload(depth=8), features=FEATURES & ~RingFeature.EVENT_IDX)
    with driver:
        for _ in range(3):
            load = queue.load(0, BLOCKS)
            load.run(SECONDS)
            assert load.completed > 50
            assert load.failed == 0
            assert load.drained <= 8


def test_what_fails_and_what_is_wrong_is_counted(server: Server) -> None:
    driver, queue = with_driver(server, Workload(depth=8))
    with driver:
        beyond = queue.load(BLOCKS, 100)
        beyond.run(SECONDS)
        assert beyond.failed > 0
        assert beyond.completed == beyond.drained == sum(beyond.latency()) == 0, "nothing of it is a figure"
        unstamped = queue.load(0, BLOCKS, verify=True)  # the image holds noise
        unstamped.run(SECONDS)
        assert unstamped.mismatched > 0
        assert unstamped.completed == unstamped.failed == 0


def test_filling_writes_each_block_once(server: Server) -> None:
    driver, queue = with_driver(server, Workload(depth=8))
    with driver:
        load = queue.load(3, 100, fill=True)
        load.run(0)
        assert load.completed == 100
        assert load.drained == 0
    content = server.image.read_bytes()
    stamps = [int.from_bytes(content[at : at + 8], "little") for at in range(2 * 4096, 104 * 4096, 512)]
    assert stamps[8:-8] == list(range(24, 824))
    assert stamps[7] != 23
    assert stamps[-8] != 824


def test_a_load_ends_when_told_to(server: Server) -> None:
    driver, queue = with_driver(server, Workload())
    with driver:
        load = queue.load(0, BLOCKS)
        thread = threading.Timer(0.1, load.stop)
        thread.start()
        load.run(60)
        thread.join()
        assert load.seconds < 30


class InterruptedLoads(list[Load]):
    """A signal comes the moment the first load of them was started: there are more than so many `threads`."""

    threads = sys.maxsize

    def __iter__(self) -> Iterator[Load]:
        rest = super().__iter__()
        yield next(rest)
        if threading.active_count() > self.threads:
            self.threads = sys.maxsize  # it comes once
            raise SystemExit
        yield from rest


def test_a_signal_while_loads_are_started_stops_them(server: Server) -> None:
    driver, queue = with_driver(server, Workload("read", 4096, 4))
    with driver:
        loads = InterruptedLoads([queue.load(0, BLOCKS)])
        loads.threads = threading.active_count()
        with pytest.raises(SystemExit):
            run_loads(loads, 60, lambda _seconds, _done: None)
        assert loads[0].seconds < 30


def test_a_server_that_dies_under_load_is_noticed_at_once(server: Server) -> None:
    driver, queue = with_driver(server, Workload())
    with driver:
        load = queue.load(0, BLOCKS)

        def kill(_elapsed: float, done: int) -> None:
            if done:
                server.process.kill()

        with pytest.raises(ClosedError):
            run_loads([load], 60, kill)
        assert load.seconds < 30


# A device that is played by hand


@pytest.fixture
def idle() -> Iterator[tuple[SplitQueue, Load]]:
    """A load of depth 2 on a queue that nobody serves."""
    workload = Workload(depth=2)
    ours, theirs = socket.socketpair()
    with ours, theirs, GuestMemory((1 << 20, memory_bytes(workload))) as memory:
        queue = SplitQueue(memory, 16, event_idx=True, peer=ours.fileno())
        ready = LoadQueue(queue, workload, indirect=False)
        yield queue, ready.load(0, 100)
        queue.close()


# The heads of the two slots in flight are 0 and 3.
@pytest.mark.parametrize("head", [1, 6, 0xFFFFFFFD])
def test_a_device_that_gives_back_what_it_was_not_given(idle: tuple[SplitQueue, Load], head: int) -> None:
    queue, load = idle
    give_once_kicked(queue, [(head, 0)])
    with pytest.raises(FrontEndError, match="that was not in flight"):
        load.run(60)


def give_once_kicked(queue: SplitQueue, elements: list[tuple[int, int]], jump: int = 0) -> None:
    def serve() -> None:
        os.set_blocking(queue.kick_fd, True)
        os.read(queue.kick_fd, 8)
        os.set_blocking(queue.kick_fd, False)
        for position, element in enumerate(elements):
            queue.memory.write(queue.used + 4 + 8 * position, USED_ELEMENT.pack(*element))
        queue.memory.halfwords(queue.used + 2, 1)[0] = len(elements) + jump
        os.write(queue.call_fd, ONE)

    threading.Thread(target=serve).start()


def test_a_used_index_that_jumps(idle: tuple[SplitQueue, Load]) -> None:
    queue, load = idle
    give_once_kicked(queue, [(0, 0), (3, 0)], jump=1)
    with pytest.raises(FrontEndError, match="gave back more requests than were in flight"):
        load.run(60)


def test_a_device_that_stops_the_queue(idle: tuple[SplitQueue, Load]) -> None:
    queue, load = idle
    os.write(queue.error_fd, ONE)
    with pytest.raises(QueueStoppedError):
        load.run(60)


def test_a_device_that_does_nothing() -> None:
    with GuestMemory((0, 65536)) as memory:
        queue = SplitQueue(memory, 16)
        memory.allocate(4096)
        load = Load(
            memory.regions[0].memory,
            size=16,
            available=queue.available,
            used=queue.used,
            slot_lines=32768,
            data=40960,
            descriptor_flags=16384,
            descriptor_flags_stride=16,
            head_stride=1,
            depth=1,
            block_bytes=512,
            first_block=0,
            blocks=1,
            write_percent=0,
            event_idx=False,
            kick_fd=queue.kick_fd,
            call_fd=queue.call_fd,
            error_fd=queue.error_fd,
            peer_fd=-1,
            stall_ns=10_000_000,
        )
        with pytest.raises(DeadlineError, match=r"no request came back for 0\.01 s; 1 are in flight"):
            load.run(60)
        queue.close()


# Figures


def test_buckets_are_narrow() -> None:
    bounds = bucket_bounds()
    assert bounds[0] == 256
    assert bounds[-1] > 60e9
    assert all(0 < after - before <= before / 32 for before, after in pairwise(bounds))


def measurement(counts: dict[int, int]) -> Measurement:
    row = [counts.get(i, 0) for i in range(len(bucket_bounds()))]
    return Measurement(Workload(), 2.0, sum(row), sum(row), 0, 0, 0, 0, tuple(row), cpu_seconds=3.0)


@pytest.mark.parametrize(
    ("counts", "percent", "bucket", "share"),
    [
        ({100: 10}, 50, 100, 0.5),
        ({100: 10}, 100, 100, 1.0),
        ({100: 50, 200: 50}, 50, 100, 1.0),
        ({100: 50, 200: 50}, 75, 200, 0.5),
        ({100: 99, 896: 1}, 99, 100, 1.0),
        ({100: 99, 896: 1}, 100, 896, 1.0),
        ({0: 4}, 25, 0, 0.25),
    ],
)
def test_percentiles(counts: dict[int, int], percent: float, bucket: int, share: float) -> None:
    bounds = [0, *bucket_bounds()]
    expected = bounds[bucket] + share * (bounds[bucket + 1] - bounds[bucket])
    assert measurement(counts).latency_us(percent) * 1000 == pytest.approx(expected)


def test_rates() -> None:
    figures = measurement({5: 1000})
    assert figures.iops == 500
    assert figures.bytes_per_second == 500 * 4096
    assert figures.cpu_per_million == 3000


def test_nothing_is_known_where_nothing_succeeded() -> None:
    figures = measurement({})
    assert (figures.iops, figures.cpu_per_million, figures.latency_us(50)) == (0, None, None)


def test_the_time_of_failed_requests_is_nobodys() -> None:
    assert replace(measurement({5: 1000}), failed=1).cpu_per_million is None


@pytest.mark.parametrize(
    ("workload", "words"),
    [
        (Workload(queues=QUEUES + 1), f"the device has {QUEUES} queues"),
        (Workload(block_bytes=513), "not a multiple of 512"),
        (Workload(block_bytes=2 * IMAGE_BYTES, depth=1), "the device has only 16 MiB"),
        (Workload(depth=1025), "1024 are the most"),
        (Workload(block_bytes=1 << 30, depth=1000), "of memory; the limit is"),
    ],
)
def test_a_workload_that_the_device_is_not_for(server: Server, workload: Workload, words: str) -> None:
    with pytest.raises(FrontEndError, match=words):
        measure(server.socket, workload, Settings(SECONDS))
    assert measure(server.socket, Workload(), Settings(SECONDS)).requests > 0, "the server is free again"


@pytest.mark.parametrize(("depth", "indirect", "size"), [(1, True, 16), (128, False, 512), (341, False, 1024)])
def test_ring_sizes(depth: int, indirect: bool, size: int) -> None:
    assert queue_size(Workload(depth=depth), indirect=indirect) == size


def test_the_image_is_as_long_as_asked_for(tmp_path: Path) -> None:
    for size in (512, 1 << 20, (1 << 20) + 512):
        write_image(tmp_path / "image", size)
        assert (tmp_path / "image").stat().st_size == size
    with pytest.raises(OSError, match="are free"):
        write_image(tmp_path / "image", 1 << 60)


def test_sizes_in_words() -> None:
    sizes = {512: "512 B", 4096: "4 KiB", 6144: "6 KiB", 4097: "4097 B", 1 << 20: "1 MiB", 3 << 30: "3 GiB"}
    assert {size: size_text(size) for size in sizes} == sizes
