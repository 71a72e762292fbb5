"""A socket before a control socket, that hands on what is said and remembers the statuses that the server told."""

import socket
import threading
from pathlib import Path

import msgspec

from virtflash.status import Status


class OverheardSocket:
    """For one connection after another. A context manager."""

    def __init__(self, path: Path, control: Path) -> None:
        self.path, self._control = path, control
        self.statuses: list[Status] = []  # in the order in which they were told, each before it is handed on
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> "OverheardSocket":
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)  # which wakes whoever waits in accept
        self._thread.join(10)
        self._listening.close()

    def _serve(self) -> None:
        while True:
            try:
                asking, _ = self._listening.accept()
            except OSError:
                return  # it is over
            with asking, socket.socket(socket.AF_UNIX) as answering:
                answering.connect(str(self._control))
                self._hand_on(asking, answering)

    def _hand_on(self, asking: socket.socket, answering: socket.socket) -> None:
        """Until who asks has enough."""
        with asking.makefile("rwb") as questions, answering.makefile("rwb") as answers:
            for question in questions:
                answers.write(question)
                answers.flush()
                answer = answers.readline()
                self.statuses.append(msgspec.convert(msgspec.json.decode(answer)["result"], Status))
                questions.write(answer)
                questions.flush()
