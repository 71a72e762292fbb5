"""What is noted of events that come in floods: of each kind and volume some at once, then few, and the last one always.

One that is left out waits as the last of its kind; the next of them takes its place. When another may be noted it is,
with the number of those that were left out before it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from virtflash.volumes.event_log import EventRecord

AT_ONCE = 10
SECONDS_EACH = 600.0  # 144 a day
REMEMBERED = 512  # kinds of volumes; who makes and deletes volumes without end shall not fill the memory


@dataclass
class Tap:
    """Of one kind and name. `left`: that may be noted, at the time `at` (seconds, monotonic)."""

    left: float
    at: float
    last: EventRecord | None = None
    left_out: int = 0  # before `last`

    def fill(self, now: float) -> None:
        self.left = min(self.left + (now - self.at) / SECONDS_EACH, AT_ONCE)
        self.at = now

    def hold(self, record: EventRecord) -> None:
        self.left_out += self.last is not None
        self.last = record

    def let_go(self) -> EventRecord:
        """The one that waits."""
        assert self.last is not None
        record = replace(self.last, left_out=self.left_out)
        self.last, self.left_out, self.left = None, 0, max(self.left - 1, 0)
        return record

    @property
    def idle(self) -> bool:
        return self.last is None and self.left >= AT_ONCE


class EventThinning:
    """`monotonic`: seconds. One thread at a time."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._taps: dict[tuple[str, str], Tap] = {}

    def take(self, record: EventRecord) -> EventRecord | None:
        """It may be noted; or it is held."""
        tap = self._tap(record)
        if tap.last is None and tap.left >= 1:
            tap.left -= 1
            return record
        tap.hold(record)
        return None

    def hold(self, record: EventRecord) -> None:
        """It is held, whatever may be noted: there is no room for it."""
        self._tap(record).hold(record)

    def due(self) -> list[EventRecord]:
        """Those that were held and may be noted now."""
        return [tap.let_go() for tap in self._holding() if tap.left >= 1]

    def rest(self) -> list[EventRecord]:
        """All that are held, whatever may be noted: nothing follows."""
        return [tap.let_go() for tap in self._holding()]

    def seconds_to_wait(self) -> float | None:
        """Until one is due. None: none is held."""
        return min((max(1 - tap.left, 0) * SECONDS_EACH for tap in self._holding()), default=None)

    def _holding(self) -> Iterator[Tap]:
        for tap in self._taps.values():
            if tap.last is not None:
                tap.fill(self._monotonic())
                yield tap

    def _tap(self, record: EventRecord) -> Tap:
        now, key = self._monotonic(), (record.kind, record.name)
        if key not in self._taps and len(self._taps) >= REMEMBERED:
            self._forget(now)
        tap = self._taps.setdefault(key, Tap(AT_ONCE, now))
        tap.fill(now)
        return tap

    def _forget(self, now: float) -> None:
        """Those that have nothing to say; where there are none, the one that was asked for longest ago."""
        for tap in self._taps.values():
            tap.fill(now)
        self._taps = {key: tap for key, tap in self._taps.items() if not tap.idle}
        if len(self._taps) >= REMEMBERED:
            self._taps.pop(next(iter(self._taps)))
