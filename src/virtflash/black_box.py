"""Who writes the black box of a flash while it is served: what its volumes and it went through, on the flash itself.

A thread. Whoever causes an event only leaves it there; the thread gathers for a moment, then writes all that waits, and
brings the host's disk up with it. What comes in floods is thinned (`event_thinning`), and the log itself limits what is
written of it (`volumes/event_log.py`), so that neither a guest nor a restart without end wears the flash.

While the flash may not be written (`frozen`) events wait in memory, bounded, and are written when it may be again.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import islice

from virtflash import __version__
from virtflash.event_thinning import EventThinning
from virtflash.logs import ROOT, Log
from virtflash.volumes.budget_ledger import Ledgered
from virtflash.volumes.errors import VolumeError
from virtflash.volumes.event_log import LEVELS, EventLog, EventRecord

KINDS = frozenset({"io-error", "sync-failed", "budget-spent", "budget-restored"})
KIND_BEGINNINGS = ("health-", "state-", "sensor-", "power-", "refresh-")
STARTED, STOPPED = "server-started", "server-stopped"
GATHER_SECONDS = 0.25  # from the first event that waits to the write
RETRY_SECONDS = 30.0  # after a write that failed
WAITING_MOST = 256  # events; of more, the last of each kind
RECORDS_AT_ONCE = 128  # more than a unit has room for
RESERVE = 8  # writes that are kept for the end of the server, and for what cannot wait


def belongs(kind: str, level: str) -> bool:
    """Is it for the black box?"""
    return kind in KINDS or kind.startswith(KIND_BEGINNINGS) or level == "error"


class Listener(logging.Handler):
    """Hears what is logged, as the control socket's `EventLog` does, and keeps the moment of it."""

    def __init__(self, hear: Callable[[EventRecord], None]) -> None:
        super().__init__()
        self._hear = hear

    def emit(self, record: logging.LogRecord) -> None:
        told = getattr(record, "event", None)
        if not isinstance(told, dict) or "kind" not in told:
            return
        level = record.levelname.lower() if record.levelname.lower() in LEVELS else "error"
        if not belongs(str(told["kind"]), level):
            return
        try:
            words = record.getMessage()
        except Exception:  # noqa: BLE001 - as every handler does: whoever logs is not to fail of it
            self.handleError(record)
            return
        self._hear(
            EventRecord(
                kind=str(told["kind"]),
                name=str(getattr(record, "subject", "")),
                words=words,
                monotonic_ns=time.monotonic_ns(),
                time_ns=int(record.created * 1e9),
                level=level,
            )
        )


