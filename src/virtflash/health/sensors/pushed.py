"""What the platform itself measures, and pushes: good for a time that it names, and then not any more."""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from virtflash.health.sensors.sensor import SECONDS_BETWEEN, SensorError

LEAST_PERIOD = 0.01  # seconds


@dataclass(frozen=True)
class Value:
    """`until`: when it is no good any more."""

    value: float
    until: float


class PushedSensor:
    """The newest value of one name. It is read when one comes, and when the newest one runs out."""

    def __init__(self, name: str, unit: str, clock: Callable[[], float], period: float) -> None:
        self.name, self.unit = name, unit
        self._clock, self._period = clock, period
        self._newest: Value | None = None

    @property
    def period(self) -> float:
        newest, now = self._newest, self._clock()
        if newest is None or newest.until <= now:
            return self._period
        return min(self._period, max(newest.until - now, LEAST_PERIOD))

    def read(self) -> float:
        newest = self._newest
        if newest is None:
            raise SensorError(f"{self.name}: nothing has been pushed yet")
        past = self._clock() - newest.until
        if past >= 0:
            raise SensorError(f"{self.name}: what was pushed last has been stale for {past:.1f} s; push it again")
        return newest.value

    def take(self, value: Value) -> None:
        self._newest = value


class Pushed:
    """All that can be pushed. `clock`: seconds. `on_push` is told each name that was: the monitor's `wake`. Any thread
    may push."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.on_push: Callable[[str], None] | None = None
        self._clock = clock
        self._sensors: dict[str, PushedSensor] = {}
        self._lock = threading.Lock()

    def sensor(self, name: str, unit: str = "", *, period: float = SECONDS_BETWEEN) -> PushedSensor:
        """What is pushed under a name; from now on it can be."""
        with self._lock:
            if name not in self._sensors:
                self._sensors[name] = PushedSensor(name, unit, self._clock, period)
            return self._sensors[name]

    def push(self, name: str, value: float, ttl: float) -> None:
        """A new value, good for `ttl` seconds. SensorError: no such name, or no such value; one line."""
        with self._lock:
            sensor = self._sensors.get(name)
            if sensor is None:
                there = ", ".join(sorted(self._sensors)) or "none"
                raise SensorError(f"{name}: nobody waits for it; what can be pushed: {there}")
            if not math.isfinite(value):
                raise SensorError(f"{name}: {value} is no reading; push a number")
            if not (math.isfinite(ttl) and ttl > 0):
                raise SensorError(f"{name}: it would be stale at once; push it with a time to live, in seconds")
            sensor.take(Value(float(value), self._clock() + ttl))
        if self.on_push is not None:
            self.on_push(name)
