"""What the server says while it runs: one line for each thing that happened, as text or as JSON, never a flood."""

import json
import logging
import sys
import time
from collections.abc import MutableMapping
from typing import Any, ClassVar

LEVELS = ("debug", "info", "warning", "error")
LIMIT_SECONDS = 1.0  # between two lines about the same thing
ROOT = "virtflash"


class Log(logging.LoggerAdapter[logging.Logger]):
    """A logger that names what it speaks of (a volume), and can hold back what a guest could repeat without end."""

    def __init__(self, subject: str = "") -> None:
        super().__init__(logging.getLogger(ROOT), {"subject": subject})
        self.subject = subject
        self._limits: dict[str, tuple[float, int]] = {}  # what: when it was last said, and how often it was not since

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **kwargs.get("extra", {})}
        return msg, kwargs

    def limited(self, what: str, text: str, *, level: int = logging.WARNING) -> None:
        """Say it, unless something about `what` was said within the last second; what was held back is counted."""
        now = time.monotonic()
        said, held_back = self._limits.get(what, (0.0, 0))
        if now - said < LIMIT_SECONDS:
            self._limits[what] = (said, held_back + 1)
            return
        self._limits[what] = (now, 0)
        more = f" (and {held_back} times since the last line about it)" if held_back else ""
        self.log(level, "%s%s", text, more)


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
    root.setLevel(level.upper())
