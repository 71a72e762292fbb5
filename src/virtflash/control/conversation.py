"""What is said on one connection: calls taken from lines, answered when they are done, and events between them.

Answers come when they are ready, not in the order of their calls: what takes long is done on another thread meanwhile.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from virtflash.control.connection import LINE_MOST, Connection, LineTooLongError
from virtflash.control.events import EventLog, Subscription
from virtflash.control.json_rpc import (
    Call,
    ErrorCode,
    Line,
    Misfit,
    RpcError,
    batch_line,
    call_line,
    error_line,
    read_line,
    result_line,
)
from virtflash.control.methods import Method, Methods
from virtflash.control.operator import Connected, MethodDescription, Operator, OperatorError, Watching
from virtflash.control.worker import Worker
from virtflash.logs import Log

LINES_AT_ONCE = 64  # of one connection, before others have their turn
UNSENT_HIGH = 1 << 18  # bytes: whoever has so many to read is not listened to
BATCH_ANSWERS_MOST = 1 << 20  # bytes, in answer to one batch: what is called beyond them is refused
CALLS_MOST = 16  # of one connection that are under way: no more lines are taken then
WATCHERS_MOST = 32


@dataclass
class House:
    """What all conversations share. `watchers`: how many of them are told events. `wake`: events wait for one."""

    operator: Operator
    methods: Methods
    events: EventLog
    worker: Worker
    log: Log
    wake: Callable[[], None]
    watchers: int = 0
    stopping: bool = False  # what was not begun is not done any more


class Exchange:
    """The answers to one line. `write` gets them, as one line, when there is one for each call."""

    def __init__(self, line: Line, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._batch = line.batch
        self._answers: list[bytes] = []
        self._due = len(line.entries)
        self.size = 0  # bytes of the answers so far

    def add(self, answer: bytes) -> None:
        """Empty: none is due, as it was a notification."""
        self._due -= 1
        self.size += len(answer)
        if answer:
            self._answers.append(answer)
        if self._due == 0 and self._answers:
            self._write(batch_line(self._answers) if self._batch else self._answers[0])


class Conversation(Connected):
    """On the control thread, all of it but `_answer`."""

    def __init__(self, connection: Connection, house: House) -> None:
        self.connection = connection
        self._house = house
        self._calls = 0  # under way on the worker's thread
        self._subscription: Subscription | None = None

    @property
    def is_silent(self) -> bool:
        """Nothing is under way, and nothing is expected of us."""
        return not (self._calls or self._subscription or self.connection.unsent or self.connection.has_line)

    @property
    def is_over(self) -> bool:
        return self.connection.ended and self.is_silent

    @property
    def listens(self) -> bool:
        """Whether a line would be taken now."""
        return self._calls < CALLS_MOST and self.connection.unsent < UNSENT_HIGH

    def go_on(self) -> bool:
        """Take lines, tell events, send. False: there is more to do, at once. OSError: they are gone."""
        taken = 0
        while taken < LINES_AT_ONCE and self.listens and self._take_line():
            taken += 1
        self._tell_events()
        if self.connection.ended and not self.connection.has_line:
            self.stop_watching()
        self.connection.flush()
        return not (self._has_events or (self.listens and self.connection.has_line))

    def stop_watching(self) -> None:
        if self._subscription is not None:
            self._house.events.unsubscribe(self._subscription)
            self._house.watchers -= 1
            self._subscription = None

    # What a connection does by itself

    def watch(
        self,
        events: tuple[str, ...] = (),
        volume: str | None = None,
        recent: int = 0,
        since: int | None = None,
    ) -> Watching:
        self.stop_watching()
        if self._house.watchers >= WATCHERS_MOST:
            raise RpcError(ErrorCode.TOO_MANY, f"{WATCHERS_MOST} connections watch already; close one of them")
        log = self._house.events
        self._subscription = log.subscribe(self._house.wake, events, volume, recent=recent, since=since)
        self._house.watchers += 1
        return Watching(last=log.last)

    def methods(self) -> list[MethodDescription]:
        return self._house.methods.described()

    # Lines

    def _take_line(self) -> bool:
        """False: there is none."""
        try:
            line = self.connection.next_line()
        except LineTooLongError:
            error = RpcError(
                ErrorCode.INVALID_REQUEST, f"a line of more than {LINE_MOST} bytes; the connection is closed"
            )
            self.connection.write(error_line(None, error))
            self.connection.hear_no_more()
            return False
        if line is None:
            return False
        if line.strip():
            self._obey(read_line(line))
        return True

    def _obey(self, line: Line) -> None:
        exchange = Exchange(line, self.connection.write)
        for entry in line.entries:
            if isinstance(entry, Misfit):
                exchange.add(error_line(entry.id, entry.error))
            else:
                self._call(entry, exchange)

    def _call(self, call: Call, exchange: Exchange) -> None:
        try:
            if exchange.size > BATCH_ANSWERS_MOST:
                raise RpcError(ErrorCode.TOO_MANY, "the answers of this batch are too long; ask for less at once")
            method = self._house.methods.find(call.method)
            arguments = method.read(call.params)
        except RpcError as error:
            exchange.add(self._refusal(call, error))
            return
        answer = partial(self._answer, call, method, arguments)
        if method.takes_long:
            self._calls += 1
            self._house.worker.do(answer, partial(self._called, exchange))
        else:
            exchange.add(answer())

    def _called(self, exchange: Exchange, answer: bytes) -> None:
        self._calls -= 1
        exchange.add(answer)

    def _answer(self, call: Call, method: Method, arguments: dict[str, object]) -> bytes:
        """Call it; on whichever thread. The answer, empty where none is due."""
        try:
            if self._house.stopping:
                raise RpcError(ErrorCode.STOPPING, "the server ends; this was not begun")
            self._house.log.debug("%s, called by %s", method.name, self.connection.peer)
            target = self if method.of is Connected else self._house.operator
            result = getattr(target, method.name)(**arguments)
            return b"" if call.is_notification else result_line(call.id, result)
        except OperatorError as error:
            return self._refusal(call, RpcError(ErrorCode.REFUSED, str(error)))
        except RpcError as error:
            return self._refusal(call, error)
        except Exception as error:  # a mistake of ours is no reason to control nothing any more
            self._house.log.exception("%s failed: this is a mistake in the server", method.name)
            words = f"{method.name} failed inside of the server: {type(error).__name__}: {error}"
            return self._refusal(call, RpcError(ErrorCode.INTERNAL_ERROR, words))

    def _refusal(self, call: Call, error: RpcError) -> bytes:
        if call.is_notification:  # nobody is told, by the protocol
            self._house.log.debug("%s, of which no answer was asked for: %s", call.method[:40], error)
            return b""
        return error_line(call.id, error)

    # Events

    @property
    def _has_events(self) -> bool:
        """That could be told now: nobody is woken for those that wait already."""
        waiting = self._subscription is not None and self._subscription.is_waiting
        return waiting and self.connection.unsent < UNSENT_HIGH

    def _tell_events(self) -> None:
        while self._subscription is not None and self.connection.unsent < UNSENT_HIGH:
            event = self._subscription.take()
            if event is None:
                return
            self.connection.write(call_line("event", event))
