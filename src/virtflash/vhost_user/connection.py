"""The socket of a session: whole messages in, with their file descriptors, and answers out, in bounded time."""

import array
import contextlib
import os
import socket
import struct
import time

from virtflash.vhost_user.messages import (
    FD_LIMIT,
    HEADER,
    PAYLOAD_LIMIT,
    VERSION,
    VERSION_MASK,
    Message,
    ProtocolError,
)

STALL_SECONDS = 5.0  # that a front end may take over the rest of a message, or over reading an answer
_FD_BYTES = struct.calcsize("i")


class Connection:
    """A connected front end. It is nobody's to block: what has begun is finished in time, or ended."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def fileno(self) -> int:
        """Readable when a message begins, or when the front end is gone."""
        return self._socket.fileno()

    def read(self) -> Message | None:
        """The next message, once `fileno` is readable; None: the front end has left.

        ProtocolError: it has left in the middle of a message, stalls in it, or sends what is none.
        """
        deadline = time.monotonic() + STALL_SECONDS
        fds: list[int] = []
        try:
            header = self._read_bytes(HEADER.size, fds, deadline)
            if not header:
                return None
            request, flags, size = unpack_header(header)
            return Message(request, self._read_bytes(size, fds, deadline, begun=True), flags, fds)
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise

    def write(self, message: Message) -> None:
        """ProtocolError: the front end does not take its answer."""
        self._socket.settimeout(STALL_SECONDS)
        try:
            self._socket.sendall(message.pack())
        except OSError as error:
            raise ProtocolError(f"the answer to {message.name} could not be sent: {error}") from error

    def hang_up(self) -> None:
        """End the connection, also under a read or write that waits for the front end. From any thread."""
        with contextlib.suppress(OSError):  # it is closed already
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()

    def _read_bytes(self, size: int, fds: list[int], deadline: float, *, begun: bool = False) -> bytes:
        data = b""
        while len(data) < size:
            piece = self._receive(size - len(data), fds, deadline)
            if piece:
                data += piece
            elif data or begun:
                raise ProtocolError("the front end left in the middle of a message")
            else:
                return b""
        return data

    def _receive(self, size: int, fds: list[int], deadline: float) -> bytes:
        self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            data, ancillary, _flags, _address = self._socket.recvmsg(
                size, socket.CMSG_SPACE(FD_LIMIT * _FD_BYTES), socket.MSG_CMSG_CLOEXEC
            )
        except TimeoutError:
            raise ProtocolError(f"the front end stalled for {STALL_SECONDS:.0f} s in the middle of a message") from None
        except ConnectionResetError:
            return b""
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                received = array.array("i")
                received.frombytes(content[: len(content) - len(content) % _FD_BYTES])
                fds.extend(received)
        if len(fds) > FD_LIMIT:  # each byte could bring as many, until no volume can open anything
            raise ProtocolError(f"more than {FD_LIMIT} file descriptors with one message")
        return data


def unpack_header(header: bytes) -> tuple[int, int, int]:
    """Request, flags and size of the payload in bytes. ProtocolError: no header of this protocol."""
    request, flags, size = HEADER.unpack(header)
    if flags & VERSION_MASK != VERSION:
        raise ProtocolError(f"a message of version {flags & VERSION_MASK}: this is vhost-user {VERSION}")
    if size > PAYLOAD_LIMIT:
        raise ProtocolError(f"a message of {size} bytes: at most {PAYLOAD_LIMIT} mean anything")
    return request, flags, size
