"""Small emulated flashes in memory, of each kind of geometry, for tests of what stands on them."""

from dataclasses import dataclass
from typing import Any

from virtflash.backing.flash_target import FlashTarget
from virtflash.flash.emulated import EmulatedFlash
from virtflash.ftl.translation import Translation

UNIT_SECTORS = 8
RESERVE_BLOCKS = 4


@dataclass(frozen=True)
class Part:
    """What to make. `units`: that the translation layer exports."""

    units: int
    chip: dict[str, Any]


PARTS = {
    "slc": Part(600, {"page_bytes": 2048, "spare_bytes": 32, "pages_per_block": 64, "blocks": 48}),
    "mlc": Part(
        1500,
        {
            "page_bytes": 16384,
            "spare_bytes": 80,
            "pages_per_block": 16,
            "blocks": 64,
            "slc_page_bytes": 16384,
            "slc_pages_per_block": 8,
        },
    ),
    "tlc": Part(
        2000,
        {
            "page_bytes": 49152,
            "spare_bytes": 80,
            "pages_per_block": 8,
            "blocks": 64,
            "slc_page_bytes": 16384,
            "slc_pages_per_block": 8,
        },
    ),
}


class FlashInMemory:
    """A chip, its translation layer, and a target on it, which can be power cycled."""

    def __init__(
        self,
        part: str = "mlc",
        *,
        host_sync: bool = False,
        chip: dict[str, Any] | None = None,
        reserve_blocks: int = RESERVE_BLOCKS,
        **target: Any,
    ) -> None:
        self.part, self.host_sync = PARTS[part], host_sync
        figures = self.part.chip | (chip or {})
        self.chip = EmulatedFlash.in_memory(**figures, host_sync=host_sync, track_sync=host_sync)
        self.options = {"user_sectors": self.part.units * UNIT_SECTORS} | target
        self.options |= {"sync_fd": self.chip.fd} if host_sync else {}
        translation = Translation.format(self.chip, self.part.units, reserve_blocks=reserve_blocks, host_sync=host_sync)
        self.set_up(translation)

    def set_up(self, translation: Translation) -> None:
        self.target = FlashTarget(translation, **self.options)
        self.target.sync_image = self.chip.sync

    def lose_power(self, random: int) -> None:
        """The supply goes, and comes back."""
        self.target.lose_power(random)
        self.mount()

    def host_crash(self, random: int) -> None:
        """Of what was not synced, the host's disk has some pages, and others not."""
        self.chip.host_crash(random)
        self.mount()

    def mount(self) -> None:
        self.set_up(Translation.mount(self.chip, self.part.units, host_sync=self.host_sync))
