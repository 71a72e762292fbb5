"""Who is at the other end of a UNIX connection, as the kernel knows them from when they connected."""

import socket
import struct
from dataclasses import dataclass
from typing import Self

PEER = struct.Struct("iII")  # SO_PEERCRED: process, user, group
SO_PEERGROUPS = 59  # asm-generic/socket.h, since Linux 4.13; the socket module has no name for it
GROUPS_BYTES = 1024  # the most that the socket module asks for: 256 groups


@dataclass(frozen=True)
class Peer:
    """`groups`: the first one, and those that were added."""

    process: int
    user: int
    groups: frozenset[int]

    @classmethod
    def of(cls, connected: socket.socket) -> Self:
        credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER.size)
        process, user, group = PEER.unpack(credentials)
        return cls(process, user, frozenset({group, *more_groups(connected)}))

    def __str__(self) -> str:
        return f"process {self.process}, user {self.user}"


def more_groups(connected: socket.socket) -> list[int]:
    """Besides the first one. None are known where the kernel is old, or where there are more than can be asked for."""
    try:
        data = connected.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, GROUPS_BYTES)
    except OSError:
        return []
    return [group for (group,) in struct.iter_unpack("I", data)]
