"""One connection to the control socket: bytes in, lines out of them, lines in, bytes out. Nothing here waits."""

import socket
import time

from virtflash.control.admission import Peer

LINE_MOST = 1 << 16  # bytes of a line that is sent to us, its end included
PIECE = 1 << 16  # bytes that are read, or written, at once


class LineTooLongError(Exception):
    """What comes is no line of ours; where the next one begins is not known."""


class Connection:
    """`heard`: when something came last; `moved`: when something was taken last (monotonic, seconds)."""

    def __init__(self, connected: socket.socket, peer: Peer) -> None:
        connected.setblocking(False)
        self._socket = connected
        self.peer = peer
        self.heard = self.moved = time.monotonic()
        self.ended = False  # they will not send more
        self._input = bytearray()
        self._output = bytearray()

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def unsent(self) -> int:
        """Bytes that they have not taken yet."""
        return len(self._output)

    @property
    def has_line(self) -> bool:
        """Whether `next_line` would return one, or raise."""
        return b"\n" in self._input or len(self._input) >= LINE_MOST or (self.ended and bool(self._input))

    def receive(self) -> None:
        """Once it is readable. OSError: they are gone."""
        try:
            piece = self._socket.recv(PIECE)
        except BlockingIOError:
            return
        self.heard = time.monotonic()
        self.ended = not piece
        self._input += piece

    def next_line(self) -> bytes | None:
        """Without its end; the last one needs none. LineTooLongError."""
        if not self.has_line:
            return None
        end = self._input.find(b"\n", 0, LINE_MOST)
        if end < 0 and len(self._input) >= LINE_MOST:
            self._input.clear()
            raise LineTooLongError
        line = bytes(self._input if end < 0 else self._input[:end])
        del self._input[: len(line) + 1]
        return line

    def write(self, line: bytes) -> None:
        """It is sent by `flush`."""
        if not self._output:
            self.moved = time.monotonic()
        self._output += line
        self._output += b"\n"

    def flush(self) -> None:
        """Send what they take now. OSError: they are gone."""
        while self._output:
            try:
                with memoryview(self._output) as whole, whole[:PIECE] as piece:
                    sent = self._socket.send(piece, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return
            del self._output[:sent]
            self.moved = time.monotonic()

    def hear_no_more(self) -> None:
        """What they send from now on is not for us."""
        self.ended = True
        self._input.clear()

    def close(self) -> None:
        self._socket.close()
