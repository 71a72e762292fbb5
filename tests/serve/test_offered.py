"""What is offered for each kind of backing, and that what is offered works (virtio 1.4 §5.2.3, §5.2.4)."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from served_disk import IMAGE_BYTES, ServeDisk

from virtflash.driver.blk import FEATURES, LEGACY_FEATURES, BlkDriver
from virtflash.virtio.blk import RANGE_SEGMENT, BlkFeature, RequestType, Status
from virtflash.virtio.ring_features import RingFeature

F = BlkFeature
ALWAYS = F.SIZE_MAX | F.SEG_MAX | F.GEOMETRY | F.BLK_SIZE | F.FLUSH | F.TOPOLOGY | F.CONFIG_WCE | F.MQ
RING = int(
    RingFeature.VERSION_1
    | RingFeature.ANY_LAYOUT
    | RingFeature.INDIRECT_DESC
    | RingFeature.EVENT_IDX
    | RingFeature.VHOST_USER_PROTOCOL
)
FILE = ALWAYS | F.DISCARD | F.WRITE_ZEROES
SECTOR = 512

KINDS: dict[str, tuple[dict[str, object], int]] = {
    "file": ({}, FILE),
    "read-only file": ({"read_only": True}, ALWAYS | F.RO),
    "direct": ({"direct": True}, FILE),
    "direct, read-only": ({"direct": True, "read_only": True}, ALWAYS | F.RO),
    "virtio 1.0": ({"spec": "1.0"}, (ALWAYS | F.DISCARD) & ~int(F.MQ)),
    "virtio 1.0, read-only": ({"spec": "1.0", "read_only": True}, (ALWAYS | F.RO) & ~int(F.MQ)),
    "null": ({"null": IMAGE_BYTES}, FILE),
    "null, read-only": ({"null": IMAGE_BYTES, "read_only": True}, ALWAYS | F.RO),
    "worker threads": ({"io": "threads"}, FILE),
}


@pytest.mark.parametrize("kind", KINDS)
def test_features(serve_disk: ServeDisk, kind: str) -> None:
    options, features = KINDS[kind]
    with BlkDriver(serve_disk(**options).socket) as driver:
        assert driver.front_end.offered == int(features) | RING


@pytest.mark.parametrize("kind", KINDS)
def test_config_space(serve_disk: ServeDisk, kind: str) -> None:
    """Fields of what is not offered are 0; limits of what is are not."""
    options, features = KINDS[kind]
    disk = serve_disk(queues=3, **options)
    with BlkDriver(disk.socket) as driver:
        config = driver.config
        assert config.capacity == IMAGE_BYTES // SECTOR
        assert config.num_queues == (3 if features & F.MQ else 1)
        assert (config.size_max > 0, config.seg_max, config.blk_size) == (True, 126, SECTOR)
        assert config.cylinders * config.heads * config.sectors <= config.capacity
        for name in ("discard", "write_zeroes", "secure_erase"):
            offered = bool(features & F[name.upper()])
            assert bool(getattr(config, f"max_{name}_sectors")) == offered, name
            assert bool(getattr(config, f"max_{name}_seg")) == offered, name
        assert (config.zone_sectors, config.zone_model) == (0, 0)


@pytest.mark.parametrize("features", [FEATURES, LEGACY_FEATURES], ids=["modern", "legacy"])
@pytest.mark.parametrize("spec", [None, "1.0"])
def test_discard_without_version_1(serve_disk: ServeDisk, spec: str | None, features: int) -> None:
    """TRIM of automotive guests: DISCARD works for drivers that know virtio 1.0, or nothing newer than legacy."""
    disk = serve_disk(spec=spec, full=True)
    with BlkDriver(disk.socket, features=features) as driver:
        assert bool(driver.front_end.features & RingFeature.VERSION_1) == (features == FEATURES)
        before = disk.image.stat().st_blocks
        driver.discard(1024, 4096).check()
        assert disk.image.stat().st_blocks <= before - 4096 + 16
        assert driver.read(1024, 65536).check().data == bytes(65536)
        driver.write(2048, b"\x11" * 4096).check()
        assert driver.read(2048, 4096).check().data == b"\x11" * 4096


def test_null_keeps_nothing(serve_disk: ServeDisk) -> None:
    """Everything succeeds, within the bounds; a read claims no byte that it has not written."""
    with BlkDriver(serve_disk(null=IMAGE_BYTES).socket) as driver:
        driver.write(0, bytes(4096)).check()
        driver.read(0, 4096).check()
        driver.flush().check()
        driver.discard(0, 8).check()
        driver.write_zeroes(0, 8, unmap=True).check()
        assert driver.read(IMAGE_BYTES // SECTOR, SECTOR).status == Status.IOERR


UNALIGNED = [(0, SECTOR), (1, SECTOR), (7, 9 * SECTOR), (8, 4096), (3, 65536), (0, 1 << 20)]


@pytest.mark.parametrize("io", ["auto", "threads"])
@pytest.mark.parametrize(("sector", "length"), UNALIGNED)
def test_direct_takes_buffers_of_any_alignment(serve_disk: ServeDisk, sector: int, length: int, io: str) -> None:
    disk = serve_disk(direct=True, io=io)
    with BlkDriver(disk.socket) as driver:
        content = disk.content(sector, length)
        for alignment in (1, 2, 16, 512, 4096):
            found = driver.request(RequestType.IN, sector, room=length, alignment=alignment).check().data
            assert found == content
            assert driver.request(RequestType.OUT, sector, found[::-1], alignment=alignment).status == Status.OK
            content = found[::-1]
            assert disk.content(sector, length) == content


@pytest.mark.parametrize(("given", "told"), [(None, b"disk"), ("", b""), ("x" * 20, b"x" * 20), ("boot-0", b"boot-0")])
def test_serial(serve_disk: ServeDisk, given: str | None, told: bytes) -> None:
    with BlkDriver(serve_disk(serial=given).socket) as driver:
        assert driver.get_id().check().data == told.ljust(20, b"\0")


# Block devices


@contextmanager
def loop_device(image: Path) -> Iterator[Path]:
    """pytest.skip: this machine has none to give."""
    try:
        run = subprocess.run(["losetup", "--find", "--show", image], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no loop device: {getattr(error, 'stderr', '') or error}")
    device = Path(run.stdout.strip())
    yield device
    subprocess.run(["losetup", "--detach", device], check=True)


@pytest.fixture
def block_device(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A loop device and the file below it."""
    below = tmp_path / "below.img"
    below.write_bytes(b"\x5a" * IMAGE_BYTES)
    with loop_device(below) as device:
        yield device, below


