"""A disk that fails: what the guest and the operator are told, and that nothing hangs (virtio 1.4 §5.2.6.2)."""

import errno
import logging
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from served_disk import Disk, ServeDisk

from virtflash.driver.blk import FEATURES, BlkDriver
from virtflash.virtio.blk import BlkFeature, RequestType, Status

SECTOR = 512
IOERR, OK = Status.IOERR, Status.OK
WRITE_THROUGH = FEATURES & ~int(BlkFeature.FLUSH) & ~int(BlkFeature.CONFIG_WCE)
LATCHED = "a write or a sync failed"

# What fails, and how each request then ends, in write-back mode.
FAULTS = {
    "read": {"read": IOERR, "write": OK, "write zeroes": OK, "discard": OK, "flush": OK},
    "write": {"read": OK, "write": IOERR, "write zeroes": IOERR, "discard": OK, "flush": OK},
    "sync": {"read": OK, "write": OK, "write zeroes": OK, "discard": OK, "flush": IOERR},
    "discard": {"read": OK, "write": OK, "write zeroes": OK, "discard": IOERR, "flush": OK},
}
LATCHES = {"write": "write", "sync": "flush"}  # what fails, and the request by which it is noticed


@pytest.fixture(params=["auto", "io_uring-plain", "threads"])
def disk(request: pytest.FixtureRequest, serve_disk: ServeDisk) -> Disk:
    return serve_disk(io=request.param)


def do(driver: BlkDriver, what: str) -> int:
    match what:
        case "read":
            return driver.read(0, SECTOR).status
        case "write":
            return driver.write(0, bytes(SECTOR)).status
        case "write zeroes":
            return driver.write_zeroes(8, 8).status
        case "discard":
            return driver.discard(16, 8).status
        case _:
            return driver.flush().status


@contextmanager
def failing(disk: Disk, kind: str, number: int) -> Iterator[None]:
    disk.binding.inject_fault(kind, number)
    yield
    disk.binding.inject_fault(kind, 0)


def told(caplog: pytest.LogCaptureFixture, words: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if words in record.getMessage()]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("kind", FAULTS)
def test_status(disk: Disk, kind: str, number: int, caplog: pytest.LogCaptureFixture) -> None:
    """The request that meets the fault fails, every other one succeeds; the log says so once, with the reason."""
    caplog.set_level(logging.INFO, "virtflash")
    with BlkDriver(disk.socket) as driver:
        for what, status in FAULTS[kind].items():
            if kind == "write" and what == "flush":
                continue  # see below: it is a flush after a failed write
            with failing(disk, kind, number):
                assert do(driver, what) == status, what
        driver.close()
    disk.server.close()
    failures = sum(status == IOERR for what, status in FAULTS[kind].items())
    lines = told(caplog, f"requests failed: {os.strerror(number)}")
    assert sum(int(line.split(" requests")[0].rsplit(" ", 1)[1]) for line in lines) == failures
    assert len(told(caplog, LATCHED)) == (1 if kind in LATCHES else 0)


