"""Reads one sensor over and over, on a thread of its own: a read that hangs keeps that thread, and nothing else."""

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass

from virtflash.health.clock import Clock
from virtflash.health.sensors.sensor import Sensor, SensorError


@dataclass(frozen=True)
class Answer:
    """Of a sensor. `value`: None where there is none, and then `problem` says why. `next`: when it is asked again."""

    name: str
    value: float | None
    problem: str | None
    next: float


class Sampler:
    """Asks at once, then each period of the sensor, and whenever it is woken. `answered` is called on its thread."""

    def __init__(self, sensor: Sensor, answered: Callable[[Answer], None], clock: Clock) -> None:
        self.sensor = sensor
        self._answered, self._clock = answered, clock
        self._turn = threading.Condition()
        self._wanted = True
        self._stopping = False
        self._next = 0.0
        # A daemon: nothing can end a read that hangs, and it shall not keep the process.
        self._thread = threading.Thread(target=self._sample, name="vf-sensor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Ask as soon as it has answered what it was asked."""
        with self._turn:
            self._wanted = True
            self._turn.notify_all()

    def stop(self) -> None:
        """It is not asked again. Returns at once."""
        with self._turn:
            self._stopping = True
            self._turn.notify_all()

    def ended(self, seconds: float) -> bool:
        """Within that time; after `stop`. False: its sensor hangs."""
        if self._thread.ident is not None:
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def _sample(self) -> None:
        while self._take_turn():
            asked = self._clock.now()
            value, problem = self._read()
            self._next = self._next_turn(asked)
            self._answered(Answer(self.sensor.name, value, problem, self._next))

    def _take_turn(self) -> bool:
        """False: there is none any more."""
        with self._turn:
            while not (self._stopping or self._wanted or self._clock.now() >= self._next):
                self._clock.wait(self._turn, self._next)
            self._wanted = False
            return not self._stopping

    def _read(self) -> tuple[float | None, str | None]:
        """Any other exception is a mistake in the sensor, and ends this thread: it is told as a sensor that hangs."""
        try:
            value = self.sensor.read()
        except SensorError as error:
            return None, str(error)
        except OSError as error:
            return None, error.strerror or str(error)
        return (value, None) if math.isfinite(value) else (None, f"{value} is no reading")

    def _next_turn(self, asked: float) -> float:
        """One that takes longer than its period has a pause of a period."""
        period, now = self.sensor.period, self._clock.now()
        return asked + period if asked + period > now else now + period
