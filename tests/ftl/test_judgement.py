"""Judgement over snapshots: what is refreshed by age at temperature, what is collected first, and stale advice."""

import numpy
import pytest

from virtflash.flash.emulated import EmulatedFlash
from virtflash.flash.laws import raw_bit_error_rate
from virtflash.flash.profiles import load_profile
from virtflash.ftl.judgement import (
    CLOSED,
    FLAG_META,
    FLAG_REFRESH,
    FLAG_SLC,
    HOURS_MOST,
    AgeLimits,
    judge,
    profile_limits,
)
from virtflash.ftl.translation import Translation

UNITS = 256  # of a block


def table(*rows):
    columns = [("use", "u1"), ("flags", "u1"), ("valid", "u4"), ("erases", "u4"), ("hours", "u4"), ("changed", "u8")]
    return numpy.array(list(rows), dtype=columns)


def limits(hours=100.0):
    """Data may lie for so many hours in a new block, and half as long in one that is worn."""
    return AgeLimits(
        lambda cycles, age: age * (1 + cycles / 1000) / hours,
        codeword_bits=1000,
        correctable=1000,
        rated_cycles=1000,
        share=1.0,
    )


@pytest.mark.parametrize(
    ("age", "erases", "flags", "valid", "use", "refreshed"),
    [
        (99, 0, 0, 10, CLOSED, False),
        (101, 0, 0, 10, CLOSED, True),
        (60, 1000, 0, 10, CLOSED, True),
        (40, 1000, 0, 10, CLOSED, False),
        (101, 0, 0, 0, CLOSED, False),
        (101, 0, FLAG_META, 10, CLOSED, False),
        (101, 0, FLAG_REFRESH, 10, CLOSED, False),
        (101, 0, 0, 10, 0, False),
        (101, 0, FLAG_SLC, 10, CLOSED, False),
    ],
)
def test_what_is_refreshed(age, erases, flags, valid, use, refreshed):
    snapshot = table((use, flags, valid, erases, 1000, 0))
    advice = judge(snapshot, 1000 + age, 0, limits(), limits(1000.0), block_units=UNITS)
    assert advice.refresh == ([0] if refreshed else [])


def test_the_most_overdue_comes_first():
    snapshot = table((CLOSED, 0, 10, 0, 50, 0), (CLOSED, 0, 10, 0, 0, 0), (CLOSED, 0, 10, 1000, 0, 0))
    assert judge(snapshot, 200, 0, limits(), None, block_units=UNITS).refresh == [2, 1, 0]


def test_where_new_data_is_beyond_the_limit_nothing_is_moved_for_its_age():
    never = AgeLimits(lambda _cycles, _age: 1.0, codeword_bits=1, correctable=1, rated_cycles=1, share=0.5)
    snapshot = table((CLOSED, 0, 10, 0, 0, 0))
    assert judge(snapshot, 1e6, 0, never, None, block_units=UNITS).refresh == []


@pytest.mark.parametrize(
    ("valid", "changed", "order"),
    [
        ((100, 50), (0, 0), [1, 0]),  # of one age: what holds less
        ((100, 50), (0, 990), [0, 1]),  # what has just been freed may soon be freer still
        ((256, 50), (0, 0), [1]),  # nothing to gain in a full one
    ],
)
def test_what_is_collected_first(valid, changed, order):
    snapshot = table(*((CLOSED, 0, v, 7, 0, c) for v, c in zip(valid, changed, strict=True)))
    advice = judge(snapshot, 0, 1000, limits(), None, block_units=UNITS)
    assert [block for block, _, _ in advice.collect] == order
    assert all(erases == 7 for _, erases, _ in advice.collect)


@pytest.mark.parametrize("profile", ["automotive-tlc-emmc", "mlc-emmc", "slc-nand-256m"])
def test_data_within_its_age_limit_can_be_corrected(profile):
    physics = load_profile(profile).physics()
    share, worst = 0.6, float(numpy.exp(3 * physics["spread"]))
    for cycles in (0, 5, 30, physics["rated_cycles"] / 2, physics["rated_cycles"]):
        hours = float(profile_limits(physics, share=share).of(numpy.array([cycles]))[0])
        rate = raw_bit_error_rate(physics, cycles=cycles, hours=hours, factor=worst)
        bits = physics["raw_codeword_bits"] or 8 * physics["codeword_bytes"]
        if 0 < hours < HOURS_MOST:
            assert rate * bits == pytest.approx(share * physics["correctable_bits"], rel=0.02)
        elif hours:
            assert rate * bits <= share * physics["correctable_bits"]


def skewed(translation, frames, seed):
    units = translation.units
    seed = translation.write_random(frames * 9 // 10, seed, 0, units // 10)
    return translation.write_random(frames // 10, seed, units // 10, units - units // 10)


def test_advice_is_taken_and_stale_advice_is_passed_over():
    flash = EmulatedFlash.in_memory(page_bytes=512, spare_bytes=64, pages_per_block=32, blocks=64)
    translation = Translation.format(flash, 1200, unit_bytes=512, reserve_blocks=2)
    for unit in range(translation.units):
        translation.write([unit], [bytes(512)])
    seed = skewed(translation, 4000, 1)
    snapshot, generation = translation.snapshot()
    advice = judge(snapshot, 0, translation.sequence, limits(), None, block_units=32)
    block, erases, valid = advice.collect[0]
    translation.advise_collect([(block, erases + 100, valid), (block, erases, valid)])
    skewed(translation, 1000, seed)
    assert translation.counters["advice_stale"] == 1
    assert translation.counters["advice_taken"] == 1
    assert translation.generation > generation
    assert translation.check() == []
