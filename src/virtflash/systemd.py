"""What a service and systemd tell each other: readiness, sockets that were opened in advance, a watchdog.

sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3), without their library. Where systemd did not start the server,
nothing of it does anything.
"""

import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Mapping

from virtflash.logs import Log

FIRST_FD = 3  # SD_LISTEN_FDS_START
SEND_SECONDS = 1.0  # systemd reads at once; one that does not must not hold up the server
SPARE = 0.2  # of half a watchdog's time: what is left for the message itself


class SystemdError(Exception):
    """What systemd handed over, or where it listens, is unusable; one line."""


def notify(*assignments: str) -> bool:
    """Tell systemd, in one message, such as "READY=1", "STATUS=two volumes". False: nobody asked to be told.

    SystemdError: it could not be told. The variable stays: it is needed for as long as the server runs.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return False
    message = "\n".join(assignment.replace("\n", " ") for assignment in assignments)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(SEND_SECONDS)
            sender.sendto(message.encode(), socket_address(address))
    except OSError as error:
        raise SystemdError(f"NOTIFY_SOCKET={address}: systemd cannot be told: {error.strerror or error}") from error
    return True


def socket_address(address: str) -> str:
    """As connect(2) wants it: an abstract one, written with @, begins with a NUL."""
    if address.startswith("@"):
        return "\0" + address[1:]
    if address.startswith("/"):
        return address
    raise SystemdError(f"NOTIFY_SOCKET={address}: neither an absolute path nor an abstract socket (@...)")


def notify_reloading() -> bool:
    """That a reload begins; it ends with READY=1. The time lets systemd tell this reload from an earlier one."""
    return notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def listening_sockets() -> dict[str, int]:
    """Descriptors of the sockets that systemd opened for this process, by FileDescriptorName; none: {}.

    The variables are removed and the descriptors closed in children, which inherit neither. SystemdError: a name comes
    twice, a descriptor is no socket, the variables make no sense.
    """
    process, count, names = (os.environ.pop(name, None) for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    if process is None or count is None or process != str(os.getpid()):
        return {}  # meant for another process, whose variables were inherited
    fds = range(FIRST_FD, FIRST_FD + socket_count(count))
    words = names.split(":") if names else ["unknown"] * len(fds)
    if len(words) != len(fds):
        raise SystemdError(f"LISTEN_FDNAMES={names}: {len(words)} names of {len(fds)} sockets")
    for fd, name in zip(fds, words, strict=True):
        check_socket(fd, name)
    refuse_doubles(words)
    return dict(zip(words, fds, strict=True))


def socket_count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise SystemdError(f"LISTEN_FDS={text}: a number of sockets is expected")
    return int(text)


def check_socket(fd: int, name: str) -> None:
    try:
        is_socket = stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError as error:
        raise SystemdError(f"LISTEN_FDS: descriptor {fd}, {name}, is not open") from error
    if not is_socket:
        raise SystemdError(f"LISTEN_FDS: descriptor {fd}, {name}, is no socket")
    os.set_inheritable(fd, False)


def refuse_doubles(names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise SystemdError(
                f"LISTEN_FDNAMES: {names.count(name)} sockets are called {name}; "
                "give each .socket unit the FileDescriptorName of its volume"
            )


def watchdog_seconds(environment: Mapping[str, str]) -> float | None:
    """Within which systemd wants to hear from this process; None: it does not watch."""
    text = environment.get("WATCHDOG_USEC")
    if text is None or environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    if not (text.isascii() and text.isdigit() and int(text)):
        raise SystemdError(f"WATCHDOG_USEC={text}: a number of microseconds is expected")
    return int(text) / 1e6


class Watchdog:
    """Feeds systemd's watchdog while every reactor answers, from a thread of its own.

    answers(seconds): does everything that serves guests answer within that time? It may take so long. The variables are
    read, and removed, here.
    """

    def __init__(self, answers: Callable[[float], bool], log: Log) -> None:
        self.seconds = watchdog_seconds(os.environ)
        for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
            os.environ.pop(name, None)
        self._answers = answers
        self._log = log
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None
        self._silent = False

    def start(self) -> None:
        """Begin; nothing where systemd does not watch."""
        if self.seconds is not None:
            self._thread = threading.Thread(target=self._watch, args=(self.seconds / 2,), name="watchdog", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """No more is fed: what follows, the end of the server, has a time limit of its own (TimeoutStopSec)."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _watch(self, period: float) -> None:
        """At half the time, as sd_watchdog_enabled(3) advises: what is asked has the other half to answer."""
        asked = time.monotonic()
        while not self._ending.wait(max(0.0, asked + period - time.monotonic())):
            asked = time.monotonic()
            self._feed(period * (1 - SPARE))

    def _feed(self, seconds: float) -> None:
        if not self._answers(seconds):
            if not self._silent:
                self._log.error("not every reactor answers within %.2g s: the watchdog is not fed", seconds)
            self._silent = True
            return
        if self._silent:
            self._log.warning("every reactor answers again: the watchdog is fed")
        self._silent = False
        try:
            notify("WATCHDOG=1")
        except SystemdError as error:
            self._log.limited("watchdog", str(error))
