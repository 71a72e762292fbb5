"""A control socket that answers `status` with statuses that a test makes."""

import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from virtflash.status import Status


class StatusServer:
    """`status` is called with the number of the question, from 0."""

    def __init__(self, path: Path, status: Callable[[int], Status]) -> None:
        self.path = path
        self._status = status
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        self._client: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        try:
            self._client, _ = self._listening.accept()
        except OSError:
            return  # it ended before anybody came
        with self._client.makefile("rwb") as stream:
            for number, line in enumerate(stream):
                assert json.loads(line)["method"] == "status"
                answer = {"jsonrpc": "2.0", "id": 1, "result": msgspec.to_builtins(self._status(number))}
                stream.write(json.dumps(answer).encode() + b"\n")
                stream.flush()

    def end(self) -> None:
        """Once is enough."""
        if self._listening.fileno() < 0:
            return
        self._listening.shutdown(socket.SHUT_RDWR)  # which wakes whoever waits in accept
        if self._client is not None:
            self._client.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._listening.close()
