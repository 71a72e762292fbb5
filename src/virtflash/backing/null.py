"""A backing that keeps nothing and answers at once: for measuring what a request costs without its I/O."""

from virtflash.backing.backing import SECTOR_BYTES, Backing, BackingError

_LIMIT_SECTORS = 1 << 22


def null_backing(size_bytes: int, *, read_only: bool = False) -> Backing:
    """Reads leave the guest's buffers as they are. BackingError: no whole number of sectors."""
    if not 0 < size_bytes < 2**63 or size_bytes % SECTOR_BYTES:
        raise BackingError(f"--null {size_bytes}: a size in bytes is a multiple of {SECTOR_BYTES}, not 0, below 8 EiB")
    return Backing(
        description="nothing (reads and writes go nowhere)",
        fd=-1,
        capacity_sectors=size_bytes // SECTOR_BYTES,
        read_only=read_only,
        max_discard_sectors=0 if read_only else _LIMIT_SECTORS,
        max_write_zeroes_sectors=0 if read_only else _LIMIT_SECTORS,
    )
