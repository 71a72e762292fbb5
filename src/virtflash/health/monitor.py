"""Samples sensors, tells a policy of every reading, and carries out what the policy says as soon as it says otherwise.

A thread for each sensor, and one that judges: no sensor waits for another, and judging waits for none. Guests wait for
nothing of this.
"""

import logging
import math
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from virtflash.health.clock import Clock, SystemClock
from virtflash.health.sampler import Answer, Sampler
from virtflash.health.sensors.sensor import Sensor
from virtflash.logs import Log

DEADLINE = 2.0  # seconds, in which a sensor answers
SHORTEST_PAUSE = 0.01  # seconds between two judgements, whatever the policy asks for
LAST_ANSWERS = 0.5  # seconds that are waited at the end, for all sensors together
LINES_AT_ONCE = 10  # about one sensor

V = TypeVar("V")
V_co = TypeVar("V_co", covariant=True)


class Policy(Protocol[V_co]):
    """What readings come to. One thread calls it; moments are of the monitor's clock, and never run back."""

    def take(self, sensor: str, value: float | None, now: float) -> None:
        """A reading; None: the sensor failed."""

    def verdicts(self, now: float) -> Mapping[str, V_co]:
        """By volume."""

    def due(self, now: float) -> float | None:
        """The moment at which verdicts may change without a reading; None: they do not."""


@dataclass(frozen=True)
class Reading:
    """The newest of a sensor. `value`: None: it failed, and `problem` says why, in a line. `at`: by the monitor's
    clock."""

    value: float | None
    unit: str
    at: float
    problem: str | None = None


