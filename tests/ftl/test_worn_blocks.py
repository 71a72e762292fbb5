"""Blocks so worn that new data in them is near what can be corrected: they are given up before anything is lost."""

import re

import pytest

from virtflash.flash.emulated import EmulatedFlash
from virtflash.flash.profiles import Profile, load_profile, parse_profile
from virtflash.ftl.translation import Translation

UNITS = 240
RESERVE = 10


def wearing(wear: float) -> Profile:
    """Raw bit errors grow with the square of the cycles; 40 of 4616 bits can be corrected. No block fails otherwise."""
    text = load_profile("slc-nand-256m").text
    changes = {"wear": f"{wear:g}", "correctable_bits": "40", "raw_codeword_bits": "4616", "spread": "0.25"}
    for key, value in changes.items():
        text, found = re.subn(rf"(?m)^{key} = \S+", f"{key} = {value}", text)
        assert found == 1
    return parse_profile(text, "wearing")


def write_until_worn(layer: Translation, most: int) -> dict[int, bytes]:
    written: dict[int, bytes] = {}
    for number in range(most):
        unit = number * 7 % UNITS
        data = number.to_bytes(4, "little") * 128
        try:
            layer.write([unit], [data])
        except OSError:
            break
        written[unit] = data
    return written


def make(wear: float, **settings: int) -> tuple[EmulatedFlash, Translation]:
    flash = EmulatedFlash.in_memory(
        profile=wearing(wear), page_bytes=512, spare_bytes=96, pages_per_block=16, blocks=48, seed=3
    )
    return flash, Translation.format(flash, UNITS, unit_bytes=512, reserve_blocks=RESERVE, **settings)


def test_the_end_comes_before_anything_is_lost() -> None:
    flash, layer = make(2e-6)
    written = write_until_worn(layer, 200_000)
    assert layer.read_only
    cycles = layer.snapshot()[0]["erases"].mean()
    assert 35 < cycles < 60  # half of the correction: 20 bits of 4616, at 47 cycles
    assert layer.counters["failed_programs"] == layer.counters["failed_erases"] == 0
    layer.flush()
    layer.close()
    again = Translation.mount(flash, UNITS, unit_bytes=512)
    assert again.read_only
    assert {unit: again.read(unit) for unit in written} == written


def test_where_nobody_looks_data_is_lost() -> None:
    """The experiment itself: no block fails, the end never comes, and what is read is beyond correction."""
    _, layer = make(2e-6, worn_share=101)
    write_until_worn(layer, 100_000)
    assert not layer.read_only
    with pytest.raises(OSError, match="unit"):
        for unit in range(UNITS):
            layer.read(unit)


def test_blocks_that_can_be_corrected_are_kept() -> None:
    _, layer = make(2e-8)
    write_until_worn(layer, 50_000)
    assert layer.space["bad"] == 0
    assert layer.check() == []
