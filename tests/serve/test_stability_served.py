"""When a completed write is stable, as a driver can find out (virtio 1.4 §5.2.5, §5.2.6.2).

The oracle: with every sync failing, a write that has to be stable fails, and one that may be volatile succeeds.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from served_disk import Disk, ServeDisk

from virtflash.driver.blk import FEATURES, LEGACY_FEATURES, BlkDriver
from virtflash.driver.errors import RefusedError
from virtflash.driver.front_end import PROTOCOL_FEATURES
from virtflash.driver.guest_memory import GuestMemory
from virtflash.vhost_user.messages import ProtocolFeature
from virtflash.virtio.blk import CONFIG_WRITEBACK_OFFSET, BlkFeature, RequestType, Status

FLUSH, CONFIG_WCE = int(BlkFeature.FLUSH), int(BlkFeature.CONFIG_WCE)  # int: a flag's ~ is narrower
NEITHER = FEATURES & ~FLUSH & ~CONFIG_WCE
LEGACY = LEGACY_FEATURES & ~FLUSH & ~CONFIG_WCE
NO_ACKS = PROTOCOL_FEATURES & ~int(ProtocolFeature.REPLY_ACK)
THROUGH, BACK = 0, 1


@contextmanager
def no_sync(disk: Disk) -> Iterator[None]:
    disk.binding.inject_fault("sync", errno.EIO)
    yield
    disk.binding.inject_fault("sync", 0)


def mode(disk: Disk, driver: BlkDriver) -> int:
    """What the oracle says, for a write and for write zeroes, which must agree with what the server says of itself."""
    with no_sync(disk):
        written = driver.request(RequestType.OUT, 0, bytes(512)).status
        zeroed = driver.write_zeroes(8, 8).status
    assert written == zeroed
    found = THROUGH if written == Status.IOERR else BACK
    assert disk.binding.write_through == (found == THROUGH)
    return found


def set_writeback(driver: BlkDriver, value: int) -> None:
    driver.front_end.set_config(CONFIG_WRITEBACK_OFFSET, bytes([value]))
    driver.front_end.round_trip()


@pytest.fixture(params=["auto", "threads"])
def disk(request: pytest.FixtureRequest, serve_disk: ServeDisk) -> Disk:
    return serve_disk(io=request.param)


TABLE = [  # what was negotiated of the two; mode; what `writeback` reads, where the driver may read it
    (0, THROUGH, None),
    (FLUSH, BACK, None),
    (CONFIG_WCE, THROUGH, THROUGH),
    (FLUSH | CONFIG_WCE, BACK, BACK),
]


@pytest.mark.parametrize(("negotiated", "expected", "field"), TABLE)
def test_what_was_negotiated(disk: Disk, negotiated: int, expected: int, field: int | None) -> None:
    """The table of the four cases; `writeback` is initialised to 1 if FLUSH was negotiated, else to 0 (§5.2.5.2)."""
    with BlkDriver(disk.socket, features=NEITHER | negotiated) as driver:
        if field is not None:
            assert driver.read_config().writeback == field
        assert mode(disk, driver) == expected


@pytest.mark.parametrize("negotiated", [CONFIG_WCE, FLUSH | CONFIG_WCE])
def test_the_driver_changes_it(disk: Disk, negotiated: int) -> None:
    """To and fro: a SET_CONFIG that was acknowledged is in force."""
    with BlkDriver(disk.socket, features=NEITHER | negotiated) as driver:
        for value in (THROUGH, BACK, BACK, THROUGH, BACK):
            set_writeback(driver, value)
            assert driver.read_config().writeback == value
            assert mode(disk, driver) == value


@pytest.mark.parametrize(
    ("negotiated", "expected", "_field"), [*TABLE[:2], *((row[0], BACK, BACK) for row in TABLE[2:])]
)
def test_a_legacy_driver(disk: Disk, negotiated: int, expected: int, _field: int | None) -> None:
    """Feature bits do not touch `writeback` of a driver without VERSION_1 (§5.2.5.3)."""
    with BlkDriver(disk.socket, features=LEGACY | negotiated) as driver:
        assert mode(disk, driver) == expected


@pytest.mark.parametrize("value", [THROUGH, BACK])
@pytest.mark.parametrize("negotiated", [CONFIG_WCE, FLUSH | CONFIG_WCE])
def test_a_legacy_driver_sets_it_before_driver_ok(disk: Disk, negotiated: int, value: int) -> None:
    """It may write `writeback` before it has said what it can; that holds, whatever it negotiates then."""
    with BlkDriver(disk.socket, start=False) as driver:
        front_end = driver.front_end
        front_end.get_features()
        front_end.set_protocol_features(PROTOCOL_FEATURES)
        set_writeback(driver, value)
        front_end.set_features(front_end.offered & (LEGACY | negotiated))
        driver.share_memory()
        driver.make_queues()
        driver.start_queues()
        assert driver.read_config().writeback == value
        assert mode(disk, driver) == value


@pytest.mark.parametrize(
    ("negotiated", "expected"), [(0, THROUGH), (FLUSH, BACK), (CONFIG_WCE, THROUGH), (FLUSH | CONFIG_WCE, THROUGH)]
)
@pytest.mark.parametrize("base", [NEITHER, LEGACY], ids=["modern", "legacy"])
def test_a_front_end_that_waits_for_no_answers(disk: Disk, base: int, negotiated: int, expected: int) -> None:
    """Without REPLY_ACK nobody knows when a change is in force: where the driver can choose, the stronger holds."""
    with BlkDriver(disk.socket, features=base | negotiated, protocol_features=NO_ACKS) as driver:
        assert mode(disk, driver) == expected
        if negotiated & CONFIG_WCE:
            for value in (BACK, THROUGH, BACK):
                set_writeback(driver, value)
                assert driver.read_config().writeback == value
                assert mode(disk, driver) == THROUGH


@pytest.mark.parametrize("value", [2, 255])
def test_values_that_are_none(disk: Disk, value: int) -> None:
    with BlkDriver(disk.socket) as driver:
        with pytest.raises(RefusedError):
            set_writeback(driver, value)
        assert (driver.read_config().writeback, mode(disk, driver)) == (BACK, BACK)


@pytest.mark.parametrize("negotiated", [0, FLUSH])
def test_a_driver_without_config_wce_cannot_set_it(disk: Disk, negotiated: int) -> None:
    with BlkDriver(disk.socket, features=NEITHER | negotiated) as driver:
        before = mode(disk, driver)
        with pytest.raises(RefusedError):
            set_writeback(driver, 1 - before)
        assert mode(disk, driver) == before


def test_from_back_to_through_what_has_completed_is_flushed(disk: Disk) -> None:
    """1 -> 0 also flushes: seen by the flush that fails, which is not forgotten."""
    with BlkDriver(disk.socket) as driver:
        driver.write(0, bytes(512)).check()
        with no_sync(disk):
            set_writeback(driver, THROUGH)
        assert disk.binding.sync_failed
        assert driver.flush().status == Status.IOERR
        assert mode(disk, driver) == THROUGH


@pytest.mark.parametrize("value", [BACK, THROUGH])
def test_no_flush_where_nothing_changes(disk: Disk, value: int) -> None:
    with BlkDriver(disk.socket) as driver:
        set_writeback(driver, value)
        with no_sync(disk):
            set_writeback(driver, value)
        assert not disk.binding.sync_failed
        with no_sync(disk):
            set_writeback(driver, BACK)
        assert not disk.binding.sync_failed, "0 -> 1 makes nothing stable"


def test_a_change_while_writes_are_in_flight(disk: Disk) -> None:
    """1 -> 0 is acknowledged with writes in flight; the next one is stable or fails."""
    memory = GuestMemory((1 << 20, 64 << 20))
    with BlkDriver(disk.socket, queue_size=256, indirect=True, memory=memory) as driver:
        for _ in range(20):
            set_writeback(driver, BACK)
            for i in range(64):
                driver.submit(RequestType.OUT, i, bytes(65536), kick=i % 8 == 7)
            set_writeback(driver, THROUGH)
            with no_sync(disk):
                late = driver.submit(RequestType.OUT, 0, bytes(512))
                assert driver.complete(late).status == Status.IOERR
            driver.complete_all()


def test_nobody_inherits_it(disk: Disk) -> None:
    """What one front end's driver chose is gone with it."""
    with BlkDriver(disk.socket) as driver:
        set_writeback(driver, THROUGH)
    with BlkDriver(disk.socket) as driver:
        assert (driver.read_config().writeback, mode(disk, driver)) == (BACK, BACK)
    with BlkDriver(disk.socket, features=NEITHER) as driver:
        assert mode(disk, driver) == THROUGH


