"""The laws of flash cells against tables: heat, raw bit errors, what is drawn, error correction."""

import math
from collections.abc import Callable
from statistics import NormalDist, fmean, pvariance
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtflash.flash import laws
from virtflash.flash.profiles import load_profile, profile_names

Physics = dict[str, Any]
DAY = 24.0
YEAR = 365 * DAY
NO_LAW = dict.fromkeys(
    (
        *("law", "floor", "wear", "wear_power", "retention", "retention_cycles_power", "retention_days_power"),
        *("fit_days", "disturb", "disturb_cycles_power", "disturb_reads_power", "early", "early_hours"),
    ),
    0,
)
PERFECT: Physics = dict.fromkeys(load_profile("slc-nand-256m").physics(), 0) | {"main": NO_LAW, "slc": NO_LAW}


def bisect(reaches: Callable[[float], bool], low: float, high: float) -> float:
    """The least value, on a logarithmic scale, that reaches."""
    for _ in range(100):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return high


def with_law(physics: Physics, **coefficients: float) -> Physics:
    return physics | {"main": physics["main"] | coefficients}


# Heat: hours at `colder` that an hour at `hotter` is worth, by activation energy.
ARRHENIUS = [
    (55, 85, {1.1: 26.0, 1.04: 21.8, 0.6: 5.9, 1.2: 35}),
    (40, 85, {1.1: 168, 1.04: 127, 0.6: 16.3, 1.2: 267}),
    (25, 85, {1.1: 1303, 1.04: 881, 0.6: 50, 1.2: 2501}),
    (85, 105, {1.1: 6.59, 1.04: 5.94, 0.6: 2.8, 1.2: 7.8}),
    (30, 40, {1.1: 3.84}),
    (40, 55, {1.1: 6.45}),
    (25, 55, {1.1: 50.1}),
    (55, 105, {1.1: 171}),
    (40, 105, {1.1: 1104}),
    (30, 85, {1.1: 643}),
]
ROWS = [(colder, hotter, ev, factor) for colder, hotter, row in ARRHENIUS for ev, factor in row.items()]


@pytest.mark.parametrize(("colder", "hotter", "ev", "factor"), ROWS)
def test_heat_speeds_up_time(colder: float, hotter: float, ev: float, factor: float) -> None:
    cold = PERFECT | {"activation_ev": ev, "reference_celsius": colder}
    hot = PERFECT | {"activation_ev": ev, "reference_celsius": hotter}
    assert laws.acceleration(cold, hotter) == pytest.approx(factor, rel=0.012)  # the table has two digits and more
    assert laws.acceleration(hot, colder) * laws.acceleration(cold, hotter) == pytest.approx(1)
    assert laws.acceleration(cold, colder) == 1


@pytest.mark.parametrize(
    ("hours", "celsius", "same_hours", "same_celsius"),
    [
        (YEAR, 55, 337, 85),
        (YEAR, 40, 52, 85),
        (YEAR, 25, 6.7, 85),
        (10 * YEAR, 55, 140 * DAY, 85),
        (10 * YEAR, 40, 21.8 * DAY, 85),
        (YEAR, 30, 13.6, 85),
        (YEAR, 30, 2.1, 105),
        (500, 52, 500 * 507 / 500, 52),
        (96, 66, 100 * 96 / 100, 66),
    ],
)
def test_the_same_ageing_elsewhere(hours: float, celsius: float, same_hours: float, same_celsius: float) -> None:
    physics = PERFECT | {"activation_ev": 1.1, "reference_celsius": same_celsius}
    assert hours * laws.acceleration(physics, celsius) == pytest.approx(same_hours, rel=0.02)


@pytest.mark.parametrize("celsius", [-300, -273.15, -272, -40, 0, 150, 1000])
def test_any_temperature_has_a_factor(celsius: float) -> None:
    physics = PERFECT | {"activation_ev": 1.1, "reference_celsius": 55}
    assert 0 <= laws.acceleration(physics, celsius) < math.inf
    assert laws.acceleration(PERFECT, celsius) == 1, "without an activation energy heat does nothing"


@pytest.mark.parametrize(
    ("programmed", "read", "factor"), [(25, 25, 1), (-40, 85, 2.5), (85, -40, 2.5), (0, 62.5, 1.75), (-100, 200, 2.5)]
)
def test_cross_temperature(programmed: float, read: float, factor: float) -> None:
    assert laws.cross_temperature(PERFECT | {"cross_temperature": 2.5}, programmed, read) == factor
    assert laws.cross_temperature(PERFECT, programmed, read) == 1


