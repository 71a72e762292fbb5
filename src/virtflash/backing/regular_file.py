"""A regular file as backing: what its file system can do with holes, and whether it is memory.

The standard library has neither fallocate with flags nor statfs, so the C library is asked.
"""

import ctypes
import os
from errno import ENOSYS, EOPNOTSUPP
from pathlib import Path

from virtflash.backing.backing import SECTOR_BYTES, Backing

FALLOC_FL_KEEP_SIZE = 1
FALLOC_FL_PUNCH_HOLE = 2
MEMORY_FILE_SYSTEMS = (0x01021994, 0x858458F6)  # tmpfs, ramfs (linux/magic.h)
MAX_DISCARD_SECTORS = 1 << 23  # 4 GiB: a hole costs the same at any size, but a worker is busy with it
MAX_WRITE_ZEROES_SECTORS = 1 << 18  # 128 MiB: where the file system has no better way they are written out


def describe(backing: Backing, path: Path) -> None:
    """Fill in what a file on this file system can."""
    backing.physical_block_bytes = max(os.fstat(backing.fd).st_blksize, SECTOR_BYTES)
    if backing.physical_block_bytes > 1 << 16 or backing.physical_block_bytes & (backing.physical_block_bytes - 1):
        backing.physical_block_bytes = 4096  # a preferred size for transfers (network file systems), not a block
    backing.in_memory = not backing.direct and file_system_type(backing.fd) in MEMORY_FILE_SYSTEMS
    if backing.read_only:
        return
    backing.max_write_zeroes_sectors = MAX_WRITE_ZEROES_SECTORS
    backing.zero_range = True  # tried first, and left where the file system says that it cannot
    if can_punch_holes(backing.fd, backing.capacity_sectors * SECTOR_BYTES):
        backing.max_discard_sectors = MAX_DISCARD_SECTORS
        backing.discard_alignment_sectors = backing.physical_block_bytes // SECTOR_BYTES
        backing.unmap_zeroes = True


def can_punch_holes(fd: int, size_bytes: int) -> bool:
    """Ask by punching one behind the end of the file, where nothing is."""
    mode = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
    libc = ctypes.CDLL(None, use_errno=True)
    libc.fallocate64.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    return libc.fallocate64(fd, mode, size_bytes, 4096) == 0 or ctypes.get_errno() not in (EOPNOTSUPP, ENOSYS)


def file_system_type(fd: int) -> int:
    """The magic number of the file system that a file lies on (statfs(2), whose first word it is)."""
    answer = (ctypes.c_long * 32)()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fstatfs64(fd, answer):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return answer[0]
