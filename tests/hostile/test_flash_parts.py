"""A secure erase is long, and others wait for its parts: each is of about one block, however many there are."""

from itertools import pairwise

from target_owner import owner_that

from virtflash.backing.flash_target import SECURE_ERASE, FlashTarget
from virtflash.flash.emulated import EmulatedFlash
from virtflash.ftl.translation import Translation

UNITS, UNIT_SECTORS = 1500, 8


def test_no_part_of_a_secure_erase_wipes_more_than_one_block() -> None:
    chip = EmulatedFlash.in_memory(page_bytes=16384, spare_bytes=80, pages_per_block=16, blocks=64)
    layer = Translation.format(chip, UNITS, reserve_blocks=4)
    target = FlashTarget(layer, user_sectors=UNITS * UNIT_SECTORS)
    for seed in range(6):
        layer.write_random(1000, seed, 1)
    to_wipe = [int(chip.block_table()["not_wiped"].sum())]
    target.owner = owner_that(after=lambda: to_wipe.append(int(chip.block_table()["not_wiped"].sum())))
    target.change(SECURE_ERASE, 0, UNIT_SECTORS)
    steps = [before - after for before, after in pairwise(to_wipe)]
    assert to_wipe[0] > 10
    assert to_wipe[-1] == 0
    assert max(steps) == 1