# Raw bit error rates of the fits of FAST 2019: cycles, days, reads over pages.
TLC = [
    (0, 0, 0, 1.48e-3),
    (1000, 0, 0, 2.03e-3),
    (3000, 0, 0, 6.72e-3),
    (3000, 30, 0, 7.93e-3),
    (3000, 90, 0, 8.91e-3),
    (3000, 365, 0, 1.14e-2),
    (3000, 0, 1000, 1.38e-2),
    (1000, 365, 0, 6.03e-3),
]
MLC = [(3000, 0, 0, 1.13e-4), (3000, 30, 0, 1.34e-4), (3000, 90, 0, 9.27e-4), (3000, 365, 0, 8.6e-2)]


def rate(physics: Physics, row: tuple[float, float, float, float]) -> float:
    return laws.raw_bit_error_rate(physics, cycles=row[0], hours=row[1] * DAY, reads_per_page=row[2])


@pytest.mark.parametrize("row", TLC)
def test_errors_of_tlc(row: tuple[float, float, float, float]) -> None:
    assert rate(load_profile("automotive-tlc-emmc").physics(), row) == pytest.approx(row[3], rel=5e-3)


@pytest.mark.parametrize("row", MLC)
def test_errors_of_mlc_as_fitted(row: tuple[float, float, float, float]) -> None:
    physics = with_law(load_profile("mlc-emmc").physics(), fit_days=0)
    assert rate(physics, row) == pytest.approx(row[3], rel=6e-3)


def test_beyond_the_fit_time_counts_by_its_logarithm() -> None:
    physics = load_profile("mlc-emmc").physics()
    assert [rate(physics, row) for row in MLC[:3]] == pytest.approx([row[3] for row in MLC[:3]], rel=5e-3)
    at = {days: rate(physics, (3000, days, 0, 0)) for days in (89.99, 90, 90.01, 365, 90 * math.e, 90 * math.e**2)}
    assert at[365] == pytest.approx(4.7e-3, rel=0.02), "the power of time would say 8.6e-2"
    assert at[90.01] - at[90] == pytest.approx(at[90] - at[89.99], rel=1e-3), "with the same slope at the border"
    assert at[90 * math.e**2] - at[90 * math.e] == pytest.approx(at[90 * math.e] - at[90]), "and straight from there"


@pytest.mark.parametrize(
    ("cycles", "four_bit_class", "one_bit_class"), [(0, 1e-8, 1e-9), (30_000, 1e-7, 1e-8), (100_000, 1e-6, 1e-7)]
)
def test_errors_of_slc(cycles: float, four_bit_class: float, one_bit_class: float) -> None:
    physics = load_profile("slc-nand-256m").physics()
    assert rate(physics, (cycles, 0, 0, 0)) == pytest.approx(four_bit_class, rel=0.02)
    assert rate(physics, (cycles, 0, 0, 0)) == pytest.approx(10 * one_bit_class, rel=0.02)


@pytest.mark.parametrize(("cycles", "expected"), [(0, 1e-12), (100_000, 1e-9)])
def test_errors_of_nor_grow_exponentially(cycles: float, expected: float) -> None:
    physics = load_profile("qspi-nor-64m").physics()
    fresh = rate(physics, (cycles, 0, 0, 0))
    assert fresh == pytest.approx(expected, rel=0.02)
    assert laws.raw_bit_error_rate(physics, cycles=cycles, hours=20 * YEAR) == pytest.approx(7.04 * fresh, rel=0.01)


def test_early_loss_is_logarithmic() -> None:
    physics = with_law(PERFECT, early=1e-4, early_hours=1)
    found = [laws.raw_bit_error_rate(physics, hours=hours) for hours in (0, math.e - 1, math.e**2 - 1, math.e**9 - 1)]
    assert found == pytest.approx([0, 1e-4, 2e-4, 9e-4])


MODES = [(name, slc) for name in profile_names() for slc in (False, True) if not slc or "emmc" in name]
GROWTH = {
    "cycles": [0, 1, 10, 100, 1000, 3000, 10_000, 100_000],
    "hours": [0, 1, 24, 24 * 89, 24 * 91, YEAR, 9 * YEAR, 11 * YEAR, 1000 * YEAR],
    "reads_per_page": [0, 1, 10, 1000, 100_000],
    "factor": [0, 0.5, 1, 2, 10],
}


@pytest.mark.parametrize("axis", GROWTH)
@pytest.mark.parametrize(("name", "slc"), MODES)
def test_errors_never_become_fewer(name: str, slc: bool, axis: str) -> None:
    physics = load_profile(name).physics()
    worn = {"cycles": 500.0, "hours": 100.0, "reads_per_page": 10.0, "factor": 1.0}
    rates = [laws.raw_bit_error_rate(physics, slc=slc, **worn | {axis: float(value)}) for value in GROWTH[axis]]
    assert rates == sorted(rates)
    assert rates[-1] > rates[0] or (axis == "reads_per_page" and name == "qspi-nor-64m")


