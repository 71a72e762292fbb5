"""Emulated storage as a target of the engine: a volatile write cache on a flash translation layer.

Sectors are of 512 bytes, numbered through the whole of the flash: the user's first, then what lies behind them (an
eMMC's boot partitions and registers). All methods may be called from any thread: they run on the thread that owns the
flash, and wait for it. OSError: EIO, it cannot be read, or what was accepted is lost; ENODATA, the rest of a unit of
which a part was written cannot be read; EROFS, the flash takes no more writes, or the group is protected; ENOSPC, the
host's disk is full.
"""

from collections.abc import Callable, Sequence
from typing import Any

from virtflash.ftl.translation import Translation

DISCARD: int  # kinds of `FlashTarget.change`: units wholly inside are unmapped, the rest stays as it is
WRITE_ZEROES: int  # zeroes, in space that stays mapped
UNMAP_ZEROES: int  # zeroes: units wholly inside are unmapped
SECURE_ERASE: int  # no copy is left anywhere; whole units only

class FlashTarget:
    """`sync_fd`: of the image, where the host's disk has to be kept in step; it stays the caller's.

    cache_bytes: two frames of the flash come on top. bus_ns_per_kib: time that data takes to the device's cache; 0:
    none. protection_group_sectors: of a write protection group; 0: all sectors are one. slc_share: of the blocks.
    read_only: nothing is changed on the flash, and no work done.
    """

    def __init__(
        self,
        translation: Translation,
        *,
        user_sectors: int,
        cache_bytes: int = 0,
        sync_fd: int = -1,
        bus_ns_per_kib: int = 0,
        protection_group_sectors: int = 0,
        slc_share: float = 0,
        read_only: bool = False,
    ) -> None: ...
    translation: Translation
    capsule: object  # "virtflash.backing.Target", for the engine
    owner: Callable[[Any], None] | None  # runs a capsule "virtflash.engine.Call" on the thread that owns the flash
    sync_image: Callable[[], None]  # for the calls below, where `sync_fd` was given: fdatasync of it
    user_sectors: int
    sectors: int  # of all the flash
    unit_bytes: int  # that are mapped as one, and atomic
    frame_bytes: int  # that are programmed at once
    cache_bytes: int
    cached_units: int  # now
    cache_on: bool  # settable; off: what completes is safe
    background: bool  # settable: work is done ahead of need, while nothing else is asked for

    def read(self, sector: int, sectors: int) -> bytes: ...
    def write(self, sector: int, data: bytes | bytearray | memoryview, *, reliable: bool = False) -> None:
        """`reliable`: past the cache; each unit is old or new after a power cut, and new once this has returned."""
    def change(self, kind: int, sector: int, sectors: int) -> None: ...
    def flush(self) -> None: ...
    def sync(self) -> None:
        """The host's disk comes up with the image, where it has to: checkpoints and erases wait for that."""
    def tidy(self) -> None: ...  # flush, and leave the next start nothing to do
    def unstable(self, owner: int = 0) -> bool:
        """Would a flush have to program something for this owner (0: for anybody)?"""
    def background_level(self) -> int: ...  # as BKOPS_STATUS: 0 none, 1 outstanding, 2 writes pay for it, 3 critical
    def sanitize(self) -> None:
        """Remove from the medium whatever is not the data of a sector: stale copies, what was trimmed."""
    def work(self) -> bool: ...  # a slice of collection and refresh; True: there is more to do now
    def lifetime(self) -> tuple[int, int, int]: ...  # PRE_EOL_INFO, estimates A and B, as EXT_CSD codes them
    def protect(self, group: int, kind: int) -> None: ...  # 0: not any more
    def protection(self) -> bytes: ...  # kinds, by group
    def age(self, seconds: float, celsius: float | None = None) -> None:
        """Time has passed, at the temperature named from now on; None: as it was."""
    def care(
        self,
        *,
        frames: int = 0,
        refresh: Sequence[int] = (),
        collect: Sequence[tuple[int, int, int]] = (),
        first_block: int = 0,
        blocks: int = 0,
    ) -> bool:
        """Take advice (`ftl.judgement.Advice`; up to 32 of each), patrol so many frames, and erase ahead what is free
        of `blocks` blocks from `first_block` on: the host has its room back. True: a round of the patrol has ended."""
    def set_owners(self, granule_sectors: int, owners: bytes | bytearray | memoryview, isolated: bool = False) -> None:
        """Whose the user area is, from sector 0 on: a number for each granule of so many sectors (whole units), 1 to
        127, or 0 for nobody, as is what lies behind the last granule. At any time, while it is served. `isolated`:
        from now on data of different owners, 0 among them, never shares an erase block; blocks that hold data of
        several from before are separated in idle time. ValueError: no such granules or owners; too little
        over-provisioning to keep so many apart."""
    def owners_of_blocks(self) -> list[tuple[int, ...]]:
        """By erase block: whose data it holds. More than one owner: it is shared."""
    def programmed(self, owner: int) -> int:
        """Bytes of flash programmed because of an owner since this was mounted: for its data, for what it asked for,
        and its share of what collection costs. 0: nobody's; refresh and levelling are. ValueError: no such number."""
    def lose_power(self, random: int) -> None:
        """The cache is gone, but for what reaches the flash in that moment: units in any order, whole or partly."""
    def condition(self) -> dict[str, int]: ...  # of the flash: blocks, free, bad, spare, to be refreshed; read_only
    def counters(self) -> dict[str, int]: ...  # of the cache and what was asked for
    def translation_counters(self) -> dict[str, Any]: ...
