"""A small emulated eMMC in memory, whose blocks are soon worn."""

from typing import Any

from virtflash.backing.emulated_flash import EmulatedStorage
from virtflash.backing.flash_target import FlashTarget
from virtflash.flash.emulated import EmulatedFlash
from virtflash.flash.profiles import load_profile
from virtflash.ftl.translation import Translation

UNITS, UNIT_SECTORS, RESERVE_BLOCKS = 1500, 8, 10
GEOMETRY = {
    "page_bytes": 16384,
    "spare_bytes": 80,
    "pages_per_block": 16,
    "blocks": 64,
    "slc_page_bytes": 16384,
    "slc_pages_per_block": 8,
}


def small_part(**figures: Any) -> EmulatedStorage:
    """`figures`: of the chip."""
    profile = load_profile("mlc-emmc")
    assert profile.emmc is not None
    chip = EmulatedFlash.in_memory(**GEOMETRY, **figures)
    translation = Translation.format(chip, UNITS, reserve_blocks=RESERVE_BLOCKS)
    target = FlashTarget(translation, user_sectors=UNITS * UNIT_SECTORS, slc_share=profile.emmc.slc_share)
    return EmulatedStorage(chip, profile, translation, target)
