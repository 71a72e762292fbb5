"""A course of values, so that a heat ramp or a brown-out can be had again exactly as it was."""

import csv
import math
from bisect import bisect_right
from collections.abc import Callable, Iterable
from pathlib import Path

from virtflash.health.sensors.emulated import EmulatedSensor
from virtflash.health.sensors.sensor import SensorError

SECONDS_BETWEEN = 0.1
COLUMNS = ["seconds", "sensor", "value"]

Step = tuple[float, str, float]  # seconds since the beginning, the sensor's name, its value


class ScriptError(Exception):
    """It is no script; one line."""


class Script:
    """Values of several sensors at moments, each sensor's in order. Between two of them it changes steadily; two at the
    same moment are a jump; the last one stays. ScriptError."""

    def __init__(self, steps: Iterable[Step]) -> None:
        self._moments: dict[str, list[float]] = {}
        self._values: dict[str, list[float]] = {}
        for seconds, sensor, value in steps:
            moments = self._moments.setdefault(sensor, [])
            if not (math.isfinite(seconds) and math.isfinite(value)) or seconds < (moments[-1] if moments else 0):
                raise ScriptError(f"{seconds:g} s, {sensor}, {value:g}: not numbers in the order of time")
            moments.append(seconds)
            self._values.setdefault(sensor, []).append(value)

    @property
    def sensors(self) -> list[str]:
        return list(self._moments)

    @property
    def seconds(self) -> float:
        """When nothing more changes."""
        return max((moments[-1] for moments in self._moments.values()), default=0.0)

    def value(self, sensor: str, seconds: float) -> float | None:
        """None: nothing is said of it, or not yet."""
        moments, values = self._moments.get(sensor, []), self._values.get(sensor, [])
        behind = bisect_right(moments, seconds)
        if behind == 0:
            return None
        if behind == len(moments):
            return values[-1]
        begin, end = moments[behind - 1], moments[behind]
        return values[behind - 1] + (values[behind] - values[behind - 1]) * (seconds - begin) / (end - begin)


def read_script(path: Path) -> Script:
    """Of a file of comma-separated values, with the columns seconds, sensor and value. ScriptError: one line."""
    try:
        with path.open(newline="") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ScriptError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    if not rows or rows[0] != COLUMNS:
        raise ScriptError(f"{path}:1: the first line is {','.join(COLUMNS)}")
    steps = [step_of(f"{path}:{number}", row) for number, row in enumerate(rows[1:], 2) if row]
    try:
        return Script(steps)
    except ScriptError as error:
        raise ScriptError(f"{path}: {error}") from None


def step_of(where: str, row: list[str]) -> Step:
    try:
        seconds, sensor, value = row
        return float(seconds), sensor, float(value)
    except ValueError:
        raise ScriptError(f"{where}: {','.join(COLUMNS)} are expected, as in 10,emmc0.temperature,85") from None


class Replayed:
    """A sensor of an emulated part that follows a script: at each reading the part first becomes what the script says
    of that moment. `clock`: seconds; the script begins when this is made."""

    def __init__(
        self, sensor: EmulatedSensor, script: Script, clock: Callable[[], float], *, period: float = SECONDS_BETWEEN
    ) -> None:
        self.name, self.unit, self.period = sensor.name, sensor.unit, period
        self._sensor, self._script, self._clock = sensor, script, clock
        self._begin = clock()

    def read(self) -> float:
        value = self._script.value(self.name, self._clock() - self._begin)
        if value is not None:
            self._sensor.become(value)
        return self._sensor.read()


def replayed(
    sensors: Iterable[EmulatedSensor], script: Script, clock: Callable[[], float], *, period: float = SECONDS_BETWEEN
) -> list[EmulatedSensor | Replayed]:
    """Those of which the script says something follow it. SensorError: it names one that is not there."""
    by_name = {sensor.name: sensor for sensor in sensors}
    for name in script.sensors:
        if name not in by_name:
            raise SensorError(f"{name}: the script names it, and it is not there; there are: {', '.join(by_name)}")
    followed = set(script.sensors)
    return [
        Replayed(sensor, script, clock, period=period) if name in followed else sensor
        for name, sensor in by_name.items()
    ]
