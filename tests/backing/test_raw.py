"""Raw images as backing: what is refused, and what a file is said to be able to do."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from virtflash.backing import BackingError, block_device, emmc_health, null_backing, open_raw
from virtflash.backing.backing import Backing


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.touch()
    os.truncate(path, 1 << 20)
    return path


def test_a_file_says_what_it_can(image: Path) -> None:
    backing = open_raw(image)
    assert backing.capacity_sectors == 2048
    assert backing.max_write_zeroes_sectors > 0
    assert not backing.block_device
    assert image.stat().st_size == 1 << 20, "asking changes nothing"
    assert image.stat().st_blocks == 0
    backing.close()


def test_a_file_that_is_read_only_changes_nothing(image: Path) -> None:
    backing = open_raw(image, read_only=True)
    assert backing.max_discard_sectors == backing.max_write_zeroes_sectors == 0
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.pwrite(backing.fd, b"x", 0)
    backing.close()


def test_growth_is_seen(image: Path) -> None:
    backing = open_raw(image)
    os.truncate(image, 2 << 20)
    assert backing.current_capacity() == 4096
    backing.close()


def test_direct_has_a_second_way_for_what_is_not_aligned(image: Path) -> None:
    backing = open_raw(image, direct=True)
    assert backing.memory_alignment == backing.offset_alignment >= 512
    assert os.pread(backing.fd_unaligned, 3, 1) == bytes(3)
    backing.close()


def test_two_servers_cannot_write_one_image(image: Path) -> None:
    first = open_raw(image)
    with pytest.raises(BackingError, match="another server uses it"):
        open_raw(image)
    with pytest.raises(BackingError, match="another server uses it"):
        open_raw(image, read_only=True)
    first.close()
    readers = [open_raw(image, read_only=True) for _ in range(2)]
    for reader in readers:
        reader.close()


def missing(tmp_path: Path) -> Path:
    return tmp_path / "nothing"


def directory(tmp_path: Path) -> Path:
    return tmp_path


def character_device(_tmp_path: Path) -> Path:
    return Path("/dev/null")


def empty(tmp_path: Path) -> Path:
    (tmp_path / "empty").touch()
    return tmp_path / "empty"


def odd(tmp_path: Path) -> Path:
    (tmp_path / "odd").write_bytes(bytes(1000))
    return tmp_path / "odd"


REFUSED = [
    (missing, "No such file"),
    (directory, "neither a file nor a block device"),
    (character_device, "neither a file nor a block device"),
    (empty, "empty; make it as large"),
    (odd, "1000 bytes are no whole number"),
]


@pytest.mark.parametrize(("make", "why"), REFUSED)
def test_what_cannot_be_served_is_refused_in_one_line(make: object, why: str, tmp_path: Path) -> None:
    path = make(tmp_path)  # type: ignore[operator]
    descriptors = sorted(Path("/proc/self/fd").iterdir())
    with pytest.raises(BackingError, match=why) as refusal:
        open_raw(path)
    assert str(path) in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert sorted(Path("/proc/self/fd").iterdir()) == descriptors


@pytest.mark.skipif(os.geteuid() != 0, reason="root becomes another user for this")
def test_a_file_that_may_not_be_written() -> None:
    with TemporaryDirectory() as directory:
        path = Path(directory) / "disk.img"
        path.write_bytes(bytes(512))
        Path(directory).chmod(0o755)
        os.seteuid(65534)
        try:
            with pytest.raises(BackingError, match="has to be writable, or served with --read-only"):
                open_raw(path)
            open_raw(path, read_only=True).close()
        finally:
            os.seteuid(0)


@pytest.mark.parametrize("size", [0, 511, 1000])
def test_a_null_disk_has_whole_sectors(size: int) -> None:
    with pytest.raises(BackingError, match="multiple of 512"):
        null_backing(size)


HEALTH = [  # life_time, pre_eol_info, is it offered?
    ("0x01 0x02", "0x01", True),
    ("0x00 0x00", "0x00", False),  # an emulated part: the fields are there and mean nothing
    ("0x01 0x01", "0x00", False),
    ("rubbish", "0x01", False),
]


@pytest.mark.parametrize(("life_time", "pre_eol", "offered"), HEALTH)
def test_health_is_told_where_it_means_something(life_time: str, pre_eol: str, offered: bool, tmp_path: Path) -> None:
    (tmp_path / "device").mkdir()
    (tmp_path / "device/life_time").write_text(life_time + "\n")
    (tmp_path / "device/pre_eol_info").write_text(pre_eol + "\n")
    backing = Backing("test", -1, 2048)
    emmc_health.describe(backing, tmp_path)
    assert (backing.life_time_fd >= 0 and backing.pre_eol_fd >= 0) is offered
    backing.close()


def test_a_partition_is_described_by_its_disk(tmp_path: Path) -> None:
    disk = tmp_path / "devices/mmcblk0"
    partition = disk / "mmcblk0p1"
    partition.mkdir(parents=True)
    (partition / "partition").write_text("1\n")
    sys_block = tmp_path / "dev"
    sys_block.mkdir()
    (sys_block / "179:0").symlink_to(disk)
    (sys_block / "179:1").symlink_to(partition)
    assert block_device.attributes(os.makedev(179, 1), sys_block) == disk
    assert block_device.attributes(os.makedev(179, 0), sys_block) == disk
