"""A Linux block device as backing: its block sizes, and what it can discard."""

import errno
import fcntl
import os
import struct
from pathlib import Path

from virtflash.backing.backing import SECTOR_BYTES, Backing

BLKSSZGET = 0x1268  # logical block size
BLKPBSZGET = 0x127B  # physical block size
BLKSECDISCARD = 0x127D
SECTORS_LIMIT = 0xFFFFFFFF >> 9 << 9  # what a 32-bit count of sectors can say, in whole 256 KiB
MAX_WRITE_ZEROES_SECTORS = 1 << 18
SYS_BLOCK = Path("/sys/dev/block")


def attributes(device: int, sys_block: Path | None) -> Path:
    """The directory in which the kernel describes a whole device; a partition's is its disk's."""
    directory = ((sys_block or SYS_BLOCK) / f"{os.major(device)}:{os.minor(device)}").resolve()
    return directory.parent if (directory / "partition").exists() else directory


def describe(backing: Backing, directory: Path) -> None:
    """Fill in what a block device can, as the kernel says."""
    backing.logical_block_bytes = ask_number(backing.fd, BLKSSZGET)
    backing.physical_block_bytes = max(ask_number(backing.fd, BLKPBSZGET), backing.logical_block_bytes)
    backing.optimal_io_bytes = read_number(directory / "queue/optimal_io_size")
    if backing.read_only:
        return
    backing.max_write_zeroes_sectors = MAX_WRITE_ZEROES_SECTORS
    backing.zero_range = True
    granularity = max(read_number(directory / "queue/discard_granularity"), SECTOR_BYTES)
    discard = read_number(directory / "queue/discard_max_bytes") // SECTOR_BYTES
    backing.max_discard_sectors = min(discard, SECTORS_LIMIT)
    backing.discard_alignment_sectors = granularity // SECTOR_BYTES
    backing.unmap_zeroes = read_number(directory / "queue/write_zeroes_max_bytes") > 0
    if can_erase_securely(backing.fd):
        backing.max_secure_erase_sectors = min(discard, SECTORS_LIMIT) or SECTORS_LIMIT
        backing.secure_erase_alignment_sectors = granularity // SECTOR_BYTES


def can_erase_securely(fd: int) -> bool:
    """Ask for a range that no device accepts, since it is misaligned: one that has no secure erase says that first."""
    try:
        fcntl.ioctl(fd, BLKSECDISCARD, struct.pack("=QQ", 1, 1))
    except OSError as error:
        return error.errno == errno.EINVAL
    return False


def ask_number(fd: int, request: int) -> int:
    (number,) = struct.unpack("i", fcntl.ioctl(fd, request, bytes(4)))
    return int(number)


def read_number(path: Path) -> int:
    """An attribute of the kernel; 0 where it is missing."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0
