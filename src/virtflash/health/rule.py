"""A rule as the policy reckons with it: numbers in the units of readings, times in seconds."""

from dataclasses import dataclass, field
from typing import Self

from virtflash.config import configuration
from virtflash.config.measured import PLATFORM, Measure, measure_of, of_sensor
from virtflash.config.sensors import STALE_SECONDS
from virtflash.health.platform_state import PlatformState

ALARM = None  # an answer that is told, and is no state
Answer = PlatformState | None

WRITE_RATE = 10**6  # bytes a second while throttled; assumption: what logs and settings take passes, a download waits
MILLISECONDS = 1000
DAY_SECONDS = 86400


@dataclass(frozen=True, kw_only=True)
class Rule:
    """When some volumes are in another state than normal.

    The condition begins beyond `threshold`, above or below it, and ends at `until`; `answer` is in force once it has
    held for `delay` seconds. `on_stale` is in force while the sensor has failed or given nothing for `stale` seconds.
    `limit`: bytes a second while one of the two throttles. `freeze`: what is accepted and not stable is left so.
    `volumes`: those concerned; none: all of the sensor's flash, or all there are for a sensor of the platform, without
    `spared`.
    """

    sensor: str
    is_above: bool
    threshold: float
    until: float
    answer: Answer
    delay: float = 0.0
    stale: float = STALE_SECONDS
    on_stale: Answer = PlatformState.DURABLE
    freeze: bool = False
    limit: int = WRITE_RATE
    volumes: frozenset[str] = frozenset()
    spared: frozenset[str] = frozenset()
    measure: Measure | None = field(default=None, compare=False)  # of the sensor; None: as its name says

    @classmethod
    def of(cls, written: configuration.Rule, measure: Measure | None = None) -> Self:
        """As a configuration has it, which has been checked. `measure`: of its sensor; None: as the name says."""
        threshold = written.below if written.above is None else written.above
        assert threshold is not None
        measure = measure or measure_of(written.sensor)
        read = measure.read
        return cls(
            sensor=written.sensor,
            is_above=written.above is not None,
            threshold=read(threshold),
            until=read(threshold if written.until is None else written.until),
            answer=answer_of(written.state),
            delay=(written.delay or 0) / MILLISECONDS,
            stale=STALE_SECONDS if written.stale is None else written.stale / MILLISECONDS,
            on_stale=answer_of(written.on_stale or ("alarm" if written.state == "alarm" else "durable")),
            freeze=written.on_enter == "freeze",
            limit=WRITE_RATE if written.limit is None else max(1, written.limit // DAY_SECONDS),
            volumes=frozenset(written.volumes),
            measure=measure,
        )

    @property
    def name(self) -> str:
        return f"{self.sensor} {self.side} {self.show(self.threshold)}"

    @property
    def side(self) -> str:
        return "above" if self.is_above else "below"

    def show(self, value: float) -> str:
        """With its unit."""
        return (self.measure or measure_of(self.sensor)).show(value)

    def is_beyond(self, value: float) -> bool:
        """Here the condition begins."""
        return value > self.threshold if self.is_above else value < self.threshold

    def is_over(self, value: float) -> bool:
        """Here it ends. Between the two it goes on if it has been in force."""
        return value <= self.until if self.is_above else value >= self.until

    def concerns(self, volume: str, flash: str) -> bool:
        if self.volumes:
            return volume in self.volumes
        return of_sensor(self.sensor)[0] in (PLATFORM, flash) and volume not in self.spared


def answer_of(word: str) -> Answer:
    return ALARM if word == "alarm" else PlatformState.of(word)
