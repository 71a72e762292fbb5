"""A regular file as backing: what its file system can do with holes."""

import errno
import os
from pathlib import Path

from virtflash.backing.backing import SECTOR_BYTES, Backing

FALLOC_FL_KEEP_SIZE = 1
FALLOC_FL_PUNCH_HOLE = 2
MAX_DISCARD_SECTORS = 1 << 23  # 4 GiB: a hole costs the same at any size, but a worker is busy with it
MAX_WRITE_ZEROES_SECTORS = 1 << 18  # 128 MiB: where the file system has no better way they are written out


def describe(backing: Backing, path: Path) -> None:
    """Fill in what a file on this file system can."""
    backing.physical_block_bytes = max(os.fstat(backing.fd).st_blksize, SECTOR_BYTES)
    if backing.physical_block_bytes > 1 << 16 or backing.physical_block_bytes & (backing.physical_block_bytes - 1):
        backing.physical_block_bytes = 4096  # a preferred size for transfers (network file systems), not a block
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
    import ctypes  # noqa: PLC0415 - only here, and the standard library has no fallocate with flags

    libc = ctypes.CDLL(None, use_errno=True)
    call = libc.fallocate64 if hasattr(libc, "fallocate64") else libc.fallocate
    call.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    mode = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
    return call(fd, mode, size_bytes, 4096) == 0 or ctypes.get_errno() not in (errno.EOPNOTSUPP, errno.ENOSYS)
