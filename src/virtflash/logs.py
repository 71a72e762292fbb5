"""What the server says while it runs: one line for each thing that happened, as text or as JSON, never a flood."""

import json
import logging
import sys
import time
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, ClassVar

LEVELS = ("debug", "info", "warning", "error")
LIMIT_SECONDS = 1.0  # between two lines about the same thing, once what may be said at once is said
LIFE_LINES = 100  # at once about what a front end or a guest can do over and over (come and go, start and stop a ring)
ROOT = "virtflash"


@dataclass
class Allowance:
    """How much may be said of one thing: `lines` at the time `at` (monotonic, seconds), and one more each second."""

    lines: float
    at: float
    held_back: int = 0

    def take(self, burst: int) -> bool:
        """Is a line left? Then it is taken."""
        now = time.monotonic()
        self.lines = min(burst, self.lines + (now - self.at) / LIMIT_SECONDS)
        self.at = now
        if self.lines < 1:
            self.held_back += 1
            return False
        self.lines -= 1
        return True


class Log(logging.LoggerAdapter[logging.Logger]):
    """A logger that names what it speaks of (a volume), and can hold back what a guest could repeat without end."""

    def __init__(self, subject: str = "") -> None:
        super().__init__(logging.getLogger(ROOT), {"subject": subject})
        self.subject = subject
        self._allowances: dict[str, Allowance] = {}  # by what is spoken of: as few as there are kinds of lines

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **kwargs.get("extra", {})}
        return msg, kwargs

    def limited(
        self,
        what: str,
        text: str,
        *,
        level: int = logging.WARNING,
        burst: int = 1,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        """Say it, unless `burst` lines about `what` were said just now; what was held back is counted.

        `what` is one of few words: one that a guest or a front end chooses would be remembered for ever.
        """
        allowance = self._allowances.setdefault(what, Allowance(burst, time.monotonic()))
        if not allowance.take(burst):
            return
        more = f" (and {allowance.held_back} times since the last line about it)" if allowance.held_back else ""
        allowance.held_back = 0
        self.log(level, "%s%s", text, more, extra=extra or {})


class TextFormatter(logging.Formatter):
    """`12:00:00.000 info    volume: text`"""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        subject = getattr(record, "subject", "")
        where = f"{subject}: " if subject else ""
        level = record.levelname.lower()
        return f"{clock}.{int(record.msecs):03d} {level:<7} {where}{record.getMessage()}{self._trace(record)}"

    def _trace(self, record: logging.LogRecord) -> str:
        return "\n" + self.formatException(record.exc_info) if record.exc_info else ""


class JsonFormatter(logging.Formatter):
    """One object a line: time (seconds since 1970), level, volume, text."""

    fields: ClassVar = ("front_end", "event")

    def format(self, record: logging.LogRecord) -> str:
        entry = {"time": round(record.created, 6), "level": record.levelname.lower(), "text": record.getMessage()}
        if subject := getattr(record, "subject", ""):
            entry["volume"] = subject
        entry |= {name: value for name in self.fields if (value := getattr(record, name, None)) is not None}
        if record.exc_info:
            entry["trace"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def set_up_logging(level: str, *, as_json: bool) -> None:
    """To standard error. `level`: one of LEVELS."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    root = logging.getLogger(ROOT)
    root.handlers = [handler]
    root.propagate = False
    set_log_level(level)


def set_log_level(level: str) -> None:
    """Of standard error, from now on: one of LEVELS. Other handlers, which tell events, hear at least what is info."""
    root = logging.getLogger(ROOT)
    for handler in root.handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(level.upper())
    root.setLevel(min(logging.getLevelName(level.upper()), logging.INFO))


def log_level() -> str:
    """What is said on standard error: one of LEVELS."""
    root = logging.getLogger(ROOT)
    levels = [handler.level for handler in root.handlers if isinstance(handler, logging.StreamHandler)]
    return logging.getLevelName(min(levels, default=root.level)).lower()
