"""A raw image file or a block device as backing. The format is raw, always: never guessed from what a guest wrote."""

import errno
import mmap
import os
import stat
from pathlib import Path

from virtflash.backing import block_device, emmc_health, regular_file
from virtflash.backing.backing import SECTOR_BYTES, Backing, BackingError
from virtflash.file_lock import lock_file

DIRECT_ALIGNMENTS = (512, 1024, 2048, 4096)  # bytes


def open_raw(path: Path, *, read_only: bool = False, direct: bool = False, sys_block: Path | None = None) -> Backing:
    """Open an image or block device of raw sectors.

    `direct`: without the host's page cache. `sys_block`: where the kernel describes block devices; for tests.
    BackingError: it is not there, of another kind, in use, of odd size, or not to be had this way.
    """
    fd = open_or_refuse(path, read_only=read_only, direct=direct)
    backing = Backing(description=str(path), fd=fd, capacity_sectors=0, read_only=read_only, direct=direct)
    try:
        measure_size(path, backing)
        describe(path, backing, sys_block)
        if direct:
            allow_unaligned(path, backing)
    except BaseException:
        backing.close()
        raise
    return backing


def open_or_refuse(path: Path, *, read_only: bool, direct: bool) -> int:
    flags = (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
            raise BackingError(f"{path}: neither a file nor a block device; name a raw image")
        if stat.S_ISBLK(mode) and not read_only:
            flags |= os.O_EXCL  # a device that is mounted, or that somebody else holds this way, is refused
        fd = os.open(path, flags | (os.O_DIRECT if direct else 0))
    except OSError as error:
        raise BackingError(refusal(path, error, read_only=read_only, direct=direct)) from error
    lock(path, fd, read_only=read_only)
    return fd


def refusal(path: Path, error: OSError, *, read_only: bool, direct: bool) -> str:
    if direct and error.errno == errno.EINVAL:
        return f"{path}: its file system has no direct I/O; leave out --direct"
    if error.errno == errno.EBUSY:
        return f"{path}: in use (mounted, or part of another device); unmount it first"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) and not read_only:
        return f"{path}: {error.strerror}; it has to be writable, or served with --read-only"
    return f"{path}: {error.strerror}"


def lock(path: Path, fd: int, *, read_only: bool) -> None:
    """Two servers that write one image destroy it. BackingError: another one has it open."""
    try:
        lock_file(fd, shared=read_only)
    except BlockingIOError:
        os.close(fd)
        raise BackingError(f"{path}: another server uses it; stop that one first") from None
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOLCK):  # a file system without locks cannot be asked
            os.close(fd)
            raise BackingError(f"{path}: cannot be locked: {error.strerror}") from error


def measure_size(path: Path, backing: Backing) -> None:
    """Set the capacity, now and for later looks."""

    def measure() -> int:
        return os.lseek(backing.fd, 0, os.SEEK_END)

    size = measure()
    if size == 0:
        raise BackingError(f"{path}: empty; make it as large as the disk should be (truncate -s SIZE {path})")
    if size % SECTOR_BYTES:
        raise BackingError(f"{path}: {size} bytes are no whole number of {SECTOR_BYTES}-byte sectors; resize it")
    backing.capacity_sectors, backing.measure = size // SECTOR_BYTES, measure


def describe(path: Path, backing: Backing, sys_block: Path | None) -> None:
    status = os.fstat(backing.fd)
    backing.block_device = stat.S_ISBLK(status.st_mode)
    if backing.block_device:
        directory = block_device.attributes(status.st_rdev, sys_block)
        block_device.describe(backing, directory)
        emmc_health.describe(backing, directory)
    else:
        regular_file.describe(backing, path)


def allow_unaligned(path: Path, backing: Backing) -> None:
    """Find out which alignment direct I/O wants here, and open the way for what has less."""
    alignment = direct_alignment(backing.fd)
    if alignment is None:
        raise BackingError(
            f"{path}: direct I/O works with no alignment up to {DIRECT_ALIGNMENTS[-1]}; leave out --direct"
        )
    backing.memory_alignment = backing.offset_alignment = alignment
    backing.fd_unaligned = os.open(path, (os.O_RDONLY if backing.read_only else os.O_RDWR) | os.O_CLOEXEC)


def direct_alignment(fd: int) -> int | None:
    """The smallest alignment in bytes with which a direct read succeeds, or None. Reads, and changes nothing."""
    with mmap.mmap(-1, 4 * DIRECT_ALIGNMENTS[-1]) as memory, memoryview(memory) as view:
        for alignment in DIRECT_ALIGNMENTS:
            try:
                os.preadv(fd, [view[alignment : 2 * alignment]], alignment)
            except OSError:
                continue
            return alignment
    return None
