"""A UNIX socket that carries vhost-user messages and their descriptors, in both directions, with deadlines."""

import os
import select
import socket
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from virtflash.driver.deadline import DEFAULT_SECONDS, Deadline
from virtflash.driver.errors import ClosedError, FrontEndError
from virtflash.vhost_user.messages import FD_LIMIT, HEADER, PAYLOAD_LIMIT, Message


class Channel:
    """Owns `sock`. `timeout`: seconds for each message, unless a call says otherwise.

    Every method may raise FrontEndError: DeadlineError when it took too long, ClosedError when the other side left.
    """

    def __init__(self, sock: socket.socket, *, timeout: float = DEFAULT_SECONDS, peer: str = "the back end") -> None:
        self.socket = sock
        self.timeout = timeout
        self.peer = peer
        sock.setblocking(False)

    @classmethod
    def connect(cls, path: str | os.PathLike[str], *, timeout: float = DEFAULT_SECONDS) -> Self:
        """FrontEndError: nobody listens at `path`, or it cannot be used."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        sock.settimeout(timeout)  # a full backlog blocks connect()
        try:
            sock.connect(os.fspath(path))
        except OSError as error:
            sock.close()
            raise FrontEndError(f"{os.fspath(path)}: cannot connect: {error.strerror or error}") from error
        return cls(sock, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, message: Message, *, timeout: float | None = None) -> None:
        """Send a message, whatever it holds. Its descriptors stay the caller's."""
        self.send_bytes(message.pack(), message.fds, timeout=timeout)

    def send_bytes(self, data: bytes, fds: Sequence[int] = (), *, timeout: float | None = None) -> None:
        """Send any bytes, such as part of a message; `fds` travel with the first of them."""
        deadline = self._deadline(timeout)
        while data:
            deadline.wait({self.fileno(): select.POLLOUT}, f"sending to {self.peer}")
            sent = self._send_some(data, fds)
            data = data[sent:]
            fds = fds if sent == 0 else ()

    def _send_some(self, data: bytes, fds: Sequence[int]) -> int:
        try:
            return socket.send_fds(self.socket, [data], list(fds)) if fds else self.socket.send(data)
        except BlockingIOError:
            return 0
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ClosedError(f"{self.peer} closed the connection") from error
        except OSError as error:
            raise FrontEndError(f"cannot send to {self.peer}: {error.strerror}") from error

    def receive(self, *, timeout: float | None = None) -> Message:
        """The next message. Its descriptors are the caller's from then on."""
        deadline = self._deadline(timeout)
        fds: list[int] = []
        try:
            request, flags, size = HEADER.unpack(self._receive_exactly(HEADER.size, fds, deadline))
            if size > PAYLOAD_LIMIT:
                raise FrontEndError(f"{self.peer} sent a message of {size} bytes; {PAYLOAD_LIMIT} is the limit")
            return Message(request, self._receive_exactly(size, fds, deadline), flags, fds)
        except BaseException:
            close_all(fds)
            raise

    def _receive_exactly(self, size: int, fds: list[int], deadline: Deadline) -> bytes:
        data = b""
        while len(data) < size:
            deadline.wait({self.fileno(): select.POLLIN}, f"waiting for a message of {self.peer}")
            data += self._receive_some(size - len(data), fds)
        return data

    def _receive_some(self, size: int, fds: list[int]) -> bytes:
        """Nothing, when the readiness was not true after all."""
        try:
            data, more, _, _ = socket.recv_fds(self.socket, size, FD_LIMIT, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return b""
        except ConnectionResetError as error:
            raise ClosedError(f"{self.peer} closed the connection") from error
        fds += more
        if not data:
            raise ClosedError(f"{self.peer} closed the connection")
        return data

    def wait_closed(self, *, timeout: float | None = None) -> None:
        """Wait until the other side hangs up; what it still sends is dropped. DeadlineError: it did not."""
        deadline = self._deadline(timeout)
        fds: list[int] = []
        try:
            while True:
                deadline.wait({self.fileno(): select.POLLIN}, f"waiting until {self.peer} closes the connection")
                self._receive_some(PAYLOAD_LIMIT, fds)
        except ClosedError:
            return
        finally:
            close_all(fds)

    def _deadline(self, timeout: float | None) -> Deadline:
        return Deadline(self.timeout if timeout is None else timeout)


def close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
