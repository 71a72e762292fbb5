"""Images of emulated flash as backing: made, opened, filled, refused."""

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from virtflash.backing import Backing, BackingError, create_flash, open_flash
from virtflash.backing.emulated_flash import EmulatedStorage
from virtflash.flash.profiles import load_profile

MIB = 1 << 20


def storage_of(backing: Backing) -> EmulatedStorage:
    assert backing.flash is not None
    return backing.flash


@pytest.mark.parametrize("profile", ["automotive-tlc-emmc", "mlc-emmc", "slc-nand-256m", "qspi-nor-64m"])
def test_it_has_the_capacity_that_was_asked_for(tmp_path: Path, profile: str) -> None:
    path = tmp_path / "flash"
    create_flash(path, profile, capacity_bytes=40 * MIB)
    backing = open_flash(path)
    assert backing.capacity_sectors == 40 * MIB // 512
    assert storage_of(backing).translation.clean, "what is new has nothing to recover from"
    target = storage_of(backing).target
    target.write(backing.capacity_sectors - 8, b"e" * 4096)
    backing.close()
    backing = open_flash(path)
    assert storage_of(backing).target.read(backing.capacity_sectors - 8, 8) == b"e" * 4096
    backing.close()


@pytest.mark.parametrize("profile", ["slc-nand-256m", "qspi-nor-64m"])
def test_a_part_of_fixed_size_holds_what_it_holds(tmp_path: Path, profile: str) -> None:
    path, part = tmp_path / "flash", load_profile(profile)
    create_flash(path, profile)
    backing = open_flash(path)
    raw = part.geometry.block_bytes * part.geometry.blocks
    assert 0.75 * raw < backing.capacity_sectors * 512 < raw
    backing.close()
    with pytest.raises(BackingError, match="blocks"):
        create_flash(tmp_path / "other", profile, capacity_bytes=raw)
    assert not (tmp_path / "other").exists()


def test_more_spare_space_makes_a_part_of_fixed_size_smaller(tmp_path: Path) -> None:
    sizes = []
    for percent in (7, 28):
        create_flash(tmp_path / str(percent), "slc-nand-256m", over_provisioning=percent)
        backing = open_flash(tmp_path / str(percent))
        sizes.append(backing.capacity_sectors)
        backing.close()
    assert 1.15 < sizes[0] / sizes[1] < 1.25


@pytest.mark.parametrize(
    ("profile", "capacity", "message"),
    [
        ("automotive-tlc-emmc", None, "any size"),
        ("automotive-tlc-emmc", 4097, "multiple of 4096"),
        ("automotive-tlc-emmc", 0, "multiple of 4096"),
        ("automotive-tlc-emmc", 1 << 42, "SEC_COUNT"),
        ("no-such-part", MIB, "no flash profile"),
    ],
)
def test_what_cannot_be_made_is_refused_in_one_line(
    tmp_path: Path, profile: str, capacity: int | None, message: str
) -> None:
    with pytest.raises(BackingError, match=message) as refused:
        create_flash(tmp_path / "flash", profile, capacity_bytes=capacity)
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_already_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "flash"
    path.write_bytes(b"precious")
    with pytest.raises(BackingError):
        create_flash(path, "mlc-emmc", capacity_bytes=32 * MIB)
    assert path.read_bytes() == b"precious"


def test_heat_is_taken_over_and_time_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "flash"
    create_flash(path, "mlc-emmc", capacity_bytes=32 * MIB)
    backing = open_flash(path, temperature=85.0)
    emmc = storage_of(backing).emmc
    assert emmc is not None
    assert emmc.temperature == 85.0
    backing.close()
    backing = open_flash(path)
    counted = storage_of(backing).chip.counters()
    assert counted["celsius"] == 85.0
    assert 0 < counted["hours"] < 1
    backing.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system in memory of 24 MiB."""
    directory = tmp_path / "small"
    directory.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", directory], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    yield directory
    subprocess.run(["umount", "--lazy", directory], check=True)


def test_a_full_host_disk_is_a_write_that_fails_and_works_once_there_is_room(small_disk: Path) -> None:
    path = small_disk / "flash"
    create_flash(path, "mlc-emmc", capacity_bytes=32 * MIB)
    backing = open_flash(path)
    target, written = storage_of(backing).target, 0
    with (small_disk / "filler").open("wb") as filler:
        os.posix_fallocate(filler.fileno(), 0, 4 * MIB)
    with pytest.raises(OSError, match="No space left") as full:
        while written < backing.capacity_sectors:
            target.write(written, b"%8d" % written * 512)
            written += 8
    assert full.value.errno == errno.ENOSPC
    with pytest.raises(OSError, match="No space left"):
        target.flush()
    for sector in range(0, written, 8):
        assert target.read(sector, 8) == b"%8d" % sector * 512, "what was accepted is still there"
    (small_disk / "filler").unlink()
    target.write(written, b"%8d" % written * 512)
    target.flush()
    backing.close()
    backing = open_flash(path)
    for sector in range(0, written + 8, 8):
        assert storage_of(backing).target.read(sector, 8) == b"%8d" % sector * 512
    backing.close()
