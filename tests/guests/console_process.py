"""A child process whose output is a machine's console, watched with a deadline."""

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Self

READ_BYTES = 1 << 16
SHOWN_CHARACTERS = 2000


class ConsoleError(Exception):
    """The machine did not say in time what was waited for, or ended; with the end of what it said."""


class ConsoleProcess:
    """A context manager: entering starts the program, leaving kills it, as pulling the plug does."""

    def __init__(self, command: Sequence[str]) -> None:
        self.command = command
        self.text = ""
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise ConsoleError(f"{self.command[0]} does not run")
        return self._process

    def kill(self) -> None:
        """SIGKILL to it and to what it started."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process = None

    def wait_for(self, words: str, seconds: float) -> str:
        """Return all that was said, as soon as `words` are among it."""
        deadline = time.monotonic() + seconds
        while words not in self.text:
            if not self._read(deadline):
                raise self.error(f"ended without saying {words!r}")
        return self.text

    def wait_end(self, seconds: float) -> int:
        """The exit status."""
        deadline = time.monotonic() + seconds
        while self._read(deadline):
            pass
        return self.process.wait(max(0.1, deadline - time.monotonic()))

    def _read(self, deadline: float) -> bool:
        """Wait for more of the console; False: there will be none."""
        if self.process.stdout is None:
            raise ConsoleError("no console")
        ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise self.error("was too slow")
        data = os.read(self.process.stdout.fileno(), READ_BYTES)
        self.text += data.decode(errors="replace")
        return bool(data)

    def error(self, what: str) -> ConsoleError:
        return ConsoleError(f"{self.command[0]} {what}; the end of its console:\n{self.text[-SHOWN_CHARACTERS:]}")
