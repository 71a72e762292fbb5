"""The UNIX socket on which front ends come: made at a path, or inherited."""

import os
import socket
import stat
from pathlib import Path

from virtflash.peer import PEER

BACKLOG = 16
PATH_LIMIT = 107  # bytes: sun_path holds 108, the last one a NUL


class SocketError(Exception):
    """The socket cannot be had; one line that says which, why, and what to do."""


def bind_socket(path: Path, mode: int | None = None) -> socket.socket:
    """Listen at a path. A socket that a server left there when it died is replaced; one that is served is not.

    `mode`: its permissions, whatever the umask says; None: as the umask says. SocketError: one line.
    """
    if len(os.fsencode(path)) > PATH_LIMIT:
        raise SocketError(
            f"{path}: longer than the {PATH_LIMIT} bytes that a socket's path may have; choose a shorter one"
        )
    remove_abandoned(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bind_with_mode(listening, path, mode)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise SocketError(f"{path}: cannot listen there: {error.strerror}") from error
    return listening


def bind_with_mode(listening: socket.socket, path: Path, mode: int | None) -> None:
    """At no moment is there more allowed than `mode`. (The umask itself is of all threads, and left alone.)"""
    if mode is not None:
        os.fchmod(listening.fileno(), mode)  # before it has a name: bind(2) gives the file this mode, less the umask
    listening.bind(str(path))
    if mode is not None and stat.S_IMODE(path.lstat().st_mode) != mode:
        path.chmod(mode)


def adopt_socket(fd: int) -> socket.socket:
    """Take a listening socket that was inherited as a descriptor."""
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise SocketError(f"file descriptor {fd} is no socket")
        inherited = socket.socket(fileno=fd)
    except OSError as error:
        raise SocketError(f"file descriptor {fd} was not inherited: {error.strerror}") from error
    listens = inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if inherited.family != socket.AF_UNIX or not listens:
        inherited.detach()
        raise SocketError(f"file descriptor {fd} is no listening UNIX socket")
    os.set_inheritable(fd, False)
    inherited.listen(BACKLOG)  # again: whoever connects sees from now on that we do (see leads_here)
    return inherited


def leads_here(fd: int) -> bool:
    """Is this the far end of a connection to a socket on which this process listens?

    Whoever made us keep such a one would never be seen to leave, and nobody else be served.
    """
    if not stat.S_ISSOCK(os.fstat(fd).st_mode):
        return False
    with socket.socket(fileno=os.dup(fd)) as end:
        if end.family != socket.AF_UNIX or end.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return False
        peer, _, _ = PEER.unpack(end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER.size))
        return peer == os.getpid() and is_named_peer(end)


def is_named_peer(end: socket.socket) -> bool:
    try:
        return bool(end.getpeername())
    except OSError:
        return False  # not connected


def remove_abandoned(path: Path) -> None:
    """SocketError: something is there that is no socket, or that is served."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise SocketError(f"{path}: {error.strerror}") from error
    if not stat.S_ISSOCK(mode):
        raise SocketError(f"{path}: is there already and is no socket; remove it or choose another path")
    if is_served(path):
        raise SocketError(f"{path}: another server listens there; stop it or choose another path")
    path.unlink(missing_ok=True)


def is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:
            return True  # it listens, and its backlog is full
        except OSError:
            return False
        return True
