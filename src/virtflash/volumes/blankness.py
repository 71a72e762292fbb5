"""Is there anything on a flash? One that is blank may be formatted without asking."""

from typing import TYPE_CHECKING

from virtflash.volumes.flash import SECTOR_BYTES, Flash

if TYPE_CHECKING:
    from virtflash.backing.flash_target import FlashTarget

PIECE_SECTORS = (1 << 20) // SECTOR_BYTES


def reads_as_zeroes(flash: Flash) -> bool:
    """All of the user area: of any flash, and slow on a large one. OSError."""
    zeroes = bytes(PIECE_SECTORS * SECTOR_BYTES)
    for sector in range(0, flash.user_sectors, PIECE_SECTORS):
        data = flash.read(sector, min(PIECE_SECTORS, flash.user_sectors - sector))
        if data != zeroes[: len(data)]:
            return False
    return True


def maps_nothing(target: "FlashTarget") -> bool:
    """None of the user area is mapped: at once, by what the translation layer counts. Nobody serves the flash yet."""
    target.flush()
    translation = target.translation
    first = -(-target.user_sectors * SECTOR_BYTES // target.unit_bytes)
    behind = sum(translation.is_mapped(unit) for unit in range(first, translation.units))
    return bool(translation.space["mapped_units"] == behind)