@pytest.mark.parametrize("kind", LATCHES)
def test_flush_fails_from_then_on(disk: Disk, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """Linux tells of a failed sync once and forgets it; the guest is told for as long as its data may be lost."""
    with BlkDriver(disk.socket) as driver:
        assert driver.flush().status == OK
        with failing(disk, kind, errno.EIO):
            assert do(driver, LATCHES[kind]) == IOERR
        assert disk.binding.sync_failed
        for _ in range(3):
            assert driver.flush().status == IOERR
        assert (driver.read(0, SECTOR).status, driver.write(0, bytes(SECTOR)).status) == (OK, OK)
    with BlkDriver(disk.socket) as driver:
        assert driver.flush().status == IOERR, "also of the next front end"
    disk.server.close()
    assert len(told(caplog, LATCHED)) == 1


@pytest.mark.parametrize("kind", ["read", "discard"])
def test_flush_goes_on_where_nothing_was_lost(disk: Disk, kind: str) -> None:
    with BlkDriver(disk.socket) as driver:
        with failing(disk, kind, errno.EIO):
            assert do(driver, kind) == IOERR
        assert (driver.flush().status, disk.binding.sync_failed) == (OK, False)


def test_write_through_that_cannot_sync(disk: Disk, caplog: pytest.LogCaptureFixture) -> None:
    """The write itself fails, and every one after it; a driver that never flushes hears of it."""
    with BlkDriver(disk.socket, features=WRITE_THROUGH) as driver:
        with failing(disk, "sync", errno.EIO):
            assert driver.write(0, bytes(SECTOR)).status == IOERR
            assert driver.write(8, bytes(SECTOR)).status == IOERR
        assert driver.flush().status == IOERR
    disk.server.close()
    assert len(told(caplog, LATCHED)) == 1


@pytest.mark.parametrize("kind", ["read", "write"])
def test_a_full_ring_of_failures(disk: Disk, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing hangs, and the log is no longer for it."""
    with BlkDriver(disk.socket, queue_size=256, indirect=True) as driver:
        with failing(disk, kind, errno.EIO):
            for i in range(256):
                if kind == "read":
                    driver.submit(RequestType.IN, i, room=SECTOR, kick=i == 255)
                else:
                    driver.submit(RequestType.OUT, i, bytes(SECTOR), kick=i == 255)
            assert {completion.status for completion in driver.complete_all()} == {IOERR}
        assert driver.read(0, SECTOR).status == OK
    disk.server.close()
    assert len(caplog.records) < 8


def test_unsupported_by_the_disk(disk: Disk) -> None:
    """A device that takes its word back about discards is answered for with UNSUPP, and loses nothing."""
    with BlkDriver(disk.socket) as driver:
        with failing(disk, "discard", errno.EOPNOTSUPP):
            assert driver.discard(0, 8).status == Status.UNSUPP
        assert driver.flush().status == OK


def test_another_volume_does_not_care(disk: Disk, serve_disk: ServeDisk) -> None:
    """What is latched is one volume's."""
    other = serve_disk(null=1 << 20)
    with BlkDriver(disk.socket) as driver, BlkDriver(other.socket) as neighbour:
        with failing(disk, "sync", errno.EIO):
            assert driver.flush().status == IOERR
        assert neighbour.flush().status == OK


# Disks that fail for real

MIB = 1 << 20


@pytest.fixture
def small_file_system(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 1 MiB with a sparse image of 4 MiB on it."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system that is too small")
    place = tmp_path / "small"
    place.mkdir()
    run = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1M", "none", place], capture_output=True, text=True, check=False
    )
    if run.returncode:
        pytest.skip(f"no file system can be mounted here: {run.stderr.strip()}")
    image = place / "disk.img"
    image.touch()
    os.truncate(image, 4 * MIB)
    yield image
    subprocess.run(["umount", "--lazy", place], check=True)


@pytest.mark.parametrize("io", ["auto", "threads"])
def test_no_space_left(
    serve_disk: ServeDisk, small_file_system: Path, io: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A sparse image on a full file system: writes fail, reads go on, and a flush does not say that all is well."""
    disk = serve_disk(small_file_system, io=io)
    with BlkDriver(disk.socket) as driver:
        statuses = [driver.write(i * 256, b"\x11" * (128 << 10)).status for i in range(32)]
        assert statuses[0] == OK
        assert IOERR in statuses
        first = statuses.index(IOERR)
        assert driver.read(0, first * (128 << 10)).check().data == b"\x11" * (first * (128 << 10))
        assert driver.flush().status == IOERR
        driver.discard(0, 1024).check()
        assert driver.write(0, bytes(SECTOR)).status == OK
        assert driver.write_zeroes(4096, 4096).status in (OK, IOERR)
    disk.server.close()
    assert told(caplog, "requests failed: No space left on device")
    assert len(told(caplog, LATCHED)) == 1


@pytest.mark.parametrize("io", ["auto", "threads"])
@pytest.mark.parametrize("direct", [False, True], ids=["buffered", "direct"])
def test_image_truncated_under_the_server(
    serve_disk: ServeDisk, io: str, direct: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Reads past the end fail, and do not make up zeroes; what is still there is read."""
    disk = serve_disk(io=io, direct=direct)
    with BlkDriver(disk.socket) as driver:
        content = disk.content(0, 4096)
        os.truncate(disk.image, MIB)
        assert driver.read(0, 4096).check().data == content
        assert driver.read(2 * MIB // SECTOR, 4096).status == IOERR
        assert driver.read(MIB // SECTOR - 8, 8192).status == IOERR, "half of it is there"
        assert driver.read(0, 4096).status == OK
    disk.server.close()
    assert told(caplog, "requests failed: end of file") or told(caplog, "requests failed: Input/output error")
