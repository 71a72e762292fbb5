"""Python's view of the flash translation layer: for tests, the laboratory and tools. One owner calls at a time.

Units are mapping units of `unit_bytes`, numbered from 0. OSError: EIO, the data cannot be read or power is gone; EROFS,
the flash takes no more writes; ENOSPC, the host's disk is full.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Self

from virtflash.flash.emulated import EmulatedFlash
from virtflash.ftl.sizing import ChipSizes

def owners_by_block(bits: bytes | bytearray | memoryview) -> list[tuple[int, ...]]: ...

class TranslationError(Exception):
    """The flash cannot be formatted or mounted; one line."""

class Translation:
    """A flash translation layer on a chip.

    Settings of `format` and `mount`, which are not kept on the flash:
    `separate`: hot and cold data apart (on);
    `by_age`: collect by benefit over cost (on), else greedily, which is a little better where all data is equally hot;
    `levelling`: static wear levelling (on);
    `refresh_share`: refresh a block when a read corrected so many percent of the ECC's strength (75);
    `refresh_reads`: or when it was read so often since it was erased (100000);
    `refresh_hours`: or when the patrol finds it so old, in hours at the profile's reference temperature (0: never);
    `worn_share`: give a block up when new data in it takes so many percent of the ECC's strength (50);
    `host_sync`: erase nothing before what took its place was synced to the host's disk (off);
    `checkpoint_frames`: frames between two checkpoints (0: by the device's size).
    """

    clean: bool  # what was mounted had been stopped, not cut
    torn_frames: int  # that the mount could not read
    replayed_frames: int
    @classmethod
    def format(
        cls, device: EmulatedFlash, units: int, *, unit_bytes: int = 4096, reserve_blocks: int, **settings: Any
    ) -> Self:
        """Begin anew on a chip. `reserve_blocks`: that may go bad before it is read-only. TranslationError: the chip is
        too small, or its geometry does not fit; OSError."""
    @classmethod
    def mount(
        cls,
        device: EmulatedFlash,
        units: int,
        *,
        unit_bytes: int = 4096,
        read_only: bool = False,
        reserve_blocks: int = 0,
        **settings: Any,
    ) -> Self:
        """Find again what is on a chip. `read_only`: change nothing on it. `reserve_blocks`: as at format,
        for when not even a checkpoint can be read. TranslationError: there is nothing, or it
        contradicts itself; OSError."""
    @property
    def sizes(self) -> ChipSizes: ...
    @property
    def units(self) -> int: ...
    @property
    def unit_bytes(self) -> int: ...
    @property
    def units_of_frame(self) -> int: ...  # that a full frame takes
    @property
    def block_units(self) -> int: ...  # that a block takes which is not in SLC mode
    @property
    def read_only(self) -> bool: ...
    @property
    def spare_blocks(self) -> tuple[int, int]: ...  # left, of how many
    @property
    def generation(self) -> int: ...  # of the block table
    @property
    def sequence(self) -> int: ...  # number of the last frame
    @property
    def hours(self) -> int: ...  # that the data has aged, as the chip counts them
    def read(self, unit: int) -> bytes: ...
    def is_mapped(self, unit: int) -> bool: ...
    def write(self, units: Sequence[int], data: Sequence[bytes], *, small: bool = False) -> None:
        """Write up to a frame of different units, each of them atomic. `small`: to SLC pages where there are any."""
    def write_random(self, frames: int, seed: int, first: int = 0, count: int | None = None) -> int:
        """Write full frames of units drawn uniformly from a range (of `count` units); returns the next seed.
        ValueError: owners are isolated."""
    def trim(self, first: int, count: int) -> None: ...
    def flush(self) -> None: ...
    def secure_trim(self, first: int, count: int) -> None: ...
    def sanitize(self) -> None: ...
    def work(self, steps: int = 1_000_000) -> int:
        """Idle work: collection, refresh, checkpoints. Returns how many steps there were to do."""
    def set_owners(self, granule_units: int, owners: bytes | bytearray | memoryview, *, isolated: bool = False) -> None:
        """Whose units are, by granule from unit 0 on: numbers up to 127, 0 for nobody; what lies behind the last
        granule is nobody's. `isolated`: from now on units of different owners never share a block. ValueError: no such
        owner, too many granules, too little over-provisioning for so many owners."""
    def small_lanes(self, owners: bytes | bytearray | memoryview) -> int:
        """How many of these owners may keep a block open for small writes, if they are isolated. ValueError: there is
        too little over-provisioning to isolate them."""
    def owners_of_blocks(self) -> list[tuple[int, ...]]:
        """By block: whose units it holds."""
    @property
    def moved_by_owner(self) -> dict[str, dict[int, int]]: ...  # units since the mount, by reason and owner
    def patrol(self, frames: int) -> bool:
        """Read so many of the frames that hold data, and mark blocks that need refresh. True: a round is complete."""
    def advise_refresh(self, block: int, generation: int) -> bool:
        """Refresh this block soon. `generation`: of the snapshot judged from. False: nothing to refresh there."""
    def advise_collect(self, blocks: Iterable[tuple[int, int, int]]) -> None:
        """Collect these next, best first: each with its erases and valid units in the snapshot judged from. One that is
        not what it was any more is passed over."""
    def checkpoint(self, *, clean: bool = False) -> None: ...
    def close(self) -> None:
        """Flush, and write a checkpoint that leaves the next mount nothing to replay."""
    def sync(self) -> None: ...  # the image to the host's disk
    @property
    def counters(self) -> dict[str, Any]: ...  # only growing, also over mounts
    @property
    def block_erases(self) -> int: ...  # of all blocks together
    def take_worst_share(self) -> int:
        """The most of the ECC's strength that a read of data has needed since this was last asked, in percent; above
        100: it could not be corrected. Any thread may ask, but only one ever: what it took is forgotten."""
    @property
    def space(self) -> dict[str, int]: ...  # blocks by use, mapped units, spare blocks
    def snapshot(self) -> tuple[Any, int]:
        """The block table as a numpy structured array, and the generation that it was taken at. Columns: use, flags,
        written (frames), valid (units), erases, reads, hours (when it was opened), and changed: when the last of it
        became needless, as a sequence number."""
    def check(self) -> list[str]:
        """What in memory contradicts itself; for tests."""
