"""Temperature over the day and the year, and what it makes of time."""

from pathlib import Path

import pytest

from virtflash.flash.emulated import EmulatedFlash
from virtflash.flash.laws import acceleration
from virtflash.flash.profiles import load_profile
from virtflash.lab.errors import LabError
from virtflash.lab.passing_time import PassingTime
from virtflash.lab.temperature import PRESETS, YEAR_HOURS, Climate, TemperatureProfile, load_temperature


def test_a_constant_is_the_same_at_all_times() -> None:
    profile = load_temperature("constant:85")
    assert {profile.at(hour) for hour in (0, 1, 5000, 10**6)} == {85.0}


@pytest.mark.parametrize(
    ("rows", "hours", "expected"),
    [
        ("0,10\n12,34", [0, 6, 12, 18, 24, 30], [10, 22, 34, 22, 10, 22]),  # of a day: the last row leads to the first
        ("hour,celsius\n# night\n0,10\n\n12, 34\n", [6, 18], [22, 22]),
        ("0,0\n4380,50", [0, 2190, 4380, 6570, 8760], [0, 25, 50, 25, 0]),  # of a year
        ("0,20", [0, 17], [20, 20]),
    ],
)
def test_rows_are_hours_and_lines_between_them(
    tmp_path: Path, rows: str, hours: list[int], expected: list[float]
) -> None:
    path = tmp_path / "heat.csv"
    path.write_text(rows)
    profile = load_temperature(str(path))
    assert [profile.at(hour) for hour in hours] == pytest.approx(expected)


def test_a_climate_has_seasons_days_sun_and_use() -> None:
    climate = Climate(20, season_kelvin=10, day_kelvin=5, sun_kelvin=30, use_hours=(8,), use_kelvin=40)
    assert climate.celsius(200, 15) - climate.celsius(200 - 182, 15) > 20  # summer, winter
    assert climate.celsius(200, 12) > climate.celsius(200, 0) + 30  # the sun
    assert climate.celsius(200, 8) == pytest.approx(climate.celsius(200, 22) + 40, abs=10)  # it runs, in no sun
    assert climate.celsius(200, 3) == pytest.approx(20 + 10 - 5)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_of_this_world(name: str) -> None:
    profile = load_temperature(name)
    assert len(profile.celsius) == YEAR_HOURS
    assert -20 < min(profile.celsius) < max(profile.celsius) < 95


def test_a_climate_of_the_users(tmp_path: Path) -> None:
    path = tmp_path / "here.toml"
    path.write_text("mean_celsius = 30\nuse_hours = [9]\nuse_kelvin = 12.5\n")
    assert [load_temperature(str(path)).at(hour) for hour in (8, 9)] == [30, 42.5]


REFUSED = {
    "constant:hot": "no number",
    "constant:500": "from -55 to 175",
    "antarctica": "parked-outdoors-hot",
    "no/such/file": "No such file",
    "rows: 0,10\n5": "line 2",
    "rows: 0,10\n0,20": "line 2",
    "rows: 0,warm": "line 1",
    "rows: 9000,20": "hour",
    "rows: # nothing": "no rows",
    "toml: mean = 5": "there is no such key",
    "toml: season_kelvin = 5": "mean_celsius",
    "toml: mean_celsius = 'x'": "mean_celsius",
    "toml: mean_celsius = 20\nuse_hours = [24]": "use_hours",
    "toml: mean_celsius = 150\nday_kelvin = 30": "175",
    "toml: mean_celsius = ": "not TOML",
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_temperature_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    name = case
    if case[:5] in ("rows:", "toml:"):
        path = tmp_path / ("heat.csv" if case.startswith("rows") else "heat.toml")
        path.write_text(case[6:])
        name = str(path)
    with pytest.raises(LabError) as refused:
        load_temperature(name)
    assert REFUSED[case] in str(refused.value)
    assert "\n" not in str(refused.value)


def test_time_counts_as_each_hours_heat_makes_it_count() -> None:
    part = load_profile("automotive-tlc-emmc")
    chip = EmulatedFlash.in_memory(profile=part, blocks=4)
    profile = TemperatureProfile("steps", (20.0, 85.0, 55.0))
    passing = PassingTime(chip, profile)
    for hours in (0.25, 1.5, 1.75, 7.0):  # in pieces that are no whole hours
        passing.until(hours)
    factors = [acceleration(part.physics(), celsius) for celsius in profile.celsius]
    expected = 3 * factors[0] + 2 * factors[1] + 2 * factors[2]
    counted = chip.counters()
    assert counted["hours"] == pytest.approx(7)
    assert counted["effective_hours"] == pytest.approx(expected)
    assert passing.degree_hours == pytest.approx(3 * 20 + 2 * 85 + 2 * 55)
    assert (passing.least, passing.most) == (20, 85)
    chip.close()
