"""The other side of a control socket: calls with their answers, and events."""

import itertools
import socket
import struct
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from virtflash.control.events import Event
from virtflash.control.json_rpc import call_line

CONNECT_SECONDS = 10
TIME = struct.Struct("ll")  # struct timeval
ANSWER_MOST = 1 << 26  # bytes of one line
PIECE = 1 << 16


class ControlError(Exception):
    """It did not work; one line. `code`: of JSON-RPC, where the server said so; `data`: what else it said."""

    def __init__(self, message: str, code: int | None = None, data: object = None) -> None:
        super().__init__(" ".join(message.split()))
        self.code = code
        self.data = data


class Client:
    """A connection to a server's control socket. A context manager. ControlError: nobody is there, or lets us in.

    `timeout`: seconds that an answer may take; None: as long as it takes.
    """

    def __init__(self, path: Path | str, *, timeout: float | None = None) -> None:
        self._path = path
        self._timeout = timeout
        self._numbers = itertools.count(1)
        self._input = bytearray()
        self._events: deque[dict[str, Any]] = deque()  # that came while an answer was waited for
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # Not settimeout: unless it blocks, a socket is refused at once where others wait for their turn.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, TIME.pack(CONNECT_SECONDS, 0))
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise ControlError(f"{path}: {why_not(error)}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def call(self, method: str, /, **params: object) -> Any:
        """What the server answers, in words of JSON. ControlError: it refuses, it went away, or it takes too long."""
        number = next(self._numbers)
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        self._send(call_line(method, params, number))
        while True:
            message = self._receive(deadline)
            if message.get("method") == "event":
                self._events.append(message["params"])
            elif message.get("id") == number or (message.get("id") is None and "error" in message):
                return result_of(message)

    def events(self, /, **params: object) -> Iterator[Event]:
        """What happens, from now on; parameters as `watch` has them. ControlError: also when the server goes."""
        self.call("watch", **params)
        return self._events_that_come()

    def _events_that_come(self) -> Iterator[Event]:
        while True:
            told = self._events.popleft() if self._events else self._receive(None).get("params")
            yield msgspec.convert(told, Event)

    def _send(self, line: bytes) -> None:
        try:
            self._socket.settimeout(None)
            self._socket.sendall(line + b"\n")
        except (BrokenPipeError, ConnectionResetError):
            pass  # it may have said why, before it closed
        except OSError as error:
            raise ControlError(f"{self._path}: the server takes no calls: {error.strerror}") from None

    def _receive(self, deadline: float | None) -> dict[str, Any]:
        line = self._line(deadline)
        try:
            return msgspec.json.decode(line, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise ControlError(f"{self._path}: that is no server of ours: it says {line[:40]!r}") from None

    def _line(self, deadline: float | None) -> bytes:
        looked_at = 0
        while (end := self._input.find(b"\n", looked_at)) < 0:
            looked_at = len(self._input)
            if looked_at > ANSWER_MOST:
                raise ControlError(f"{self._path}: an answer of more than {ANSWER_MOST} bytes; ask for less at once")
            self._input += self._piece(deadline)
        line = bytes(self._input[:end])
        del self._input[: end + 1]
        return line

    def _piece(self, deadline: float | None) -> bytes:
        self._socket.settimeout(None if deadline is None else max(deadline - time.monotonic(), 0.001))
        try:
            piece = self._socket.recv(PIECE)
        except TimeoutError:
            raise ControlError(f"{self._path}: the server does not answer") from None
        except OSError as error:
            raise ControlError(f"{self._path}: the server went away: {error.strerror}") from None
        if not piece:
            raise ControlError(f"{self._path}: the server went away")
        return piece


def result_of(message: dict[str, Any]) -> Any:
    """ControlError: an error is in it."""
    if "error" in message:
        error = message["error"]
        raise ControlError(str(error.get("message")), error.get("code"), error.get("data"))
    return message.get("result")


def why_not(error: OSError) -> str:
    """Somebody could not connect."""
    match error:
        case FileNotFoundError():
            return "there is no such socket; is the server running, and is this its `control`?"
        case ConnectionRefusedError():
            return "no server listens there; start it, or name another socket"
        case PermissionError():
            return "you may not connect there; root may, and who runs the server"
        case TimeoutError() | BlockingIOError():
            return "the server does not answer"
    return f"{error.strerror or error}; name the control socket of a server"
