"""What collection costs against theory, what separating hot from cold data saves, and how even wear becomes."""

import math

import numpy
import pytest

from virtflash.flash.emulated import EmulatedFlash
from virtflash.ftl.judgement import CLOSED, FLAG_META
from virtflash.ftl.translation import Translation

UNIT_BYTES = 512
OPEN = 1  # of a block's use
BLOCK_UNITS = 256  # and a page holds one unit
NEVER = 1 << 60


def greedy(ratio: float) -> float:
    """Desnoyers 2012: write amplification of greedy collection under uniform writes, for large blocks.

    `ratio`: physical by logical units. a / (a + W(-a e^-a)), W being Lambert's function on its principal branch.
    """
    x = -ratio * math.exp(-ratio)
    w = -0.3
    for _ in range(100):
        w -= (w * math.exp(w) - x) / (math.exp(w) * (w + 1))
    return ratio / (ratio + w)


def make(blocks: int, over_provisioning: float, overhead: int, **settings: object) -> Translation:
    flash = EmulatedFlash.in_memory(
        page_bytes=UNIT_BYTES, spare_bytes=64, pages_per_block=BLOCK_UNITS, blocks=blocks, seed=1
    )
    units = int((blocks - overhead) * BLOCK_UNITS / (1 + over_provisioning))
    layer = Translation.format(flash, units, unit_bytes=UNIT_BYTES, reserve_blocks=4, **settings)
    for unit in range(units):
        layer.write([unit], [bytes(UNIT_BYTES)])
    return layer


def amplification(before: dict, after: dict) -> float:
    """Of the host's data and collection only: checkpoints and levelling are left out."""
    moved = after["moved_units"]["collect"] - before["moved_units"]["collect"]
    return 1 + moved / (after["host_units"] - before["host_units"])


@pytest.mark.parametrize(("over_provisioning", "settling"), [(0.28, 4), (0.15, 5), (0.07, 8)])
def test_uniform_writes_cost_what_theory_says(over_provisioning: float, settling: int) -> None:
    """FACTS: blocks of 256 units lie up to 1.8 % below the formula, which is the limit of large ones."""
    layer = make(1024, over_provisioning, 40, by_age=False, levelling=False, checkpoint_frames=NEVER)
    seed = layer.write_random(settling * layer.units, 1)
    before = layer.counters
    layer.write_random(4 * layer.units, seed)
    found = amplification(before, layer.counters)
    space = layer.space
    holding = layer.sizes.pages_per_block * (1024 - space["free"] - space["meta"] - 1.5)  # half of three open ones
    expected = greedy(holding / layer.units)
    assert 0.97 * expected <= found <= 1.01 * expected


def skewed(layer: Translation, writes: int, seed: int) -> int:
    """Nine of ten writes go to a tenth of the units."""
    hot = layer.units // 10
    for _ in range(writes // 500):
        seed = layer.write_random(450, seed, 0, hot)
        seed = layer.write_random(50, seed, hot, layer.units - hot)
    return seed


def skewed_amplification(**settings: object) -> float:
    layer = make(256, 0.15, 20, levelling=False, checkpoint_frames=NEVER, **settings)
    seed = skewed(layer, 3 * layer.units, 1)
    before = layer.counters
    skewed(layer, 4 * layer.units, seed)
    return amplification(before, layer.counters)


def test_hot_and_cold_apart_is_better_than_together_and_by_age_better_than_greedy() -> None:
    together = skewed_amplification(separate=False, by_age=False)
    apart = skewed_amplification(separate=True, by_age=False)
    by_age = skewed_amplification(separate=True, by_age=True)
    assert apart < 0.95 * together
    assert by_age < 0.8 * apart


def wear_after_fifty_device_writes(*, levelling: bool) -> tuple[int, float]:
    """The gap between the most and the least erased good block, and the average. Half of the data never changes."""
    layer = make(128, 0.15, 20, levelling=levelling)
    changing = layer.units // 2
    hot = changing // 5
    seed = 1
    for _ in range(50 * layer.units // 500):
        seed = layer.write_random(400, seed, 0, hot)
        seed = layer.write_random(100, seed, hot, changing - hot)
    erases = layer.snapshot()[0]["erases"]
    assert layer.check() == []
    return int(erases.max() - erases.min()), float(erases.mean())


def test_levelling_keeps_the_gap_within_a_tenth_of_what_was_used() -> None:
    gap, mean = wear_after_fifty_device_writes(levelling=True)
    assert gap <= 0.1 * mean
    without, mean = wear_after_fifty_device_writes(levelling=False)
    assert without > 0.5 * mean


def test_refresh_alone_wears_all_blocks_alike() -> None:
    """Nothing is written for long, and everything is moved before it fades, which it does sooner where wear is more."""
    flash = EmulatedFlash.in_memory(page_bytes=UNIT_BYTES, spare_bytes=64, pages_per_block=32, blocks=64, seed=1)
    layer = Translation.format(flash, 1200, unit_bytes=UNIT_BYTES, reserve_blocks=4)
    for unit in range(layer.units):
        layer.write([unit], [bytes(UNIT_BYTES)])
    for _ in range(2000):
        flash.advance(86400.0, 55.0)
        table, generation = layer.snapshot()
        age = layer.hours - table["hours"]
        for block in numpy.flatnonzero((table["use"] == CLOSED) & (age > 24 * 100 / (1 + table["erases"] / 30))):
            layer.advise_refresh(int(block), generation)
        layer.work()
    table, _ = layer.snapshot()
    erases = table["erases"][(table["use"] != OPEN) & (table["flags"] & FLAG_META == 0)]
    assert erases.mean() > 10
    assert erases.max() - erases.min() <= 0.5 * erases.mean()
