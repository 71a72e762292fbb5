"""How many blocks a device needs for what it promises to hold."""

from dataclasses import dataclass
from typing import Protocol

RESERVED_BLOCKS = 8  # as allocation.pxd: what collection, checkpoints and recoveries need before anything is freed
LOW_MARGIN = 2  # as collection.pxd, beyond those
STREAMS = 4
LANES_LEAST = 2  # blocks that each owner keeps open, where owners are kept apart: for new data, and for old
TABLE_ENTRY_BYTES = 16
TAIL_RECORD_BYTES = 64
RESERVE_LEAST = 4  # blocks that may go bad, however small the device is


class Sizes(Protocol):
    """Of a chip: bytes and pages. `kind`: "nand" or "nor"; no `slc_page_bytes`: no SLC mode."""

    @property
    def kind(self) -> str: ...
    @property
    def page_bytes(self) -> int: ...
    @property
    def pages_per_block(self) -> int: ...
    @property
    def slc_page_bytes(self) -> int: ...
    @property
    def slc_pages_per_block(self) -> int: ...


@dataclass(frozen=True)
class ChipSizes:
    """`Sizes`, as they are."""

    kind: str
    page_bytes: int
    pages_per_block: int
    slc_page_bytes: int = 0
    slc_pages_per_block: int = 0


def units_per_block(sizes: Sizes, unit_bytes: int, *, slc: bool = False) -> int:
    """Mapping units that a block takes, in its normal or in SLC mode."""
    page_bytes = sizes.slc_page_bytes if slc else sizes.page_bytes
    pages = sizes.slc_pages_per_block if slc else sizes.pages_per_block
    if sizes.kind == "nor":
        return page_bytes * pages // (unit_bytes + TAIL_RECORD_BYTES)
    if page_bytes >= unit_bytes:
        return page_bytes // unit_bytes * pages
    return pages // (unit_bytes // page_bytes)


def metadata_blocks(sizes: Sizes, unit_bytes: int, units: int, blocks: int) -> int:
    """Two checkpoints and some trims, in SLC mode where there is one."""
    slc = sizes.slc_page_bytes >= unit_bytes
    page_bytes = sizes.slc_page_bytes if slc else sizes.page_bytes
    frame_bytes = max(page_bytes, unit_bytes)
    frames = -(-units // (frame_bytes // 4)) + -(-blocks // (frame_bytes // TABLE_ENTRY_BYTES)) + 1
    frames_per_block = units_per_block(sizes, unit_bytes, slc=slc) // (frame_bytes // unit_bytes)
    return 2 * -(-frames // frames_per_block) + 3


def overhead_blocks(sizes: Sizes, unit_bytes: int, units: int, blocks: int) -> int:
    """Blocks beside the data's own: metadata, open and free ones, and what those in SLC mode hold less."""
    slc = max(blocks // 64, 2) if sizes.slc_page_bytes >= unit_bytes else 0
    return metadata_blocks(sizes, unit_bytes, units, blocks) + RESERVED_BLOCKS + LOW_MARGIN + STREAMS + slc


def blocks_needed(sizes: Sizes, unit_bytes: int, units: int, blocks: int) -> int:
    """Good blocks without which a device cannot hold what it promises; its reserve comes on top."""
    return -(-units // units_per_block(sizes, unit_bytes)) + overhead_blocks(sizes, unit_bytes, units, blocks)


def small_lanes(owners: int, spare_blocks: int) -> int:
    """How many of so many owners may have a third block open, for small writes, where each has its own blocks.

    Half of the blocks that are left for over-provisioning may be open; the rest is what collection lives on.
    ValueError: there are too few.
    """
    left = spare_blocks // 2 - LANES_LEAST * owners
    if left < 0:
        raise ValueError(
            f"blocks of {owners} owners are kept apart with {2 * LANES_LEAST * owners} blocks of over-provisioning: "
            f"this flash has {spare_blocks}, enough for {spare_blocks // (2 * LANES_LEAST)}"
        )
    return min(left, owners)


def raw_blocks(
    capacity_bytes: int, unit_bytes: int, sizes: Sizes, over_provisioning_percent: float, reserve_percent: float
) -> int:
    """Blocks of a chip that exports this capacity: data, over-provisioning, overhead, and a reserve for bad blocks."""
    units = -(-capacity_bytes // unit_bytes)
    data = -(-units // units_per_block(sizes, unit_bytes))
    spare = -(-data * over_provisioning_percent // 100)
    blocks = int(data + spare)
    for _ in range(4):  # what is needed beside depends, a little, on how many there are
        reserve = reserve_blocks(blocks, reserve_percent)
        blocks = int(data + spare) + overhead_blocks(sizes, unit_bytes, units, blocks) + reserve
    return blocks


def reserve_blocks(blocks: int, reserve_percent: float) -> int:
    """Blocks that may go bad, factory ones included, before the device becomes read-only."""
    return max(int(-(-blocks * reserve_percent // 100)), RESERVE_LEAST)