def discards(device: Path) -> bool:
    return int(Path(f"/sys/block/{device.name}/queue/discard_max_bytes").read_text()) > 0


@pytest.mark.parametrize("direct", [False, True], ids=["buffered", "direct"])
def test_block_device(serve_disk: ServeDisk, block_device: tuple[Path, Path], direct: bool) -> None:
    """It can discard where the kernel says so, and BLKDISCARD frees the blocks of what lies below."""
    device, below = block_device
    disk = serve_disk(device, direct=direct)
    with BlkDriver(disk.socket) as driver:
        assert driver.capacity == IMAGE_BYTES // SECTOR
        assert bool(driver.front_end.offered & F.DISCARD) == discards(device)
        driver.write(100, b"\x11" * 4096).check()
        assert driver.read(100, 4096).check().data == b"\x11" * 4096
        driver.flush().check()
        if discards(device):
            free_blocks(driver, below)
        driver.write_zeroes(8, 8).check()
        assert driver.read(7, 10 * SECTOR).check().data == b"\x5a" * SECTOR + bytes(8 * SECTOR) + b"\x5a" * SECTOR
        assert driver.write_zeroes(16, 64, unmap=True).check()
        assert driver.read(16, 64 * SECTOR).check().data == bytes(64 * SECTOR)
        assert driver.read(driver.capacity, SECTOR).status == Status.IOERR


def free_blocks(driver: BlkDriver, below: Path) -> None:
    before = below.stat().st_blocks
    driver.discard(1024, 4096).check()
    assert below.stat().st_blocks <= before - 4096 + 16
    assert driver.read(1024, 65536).check().data == bytes(65536)


def test_block_device_that_is_in_use(serve_disk: ServeDisk, block_device: tuple[Path, Path]) -> None:
    """Two servers cannot write one device."""
    from virtflash.backing import BackingError

    serve_disk(block_device[0])
    with pytest.raises(BackingError, match=r"in use|another server uses it"):
        serve_disk(block_device[0])


def test_block_device_that_is_read_only(serve_disk: ServeDisk, block_device: tuple[Path, Path]) -> None:
    with BlkDriver(serve_disk(block_device[0], read_only=True).socket) as driver:
        assert driver.front_end.offered & (F.RO | F.DISCARD) == F.RO
        assert driver.request(RequestType.OUT, 0, bytes(SECTOR)).status == Status.IOERR
        assert driver.request(RequestType.DISCARD, data=RANGE_SEGMENT.pack(0, 8, 0)).status != Status.OK
        driver.flush().check()
        assert driver.read(0, SECTOR).check().data == b"\x5a" * SECTOR


def test_loop_device_itself(serve_disk: ServeDisk, block_device: tuple[Path, Path]) -> None:
    """Growing: a loop device told to look at its file again is a larger disk."""
    device, below = block_device
    disk = serve_disk(device)
    with BlkDriver(disk.socket) as driver, below.open("r+b") as file:
        file.truncate(2 * IMAGE_BYTES)
        subprocess.run(["losetup", "--set-capacity", device], check=True)
        disk.server.look_at_sizes()
        driver.front_end.wait_config_change()
        assert driver.read_config().capacity == 2 * IMAGE_BYTES // SECTOR
        driver.write(driver.capacity - 1, b"\x22" * SECTOR).check()
        assert driver.read(driver.capacity - 1, SECTOR).check().data == b"\x22" * SECTOR
