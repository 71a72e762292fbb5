"""The loop behind `virtflash top`: waits for keys, signals, the server and the next second, and draws."""

import os
import signal
import sys
import time
from selectors import EVENT_READ

from rich.console import Console
from rich.text import Text

from virtflash.observation.keyboard import ESCAPE, Terminal
from virtflash.observation.rates import rates_between
from virtflash.observation.status_source import StatusSource
from virtflash.observation.top_screen import HELP, ORDERS, screen
from virtflash.status import Status


class LiveView:
    """Shows one server until a key or a signal ends it."""

    def __init__(self, terminal: Terminal, source: StatusSource, interval: float) -> None:
        self._terminal, self._source, self._interval = terminal, source, interval
        self._earlier: Status | None = None
        self._status: Status | None = None
        self._orders = list(ORDERS)
        self._paused = self._help = False

    def run(self) -> int:
        """The exit status. SourceError: the server ended."""
        self._terminal.selector.register(self._source, EVENT_READ)
        due, asked = time.monotonic(), False
        while True:
            if time.monotonic() >= due and not self._paused and not asked:
                self._source.ask()
                asked, due = True, time.monotonic() + self._interval
            ready = self._terminal.wait(3600 if self._paused or asked else due - time.monotonic())
            if self._source.fileno() in ready and (status := self._source.receive()) is not None:
                self._earlier, self._status, asked = self._status, status, False
                self._draw()
            if (ended := self._ended()) is not None:
                return ended

    def _ended(self) -> int | None:
        """What keys and signals ask for; the exit status, if it is the end."""
        for number in self._terminal.signals:
            if number != signal.SIGWINCH:
                return 0 if number == signal.SIGINT else 128 + number
        for key in self._terminal.keys:
            if key in {"q", ESCAPE}:
                return 0
            if key == "s":
                self._orders.append(self._orders.pop(0))
            self._paused ^= key == "p"
            self._help ^= key == "h"
        if self._terminal.keys or self._terminal.signals:
            self._draw()
        return None

    def _draw(self) -> None:
        if self._status is None:
            return
        width, height = terminal_size()
        note = HELP if self._help else "paused; p goes on" if self._paused else ""
        rates = rates_between(self._earlier, self._status)
        lines = screen(self._status, rates, order=self._orders[0], note=note, height=height)
        self._terminal.write(self._drawn(lines[:height], width))

    def _drawn(self, lines: list[Text], width: int) -> str:
        if self._terminal.dumb:
            return "\n".join(line.plain.rstrip() for line in lines) + "\n\n"
        console = Console(width=width, force_terminal=True, highlight=False)
        with console.capture() as captured:
            for line in lines:
                line.truncate(width, overflow="ellipsis")
                console.print(line, no_wrap=True, end="\x00")
        rows = captured.get().split("\x00")[:-1]
        return "\x1b[H" + "\x1b[K\r\n".join(rows) + "\x1b[K\x1b[J"


def terminal_size() -> tuple[int, int]:
    """Columns and lines; as usual where the terminal does not know."""
    columns, lines = os.get_terminal_size(sys.stdout.fileno())
    return columns or 80, lines or 24
