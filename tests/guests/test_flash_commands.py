"""What a Linux guest's commands do to an emulated eMMC: seen in the flash's own counters, and in the raw image."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from requirements import require
from served import volume_statistics
from uml_machine import run_uml

from virtflash.backing import create_flash
from virtflash.demo.server_process import ServerProcess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

MEBIBYTE = 1 << 20
CAPACITY = 64 * MEBIBYTE
UNIT_BYTES = 4096
SECRET = b"the secret of the car"
SECRET_BYTES = 4 * MEBIBYTE

LOAD_FILE_SYSTEM = {"ext4": "", "f2fs": "load crypto/crc32_generic fs/f2fs/f2fs"}
MAKE_FILE_SYSTEM = {"ext4": "mkfs.ext4 -q -F -E nodiscard /dev/vda", "f2fs": "mkfs.f2fs -q -f -t 0 /dev/vda"}
CHECK_FILE_SYSTEM = {"ext4": "e2fsck -fn /dev/vda", "f2fs": "fsck.f2fs --dry-run -f /dev/vda"}
# Written, synced, then written over: what was there before is stale.
WRITE_SECRET = f"""
mkdir /run/disk
mount /dev/vda /run/disk
yes '{SECRET.decode()}' | head -c {SECRET_BYTES} >/run/disk/secret
sync
dd if=/dev/zero of=/run/disk/secret bs=1M count={SECRET_BYTES // MEBIBYTE} conv=notrunc,fsync status=none
report left "$(tr -d '\\000' </run/disk/secret | wc -c)"
umount /run/disk
"""
DELETE_AND_TRIM = """
mkdir /run/disk
mount /dev/vda /run/disk
rm /run/disk/secret
sync
fstrim /run/disk
umount /run/disk
"""
FILL = f"""
yes '{SECRET.decode()}' | head -c 16M >/run/pattern
dd if=/run/pattern of=/dev/vda bs=1M oflag=direct status=none
sync
"""
# The secret lies in the range that is changed, and nowhere else.
FILL_WITH_SECRET_INSIDE = f"""
yes 'what lies beside it' | head -c 16M | dd of=/dev/vda bs=1M iflag=fullblock oflag=direct status=none
yes '{SECRET.decode()}' | head -c 8M | dd of=/dev/vda bs=1M seek=4 iflag=fullblock oflag=direct status=none
sync
"""


@pytest.fixture
def flash(tmp_path: Path) -> Iterator[ServerProcess]:
    require("linux.uml", "mkfs.ext4", "blkdiscard")
    image = tmp_path / "emmc.vflash"
    create_flash(image, "automotive-tlc-emmc", capacity_bytes=CAPACITY, seed=1)
    with ServerProcess(image, tmp_path / "emmc.sock", kind="flash") as server:
        yield server


def pieces(image: Path) -> Iterator[bytes]:
    """All data of the file, in pieces that overlap by what is looked for; holes hold nothing."""
    with image.open("rb") as file:
        end = 0
        while True:
            try:
                start = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError:
                return
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            for at in range(start, end, MEBIBYTE):
                yield os.pread(file.fileno(), MEBIBYTE + len(SECRET), at)


def holds_secret(image: Path) -> bool:
    return any(SECRET in piece for piece in pieces(image))


def flash_statistics(server: ServerProcess) -> dict[str, Any]:
    """The device's counters are of this server, which is started again; those of the translation layer go on."""
    found: dict[str, Any] = volume_statistics(server)["flash"]
    server.start()
    return found


@pytest.mark.parametrize("filesystem", MAKE_FILE_SYSTEM)
def test_what_was_written_over_and_trimmed_is_in_stale_pages_until_a_secure_erase(
    flash: ServerProcess, tmp_path: Path, filesystem: str
) -> None:
    require(f"mkfs.{filesystem}")
    load, make, check = (each[filesystem] for each in (LOAD_FILE_SYSTEM, MAKE_FILE_SYSTEM, CHECK_FILE_SYSTEM))
    assert run_uml(flash, f"{load}\n{make}\n{WRITE_SECRET}", tmp_path, "writes")["left"] == "0"
    written = flash_statistics(flash)
    assert holds_secret(flash.image)
    run_uml(flash, f"{load}\n{DELETE_AND_TRIM}\n{check}\n", tmp_path, "trims")
    trimmed = flash_statistics(flash)
    assert trimmed["device"]["units_trimmed"] * UNIT_BYTES >= SECRET_BYTES
    newly = trimmed["translation"]["trimmed_units"] - written["translation"]["trimmed_units"]
    assert newly * UNIT_BYTES >= SECRET_BYTES
    assert trimmed["device"]["secure_erases"] == 0
    assert holds_secret(flash.image)
    run_uml(flash, "blkdiscard -f --secure /dev/vda\n", tmp_path, "erases")
    erased = flash_statistics(flash)
    assert erased["device"]["secure_erases"] > 0
    assert erased["device"]["units_erased_securely"] == CAPACITY // UNIT_BYTES
    assert erased["translation"]["purges"] > 0
    assert erased["translation"]["erases"] > trimmed["translation"]["erases"]
    assert not holds_secret(flash.image)


def test_a_secure_erase_of_a_range_leaves_the_rest(flash: ServerProcess, tmp_path: Path) -> None:
    script = f"""{FILL}
    printf 'keep me' | dd of=/dev/vda bs=4k seek=8192 conv=sync oflag=direct status=none
    blkdiscard --secure -o 0 -l 16M /dev/vda
    report kept "$(dd if=/dev/vda bs=4k skip=8192 count=1 iflag=direct status=none | head -c 7)"
    report erased "$(dd if=/dev/vda bs=1M count=16 iflag=direct status=none | tr -d '\\000' | wc -c)"
    """
    reports = run_uml(flash, script, tmp_path)
    assert (reports["kept"], reports["erased"]) == ("keep me", "0")
    assert not holds_secret(flash.image)


@pytest.mark.parametrize(
    ("command", "counter", "untouched"),
    [
        ("blkdiscard -o 4M -l 8M /dev/vda", "units_trimmed", "evicted_units"),
        ("blkdiscard -z -o 4M -l 8M /dev/vda", "evicted_units", "units_trimmed"),
    ],
)
def test_discard_and_zeroes_read_as_zeroes(
    flash: ServerProcess, tmp_path: Path, command: str, counter: str, untouched: str
) -> None:
    run_uml(flash, FILL_WITH_SECRET_INSIDE, tmp_path, "fills")
    flash_statistics(flash)
    script = f"""
    {command}
    sync /dev/vda
    report below "$(dd if=/dev/vda bs=1M count=4 iflag=direct status=none | tr -d '\\000' | wc -c)"
    report inside "$(dd if=/dev/vda bs=1M skip=4 count=8 iflag=direct status=none | tr -d '\\000' | wc -c)"
    report above "$(dd if=/dev/vda bs=1M skip=12 count=4 iflag=direct status=none | tr -d '\\000' | wc -c)"
    """
    reports = run_uml(flash, script, tmp_path, "changes")
    assert [int(reports[part]) for part in ("below", "inside", "above")] == [4 * MEBIBYTE, 0, 4 * MEBIBYTE]
    changed = flash_statistics(flash)["device"]
    assert changed["flushes"] > 0
    assert (changed[counter] * UNIT_BYTES, changed[untouched]) == (8 * MEBIBYTE, 0)
    assert holds_secret(flash.image), "neither promises that anything is gone"


def test_mkfs_discards_all_of_it_first(flash: ServerProcess, tmp_path: Path) -> None:
    run_uml(flash, FILL, tmp_path, "fills")
    run_uml(flash, "mkfs.ext4 -q -F /dev/vda\n", tmp_path, "makes")
    assert flash_statistics(flash)["translation"]["trimmed_units"] * UNIT_BYTES >= 16 * MEBIBYTE
