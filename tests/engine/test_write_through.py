"""When a completed write is stable (virtio 1.4 §5.2.6.2; docs/design.md): a sync that is made to fail tells who syncs.

A write that is still under way when the mode changes is held up by a pipe that is full (io_uring), or behind workers
that are all busy (threads).
"""

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hand_made_ring import eventually
from served_ring import FLUSH, IOERR, OK, OUT, SECTORS, Request, ServedRing

from virtflash.virtio.blk import RequestType

Serve = Callable[..., ServedRing]
DISCARD, WRITE_ZEROES = RequestType.DISCARD, RequestType.WRITE_ZEROES
RANGES = {"discard": True, "write_zeroes": True, "max_discard_sectors": 1 << 20, "max_write_zeroes_sectors": 1 << 20}
FS_IOC_FIEMAP, FIEMAP_EXTENT_DELALLOC = 0xC020660B, 4
WORKERS = 8  # of a reactor
ZEROES = 1 << 15  # sectors: 16 MiB
SLOW = 5 * WORKERS  # writes of so many zeroes, which take longer than a mode takes to change


def segment(sectors: int) -> bytes:
    return struct.pack("<QII", 0, sectors, 0)


@pytest.mark.parametrize("write_through", [False, True])
def test_a_write_is_synced_only_where_it_completes_stable(serve: Serve, disk: int, write_through: bool) -> None:
    served = serve(disk, **RANGES)
    served.binding.write_through = write_through
    served.binding.inject_fault("sync", errno.EIO)
    assert served.write(0, b"x" * 512).status == (IOERR if write_through else OK)
    assert served.do(WRITE_ZEROES, 0, segment(8)).status == (IOERR if write_through else OK)
    assert served.do(DISCARD, 0, segment(8)).status == OK
    assert served.read(0).status == OK
    assert served.binding.sync_failed == write_through
    assert served.do(FLUSH).status == IOERR
    assert served.binding.sync_failed


def test_a_flush_really_syncs(serve: Serve) -> None:
    """On /dev/zero, which takes every write and knows no sync."""
    fd = os.open("/dev/zero", os.O_RDWR)
    served = serve(fd)
    assert served.write(0, b"x" * 512).status == OK
    assert served.do(FLUSH).status == IOERR
    assert served.events() == {"io-error": os.strerror(errno.EINVAL)}
    os.close(fd)


def waits_for_its_place(fd: int) -> bool:
    """Has the file system not decided yet where on the disk the first block of a file goes?"""
    fiemap = bytearray(struct.pack("<QQIIII", 0, 4096, 0, 0, 1, 0) + bytes(56))
    try:
        fcntl.ioctl(fd, FS_IOC_FIEMAP, fiemap)
    except OSError:
        pytest.skip("the file system of the temporary directory does not tell where blocks lie")
    return bool(struct.unpack_from("<I", fiemap, 32 + 40)[0] & FIEMAP_EXTENT_DELALLOC)


@pytest.mark.parametrize("kind", [OUT, WRITE_ZEROES])
def test_a_write_reaches_the_disk_before_it_completes_stable(serve: Serve, tmp_path: Path, kind: int) -> None:
    places = {}
    for write_through in (False, True):
        fd = os.open(tmp_path / str(write_through), os.O_RDWR | os.O_CREAT)
        os.ftruncate(fd, SECTORS * 512)
        served = serve(fd, **RANGES)
        served.binding.write_through = write_through
        assert served.do(kind, 0, segment(8) if kind == WRITE_ZEROES else b"x" * 4096).status == OK
        places[write_through] = waits_for_its_place(fd)
        os.close(fd)
    if not places[False]:
        pytest.skip("the file system of the temporary directory chooses places at once")
    assert not places[True]


def taken(served: ServedRing) -> int:
    statistics = served.statistics()
    return statistics["in_flight"] + sum(statistics["requests"].values())


class UnderWay:
    """A write that is under way until `finish`."""

    def __init__(self, served: ServedRing, finish: Callable[[], None], request: Request, others: int) -> None:
        self.served, self._finish, self.request, self.others = served, finish, request, others
        served.ring.offer(request.head)
        eventually(lambda: taken(served) == others + 1, "all requests are taken from the ring")

    def finish(self) -> int:
        """Let it end; its status."""
        in_flight = self.served.statistics()["in_flight"]
        assert in_flight > WORKERS if self.others else in_flight == 1, "it was not held up"
        self._finish()
        used = dict(self.served.ring.wait(self.others + 1))
        return self.served.outcome(self.request.head, used[self.request.head]).status


