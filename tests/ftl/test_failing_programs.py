"""Blocks whose programs fail: their data goes elsewhere, they are bad soon, and the end of life comes in time."""

import pytest

from virtflash.flash.emulated import EmulatedFlash
from virtflash.ftl.translation import Translation

UNIT = 512


def format_layer(reserve=4):
    flash = EmulatedFlash.in_memory(
        page_bytes=1536, spare_bytes=64, pages_per_block=8, blocks=48, bits_per_cell=3,
        slc_page_bytes=512, slc_pages_per_block=8,
    )  # fmt: skip
    return flash, Translation.format(flash, 400, unit_bytes=UNIT, reserve_blocks=reserve)


@pytest.mark.parametrize("small", [False, True])
def test_every_failure_counts_at_once_and_the_end_comes_with_room_to_spare(small):
    flash, layer = format_layer()
    written = {}
    with pytest.raises(OSError, match="write"):
        for number in range(1000):
            if number % 5 == 0:
                flash.fail_next("program")
            unit, data = number * 7 % 400, bytes([number % 251 + 1]) * UNIT
            layer.write([unit], [data], small=small)
            written[unit] = data
    assert layer.read_only
    assert layer.space["free"] > 4  # what a cache above has accepted can still be written
    layer.flush()
    layer.close()
    again = Translation.mount(flash, 400, unit_bytes=UNIT)
    assert again.read_only
    assert {unit: again.read(unit) for unit in written} == written


def test_doomed_blocks_become_bad_when_nothing_in_them_is_needed():
    flash, layer = format_layer(reserve=8)
    for unit in range(400):
        layer.write([unit], [bytes([7]) * UNIT])
    for _ in range(3):
        flash.fail_next("program")
        layer.write_random(400, 3)
        layer.work()
    assert layer.space["bad"] == 3
    assert layer.check() == []
