"""What the demonstration needs of the host, found out before it begins."""

import os
import shutil
import tempfile
from pathlib import Path

from virtflash.demo.uml_guest import GuestError, find_kernel

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TOOLS = {"insmod": "kmod", "mkfs.ext4": "e2fsprogs", "fstrim": "util-linux"}
# Where user-mode Linux makes the file that is its guest's memory: as these say, in this order, else in MEMORY.
VARIABLES = ("TMPDIR", "TMP", "TEMP")
MEMORY = Path("/dev/shm")
MEMORY_BYTES = 320 << 20  # two guests took up to 273 MiB
VOLUME_BYTES = 220 << 20  # two images took up to 180 MiB
FULL_BYTES = 1 << 20


def check_host() -> None:
    """GuestError: something that the guests need is not installed, not there, or too small."""
    find_kernel()
    missing = [package for tool, package in TOOLS.items() if shutil.which(tool, path=SYSTEM_PATH) is None]
    if missing:
        raise GuestError(f"not installed: {' '.join(missing)} (Debian: apt-get install {' '.join(missing)})")
    for variable in VARIABLES:
        if (place := os.environ.get(variable)) and not Path(place).is_dir():
            raise GuestError(f"{variable}={place}: there is no such directory; the guests keep their memory there")
    _check_room()


def places() -> tuple[Path, Path]:
    """Where the guests' memory is, and where their volumes are."""
    volumes = Path(tempfile.gettempdir())
    named = next((Path(os.environ[variable]) for variable in VARIABLES if os.environ.get(variable)), None)
    return named or (MEMORY if MEMORY.is_dir() else Path("/tmp")), volumes


def _check_room() -> None:
    memory, volumes = places()
    together = memory.stat().st_dev == volumes.stat().st_dev
    needed = {memory: MEMORY_BYTES, volumes: VOLUME_BYTES}
    if together:
        needed = {volumes: MEMORY_BYTES + VOLUME_BYTES}
    for place, count in needed.items():
        free = shutil.disk_usage(place).free
        if free < count:
            raise GuestError(
                f"{place}: {count >> 20} MiB are needed there and {free >> 20} MiB are free; make room, "
                "or set TMPDIR to a directory with more"
            )


def full_place() -> Path | None:
    """The one of `places` that has no room left."""
    return next((place for place in places() if shutil.disk_usage(place).free < FULL_BYTES), None)
