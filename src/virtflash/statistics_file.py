"""Where the server's counters are written: a file that is whole or not there, and replaces nothing else."""

import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class StatisticsError(Exception):
    """Counters cannot be written there; one line."""


class StatisticsFile:
    """`path`: a regular file, or none yet. `taken`: images and sockets of the same server.

    StatisticsError: it is something else, or could not be written: said at the start, not at the end.
    """

    def __init__(self, path: Path, taken: Iterable[Path]) -> None:
        self._path = path.resolve()  # a symbolic link is followed, not replaced
        if self._path in {other.resolve() for other in taken}:
            raise StatisticsError(
                f"--statistics {path}: that is an image or a socket of this server; name another file"
            )
        if self._path.exists() and not stat.S_ISREG(self._path.stat().st_mode):
            raise StatisticsError(f"--statistics {path}: is there already and is no file; name another one")
        directory = self._path.parent
        if not directory.is_dir() or not os.access(directory, os.W_OK | os.X_OK):
            raise StatisticsError(f"--statistics {path}: no directory {directory} in which files can be made")

    def write(self, statistics: dict[str, Any]) -> None:
        """OSError: what was there before is still there."""
        fresh = self._path.with_name(self._path.name + ".new")
        try:
            fresh.write_text(json.dumps(statistics) + "\n")
            fresh.replace(self._path)
        except OSError:
            fresh.unlink(missing_ok=True)
            raise
