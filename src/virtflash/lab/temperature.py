"""The temperature of a part over the day and the year: an hourly table, repeated for as long as it takes.

Presets are assumptions about where cars stand, not measurements; docs/flash.md says what they come to.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from virtflash.lab.errors import LabError
from virtflash.lab.tables import read_csv, read_number, read_toml, refuse_unknown

DAY_HOURS, YEAR_HOURS = 24, 8760  # a year of 365 days, so that days and years fit
WARMEST_HOUR, SUNRISE, SUNSET = 15, 6, 18
WARMEST_DAY = 200  # of the year, in July
COLDEST, HOTTEST = -55.0, 175.0  # degrees Celsius, what `virtflash serve` takes
CLIMATE_KEYS = ("mean_celsius", "season_kelvin", "day_kelvin", "sun_kelvin", "use_hours", "use_kelvin")
CSV_COLUMNS = ("hour", "celsius")


@dataclass(frozen=True)
class TemperatureProfile:
    """By hour, from the first of January at midnight; behind the last it begins again."""

    name: str
    celsius: tuple[float, ...]

    def at(self, hour: int) -> float:
        return self.celsius[hour % len(self.celsius)]


@dataclass(frozen=True)
class Climate:
    """Where a car stands, and what its use adds. The part has the temperature of the air around it, and:

    sun_kelvin: what the sun adds at noon in summer while the car is parked, half of it in winter. use_hours: of each
    day, when the car is used; use_kelvin: what the electronics add then.
    """

    mean_celsius: float
    season_kelvin: float = 0.0  # summer is so much warmer than the mean, and winter colder
    day_kelvin: float = 0.0  # as much for afternoon and night
    sun_kelvin: float = 0.0
    use_hours: tuple[int, ...] = ()
    use_kelvin: float = 0.0

    def celsius(self, day: int, hour: int) -> float:
        summer = math.cos(2 * math.pi * (day - WARMEST_DAY) / 365)  # 1 in summer, -1 in winter
        air = self.mean_celsius + self.season_kelvin * summer
        air += self.day_kelvin * math.cos(2 * math.pi * (hour - WARMEST_HOUR) / DAY_HOURS)
        if hour in self.use_hours:
            return air + self.use_kelvin
        height = math.sin(math.pi * (hour - SUNRISE) / (SUNSET - SUNRISE)) if SUNRISE < hour < SUNSET else 0.0
        return air + self.sun_kelvin * height * (3 + summer) / 4


PRESETS = {
    # Assumption: a hot desert town; the part behind a dashboard in the sun, and as warm again as it works.
    "parked-outdoors-hot": Climate(24, season_kelvin=10, day_kelvin=7, sun_kelvin=35, use_hours=(7, 17), use_kelvin=25),
    # Assumption: a temperate town, an unheated garage.
    "garage": Climate(12, season_kelvin=7, day_kelvin=2, use_hours=(7, 17), use_kelvin=30),
}
CONSTANT = "constant:"


def load_temperature(text: str) -> TemperatureProfile:
    """A preset by its name, "constant:CELSIUS", or a file: .toml, or rows of hour,celsius. LabError."""
    if text.startswith(CONSTANT):
        return TemperatureProfile(text, (read_celsius("--temperature", text.removeprefix(CONSTANT)),))
    if text in PRESETS:
        return of_climate(text, PRESETS[text])
    path = Path(text)
    if path.suffix == ".toml":
        return of_climate(text, read_climate(path))
    if not path.exists() and "/" not in text and "." not in text:
        known = ", ".join([*PRESETS, f"{CONSTANT}85"])
        raise LabError(f"there is no temperature profile {text!r}: name {known}, or a file")
    return TemperatureProfile(text, read_hours(path))


def of_climate(name: str, climate: Climate) -> TemperatureProfile:
    hours = range(YEAR_HOURS)
    return TemperatureProfile(name, tuple(climate.celsius(hour // DAY_HOURS, hour % DAY_HOURS) for hour in hours))


def read_celsius(where: str, value: object) -> float:
    return read_number(where, "celsius", value, COLDEST, HOTTEST)


def read_climate(path: Path) -> Climate:
    table = read_toml(path)
    refuse_unknown(path, table, CLIMATE_KEYS)
    if "mean_celsius" not in table:
        raise LabError(f"{path}: mean_celsius is missing: add it")
    numbers = {
        key: read_number(str(path), key, table[key], -200, 200)
        for key in CLIMATE_KEYS
        if key in table and key != "use_hours"
    }
    hours = table.get("use_hours", [])
    if not isinstance(hours, list) or any(type(hour) is not int or not 0 <= hour < DAY_HOURS for hour in hours):
        raise LabError(f"{path}: use_hours: write a list of hours of the day, like [7, 17]")
    climate = Climate(**numbers, use_hours=tuple(hours))
    for celsius in of_climate(str(path), climate).celsius:
        read_celsius(str(path), celsius)
    return climate


def read_hours(path: Path) -> tuple[float, ...]:
    """Rows of hour,celsius, of a day or of a year; what lies between two rows lies between their temperatures."""
    rows: list[tuple[float, float]] = []
    for where, (hour, celsius) in read_csv(path, CSV_COLUMNS):
        rows.append((read_number(where, "hour", hour, 0, YEAR_HOURS), read_celsius(where, celsius)))
        if len(rows) > 1 and rows[-1][0] <= rows[-2][0]:
            raise LabError(f"{where}: hour {hour} is not behind the one before it")
    if not rows:
        raise LabError(f"{path}: no rows of {','.join(CSV_COLUMNS)} in it")
    return interpolated(rows, DAY_HOURS if rows[-1][0] <= DAY_HOURS else YEAR_HOURS)


def interpolated(rows: list[tuple[float, float]], period: int) -> tuple[float, ...]:
    """A value for each hour, on straight lines between the rows, the last of which leads to the first."""
    import numpy  # noqa: PLC0415

    hours, celsius = zip(*rows, strict=True)
    values = numpy.interp(numpy.arange(period), hours, celsius, period=period)
    return tuple(float(value) for value in values)
