"""A small flash in memory that is carved into volumes, with the power cut wherever one likes."""

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from virtflash.backing.flash_target import FlashTarget
from virtflash.flash.emulated import EmulatedFlash
from virtflash.ftl.translation import Translation
from virtflash.volumes.blankness import maps_nothing
from virtflash.volumes.pool import Pool

SECTOR = 512
UNIT_BYTES = 512
GRANULE_UNITS = 4
GRANULE_BYTES = GRANULE_UNITS * UNIT_BYTES
GRANULE = GRANULE_BYTES // SECTOR  # sectors
UNITS = 80
USER_UNITS = 76  # what lies behind is somebody else's, as an eMMC's registers are
GRANULES = USER_UNITS // GRANULE_UNITS - 2
IDENTITY = bytes(range(16))
RESERVE_BLOCKS = 2
AGEING_WRITES = 1000
LOW_BLOCKS = 10  # free ones, from which on each write pays for some collection

PLANAR_PAIRS = [0xFFFF if page < 3 or page % 2 == 0 else page - 3 for page in range(16)]
PARTS: dict[str, dict[str, Any]] = {
    "SLC": {"page_bytes": 512, "spare_bytes": 32, "pages_per_block": 8, "blocks": 32},
    "TLC with SLC mode": {
        "page_bytes": 1536,
        "spare_bytes": 64,
        "pages_per_block": 8,
        "blocks": 28,
        "bits_per_cell": 3,
        "slc_page_bytes": 512,
        "slc_pages_per_block": 8,
    },
    "paired pages": {
        "page_bytes": 1024,
        "spare_bytes": 64,
        "pages_per_block": 16,
        "blocks": 28,
        "bits_per_cell": 2,
        "pair_table": PLANAR_PAIRS,
    },
    "NOR": {"kind": "nor", "page_bytes": 256, "spare_bytes": 0, "pages_per_block": 18, "blocks": 32},
}


def stamped(text: str, sectors: int) -> bytes:
    """Data that says what it is in each 32 bytes."""
    return b"".join(f"{text[:20]:_<20} {sector:>11}".encode() * (SECTOR // 32) for sector in range(sectors))


@dataclass
class CarvedFlash:
    """`open` mounts it and reads the table, as a server does when it begins."""

    part: str = "SLC"
    host_sync: bool = False
    chip: EmulatedFlash = field(init=False)
    target: FlashTarget = field(init=False)
    pool: Pool = field(init=False)

    def __post_init__(self) -> None:
        self.chip = EmulatedFlash.in_memory(
            seed=1, host_sync=self.host_sync, track_sync=self.host_sync, **PARTS[self.part]
        )
        self.stand_on(
            Translation.format(
                self.chip, UNITS, unit_bytes=UNIT_BYTES, reserve_blocks=RESERVE_BLOCKS, host_sync=self.host_sync
            )
        )
        self.target.write(USER_UNITS, stamped("registers", 1))

    def stand_on(self, translation: Translation, *, read_only: bool = False) -> None:
        sync_fd = self.chip.fd if self.host_sync else -1
        self.target = FlashTarget(translation, user_sectors=USER_UNITS, sync_fd=sync_fd, read_only=read_only)
        self.target.sync_image = self.chip.sync

    def mount(self, *, read_only: bool = False) -> None:
        translation = Translation.mount(
            self.chip,
            UNITS,
            unit_bytes=UNIT_BYTES,
            read_only=read_only,
            reserve_blocks=RESERVE_BLOCKS,
            host_sync=self.host_sync,
        )
        self.stand_on(translation, read_only=read_only)

    def open(self, **options: Any) -> Pool:
        """The table as it is on the flash as it stands."""
        options = {"identity": IDENTITY, "granule_bytes": GRANULE_BYTES} | options
        self.pool = Pool.open(self.target, is_blank=lambda: maps_nothing(self.target), **options)
        return self.pool

    def reopen(self) -> Pool:
        self.mount()
        return self.open()

    def recover(self, cut: Callable[[], None] | None = None, at_most: int = 1) -> int:
        """Power returns, perhaps to be lost again before the volumes are there. Returns how often it was."""
        lost = 0
        while True:
            self.chip.power_on()
            if cut is not None and lost < at_most:
                cut()
            try:
                self.reopen()
            except OSError:
                if not self.chip.lost_power:
                    raise
            if not self.chip.lost_power:
                self.chip.power_on()  # a cut that was not reached is called off
                return lost
            lost += 1

    def fill(self, name: str, text: str, *, flush: bool = True) -> None:
        """All of a volume."""
        window = self.pool.window(name)
        window.write(0, stamped(text, window.volume.sectors))
        if flush:
            self.target.flush()

    def contents(self, name: str) -> bytes:
        window = self.pool.window(name)
        return window.read(0, window.volume.sectors)

    def age(self, random_: random.Random) -> None:
        """Write what is there again, here and there, until blocks are collected: then a write may do anything."""
        windows = [self.pool.window(volume.name) for volume in self.pool.volumes]
        for _ in range(AGEING_WRITES):
            if self.target.condition()["free_blocks"] <= LOW_BLOCKS:
                break
            window = random_.choice(windows)
            sector = random_.randrange(window.volume.sectors)
            window.write(sector, window.read(sector, 1))
            self.target.flush()

    def medium(self) -> bytes:
        """All of the image: cells, stale ones too, and spare bytes."""
        return os.pread(self.chip.fd, os.fstat(self.chip.fd).st_size, 0)
