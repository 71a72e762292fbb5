"""A disk that fails: the right status, a latch on what may be lost, one event, and nothing that hangs."""

import errno
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from served_ring import FLUSH, IN, IOERR, OK, OUT, SECTORS, UNSUPP, ServedRing, sector_bytes, sectors_bytes

from virtflash.virtio.blk import RequestType

Serve = Callable[..., ServedRing]
RANGES = {"discard": True, "write_zeroes": True, "max_discard_sectors": 100, "max_write_zeroes_sectors": 100}
DISCARD, WRITE_ZEROES = RequestType.DISCARD, RequestType.WRITE_ZEROES
SEGMENT = struct.pack("<QII", 8, 8, 0)
REQUESTS = {
    "read": (IN, b"", 512),
    "write": (OUT, b"x" * 512, 0),
    "write zeroes": (WRITE_ZEROES, SEGMENT, 0),
    "discard": (DISCARD, SEGMENT, 0),
    "flush": (FLUSH, b"", 0),
}
# What each ordered fault makes fail, and what may be lost by it.
FAULTS = {
    "read": ({"read"}, False),
    "write": ({"write", "write zeroes"}, True),
    "sync": ({"flush"}, True),
    "discard": ({"discard"}, False),
}


def statuses(served: ServedRing) -> dict[str, int]:
    return {name: served.do(kind, 0, payload, room).status for name, (kind, payload, room) in REQUESTS.items()}


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, errno.ETIMEDOUT])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("null", [False, True])
def test_a_fault_that_was_ordered(serve: Serve, disk: int, fault: str, error: int, null: bool) -> None:
    failing, lost = FAULTS[fault]
    served = serve(-1 if null else disk, **RANGES)
    served.binding.inject_fault(fault, error)
    failing = failing | {"flush"} if lost else failing
    assert statuses(served) == {name: IOERR if name in failing else OK for name in REQUESTS}
    assert served.binding.sync_failed == lost
    events = served.events()
    assert events.pop("io-error") == os.strerror(error)
    assert events == ({"sync-failed": os.strerror(error)} if lost else {})
    served.binding.inject_fault(fault, 0)
    assert statuses(served) == {name: IOERR if name == "flush" and lost else OK for name in REQUESTS}
    assert served.statistics()["in_flight"] == 0


def test_what_the_backing_cannot_is_unsupported_and_loses_nothing(serve: Serve, disk: int) -> None:
    served = serve(disk, **RANGES)
    served.binding.inject_fault("write", errno.EOPNOTSUPP)
    assert statuses(served) == dict.fromkeys(REQUESTS, OK) | {"write": UNSUPP, "write zeroes": UNSUPP}
    assert not served.binding.sync_failed


@pytest.mark.parametrize("again", [errno.EAGAIN, errno.EINTR])
def test_what_is_to_be_tried_again_is_not_tried_for_ever(serve: Serve, disk: int, again: int) -> None:
    served = serve(disk)
    served.binding.inject_fault("read", again)
    assert served.read(0).status == IOERR


def test_a_fault_that_nobody_knows(serve: Serve, disk: int) -> None:
    with pytest.raises(ValueError, match="no fault is called 'erase': one of read, write, sync, discard"):
        serve(disk).binding.inject_fault("erase", errno.EIO)


def test_a_full_disk(serve: Serve) -> None:
    fd = os.open("/dev/full", os.O_RDWR)
    served = serve(fd)
    assert served.read(3) == (OK, 513, bytes(512))
    assert served.write(3, b"x" * 512).status == IOERR
    assert served.do(FLUSH).status == IOERR
    assert served.events() == {"io-error": os.strerror(errno.ENOSPC), "sync-failed": os.strerror(errno.ENOSPC)}
    os.close(fd)


def test_a_descriptor_that_cannot_be_written(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(sectors_bytes(0, 8))
    fd = os.open(tmp_path / "disk", os.O_RDONLY)
    served = serve(fd, 8)
    assert (served.write(0, b"x" * 512).status, served.read(0).data) == (IOERR, sector_bytes(0))
    os.close(fd)


def test_a_file_that_shrinks(serve: Serve, disk: int) -> None:
    """What is gone fails, also where a read begins before the new end; what is there is served."""
    served = serve(disk)
    os.ftruncate(disk, 100 * 512 + 7)
    assert served.read(99) == (OK, 513, sector_bytes(99))
    assert served.read(100).status == served.read(SECTORS - 1).status == served.read(98, 8).status == IOERR
    assert not served.binding.sync_failed
    assert served.write(200, b"x" * 512).status == OK
    assert served.read(200).data == b"x" * 512


def test_a_read_in_three_parts(serve: Serve, path: str) -> None:
    """Short transfers are continued; a pipe gives what it has."""
    if path == "threads":
        pytest.skip("a system call at an offset takes no pipe")
    fd, device = os.pipe()
    served = serve(fd)
    request = served.blk(IN, 0, room=1536, room_cuts=[1, 100, 600, 1536])
    os.write(device, b"a" * 50)
    served.ring.offer(request.head)
    os.write(device, b"b" * 700)
    served.reactor.round()
    os.write(device, b"c" * 786)
    assert served.collect(request)[0] == (OK, 1537, b"a" * 50 + b"b" * 700 + b"c" * 786)
    os.close(fd)
    os.close(device)


def test_many_failures_are_one_event(serve: Serve, disk: int) -> None:
    served = serve(disk)
    served.binding.inject_fault("read", errno.EIO)
    for _ in range(50):
        served.read(0)
    assert served.binding.take_events() == [
        {"kind": "io-error", "queue": 0, "count": 50, "detail": os.strerror(errno.EIO)}
    ]
    assert served.binding.take_events() == []
