"""What happens, for those who watch: log records that carry an `event`, kept for a while and handed to subscribers.

Whoever logs is never held up: a subscriber that does not take its events loses the oldest, and is told how many.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Collection
from typing import Any

import msgspec
from msgspec import Struct

from virtflash.control.operator import EVENTS_KEPT
from virtflash.logs import ROOT

WAITING_MOST = 256  # events that a subscriber has not taken yet

MISSED = "missed"  # the kind of what tells a subscriber that it was too slow


class Event(Struct, frozen=True, kw_only=True):
    """One thing that happened. `time`: Unix time. `volume` None: it is about the server."""

    number: int  # of events, counted from 1 when the server began; 0: it is about what was missed
    time: float
    kind: str
    volume: str | None
    level: str  # debug, info, warning, error
    text: str
    data: dict[str, Any] = {}  # what the kind is told with


class Subscription:
    """Events that somebody waits for. `wake` is called, under a lock and from any thread, when there are some."""

    def __init__(self, wake: Callable[[], None], kinds: Collection[str], volume: str | None) -> None:
        self._wake = wake
        self._kinds = frozenset(kinds)
        self._volume = volume
        self._lock = threading.Lock()
        self._waiting: deque[Event] = deque()
        self._missed = 0

    def offer(self, event: Event) -> None:
        """Never waits for whoever takes."""
        if (self._kinds and event.kind not in self._kinds) or self._volume not in (None, event.volume):
            return
        with self._lock:
            if len(self._waiting) == WAITING_MOST:
                self._waiting.popleft()
                self._missed += 1
            self._waiting.append(event)
            if len(self._waiting) == 1:
                self._wake()

    @property
    def is_waiting(self) -> bool:
        """Whether `take` would return one."""
        return bool(self._waiting)

    def take(self) -> Event | None:
        """The oldest one, if there is one; before it, of what was missed the number."""
        with self._lock:
            if not self._waiting:
                return None
            if self._missed:
                missed, self._missed = self._missed, 0
                return missed_events(missed, self._waiting[0].time)
            return self._waiting.popleft()


class EventLog(logging.Handler):
    """Hears what is logged. Between `attach` and `detach` it is a handler of our root logger."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self._subscriptions: list[Subscription] = []
        self.last = 0  # the number of the newest event

    def attach(self) -> None:
        logging.getLogger(ROOT).addHandler(self)

    def detach(self) -> None:
        logging.getLogger(ROOT).removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Called by `handle`, which holds the handler's lock."""
        told = getattr(record, "event", None)
        if not isinstance(told, dict) or "kind" not in told:
            return
        try:
            event = event_of(record, told, self.last + 1)
        except Exception:  # noqa: BLE001 - as every handler does: whoever logs is not to fail of it
            self.handleError(record)
            return
        self.last = event.number
        self._kept.append(event)
        for subscription in self._subscriptions:
            subscription.offer(event)

    def subscribe(
        self,
        wake: Callable[[], None],
        kinds: Collection[str] = (),
        volume: str | None = None,
        *,
        recent: int = 0,
        since: int | None = None,
    ) -> Subscription:
        """To events of these `kinds` (none: all) of this volume (None: all).

        Of those that are kept, there come first the `recent` newest, of any kind, or those after number `since`.
        """
        subscription = Subscription(wake, kinds, volume)
        assert self.lock is not None
        with self.lock:
            first = self.last - recent if since is None else min(since, self.last - recent)
            for event in self._kept:
                if event.number > first:
                    subscription.offer(event)
            self._subscriptions.append(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        assert self.lock is not None
        with self.lock:
            self._subscriptions.remove(subscription)


def event_of(record: logging.LogRecord, told: dict[str, Any], number: int) -> Event:
    """`told` is copied, in words of JSON: it may change before it is sent."""
    data: dict[str, Any] = msgspec.to_builtins(told, str_keys=True, enc_hook=str)
    return Event(
        number=number,
        time=record.created,
        kind=str(data.pop("kind")),
        volume=getattr(record, "subject", "") or None,
        level=record.levelname.lower(),
        text=record.getMessage(),
        data=data,
    )


def missed_events(count: int, before: float) -> Event:
    return Event(
        number=0,
        time=before,
        kind=MISSED,
        volume=None,
        level="warning",
        text=f"{count} events were missed: they came faster than they were read",
        data={"count": count},
    )
