"""Processes of this machine, as their command lines tell."""

from contextlib import suppress
from pathlib import Path


def started_with(directory: Path) -> list[str]:
    """Numbers of the processes that were started with a path in this directory."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has just ended
            if str(directory).encode() in path.read_bytes():
                found.append(path.parent.name)
    return found