@pytest.fixture
def under_way(serve: Serve, path: str) -> Iterator[Callable[..., UnderWay]]:
    """Makes a write of one sector that is under way."""
    with contextlib.ExitStack() as stack:
        yield lambda kind=OUT: behind_workers(serve, stack, kind) if path == "threads" else in_a_full_pipe(serve, stack)


def in_a_full_pipe(serve: Serve, stack: contextlib.ExitStack) -> UnderWay:
    device, fd = os.pipe()
    stack.callback(os.close, device)
    stack.callback(os.close, fd)
    os.write(fd, bytes(65536))
    served = serve(fd)
    return UnderWay(served, lambda: os.read(device, 65536) and None, served.blk(OUT, 0, b"x" * 512), 0)


def behind_workers(serve: Serve, stack: contextlib.ExitStack, kind: int) -> UnderWay:
    fd = os.memfd_create("disk")
    stack.callback(os.close, fd)
    os.ftruncate(fd, ZEROES * 512)
    served = serve(fd, ZEROES, ring={"size": 256}, **RANGES)
    slow = [served.blk(WRITE_ZEROES, 0, segment(ZEROES)) for _ in range(SLOW)]
    served.ring.offer(*(request.head for request in slow))
    last = served.blk(OUT, 0, b"x" * 512) if kind == OUT else served.blk(kind)
    return UnderWay(served, lambda: None, last, SLOW)


def test_a_write_under_way_is_synced_when_the_mode_becomes_write_through(under_way: Callable[..., UnderWay]) -> None:
    """It was submitted volatile, and may not complete so: the driver sends no flush any more."""
    write = under_way()
    write.served.binding.write_through = True
    write.served.binding.inject_fault("sync", errno.EIO)
    assert write.finish() == IOERR
    assert write.served.binding.sync_failed


def test_a_write_under_way_completes_volatile_when_the_mode_stays(under_way: Callable[..., UnderWay]) -> None:
    write = under_way()
    write.served.binding.inject_fault("sync", errno.EIO)
    write.served.binding.write_through = True
    write.served.binding.write_through = False
    assert write.finish() == OK
    assert not write.served.binding.sync_failed


def test_a_flush_under_way_fails_when_meanwhile_a_sync_has_failed(
    under_way: Callable[..., UnderWay], path: str
) -> None:
    """The kernel reports a failure once, to whoever asks first; the flush that comes second has lost data too."""
    if path != "threads":
        pytest.skip("nothing holds up a sync that io_uring was given")
    flush = under_way(FLUSH)
    binding = flush.served.binding
    binding.inject_fault("sync", errno.EIO)
    with pytest.raises(OSError, match="has failed"):
        binding.sync()
    binding.inject_fault("sync", 0)
    assert flush.finish() == IOERR


def test_the_mode_changes_again_and_again_under_load(serve: Serve, disk: int) -> None:
    served = serve(disk)
    statuses = []
    for turn in range(100):
        requests = [served.blk(OUT, 8 * i, bytes([turn]) * 512) for i in range(16)]
        served.ring.offer(*(request.head for request in requests))
        served.binding.write_through = bool(turn % 3)
        statuses += [outcome.status for outcome in served.collect(*requests)]
    assert statuses == [OK] * 1600
    assert served.read(8).data == bytes([99]) * 512


def test_sync_makes_stable_and_says_when_it_could_not(serve: Serve, disk: int) -> None:
    binding = serve(disk).binding
    binding.sync()
    binding.inject_fault("sync", errno.ENOSPC)
    with pytest.raises(OSError, match="a write or a sync of this volume has failed") as failure:
        binding.sync()
    assert failure.value.errno == errno.ENOSPC
    binding.inject_fault("sync", 0)
    with pytest.raises(OSError, match="has failed") as failure:
        binding.sync()
    assert failure.value.errno == errno.EIO
    assert [event["kind"] for event in binding.take_events()] == ["sync-failed"]


def test_nothing_to_sync(serve: Serve) -> None:
    serve().binding.sync()
    fd = make_disk_read_only()
    serve(fd, 1, read_only=True).binding.sync()
    os.close(fd)


def make_disk_read_only() -> int:
    return os.open("/proc/self/status", os.O_RDONLY)
