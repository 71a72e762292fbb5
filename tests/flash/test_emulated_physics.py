"""Bit errors, retention, disturb, wear, failures and time, as a user of a chip meets them."""

import statistics
import time
from typing import Any

import pytest

from virtflash.flash import laws
from virtflash.flash.emulated import FAILED, OK, UNCORRECTABLE, EmulatedFlash
from virtflash.flash.profiles import load_profile, parse_profile

YEAR = 365 * 86400


def chip(profile: Any = "automotive-tlc-emmc", **more: Any) -> EmulatedFlash:
    return EmulatedFlash.in_memory(profile=profile, **({"blocks": 4, "factory_bad_share": 0, "seed": 1} | more))


def changed(name: str, **figures: str) -> Any:
    """A profile of the package with other figures: key -> value, as TOML."""
    text = load_profile(name).text
    for key, value in figures.items():
        lines = [f"{key} = {value}" if line.split("=")[0].strip() == key else line for line in text.splitlines()]
        text = "\n".join(lines)
    return parse_profile(text, "changed")


def mean_corrected(flash: EmulatedFlash, reads: int = 300) -> float:
    return statistics.mean(flash.read_fully(1, 0, 0, 4096)[3] for _ in range(reads))


def expected_corrected(flash: EmulatedFlash, hours: float, cycles: float, reads: float) -> float:
    """From the law itself, for four KiB of page 0 of block 1."""
    profile = load_profile("automotive-tlc-emmc")
    factor = flash.block_table()["factor"][1]
    rate = laws.raw_bit_error_rate(
        profile.physics(), slc=False, cycles=cycles, hours=hours, reads_per_page=reads / 128, factor=factor
    )
    return rate * profile.ecc.raw_codeword_bits * (4096 / profile.ecc.codeword_bytes)


@pytest.mark.parametrize(("days", "celsius"), [(0, 55), (90, 55), (20, 85), (3000, 25)])
@pytest.mark.parametrize("cycles", [0, 1500])
def test_corrected_bits_follow_the_law(days: float, celsius: float, cycles: int) -> None:
    flash = chip()
    for _ in range(cycles):
        flash.erase(1)
    flash.program(1, 0, b"x" * 49152)
    flash.advance(days * 86400, celsius)
    hours = flash.counters()["effective_hours"]
    flash.advance(0, 55)  # read at the temperature that it was programmed at
    expected = expected_corrected(flash, hours, cycles, 150)
    assert mean_corrected(flash) == pytest.approx(expected, rel=0.05)


def test_reads_disturb_until_the_erase() -> None:
    flash = chip()
    flash.program(1, 0, b"x" * 49152)
    fresh = mean_corrected(flash)
    for _ in range(200_000):
        flash.read(1, 127, 0, 0)
    assert mean_corrected(flash) == pytest.approx(expected_corrected(flash, 0, 0, 200_450), rel=0.05)
    assert mean_corrected(flash) > 1.05 * fresh
    flash.erase(1)
    flash.program(1, 0, b"x" * 49152)
    assert mean_corrected(flash) == pytest.approx(fresh, rel=0.05)


def test_wear_shows_at_the_first_read_after_it() -> None:
    flash = chip()
    flash.program(1, 0, b"x" * 49152)
    flash.read(1, 0)
    for _ in range(1500):
        flash.erase(1)
    flash.program(1, 0, b"x" * 49152)
    expected = 12 * expected_corrected(flash, 0, 1500, 1)
    assert flash.read_fully(1, 0)[3] == pytest.approx(expected, rel=0.2)


def test_data_is_right_until_the_ecc_is_beaten_and_then_it_is_said() -> None:
    flash = chip()
    for _ in range(3000):
        flash.erase(1)
    data = bytes(range(256)) * 192
    flash.program(1, 0, data)
    shares = []
    while True:
        status, found, _, corrected, share, _ = flash.read_fully(1, 0)
        if status == UNCORRECTABLE:
            break
        assert (status, found) == (OK, data)
        assert 0 < share <= 100
        assert corrected > 0
        shares.append(share)
        flash.advance(5 * 86400, 55)
        assert len(shares) < 10000
    assert found != data
    assert share > 100
    assert shares[-1] > shares[0]
    assert flash.counters()["uncorrectable"] == 1


def test_heat_is_effective_time() -> None:
    flash = chip()
    profile = load_profile("automotive-tlc-emmc")
    flash.advance(3600, 85)
    flash.advance(7200, 25)
    expected = sum(hours * laws.acceleration(profile.physics(), celsius) for hours, celsius in ((1, 85), (2, 25)))
    counters = flash.counters()
    assert counters["hours"] == pytest.approx(3)
    assert counters["effective_hours"] == pytest.approx(expected)
    assert counters["celsius"] == 25