class Monitor(Generic[V]):
    """`apply` is called on the thread that judges, with all verdicts, each time that one of them has changed, and once
    at the start. Where it raises OSError that is logged, and it is called again with the next reading."""

    def __init__(
        self,
        sensors: Iterable[Sensor],
        policy: Policy[V],
        apply: Callable[[dict[str, V]], None],
        clock: Clock | None = None,
        *,
        deadline: float = DEADLINE,
        log: Log | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._policy, self._apply, self._deadline = policy, apply, deadline
        self._log = log or Log("health")
        self._samplers = {sensor.name: Sampler(sensor, self._answered, self._clock) for sensor in sensors}
        self._changed = threading.Condition()  # guards what follows
        self._stopping = False
        self._forgotten = False  # what was applied
        self._arrived: list[tuple[Answer, float]] = []
        self._answer_due: dict[str, float] = {}  # infinity: it was told that it hangs, and has not come back
        self._readings: dict[str, Reading] = {}
        self._judge_at = math.inf  # for the policy's sake; only the judging thread uses this and what follows
        self._applied: dict[str, V] | None = None
        self._failing: set[str] = set()
        self._moment = -math.inf  # the last that the policy was told
        self._thread = threading.Thread(target=self._keep_judging, name="vf-health", daemon=True)

    def start(self) -> None:
        due = self._clock.now() + self._deadline
        self._answer_due = dict.fromkeys(self._samplers, due)
        for sampler in self._samplers.values():
            sampler.start()
        self._thread.start()

    def stop(self) -> list[str]:
        """Nothing is judged and applied any more. Returns the sensors that hang: what they measure must not go away.

        Quick, unless `apply` takes its time. Also of one that was never started.
        """
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for sampler in self._samplers.values():
            sampler.stop()
        if self._thread.ident is not None:
            self._thread.join()
        end = SystemClock().now() + LAST_ANSWERS
        return [
            name for name, sampler in self._samplers.items() if not sampler.ended(max(end - SystemClock().now(), 0.0))
        ]

    @property
    def judges(self) -> bool:
        """From `start` to `stop`, unless policy or `apply` raised what they must not: then nothing guards the flash."""
        return self._thread.is_alive()

    def wake(self, name: str) -> None:
        """Something is known of this sensor: it is asked at once. Any thread may say so, of any name."""
        sampler = self._samplers.get(name)
        if sampler is None:
            return
        with self._changed:
            if self._answer_due.get(name, math.inf) < math.inf:
                self._answer_due[name] = min(self._answer_due[name], self._clock.now() + self._deadline)
                self._changed.notify_all()
        sampler.wake()

    def judge_again(self) -> None:
        """The policy has changed, or somebody else has applied something: what it says is applied once more, whatever
        was applied before. Any thread may say so."""
        with self._changed:
            self._forgotten = True
            self._changed.notify_all()

    def readings(self) -> dict[str, Reading]:
        """By sensor; what has not answered yet, and not been late either, is not among them. Any thread may ask."""
        with self._changed:
            return dict(self._readings)

    def _answered(self, answer: Answer) -> None:
        """On a sampler's thread. What comes too late is not taken: nobody knows when it was measured. It is asked for
        again, at once."""
        with self._changed:
            now, due = self._clock.now(), self._answer_due[answer.name]
            if now < due < math.inf:
                self._note(answer, now)
                self._answer_due[answer.name] = answer.next + self._deadline
                return
            if due < math.inf:
                self._note_late(answer.name, now)
            self._answer_due[answer.name] = now + self._deadline
            self._changed.notify_all()
        self._samplers[answer.name].wake()

    def _note_late(self, name: str, now: float) -> None:
        self._note(Answer(name, None, f"no answer within {self._deadline:g} s", math.inf), now)
        self._answer_due[name] = math.inf

    def _note(self, answer: Answer, now: float) -> None:
        unit = self._samplers[answer.name].sensor.unit
        self._readings[answer.name] = Reading(answer.value, unit, now, answer.problem)
        self._arrived.append((answer, now))
        self._changed.notify_all()

    def _keep_judging(self) -> None:
        self._judge([])
        while (arrived := self._await_something()) is not None:
            self._judge(arrived)

    def _await_something(self) -> list[tuple[Answer, float]] | None:
        """None: the end."""
        with self._changed:
            while not self._stopping:
                now = self._clock.now()
                for name in [name for name, due in self._answer_due.items() if due <= now]:
                    self._note_late(name, now)
                if self._arrived or self._forgotten or self._judge_at <= now:
                    self._applied = None if self._forgotten else self._applied
                    self._forgotten = False
                    arrived, self._arrived = self._arrived, []
                    return arrived
                self._clock.wait(self._changed, self._next_moment())
        return None

    def _next_moment(self) -> float | None:
        moment = min(self._judge_at, *self._answer_due.values(), math.inf)
        return None if moment == math.inf else moment

    def _judge(self, arrived: list[tuple[Answer, float]]) -> None:
        for answer, at in arrived:
            self._tell(answer)
            self._moment = max(self._moment, at)
            self._policy.take(answer.name, answer.value, self._moment)
        self._moment = now = self._clock.now()
        self._carry_out(dict(self._policy.verdicts(now)))
        due = self._policy.due(now)
        self._judge_at = math.inf if due is None else max(due, now + SHORTEST_PAUSE)

    def _tell(self, answer: Answer) -> None:
        """Only what is new."""
        failed = answer.problem is not None
        if failed == (answer.name in self._failing):
            return
        if failed:
            self._failing.add(answer.name)
            text = f"{answer.name} cannot be read: {answer.problem}"
        else:
            self._failing.remove(answer.name)
            text = f"{answer.name} can be read again"
        level = logging.WARNING if failed else logging.INFO
        self._log.limited(answer.name, text, level=level, burst=LINES_AT_ONCE)

    def _carry_out(self, verdicts: dict[str, V]) -> None:
        if verdicts == self._applied:
            return
        try:
            self._apply(verdicts)
        except OSError as error:
            self._log.limited("apply", f"what the platform's state asks for failed: {error.strerror or error}")
            return
        self._applied = verdicts
