"""One rule over time: what its sensor said, and whether its answers are in force.

Nothing happens in here when time passes. What holds at a time is reckoned from what was said before it, so that it does
not matter how often one asks.

Only a reading ends a condition. Silence is no sign that a part has cooled, and one that fails every third time must not
keep a rule from being entered: a sensor that is stale or has failed leaves the condition as it was, and adds its own.
"""

import math

from virtflash.health.rule import Rule


class RuleState:
    """Times are seconds of one clock that never goes back; `start`: from when on the sensor is listened to."""

    def __init__(self, rule: Rule, start: float) -> None:
        self.rule = rule
        self.reading: float | None = None  # the last one
        self.heard = start  # when that was
        self.failed: float | None = None  # since when the sensor says so
        self.began: float | None = None  # since when the condition holds

    def take(self, value: float | None, now: float) -> None:
        """A reading; None, or one that is no number: the sensor failed."""
        if value is None or math.isnan(value):
            self.failed = now if self.failed is None else self.failed
            return
        was_in_force = self.in_force_since(now) is not None
        self.reading, self.heard, self.failed = value, now, None
        if self.rule.is_beyond(value):
            self.began = now if self.began is None else self.began
        elif not was_in_force or self.rule.is_over(value):
            self.began = None

    def in_force_since(self, now: float) -> float | None:
        """Since when the rule's answer holds. None: it does not."""
        return None if self.began is None else reached(self.began + self.rule.delay, now)

    def stale_since(self, now: float) -> float | None:
        """Since when the sensor is stale, or has failed. None: it is neither."""
        silent = reached(self.heard + self.rule.stale, now)
        return min((each for each in (silent, self.failed) if each is not None), default=None)

    def due(self, now: float) -> float | None:
        """When something of that changes next if nothing is heard. None: nothing will."""
        entered = None if self.began is None else self.began + self.rule.delay
        stale = self.heard + self.rule.stale if self.failed is None else None
        return min((each for each in (entered, stale) if each is not None and each > now), default=None)


def reached(time: float, now: float) -> float | None:
    return time if time <= now else None
