"""The real program, `virtflash serve`, as a child process that is surely ended."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from virtflash.children import end_with_parent

START_SECONDS = 10.0
STOP_SECONDS = 10.0
POLL_SECONDS = 0.01
ACCEPTS_CONNECTIONS = 0x10000  # __SO_ACCEPTCON, the flags column of /proc/net/unix


class ServerError(Exception):
    """The server did not start, or did not end as asked."""


def program() -> str:
    """The `virtflash` that belongs to this Python, else the one on the path."""
    beside = Path(sys.executable).with_name("virtflash")
    found = str(beside) if beside.exists() else shutil.which("virtflash")
    if found is None:
        raise ServerError("the program virtflash is not installed")
    return found


def is_listening(socket: Path) -> bool:
    """Whether somebody listens on it, found out without connecting: a connection would be a front end to the server."""
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        columns = line.split(maxsplit=7)
        if len(columns) == 8 and columns[7] == str(socket) and int(columns[3], 16) & ACCEPTS_CONNECTIONS:
            return True
    return False


class ServerProcess:
    """A context manager: entering returns once the socket can be connected to, leaving ends the server with SIGTERM.

    `kind`: what the image is, raw or emulated flash; or a configuration, whose control socket is then `socket`. What it
    logs goes to `log`; `statistics()` is what it wrote about itself, if it was not a configuration's.
    """

    def __init__(
        self,
        image: Path,
        socket: Path,
        *,
        kind: Literal["image", "flash", "configuration"] = "image",
        options: Sequence[str] = (),
    ) -> None:
        self.image = image
        self._kind = kind
        self.socket = socket
        self.log = socket.with_suffix(".log")
        self._statistics = socket.with_suffix(".json")
        self._options = options
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.stop()
        else:
            self.kill()

    @property
    def pid(self) -> int:
        if self.process is None:
            raise ServerError("the server does not run")
        return self.process.pid

    def start(self) -> None:
        what = [f"--{self._kind}", str(self.image), "--socket", str(self.socket), "--statistics", str(self._statistics)]
        files = [str(self.image)] if self._kind == "configuration" else what
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [program(), "serve", *files, *self._options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in a terminal is for who started us; we end the server ourselves.
                preexec_fn=end_with_parent(),  # noqa: PLW1509 - it only makes system calls
            )
        try:
            self._wait_until_listening()
        except BaseException:
            self.kill()
            raise

    def _wait_until_listening(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not is_listening(self.socket):
            if self.process is None or self.process.poll() is not None:
                raise ServerError(f"the server ended at its start: {self.last_words()}")
            if time.monotonic() > deadline:
                raise ServerError(f"the server did not listen within {START_SECONDS:.0f} s: {self.last_words()}")
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """End it as a service manager does. ServerError: it did not exit 0."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise ServerError(f"the server ignored SIGTERM for {STOP_SECONDS:.0f} s: {self.last_words()}") from None
        finally:
            self.kill()
        if status != 0:
            raise ServerError(f"the server ended with status {status}: {self.last_words()}")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        return lines[-1] if lines else "it said nothing"

    def statistics(self) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(self._statistics.read_text())
        return parsed

    def host_bytes(self) -> int:
        """What the image takes of the host's disk: a sparse file takes less than its size."""
        return self.image.stat().st_blocks * 512
