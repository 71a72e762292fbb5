"""Time, and waiting for it, as what waits is given it: tests turn a clock by hand."""

import threading
import time
from typing import Protocol


class Clock(Protocol):
    def now(self) -> float:
        """Seconds, from anywhen on; never less than before."""

    def wait(self, condition: threading.Condition, until: float | None) -> None:
        """Until the condition, which is held, is notified, or that moment has come; None: it never does. It may return
        early."""


class SystemClock:
    """The monotonic one."""

    def now(self) -> float:
        return time.monotonic()

    def wait(self, condition: threading.Condition, until: float | None) -> None:
        left = None if until is None else min(max(until - self.now(), 0.0), threading.TIMEOUT_MAX)
        condition.wait(left)
