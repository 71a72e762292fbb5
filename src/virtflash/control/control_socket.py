"""The socket at which a running server is controlled: one thread for all connections, bounded in all that they cost.

Connections that say nothing cost a descriptor each, of which there are few: when a new one comes and there is none
left, the one that has been silent for longest makes room for it. Who does not read what was asked for is dropped.
"""

import os
import selectors
import socket
import threading
import time
from contextlib import suppress
from functools import partial

from virtflash.control.admission import Peer
from virtflash.control.connection import Connection
from virtflash.control.conversation import Conversation, House
from virtflash.control.events import EventLog
from virtflash.control.json_rpc import ErrorCode, RpcError, error_line
from virtflash.control.methods import Methods
from virtflash.control.operator import Operator
from virtflash.control.worker import Worker
from virtflash.logs import Log

CONNECTIONS_MOST = 64
ACCEPTED_AT_ONCE = 16  # before those that are there are listened to again
STALL_SECONDS = 30.0  # that somebody may take over reading the next piece of what they asked for
PAUSE_SECONDS = 1.0  # until a socket that cannot be accepted from is looked at again
LINGER_SECONDS = 1.0  # that last answers may take when the server ends

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class ControlSocket:
    """`listening`: as `bind_socket` makes it, with mode 0600. Closed with this; its path is not removed.

    `events`: hears what happens, and is attached to the log by whoever gives it; None: one of its own, from `open` on.
    `group`: whose members are admitted besides root and the server's own user.

    Two threads call the operator, see there. It must not call `close`, which waits for them.
    """

    def __init__(
        self,
        listening: socket.socket,
        operator: Operator,
        log: Log,
        *,
        events: EventLog | None = None,
        group: int | None = None,
        connections: int = CONNECTIONS_MOST,
    ) -> None:
        listening.setblocking(False)
        self._listening = listening
        self._log = log
        self._group = group
        self._connections = connections
        self._attaches = events is None
        self._events = EventLog() if events is None else events
        self._conversations: dict[Conversation, int] = {}  # with what their sockets are watched for
        self._unfinished: set[Conversation] = set()  # that have lines which wait for nothing but their turn
        self._accept_again: float | None = None  # when (monotonic), while nobody is accepted
        self._knocked = False
        self._closing = False
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._selector = selectors.DefaultSelector()
        worker = Worker("vf-ctl-worker", self._wake)
        self._house = House(operator, Methods(), self._events, worker, log, self._wake)
        self._thread = threading.Thread(target=self._run, name="vf-control", daemon=True)

    def open(self) -> None:
        if self._attaches:
            self._events.attach()
        self._house.worker.start()
        self._thread.start()

    def close(self) -> None:
        """Finish what was begun, send what can be sent at once, and listen no more."""
        if self._thread.is_alive():
            self._closing = self._house.stopping = True
            self._wake()
            self._thread.join()
        if self._attaches:
            self._events.detach()
        self._listening.close()
        self._selector.close()
        os.close(self._wake_fd)

    def _wake(self) -> None:
        """From any thread."""
        with suppress(BlockingIOError):  # it was woken 2^64 times already
            os.eventfd_write(self._wake_fd, 1)

    def _run(self) -> None:
        self._selector.register(self._wake_fd, READ, self._woken)
        self._selector.register(self._listening, READ, self._knock)
        while not self._closing:
            self._turn()
        self._wind_up()

    def _turn(self) -> None:
        """Those that are there come before those that come: who has just sent something is not shut out."""
        for key, mask in self._selector.select(self._patience()):
            key.data(mask)
        for conversation in list(self._unfinished):
            self._go_on(conversation)
        if self._knocked:
            self._accept()
        self._look_at_clock()

    def _patience(self) -> float | None:
        """Seconds until something is to be done that nothing else tells of."""
        if self._unfinished:
            return 0
        if self._accept_again is not None or any(each.connection.unsent for each in self._conversations):
            return PAUSE_SECONDS
        return None

    def _look_at_clock(self) -> None:
        now = time.monotonic()
        if self._accept_again is not None and self._accept_again <= now:
            self._accept_again = None
            self._selector.register(self._listening, READ, self._knock)
        for conversation in list(self._conversations):
            if conversation.connection.unsent and now - conversation.connection.moved > STALL_SECONDS:
                self._log.limited(
                    "stalled", f"control: {conversation.connection.peer} does not read its answers: dropped"
                )
                self._drop(conversation)

    def _woken(self, _mask: int) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(self._wake_fd)
        self._house.worker.finish()
        for conversation in list(self._conversations):
            self._go_on(conversation)

    def _knock(self, _mask: int) -> None:
        self._knocked = True

    # Coming and going

    def _accept(self) -> None:
        self._knocked = False
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                connected, _address = self._listening.accept()
            except BlockingIOError:
                return
            except OSError as error:  # too many open files: it would be there again at once
                self._log.limited("accept", f"control: a connection could not be accepted: {error.strerror}")
                self._selector.unregister(self._listening)
                self._accept_again = time.monotonic() + PAUSE_SECONDS
                return
            self._admit(connected)

    def _admit(self, connected: socket.socket) -> None:
        try:
            peer = Peer.of(connected)
            self._check(peer)
        except OSError:
            connected.close()
        except RpcError as error:
            turn_away(connected, error)
        else:
            self._log.debug("control: %s connected", peer)
            conversation = Conversation(Connection(connected, peer), self._house)
            self._conversations[conversation] = 0
            self._watch_for(conversation)

    def _check(self, peer: Peer) -> None:
        """RpcError: they may not, or there is no room."""
        if not peer.is_admitted(self._group):
            self._log.limited("admission", f"control: {peer} was turned away")
            words = f"user {peer.user} may not control this server; root may, and who runs it"
            raise RpcError(ErrorCode.NOT_ADMITTED, words)
        if len(self._conversations) >= self._connections:
            self._make_room()

    def _make_room(self) -> None:
        silent = [each for each in self._conversations if each.is_silent]
        if not silent:
            words = f"all {self._connections} connections to this server are in use; close one, or try again"
            raise RpcError(ErrorCode.TOO_MANY, words)
        longest = min(silent, key=lambda conversation: conversation.connection.heard)
        self._log.debug("control: %s was silent for longest, and makes room", longest.connection.peer)
        self._drop(longest)

    def _drop(self, conversation: Conversation) -> None:
        conversation.stop_watching()
        if self._conversations.pop(conversation):
            self._selector.unregister(conversation.connection)
        self._unfinished.discard(conversation)
        conversation.connection.close()

    # Conversations

    def _hear(self, conversation: Conversation, mask: int) -> None:
        if conversation not in self._conversations:
            return  # dropped in this same turn
        try:
            if mask & READ:
                conversation.connection.receive()
        except OSError:
            self._drop(conversation)
        else:
            self._go_on(conversation)

    def _go_on(self, conversation: Conversation) -> None:
        try:
            finished = conversation.go_on()
        except OSError:
            self._drop(conversation)
            return
        except Exception:  # noqa: BLE001 - the other conversations go on
            self._log.exception("control: %s is dropped: a mistake in the server", conversation.connection.peer)
            self._drop(conversation)
            return
        if conversation.is_over:
            self._drop(conversation)
            return
        (self._unfinished.discard if finished else self._unfinished.add)(conversation)
        self._watch_for(conversation)

    def _watch_for(self, conversation: Conversation) -> None:
        """Of its socket, what leads to something that can be done."""
        connection = conversation.connection
        listens = conversation.listens and not connection.ended and not connection.has_line
        wanted = (READ if listens else 0) | (WRITE if connection.unsent else 0)
        before = self._conversations[conversation]
        if wanted == before:
            return
        hear = partial(self._hear, conversation)
        if not before:
            self._selector.register(connection, wanted, hear)
        elif not wanted:
            self._selector.unregister(connection)
        else:
            self._selector.modify(connection, wanted, hear)
        self._conversations[conversation] = wanted

    def _wind_up(self) -> None:
        """The last answers, also of what is still being done, and the last events."""
        self._house.worker.close()
        self._house.worker.finish()
        self._selector.unregister(self._wake_fd)
        if self._accept_again is None:
            self._selector.unregister(self._listening)
        for conversation in list(self._conversations):
            conversation.connection.hear_no_more()
            self._go_on(conversation)
        deadline = time.monotonic() + LINGER_SECONDS
        while self._conversations and (left := deadline - time.monotonic()) > 0:
            for key, mask in self._selector.select(left):
                key.data(mask)
        for conversation in list(self._conversations):
            self._drop(conversation)


def turn_away(connected: socket.socket, error: RpcError) -> None:
    """Say why, as far as they can be told."""
    with connected, suppress(OSError):
        connected.setblocking(False)
        connected.send(error_line(None, error) + b"\n", socket.MSG_NOSIGNAL)
