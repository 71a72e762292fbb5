"""The health that the kernel tells of an eMMC: pre_eol_info and life_time, below its block device."""

import os
from pathlib import Path

from virtflash.backing.backing import Backing


def describe(backing: Backing, directory: Path) -> None:
    """Take the attributes, where there are any and they mean something: an eMMC may leave them all at 0, undefined."""
    pre_eol, life_time = directory / "device/pre_eol_info", directory / "device/life_time"
    if means_something(pre_eol) and means_something(life_time):
        backing.pre_eol_fd = os.open(pre_eol, os.O_RDONLY | os.O_CLOEXEC)
        backing.life_time_fd = os.open(life_time, os.O_RDONLY | os.O_CLOEXEC)


def means_something(path: Path) -> bool:
    """Hexadecimal numbers, not all 0 ("0x01 0x02"; "0x01")."""
    try:
        return any(int(word, 16) for word in path.read_text().split())
    except (OSError, ValueError):
        return False
