"""`virtflash top` in a pseudo terminal, and what a terminal emulator makes of it."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pyte

PROGRAM = Path(sys.executable).with_name("virtflash")
DEADLINE_SECONDS = 20


class Screen:
    """The program in a pseudo terminal that a terminal emulator reads."""

    def __init__(
        self, socket: Path, columns: int, lines: int, environment: dict[str, str], *, interval: float = 0.1
    ) -> None:
        self.master, self.slave = pty.openpty()
        self.screen = pyte.Screen(columns, lines)
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.resize(columns, lines)
        self.before = termios.tcgetattr(self.slave)
        self.process = subprocess.Popen(
            [PROGRAM, "top", socket, "--interval", str(interval)],
            stdin=self.slave, stdout=self.slave, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"TERM": "xterm-256color"} | environment, start_new_session=True,
        )  # fmt: skip

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.screen.resize(lines, columns)

    def until(self, holds: Callable[[str], bool]) -> str:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not holds(self.text):
            assert select.select([self.master], [], [], max(0.0, deadline - time.monotonic()))[0], self.text
            piece = os.read(self.master, 65536)
            self.raw += piece
            self.stream.feed(piece)
        return self.text

    @property
    def text(self) -> str:
        return "\n".join(self.screen.display)

    def press(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def ended(self) -> tuple[int, str]:
        status = self.process.wait(DEADLINE_SECONDS)
        assert self.process.stderr is not None
        assert termios.tcgetattr(self.slave) == self.before
        while select.select([self.master], [], [], 0)[0]:
            self.raw += os.read(self.master, 65536)
        with self.process.stderr:
            return status, self.process.stderr.read()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


def row(text: str, name: str) -> str:
    return next((line for line in text.splitlines() if line.startswith(name)), "")


def run_top(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(PROGRAM), "top", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE_SECONDS)