@given(
    st.sampled_from(MODES),
    *(st.floats(0, most) for most in (1e7, 1e8, 1e9, 1e6)),
)
def test_a_rate_is_a_probability(
    mode: tuple[str, bool], cycles: float, hours: float, reads: float, factor: float
) -> None:
    found = laws.raw_bit_error_rate(
        load_profile(mode[0]).physics(), slc=mode[1], cycles=cycles, hours=hours, reads_per_page=reads, factor=factor
    )
    assert 0 <= found <= 0.5


@pytest.mark.parametrize(("floor", "factor", "expected"), [(0, 1, 0), (1e-12, 0, 0), (1e-12, 1, 0.5)])
def test_growth_without_end_is_still_a_number(floor: float, factor: float, expected: float) -> None:
    physics = with_law(PERFECT, law=1, floor=floor, wear=1, disturb=1)
    assert laws.raw_bit_error_rate(physics, cycles=1e9, reads_per_page=1e9, factor=factor) == expected


def test_zeroes_are_perfect_flash() -> None:
    draws = laws.Draws(1)
    assert laws.raw_bit_error_rate(PERFECT, cycles=1e9, hours=1e9, reads_per_page=1e9) == 0
    assert laws.failure_probability(PERFECT, cycles=1e9) == 0
    assert (draws.factor(PERFECT), draws.poisson(0), draws.failure(PERFECT, cycles=1e9)) == (1, 0, False)
    assert draws.bits() == laws.Draws(1).bits(), "and nothing was drawn"


def test_a_struct_is_made_of_a_whole_dictionary_only() -> None:
    with pytest.raises(ValueError, match="activation_ev"):
        laws.acceleration({key: value for key, value in PERFECT.items() if key != "activation_ev"}, 55)


