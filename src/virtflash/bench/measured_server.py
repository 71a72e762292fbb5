"""Servers that are measured: one that runs already, or one that a command starts for each measurement."""

import os
import select
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Protocol

from virtflash.bench.workload import size_text
from virtflash.children import end_with_parent
from virtflash.driver.errors import ClosedError, FrontEndError
from virtflash.driver.front_end import FrontEnd
from virtflash.vhost_user.messages import Message, Request

START_SECONDS = 20.0
STOP_SECONDS = 10.0
RETRY_SECONDS = 0.01
PATIENCE_SECONDS = 1.0  # before saying what is waited for
LAST_WORDS_SECONDS = 1.0  # from hanging up to the end of the process
IMAGE_PIECE_BYTES = 1 << 20


class MeasuredServer(Protocol):
    """`disposable`: what it serves was made for the measurement and may be overwritten."""

    @property
    def name(self) -> str: ...
    @property
    def disposable(self) -> bool: ...
    def connection(self, queues: int) -> AbstractContextManager[FrontEnd]:
        """A connection to a server with so many queues. FrontEndError: there is none to be had."""


class RunningServer:
    """Listens at `path`; nothing is known of it. `say` is told, in one line, what is waited for."""

    disposable = False

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        self.path = path
        self.name = str(path)
        self._say = say

    @contextmanager
    def connection(self, queues: int) -> Iterator[FrontEnd]:
        with FrontEnd(self.path) as front_end:
            self._wait_for_turn(front_end)
            yield front_end

    def _wait_for_turn(self, front_end: FrontEnd) -> None:
        """A server takes one front end at a time; who comes meanwhile is connected, and gets no answer."""
        front_end.send(Message(Request.GET_FEATURES))
        if not select.select([front_end], [], [], PATIENCE_SECONDS)[0]:
            timeout = front_end.channel.timeout
            self._say(f"{self.path}: no answer; another front end may be served there; waiting for {timeout:g} s")
        front_end.receive()


class StartedServer:
    """A command with {socket}, {image} and {queues} in it, started for each connection; the socket is in `directory`.

    FrontEndError: it is no such command.
    """

    def __init__(self, command: str, directory: Path, image: Path, *, name: str | None = None) -> None:
        self.command = command
        self.directory = directory
        self.image = image
        self.disposable = "{image}" in command
        self.name = name or Path(self._words(0)[0]).name

    def _words(self, queues: int) -> list[str]:
        values = {"socket": self.socket, "image": self.image, "queues": queues}
        try:
            words = shlex.split(self.command)
        except ValueError as error:
            raise FrontEndError(f"{self.command}: {error}") from None
        if not words or "{socket}" not in self.command:
            raise FrontEndError(f"{self.command!r}: a server's command names its socket as {{socket}}")
        for name, value in values.items():
            words = [word.replace(f"{{{name}}}", str(value)) for word in words]
        return words

    @property
    def socket(self) -> Path:
        return self.directory / "socket"

    @contextmanager
    def connection(self, queues: int) -> Iterator[FrontEnd]:
        with tempfile.TemporaryFile() as log, self._process(self._words(queues), log) as process:
            try:
                with self._connect(process, log) as front_end:
                    yield front_end
            except FrontEndError as error:
                if not has_ended(process, LAST_WORDS_SECONDS if isinstance(error, ClosedError) else 0):
                    raise
                raise FrontEndError(f"{self.name} {how_it_ended(process)}{last_line(log)}") from error

    @contextmanager
    def _process(self, words: list[str], log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
        self.socket.unlink(missing_ok=True)
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=end_with_parent(),  # noqa: PLW1509 - it only makes system calls
            )
        except OSError as error:
            raise FrontEndError(f"{words[0]}: cannot be started: {error.strerror}") from error
        try:
            yield process
        finally:
            stop(process)

    def _connect(self, process: subprocess.Popen[bytes], log: IO[bytes]) -> FrontEnd:
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None:
            try:
                return FrontEnd(self.socket)
            except FrontEndError:
                if time.monotonic() > deadline:
                    break
                time.sleep(RETRY_SECONDS)
        raise FrontEndError(f"{self.name} does not listen at {self.socket}{last_line(log)}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End it and what it started: politely, then not."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, number)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        return


def has_ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether the process is gone within so many seconds; its status is known then."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def how_it_ended(process: subprocess.Popen[bytes]) -> str:
    status = process.returncode
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


def last_line(log: IO[bytes]) -> str:
    """What the server said last, to be put behind an error."""
    log.seek(0)
    lines = log.read().decode(errors="replace").split("\n")
    said = [line.strip() for line in lines if line.strip()]
    return f": {said[-1]}" if said else ""


def write_image(path: Path, size: int) -> None:
    """`size` bytes of noise, the same piece again and again. OSError: it does not fit, or cannot be written there."""
    free = shutil.disk_usage(path.parent).free
    if size > free:
        raise OSError(f"{path.parent}: {size_text(size)} were asked for, {free >> 20} MiB are free")
    piece = os.urandom(IMAGE_PIECE_BYTES)
    try:
        with path.open("wb") as file:
            for start in range(0, size, IMAGE_PIECE_BYTES):
                file.write(piece[: size - start])
    except OSError as error:
        raise OSError(f"{path.parent}: cannot write {size_text(size)} there: {error.strerror}") from error
