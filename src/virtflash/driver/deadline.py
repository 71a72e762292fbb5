"""A moment by which something must have happened."""

import select
import time
from collections.abc import Mapping

from virtflash.driver.errors import DeadlineError

DEFAULT_SECONDS = 10.0


class Deadline:
    """Starts to run when it is made. `seconds` from then."""

    def __init__(self, seconds: float = DEFAULT_SECONDS) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds, never below 0."""
        return max(0.0, self._end - time.monotonic())

    def wait(self, events: Mapping[int, int], what: str) -> dict[int, int]:
        """Wait until a descriptor is ready. `events`: poll mask by descriptor; so is the answer, which is never empty.

        DeadlineError: none became ready in time; `what` says what was waited for.
        """
        poll = select.poll()
        for descriptor, mask in events.items():
            poll.register(descriptor, mask)
        # poll() takes whole milliseconds and would return early where the rest is rounded down.
        ready = dict(poll.poll(int(self.left * 1000) + 1))
        if not ready:
            raise DeadlineError(f"{what}: nothing happened for {self.seconds:g} s")
        return ready
