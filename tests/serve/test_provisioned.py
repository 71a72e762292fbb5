"""A boot image put into a volume before its machine runs: verified, and read-only for the machine."""

import io
import random
import subprocess
import sys
from pathlib import Path

import pytest
from configured import MIB, Configured

from virtflash.driver.blk import BlkDriver
from virtflash.shared_flash import SharedFlash
from virtflash.virtio.blk import BlkFeature
from virtflash.volumes.errors import VolumeError
from virtflash.volumes.provisioning import provision

BOOT = {"boot": "8 MiB\nread_only = true", "data": "8 MiB"}


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "import sys; from virtflash.cli import main; sys.exit(main())", "provision"]
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "boot.img"
    data = bytearray(random.Random(3).randbytes(3 * MIB + 700))
    data[MIB : 2 * MIB] = bytes(MIB)
    path.write_bytes(data)
    return path


def test_a_boot_image(tmp_path: Path, image: Path) -> None:
    configured = Configured(tmp_path, BOOT)
    done = run(configured.path, "--volume", "boot", image)
    assert (done.returncode, done.stderr) == (0, "")
    assert "read as they were written" in done.stdout
    with configured.served(), BlkDriver(configured.socket("boot")) as driver:
        assert driver.front_end.offered & BlkFeature.RO
        data = image.read_bytes()
        assert driver.read(0, 4 * MIB).check().data == data + bytes(4 * MIB - len(data))
    again = tmp_path / "again.img"
    again.write_bytes(b"A" * 4096)
    assert run(configured.path, "--volume", "boot", again).returncode == 0
    with configured.served(), BlkDriver(configured.socket("boot")) as driver:
        assert driver.read(0, MIB).check().data == b"A" * 4096 + bytes(MIB - 4096)


@pytest.mark.parametrize(
    ("volume", "size", "told"),
    [
        ("bot", 512, "there is no [volume.bot]; there are: boot, data"),
        ("boot", 9 * MIB, "make the volume larger"),
        ("boot", -1, "No such file"),
    ],
)
def test_what_cannot_be_provisioned_is_one_line(tmp_path: Path, volume: str, size: int, told: str) -> None:
    configured = Configured(tmp_path, BOOT)
    image = tmp_path / "image"
    if size >= 0:
        image.write_bytes(bytes(size))
    done = run(configured.path, "--volume", volume, image)
    assert done.returncode != 0 and told in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_flash_that_is_served_is_left_alone(tmp_path: Path, image: Path) -> None:
    configured = Configured(tmp_path, BOOT)
    with configured.in_a_child():
        done = run(configured.path, "--volume", "boot", image)
    assert done.returncode != 0 and "a server uses it" in done.stderr


def test_what_reads_otherwise_is_told(tmp_path: Path, image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configured = Configured(tmp_path, BOOT)
    from virtflash.config import read_configuration

    read = read_configuration(configured.path)
    flash = SharedFlash.open("emmc0", read.flash["emmc0"], tmp_path / "emmc0.vflash")
    try:
        flash.make("boot", read.volume["boot"])
        window = flash.pool.window("boot")
        monkeypatch.setattr(window, "read", lambda _sector, sectors: bytes(512 * sectors))
        with pytest.raises(VolumeError, match="does not read as it was written"):
            provision(window, io.BytesIO(image.read_bytes()), image.stat().st_size, lambda _what, _done: None)
    finally:
        flash.close()