class BlackBox:
    """Of the flash `name`. `concerns`: whether it has to do with a volume or flash of a name.

    Use: `start`, while the flash has its owner; `stop`, while it still has.
    """

    def __init__(
        self,
        name: str,
        flash: Ledgered,
        log: Log,
        concerns: Callable[[str], bool],
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._flash, self._log, self._concerns, self._monotonic = flash, log, concerns, monotonic
        self._changed = threading.Condition()
        self._thinning = EventThinning(monotonic)
        self._waiting: deque[EventRecord] = deque()
        self._since = self._retry_at = 0.0
        self._noted = self._settled = 0  # events that were let into the queue, and that have left it
        self._frozen = self._stopping = self._hurry = False
        self._listener = Listener(self._hear)
        self._thread: threading.Thread | None = None

    # For who has it

    def start(self, granule_sectors: int, story: str) -> None:
        """From now on. `story`: how the flash was found."""
        try:
            ring = EventLog(self._flash, granule_sectors, monotonic=self._monotonic)
        except VolumeError as error:
            self._log.warning("no log of events is kept on it: %s", error)
            return
        self.note(STARTED, f"virtflash {__version__}; {story}")
        logging.getLogger(ROOT).addHandler(self._listener)
        self._thread = threading.Thread(target=self._keep, args=(ring,), name="vf-black-box", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """What waits is written, if the flash may be. Also of one that was never started."""
        if self._thread is None:
            return
        logging.getLogger(ROOT).removeHandler(self._listener)
        self.note(STOPPED, "in order")
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()
        self._thread = None
        if self._waiting:
            self._log.warning("%d events could not be noted on the flash", len(self._waiting))

    @property
    def frozen(self) -> bool:
        """Settable, from any thread, and nobody waits for it. A write that has begun goes on to its end."""
        return self._frozen

    @frozen.setter
    def frozen(self, frozen: bool) -> None:
        with self._changed:
            self._frozen = frozen
            self._changed.notify_all()

    def note(self, kind: str, words: str, *, name: str | None = None, level: str = "info") -> None:
        """An event that was not logged. `name`: of a volume; None: it is about the flash."""
        self._let_in(
            EventRecord(
                kind=kind,
                name=self.name if name is None else name,
                words=words,
                monotonic_ns=time.monotonic_ns(),
                time_ns=time.time_ns(),
                level=level,
            )
        )

    def flush(self, seconds: float) -> bool:
        """At once, what waits now. False: it is not on the flash after so many seconds."""
        with self._changed:
            noted, self._hurry = self._noted, True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._settled >= noted, seconds)

    # Events

    def _hear(self, record: EventRecord) -> None:
        if record.name == "" or self._concerns(record.name):
            self._let_in(record)

    def _let_in(self, record: EventRecord) -> None:
        """Called from any thread: it waits for nothing but others who do the same."""
        with self._changed:
            if len(self._waiting) >= WAITING_MOST:
                self._thinning.hold(record)
            elif (let := self._thinning.take(record)) is not None:
                self._queue(let)
            self._changed.notify_all()

    def _queue(self, record: EventRecord) -> None:
        if not self._waiting:
            self._since = self._monotonic()
        self._waiting.append(record)
        self._noted += 1

    # The thread

    def _keep(self, ring: EventLog) -> None:
        try:
            ring.begin()
        except OSError as error:
            self._log.error("its log of events cannot be read, and none is kept: %s", error.strerror)
            logging.getLogger(ROOT).removeHandler(self._listener)
            return
        while self._wait(ring):
            self._write(ring, reserve=0 if self._hurry else RESERVE)
        self._write(ring, reserve=0)

    def _wait(self, ring: EventLog) -> bool:
        """Until there is something to write, and it may be. False: until the end."""
        with self._changed:
            while not self._stopping and (pause := self._pause(ring)) != 0:
                self._changed.wait(pause)
            if self._stopping or len(self._waiting) < WAITING_MOST:
                for record in self._thinning.rest() if self._stopping else self._thinning.due():
                    self._queue(record)
            return not self._stopping

    def _pause(self, ring: EventLog) -> float | None:
        """Seconds; None: until somebody says something."""
        if self._frozen:
            return None
        if not self._waiting:
            self._hurry = False
            return self._thinning.seconds_to_wait()
        now = self._monotonic()
        gathered = now if self._hurry else self._since + GATHER_SECONDS
        allowed = now + ring.seconds_to_wait(0 if self._hurry else RESERVE)
        return max(gathered - now, self._retry_at - now, allowed - now, 0)

    def _write(self, ring: EventLog, *, reserve: int) -> None:
        """All that waits, as far as it may be now."""
        while not self._frozen:
            with self._changed:
                records = list(islice(self._waiting, RECORDS_AT_ONCE))
            try:
                count = ring.append(records, reserve=reserve)
                if count:
                    self._forget(count)
                    self._flash.sync()
            except OSError as error:
                self._retry_at = self._monotonic() + RETRY_SECONDS
                self._log.limited("black box", f"events cannot be noted on the flash: {error.strerror}")
                return
            if not count:
                return
            with self._changed:
                self._settled += count
                self._changed.notify_all()

    def _forget(self, count: int) -> None:
        with self._changed:
            for _ in range(count):
                self._waiting.popleft()
