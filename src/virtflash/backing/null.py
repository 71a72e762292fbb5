"""A backing that keeps nothing and answers at once: for measuring what a request costs without its I/O."""

from virtflash.backing.backing import SECTOR_BYTES, Backing, BackingError

_LIMIT_SECTORS = 1 << 22


def null_backing(size_bytes: int, *, read_only: bool = False) -> Backing:
    """Reads leave the guest's buffers as they are. BackingError: no whole number of sectors."""
    if size_bytes <= 0 or size_bytes % SECTOR_BYTES:
        raise BackingError(f"a size of {size_bytes} bytes: it has to be a multiple of {SECTOR_BYTES}, and not 0")
    return Backing(
        description="nothing (reads and writes go nowhere)",
        fd=-1,
        capacity_sectors=size_bytes // SECTOR_BYTES,
        read_only=read_only,
        max_discard_sectors=0 if read_only else _LIMIT_SECTORS,
        max_write_zeroes_sectors=0 if read_only else _LIMIT_SECTORS,
    )
