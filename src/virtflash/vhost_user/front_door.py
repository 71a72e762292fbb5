"""The front ends of one device, in turn: accepted, listened to, let go, in a thread of their own.

One front end is served at a time; another one waits in the socket's backlog until the first has left. A front end that
misbehaves holds up nobody but those that wait for the same device.
"""

import logging
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

from virtflash.logs import LIFE_LINES, Log
from virtflash.peer import Peer
from virtflash.vhost_user.backend import Backend
from virtflash.vhost_user.connection import Connection
from virtflash.vhost_user.messages import ProtocolError
from virtflash.vhost_user.session import Session
from virtflash.vhost_user.socket_owner import SocketOwner

PAUSE_SECONDS = 1.0  # between two looks at what the device has to report, or at a socket that cannot be accepted from


HasFileno = int | socket.socket


class FrontDoor:
    """`reports_fd` is readable while `report` has something to say; it is looked at once a second at most.

    `on_leave` is called after a front end's queues have stopped, with the seconds that it stayed. `owner`: who may
    come; None: whoever can; it may be changed, for those that come later.
    """

    def __init__(
        self,
        listening: socket.socket,
        backend: Backend,
        log: Log,
        *,
        reports_fd: int,
        report: Callable[[], None],
        on_leave: Callable[[float], None],
        owner: SocketOwner | None = None,
    ) -> None:
        self.owner = owner
        self.peer: Peer | None = None  # of the front end that is here; any thread may look
        self.since = 0.0  # when it came, seconds since 1970
        self._listening = listening
        self._backend = backend
        self._log = log
        self._reports_fd = reports_fd
        self._report = report
        self._on_leave = on_leave
        self._paused: list[tuple[float, HasFileno, Callable[[], object]]] = []  # until when (monotonic) nobody looks
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._selector = selectors.DefaultSelector()
        self._connection: Connection | None = None
        self._session: Session | None = None
        self._since = 0.0
        self._thread = threading.Thread(target=self._run, name=f"vf-{log.subject}"[:15], daemon=True)

    def open(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Let the front end go, stop its queues, and listen no more."""
        if self._thread.is_alive():
            self._post(None)
            connection = self._connection
            if connection is not None:
                connection.hang_up()  # it may stall in the middle of a message
            self._thread.join()
        self._listening.close()
        self._selector.close()
        os.close(self._wake)

    def announce_config_change(self) -> None:
        """Tell the front end, if one is there, that the configuration space has changed. Any thread."""
        self._post(self._announce)

    def _post(self, job: Callable[[], None] | None) -> None:
        self._jobs.put(job)
        os.eventfd_write(self._wake, 1)

    def _announce(self) -> None:
        if self._session is not None:
            self._session.announce_config_change()

    def _run(self) -> None:
        self._selector.register(self._wake, selectors.EVENT_READ, self._do_jobs)
        self._selector.register(self._reports_fd, selectors.EVENT_READ, self._look_at_reports)
        self._selector.register(self._listening, selectors.EVENT_READ, self._accept)
        going_on = True
        while going_on:
            going_on = self._turn()
        self._let_go("the server stops")
        self._report()

    def _turn(self) -> bool:
        """Wait for something to happen and do what it asks for. False: it is time to end."""
        for key, _ in self._selector.select(self._patience()):
            if key.data() is False:
                return False
        self._resume()
        return True

    def _patience(self) -> float | None:
        """Seconds until something that is paused is looked at again; None: nothing is."""
        return max(self._paused[0][0] - time.monotonic(), 0) if self._paused else None

    def _pause(self, what: HasFileno, callback: Callable[[], object]) -> None:
        """Look away for a moment from what could go on for ever."""
        self._selector.unregister(what)
        self._paused.append((time.monotonic() + PAUSE_SECONDS, what, callback))

    def _resume(self) -> None:
        while self._paused and self._paused[0][0] <= time.monotonic():
            _, what, callback = self._paused.pop(0)
            self._selector.register(what, selectors.EVENT_READ, callback)

    def _do_jobs(self) -> bool:
        os.eventfd_read(self._wake)
        while not self._jobs.empty():
            job = self._jobs.get()
            if job is None:
                return False
            job()
        return True

    def _look_at_reports(self) -> None:
        self._report()
        self._pause(self._reports_fd, self._look_at_reports)

    def _accept(self) -> None:
        try:
            accepted, _ = self._listening.accept()
        except OSError as error:
            self._log.limited("accept", f"a front end could not be accepted: {error.strerror}")
            self._pause(self._listening, self._accept)  # too many open files: it would be there again at once
            return
        peer = Peer.of(accepted)
        if self.owner is not None and not self.owner.admits(peer):
            accepted.close()
            self._log.limited(
                "refused",
                f"front end refused ({peer}): {self.owner.name} alone may connect",
                extra={"event": {"kind": "front-end-refused"}},
            )
            return
        self._connection = Connection(accepted)
        self._session = Session(self._backend, self._log)
        self.peer, self.since = peer, time.time()
        self._since = time.monotonic()
        self._selector.unregister(self._listening)
        self._selector.register(self._connection, selectors.EVENT_READ, self._hear)
        self._log.limited(
            "connected",
            f"front end connected ({peer})",
            level=logging.INFO,
            burst=LIFE_LINES,
            extra={"event": {"kind": "front-end-connected", "process": peer.process, "user": peer.user}},
        )

    def _hear(self) -> None:
        """Take one message, obey it, answer."""
        if self._connection is None or self._session is None:
            return
        try:
            message = self._connection.read()
            if message is None:
                self._let_go("it left")
                return
            answer = self._session.receive(message)
            if answer is not None:
                self._connection.write(answer)
        except (ProtocolError, OSError) as error:
            self._log.limited("dropped", f"front end dropped: {error}")
            self._let_go("it was dropped")

    def _let_go(self, reason: str) -> None:
        if self._connection is None or self._session is None:
            return
        self._selector.unregister(self._connection)
        self._session.close()
        self._connection.close()
        self._connection = self._session = self.peer = None
        self._selector.register(self._listening, selectors.EVENT_READ, self._accept)
        self._log.debug("front end let go: %s", reason)
        self._report()  # what this one did is said before the next one comes
        self._on_leave(time.monotonic() - self._since)
