"""Sensors and policies that a test holds in its hands."""

import threading
from collections.abc import Callable, Mapping

WAIT = 10.0  # seconds, that a test waits at most


class HeldSensor:
    """Answers only when it is let go, once for each time."""

    unit = "degC"

    def __init__(self, name: str = "held", period: float = 1.0) -> None:
        self.name, self.period = name, period
        self.value = 1.0
        self.asked = threading.Semaphore(0)
        self.let_go = threading.Semaphore(0)
        self.times = 0

    def read(self) -> float:
        self.times += 1
        self.asked.release()
        self.let_go.acquire()
        return self.value


class ListedSensor:
    """Answers with one value after the other, the last of them for ever; exceptions are raised."""

    unit = "degC"

    def __init__(self, *answers: float | Exception, name: str = "listed", period: float = 1.0) -> None:
        self.name, self.period = name, period
        self._answers = list(answers)
        self.times = 0

    def read(self) -> float:
        self.times += 1
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


class WatchedPolicy:
    """Notes what it is told. `judge`: of the newest value of each sensor, the verdicts."""

    def __init__(self, judge: Callable[[Mapping[str, float | None]], dict[str, str]] | None = None) -> None:
        self._judge = judge or (lambda newest: {"volume": "bad" if None in newest.values() else "good"})
        self.taken: list[tuple[str, float | None, float]] = []
        self.judged: list[float] = []
        self.applied: list[dict[str, str]] = []
        self.due_at: Callable[[float], float | None] = lambda _now: None
        self._newest: dict[str, float | None] = {}
        self._news = threading.Condition()

    def take(self, sensor: str, value: float | None, now: float) -> None:
        with self._news:
            self.taken.append((sensor, value, now))
            self._newest[sensor] = value
            self._news.notify_all()

    def verdicts(self, now: float) -> dict[str, str]:
        with self._news:
            self.judged.append(now)
            self._news.notify_all()
            return self._judge(self._newest)

    def due(self, now: float) -> float | None:
        return self.due_at(now)

    def apply(self, verdicts: dict[str, str]) -> None:
        with self._news:
            self.applied.append(verdicts)
            self._news.notify_all()

    def values(self, sensor: str) -> list[float | None]:
        return [value for name, value, _ in self.taken if name == sensor]

    def until(self, reached: Callable[[], object]) -> None:
        with self._news:
            assert self._news.wait_for(reached, WAIT), (self.taken, self.applied)

    def until_taken(self, sensor: str, count: int) -> None:
        self.until(lambda: len(self.values(sensor)) >= count)

    def until_applied(self, count: int) -> None:
        self.until(lambda: len(self.applied) >= count)
