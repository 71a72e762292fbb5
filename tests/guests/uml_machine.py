"""User-mode Linux guests for tests, and a file system that one of them makes for another guest to find."""

from pathlib import Path

from requirements import require

from virtflash.demo.server_process import ServerProcess
from virtflash.demo.uml_guest import UmlGuest

BOOT_SECONDS = 60.0  # it takes about one and a half on two quiet processors
FILE_BYTES = 16 << 20
MAKE_FILE_SYSTEM = f"""
mkfs.ext4 -q -F /dev/vda
mkdir /run/disk
mount /dev/vda /run/disk
head -c {FILE_BYTES} /dev/urandom >/run/disk/file
report digest "$(sha256sum </run/disk/file)"
sync
umount /run/disk
"""
FIND_AND_TRIM = """
mkdir /run/disk
mount -t ext4 /dev/vda /run/disk
report digest "$(sha256sum </run/disk/file)"
rm /run/disk/file
sync
fstrim /run/disk
umount /run/disk
"""


def run_uml(server: ServerProcess, script: str, directory: Path, name: str = "uml") -> dict[str, str]:
    """What the script reported; GuestError, where it or the guest failed."""
    require("linux.uml")
    with UmlGuest(name, [server.socket], script, directory) as guest:
        return guest.run(BOOT_SECONDS)