def test_slc_mode_is_far_better_and_wears_less() -> None:
    flash = chip()
    flash.erase(1, slc=True)
    flash.program(1, 0, b"x" * 16384)
    slc = mean_corrected(flash)
    flash.erase(1)
    flash.program(1, 0, b"x" * 49152)
    assert slc < mean_corrected(flash) / 10


def test_upper_pages_err_more_than_the_lower_ones_they_endanger() -> None:
    profile = load_profile("mlc-emmc")
    flash = chip("mlc-emmc")
    lower, upper = profile.geometry.pairing[3]
    for page in range(upper + 1):
        flash.program(1, page, b"x" * 16384)
    flash.advance(2 * YEAR, 55)
    reads = {page: sum(flash.read_fully(1, page)[3] for _ in range(300)) for page in (lower, upper)}
    expected = profile.errors.upper_factor / profile.errors.lower_factor
    assert reads[upper] / reads[lower] == pytest.approx(expected, rel=0.15)


def test_the_cells_of_slc_nand_hardly_err() -> None:
    flash = chip("slc-nand-256m")
    flash.program(1, 0, b"x" * 2048)
    statuses = [flash.read_fully(1, 0) for _ in range(5000)]
    assert all(read[0] == OK for read in statuses)
    assert sum(read[3] for read in statuses) < 50


def test_failures_come_as_often_as_the_profile_says() -> None:
    profile = changed("slc-nand-256m", grown_bad_share="0.9", growth="1.0", program_share="0.5", cycles="2")
    program, erase = profile.failures.each(2, 64)
    flash = chip(profile, blocks=2000)
    failed = sum(flash.erase(block) == FAILED for block in range(2000))
    assert failed == pytest.approx(2000 * erase, rel=0.2)
    good = [block for block in range(2000) if not flash.block_table()["broken"][block]]
    failed = sum(flash.program(block, 0, b"x") == FAILED for block in good)
    assert failed == pytest.approx(len(good) * program, abs=4 * (len(good) * program) ** 0.5 + 1)
    counters = flash.counters()
    assert counters["failed_programs"] == failed
    assert flash.block_table()["failures"].sum() == counters["failed_programs"] + counters["failed_erases"]


def life(seed: int) -> list[Any]:
    flash = chip("mlc-emmc", seed=seed, factory_bad_share=None)
    found: list[Any] = [flash.block_table().tolist()]
    for round_ in range(3):
        flash.erase(1, slc=bool(round_ % 2))
        for page in range(20):
            flash.program(1, page, bytes([page]) * 16384)
            flash.advance(1000 * 3600, 60)
        found.extend(flash.read_fully(1, page) for page in range(20))
    return [*found, flash.counters()]


def test_the_same_seed_lives_the_same_life() -> None:
    assert life(1) == life(1)
    assert life(1) != life(2)


def test_real_timing() -> None:
    """Each die does one thing after the other; nothing waits in fact."""
    profile = load_profile("automotive-tlc-emmc")
    timing = profile.timing
    flash = chip(timing="real", blocks=2 * timing.dies)
    transfer = timing.transfer_us_per_kib * 1000
    begin = time.monotonic_ns()
    program = flash.program_fully(0, 0, b"x" * 49152)[1]
    end = time.monotonic_ns()
    assert begin <= program - 1000 * timing.program_us - 48 * transfer <= end
    read = flash.read_fully(0, 0, 0, 4096)[5]
    assert read - program == round(1000 * timing.read_us) + round(4 * transfer)
    erase = flash.simple(2, timing.dies)[2]  # on the same die
    assert erase - read == round(1000 * timing.erase_us)
    slc = flash.simple(2, timing.dies, 1)[2]
    assert slc - erase == round(1000 * timing.slc_erase_us)
    fast = flash.program_fully(timing.dies, 0, b"x" * 16384)[1]
    assert fast - slc == round(1000 * timing.slc_program_us) + round(16 * transfer)
    if timing.dies > 1:
        assert flash.read_fully(1, 0, 0, 0)[5] < erase
    assert flash.program_fully(0, 0, b"x")[1] == 0  # misuse takes no time


def test_without_timing_nothing_is_told() -> None:
    flash = chip()
    assert flash.program_fully(0, 0, b"x")[1] == flash.read_fully(0, 0)[5] == 0


def test_perfect_flash_has_no_timing() -> None:
    with pytest.raises(ValueError, match="name a profile"):
        EmulatedFlash.in_memory(timing="real")
