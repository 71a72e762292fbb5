"""A back end that says what a test tells it to."""

import socket
import threading
from collections.abc import Callable

from virtflash.driver.channel import Channel, close_all
from virtflash.driver.errors import ClosedError
from virtflash.vhost_user.messages import VERSION, Message, MessageFlag

STOP_SECONDS = 10.0

Answer = bytes | Callable[[Message], bytes | None] | None


class ScriptedBackEnd:
    """Answers each request as `answers` says (bytes, or a function of the message), others not at all; keeps them all.

    Where the message asks for an acknowledgement and has no answer, it is acknowledged with `word`.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.channel = Channel(sock)
        self.answers: dict[int, Answer] = {}
        self.word = 0
        self.received: list[Message] = []
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._thread.join(STOP_SECONDS)
        assert not self._thread.is_alive()
        for message in self.received:
            close_all(message.fds)
        self.channel.close()

    def _run(self) -> None:
        while True:
            try:
                message = self.channel.receive()
            except ClosedError:
                return
            self.received.append(message)
            self._answer(message)

    def _answer(self, message: Message) -> None:
        answer = self.answers.get(message.request)
        payload = answer(message) if callable(answer) else answer
        if payload is None and message.needs_reply:
            payload = self.word.to_bytes(8, "little")
        if payload is not None:
            self.channel.send(Message(message.request, payload, VERSION | MessageFlag.REPLY))

    def of(self, request: int) -> list[Message]:
        return [message for message in self.received if message.request == request]
