"""`virtflash ctl` as a user runs it, for tests."""

import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Self

PROGRAM = Path(sys.executable).with_name("virtflash")
DEADLINE_SECONDS = 20.0


def ctl(*words: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [str(PROGRAM), "ctl", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE_SECONDS, **options)


class Watching:
    """`ctl SOCKET watch` as a child process. A context manager."""

    def __init__(self, socket: Path, *words: str) -> None:
        self._command = [str(PROGRAM), "ctl", str(socket), "watch", *words]

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_exception: object) -> None:
        self.process.kill()
        self.process.communicate()

    def line(self) -> str:
        """The next one. AssertionError: it ended, or nothing came in time."""
        assert self.process.stdout is not None
        late = threading.Timer(DEADLINE_SECONDS, self.process.kill)
        late.start()
        line = self.process.stdout.readline()
        late.cancel()
        assert line, "no line came"
        return line

    def interrupted(self) -> tuple[int, str]:
        """By Ctrl-C: its exit status, and what it complained of."""
        self.process.send_signal(signal.SIGINT)
        _, complained = self.process.communicate(timeout=DEADLINE_SECONDS)
        return self.process.returncode, complained
