"""Trims that nobody flushes, on a device that is nearly full: what they hold back must not be its end."""

import random

import pytest

from virtflash.flash.emulated import EmulatedFlash
from virtflash.ftl.translation import Translation

PAGES, BLOCKS, UNITS = 16, 128, 6350
TRIMMED = 5


@pytest.mark.parametrize("host_sync", [False, True])
def test_trims_that_wait_end_no_writing(host_sync: bool) -> None:
    """Nothing that died since the first of them may be erased, and collection needs block after block."""
    chip = EmulatedFlash.in_memory(
        page_bytes=16384, spare_bytes=80, pages_per_block=PAGES, blocks=BLOCKS, host_sync=host_sync
    )
    layer = Translation.format(chip, UNITS, reserve_blocks=2, host_sync=host_sync)
    chosen, data = random.Random(1), [bytes(4096)] * 4
    for unit in range(0, UNITS - 3, 4):
        layer.write(range(unit, unit + 4), data)
    for _ in range(20):
        layer.write([TRIMMED], [bytes(4096)])
        layer.trim(TRIMMED, 1)
        for _ in range(500):
            layer.write(chosen.sample(range(TRIMMED + 1, UNITS), 4), data)
        assert not layer.read_only
    assert layer.check() == []
