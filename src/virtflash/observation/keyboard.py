"""A terminal whose keys come one by one, whose signals are events, and which is afterwards as it was before."""

import os
import re
import selectors
import signal
import socket
import sys
import termios
import tty
from contextlib import suppress
from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGWINCH)
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"  # the other screen, without a cursor; and back
ESCAPE = "\x1b"
SEQUENCE = re.compile("\x1b[\\[O][0-9;]*[A-Za-z~]")


class Terminal:
    """`with Terminal() as terminal`. `keys` and `signals` hold what came since `wait` was called."""

    def __init__(self) -> None:
        self.dumb = os.environ.get("TERM", "dumb") == "dumb"
        self.keys = ""
        self.signals: list[int] = []
        self._fd = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None

    def __enter__(self) -> "Terminal":
        self._wake, self._woken = socket.socketpair()
        for end in (self._wake, self._woken):
            end.setblocking(False)
        self._handlers = {number: signal.signal(number, ignore) for number in SIGNALS}
        self._wakeup = signal.set_wakeup_fd(self._wake.fileno())
        self._modes = termios.tcgetattr(self._fd) if self._fd is not None else None
        self.selector = selectors.DefaultSelector()
        self.selector.register(self._woken, selectors.EVENT_READ)
        if self._fd is not None:
            self.selector.register(self._fd, selectors.EVENT_READ)
            tty.setcbreak(self._fd, termios.TCSADRAIN)
        if not self.dumb:
            self.write(ENTER)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _t: TracebackType | None
    ) -> None:
        with suppress(OSError, termios.error):  # the terminal may be gone, which is why we end
            if not self.dumb:
                self.write(LEAVE)
            if self._fd is not None and self._modes is not None:
                termios.tcsetattr(self._fd, termios.TCSADRAIN, self._modes)
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self.selector.close()
        self._wake.close()
        self._woken.close()

    def wait(self, seconds: float) -> set[int]:
        """Until something comes, or so long. Returns the descriptors that others have registered and that are ready."""
        ready = {key.fd for key, _ in self.selector.select(max(0.0, seconds))}
        self.signals = list(self._woken.recv(256)) if self._woken.fileno() in ready else []
        self.keys = self._read() if self._fd in ready else ""
        return ready - {self._woken.fileno(), self._fd}

    def _read(self) -> str:
        """Escape alone is a key; cursor keys and the like begin with it, and are of no use here."""
        assert self._fd is not None
        read = os.read(self._fd, 256).decode(errors="replace")
        if not read:
            self.selector.unregister(self._fd)
        return SEQUENCE.sub("", read)

    def write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def ignore(_number: int, _frame: FrameType | None) -> None:
    """The wake-up descriptor tells."""
