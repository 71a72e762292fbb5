"""Asks a server for its status over its control socket, without ever waiting for it unless asked to."""

import json
import socket
from pathlib import Path

import msgspec

from virtflash.status import Status

ANSWER_SECONDS = 5.0
LINE_BYTES = 16 << 20


class SourceError(Exception):
    """No status can be had; one line."""


class StatusSource:
    """A connection. `ask`, wait until `fileno` is readable, `receive`; or `status`, which waits."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._received = b""
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(ANSWER_SECONDS)
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise SourceError(f"{path}: no server answers there: {error.strerror or error}") from error

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def ask(self) -> None:
        request = {"jsonrpc": "2.0", "id": 1, "method": "status"}
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise SourceError(f"{self._path}: the server has ended") from error

    def receive(self) -> Status | None:
        """What has come; None: not all of it yet."""
        try:
            piece = self._socket.recv(1 << 16)
        except TimeoutError as error:
            raise SourceError(f"{self._path}: the server does not answer within {ANSWER_SECONDS:.0f} s") from error
        except OSError as error:
            raise SourceError(f"{self._path}: the server has ended") from error
        if not piece or len(self._received) > LINE_BYTES:
            raise SourceError(f"{self._path}: the server has ended")
        line, end, rest = (self._received + piece).partition(b"\n")
        self._received = rest if end else line
        return self._read(line) if end else None

    def status(self) -> Status:
        self.ask()
        while (status := self.receive()) is None:
            continue
        return status

    def _read(self, line: bytes) -> Status:
        try:
            answer = msgspec.json.decode(line)
            if "error" in answer:
                raise SourceError(f"{self._path}: the server refuses: {answer['error'].get('message')}")
            return msgspec.convert(answer["result"], Status)
        except (msgspec.MsgspecError, KeyError, TypeError, AttributeError) as error:
            raise SourceError(f"{self._path}: that is no status of a server of this version: {error}") from error
