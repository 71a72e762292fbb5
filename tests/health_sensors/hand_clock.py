"""A clock that is turned by hand, and waits that it ends: no test waits for time to pass."""

import threading


class HandClock:
    """As `virtflash.health.clock.Clock`."""

    def __init__(self, now: float = 1000.0) -> None:
        self._now = now
        self._conditions: set[threading.Condition] = set()
        self._lock = threading.Lock()

    def now(self) -> float:
        return self._now

    def wait(self, condition: threading.Condition, until: float | None) -> None:
        with self._lock:
            self._conditions.add(condition)  # who turns the clock from here on finds it
        if until is None or until > self._now:
            condition.wait()

    def turn(self, seconds: float) -> None:
        self._now += seconds
        with self._lock:
            conditions = list(self._conditions)
        for condition in conditions:
            with condition:
                condition.notify_all()