@pytest.mark.parametrize("end", ["leave", "RESET_DEVICE", "SET_STATUS"])
def test_nobody_waits_for_a_flush_that_nobody_asked_for(disk: Disk, end: str) -> None:
    """A front end killed with much in the cache, or a guest that boots again: the next one is served at once."""
    with BlkDriver(disk.socket) as driver:
        driver.write(0, bytes(4096)).check()
        with no_sync(disk):
            if end == "leave":
                driver.kill()
            else:
                driver.stop_queues()
                driver.front_end.reset_device() if end == "RESET_DEVICE" else driver.front_end.set_status(0)
                driver.kill()
            with BlkDriver(disk.socket) as after:
                after.read(0, 512).check()
    assert not disk.binding.sync_failed


@pytest.mark.parametrize("reset", ["RESET_DEVICE", "SET_STATUS"])
def test_a_reset_takes_it_back(disk: Disk, reset: str) -> None:
    """After a reset the field is as at first, for a driver that begins anew with what it reads."""
    with BlkDriver(disk.socket) as driver:
        set_writeback(driver, THROUGH)
        driver.stop_queues()
        driver.front_end.reset_device() if reset == "RESET_DEVICE" else driver.front_end.set_status(0)
        assert driver.read_config().writeback == BACK


def test_write_through_of_a_file_is_a_sync_for_each_write(serve_disk: ServeDisk) -> None:
    """And a read, a discard or a flush that fails is none of its business."""
    disk = serve_disk()
    with BlkDriver(disk.socket, features=NEITHER) as driver, no_sync(disk):
        assert driver.read(0, 512).status == Status.OK
        assert driver.discard(0, 8).status == Status.OK
        assert driver.get_id().status == Status.OK