def test_draws_are_those_of_splitmix64() -> None:
    draws = laws.Draws(0)  # the generator's published first outputs
    assert [draws.bits() for _ in range(3)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


@pytest.mark.parametrize("seed", [0, 1, (1 << 64) - 1])
def test_a_seed_gives_the_same_device(seed: int) -> None:
    physics = load_profile("automotive-tlc-emmc").physics()

    def device(seed: int) -> list[float]:
        draws = laws.Draws(seed)
        return [draws.factor(physics) for _ in range(20)] + [draws.poisson(mean) for mean in (0.1, 3, 16, 17, 300)]

    assert device(seed) == device(seed) != device(seed ^ 5)


def test_uniform_draws_fill_their_range() -> None:
    draws = laws.Draws(7)
    drawn = [draws.uniform() for _ in range(50_000)]
    assert 0 <= min(drawn) < 1e-3
    assert 1 - 1e-3 < max(drawn) < 1
    assert fmean(drawn) == pytest.approx(0.5, abs=4 / math.sqrt(12 * 50_000))


def test_normal_draws_are_quantiles() -> None:
    draws, bits = laws.Draws(11), laws.Draws(11)
    for _ in range(20_000):
        expected = NormalDist().inv_cdf(((bits.bits() >> 11) + 0.5) / 2**53)
        assert draws.normal() == pytest.approx(expected, rel=2e-9, abs=2e-9)


@pytest.mark.parametrize("spread", [0.2, 0.25, 1])
def test_block_quality_is_lognormal_around_one(spread: float) -> None:
    draws, count = laws.Draws(3), 40_000
    factors = [draws.factor(PERFECT | {"spread": spread}) for _ in range(count)]
    logarithms = [math.log(factor) for factor in factors]
    assert fmean(factors) == pytest.approx(1, abs=4 * math.sqrt(math.expm1(spread**2) / count))
    assert fmean(logarithms) == pytest.approx(-(spread**2) / 2, abs=4 * spread / math.sqrt(count))
    assert math.sqrt(pvariance(logarithms)) == pytest.approx(spread, rel=4 / math.sqrt(2 * count))


def chance(mean: float, count: int) -> float:
    return math.exp(count * math.log(mean) - mean - math.lgamma(count + 1))


@pytest.mark.parametrize("mean", [0.001, 0.02, 0.5, 3, 15.9, 16, 16.1, 40, 369, 5000])
def test_counts_of_errors_are_poisson(mean: float) -> None:
    draws, count = laws.Draws(19), 40_000
    counts = [draws.poisson(mean) for _ in range(count)]
    assert fmean(counts) == pytest.approx(mean, abs=4 * math.sqrt(mean / count))
    assert pvariance(counts) == pytest.approx(mean, abs=4 * math.sqrt((mean + 2 * mean * mean) / count))
    values = range(int(mean - 4 * math.sqrt(mean)), int(mean + 4 * math.sqrt(mean) + 3))
    likely = [value for value in values if value >= 0 and chance(mean, value) * count >= 10]
    square = sum((counts.count(value) - chance(mean, value) * count) ** 2 / chance(mean, value) for value in likely)
    assert square / count < len(likely) + 5 * math.sqrt(2 * len(likely)), "chi squared"


@settings(deadline=None)
@given(st.floats(0, 1e9), st.integers(0, (1 << 64) - 1))
def test_every_mean_and_seed_has_a_count(mean: float, seed: int) -> None:
    assert abs(laws.Draws(seed).poisson(mean) - mean) <= 12 * math.sqrt(mean) + 40


FAILING = PERFECT | {
    "rated_cycles": 1000,
    "slc_rated_cycles": 10_000,
    "program_failures": 1e-4,
    "erase_failures": 1e-3,
    "slc_program_failures": 2e-4,
    "slc_erase_failures": 2e-3,
    "failure_growth": 100,
}


@pytest.mark.parametrize(
    ("slc", "erase", "cycles", "probability"),
    [
        (False, False, 0, 1e-4),
        (False, False, 500, 1e-3),
        (False, False, 1000, 1e-2),
        (False, True, 0, 1e-3),
        (False, True, 1000, 1e-1),
        (False, True, 100_000, 1),
        (True, False, 0, 2e-4),
        (True, False, 10_000, 2e-2),
        (True, True, 5_000, 2e-2),
    ],
)
def test_failures_grow_with_cycles(slc: bool, erase: bool, cycles: float, probability: float) -> None:
    assert laws.failure_probability(FAILING, slc=slc, erase=erase, cycles=cycles) == pytest.approx(probability)
    draws, count = laws.Draws(23), 20_000
    failed = sum(draws.failure(FAILING, slc=slc, erase=erase, cycles=cycles) for _ in range(count))
    assert failed / count == pytest.approx(probability, abs=4 * math.sqrt(probability / count))


# The highest raw bit error rate at which one codeword is lost with probability 1e-9, 1e-12, 1e-15: exact sums, rounded.
CODES = [
    (512, 4, 13, (1.00e-5, 2.51e-6, 6.29e-7)),
    (512, 8, 13, (1.03e-4, 4.68e-5, 2.15e-5)),
    (1024, 24, 14, (6.43e-4, 4.60e-4, 3.35e-4)),
    (1024, 40, 14, (1.53e-3, 1.21e-3, 9.74e-4)),
    (1024, 60, 14, (2.79e-3, 2.33e-3, 1.98e-3)),
    (1024, 72, 14, (3.57e-3, 3.05e-3, 2.63e-3)),
]


def code(data: int, correctable: int, parity: int) -> Physics:
    raw = 8 * data + correctable * parity
    return {"codeword_bytes": data, "correctable_bits": correctable, "raw_codeword_bits": raw}


@pytest.mark.parametrize(("data", "correctable", "parity", "rates"), CODES)
def test_strength_of_codes(data: int, correctable: int, parity: int, rates: tuple[float, ...]) -> None:
    physics = PERFECT | code(data, correctable, parity)
    for lost, expected in zip((1e-9, 1e-12, 1e-15), rates, strict=True):
        found = bisect(lambda rate, lost=lost: laws.codeword_failure_rate(physics, rate) >= lost, 1e-12, 0.4)  # type: ignore[misc]
        assert found == pytest.approx(expected, rel=5e-3)


def test_single_bit_correction_of_slc() -> None:
    assert laws.codeword_failure_rate(PERFECT | code(512, 1, 13), 1e-7) == pytest.approx(8.4e-8, rel=0.02)


@pytest.mark.parametrize(("lost", "cycles"), [(1e-15, 1434), (1e-9, 1930)])
def test_how_long_tlc_lives_with_a_code_of_72_bits(lost: float, cycles: float) -> None:
    physics = load_profile("automotive-tlc-emmc").physics() | code(1024, 72, 14)

    def is_lost(cycles: float) -> bool:
        return laws.codeword_failure_rate(physics, laws.raw_bit_error_rate(physics, cycles=cycles)) >= lost

    assert bisect(is_lost, 1, 1e5) == pytest.approx(cycles, rel=0.01)


@pytest.mark.parametrize("rate", [1e-12, 1e-6, 1e-3, 1e-2, 0.1, 0.5])
def test_a_codeword_fails_as_the_binomial_distribution_says(rate: float) -> None:
    physics = PERFECT | code(16, 3, 9)
    bits = physics["raw_codeword_bits"]
    right = [math.comb(bits, wrong) * rate**wrong * (1 - rate) ** (bits - wrong) for wrong in range(bits + 1)]
    assert laws.codeword_failure_rate(physics, rate) == pytest.approx(math.fsum(right[4:]), rel=1e-9)


def test_without_errors_nothing_is_lost() -> None:
    assert laws.codeword_failure_rate(PERFECT | code(512, 4, 13), 0) == 0
    assert laws.codeword_failure_rate(PERFECT, 0.1) == 0
