"""Who may connect to a socket: a user, or a group, whose name is in the configuration.

The socket's file is given to him, so that its mode means him; and whoever connects is looked at again (SO_PEERCRED),
since a mode can be changed, and a directory be moved.
"""

import grp
import os
import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from virtflash.peer import Peer

GROUP_PREFIX = "group:"


class OwnerError(Exception):
    """There is no such user or group; one line."""


@dataclass(frozen=True)
class SocketOwner:
    """One of the two is named."""

    name: str
    user: int | None = None
    group: int | None = None

    @classmethod
    def named(cls, name: str) -> Self:
        """A user, or `group:NAME`; numbers will do. OwnerError."""
        if name.startswith(GROUP_PREFIX):
            return cls(name, group=group_number(name.removeprefix(GROUP_PREFIX)))
        return cls(name, user=user_number(name))

    def admits(self, peer: Peer) -> bool:
        if self.user is not None:
            return peer.user == self.user
        return self.group in peer.groups

    def take(self, path: Path) -> None:
        """The socket's file becomes his. OSError: this process may not give it away."""
        os.chown(path, -1 if self.user is None else self.user, -1 if self.group is None else self.group)


def user_number(name: str) -> int:
    if name.isascii() and name.isdigit():
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise OwnerError(f"there is no user {name!r} on this host; make one, or name another") from None


def group_number(name: str) -> int:
    if name.isascii() and name.isdigit():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise OwnerError(f"there is no group {name!r} on this host; make one, or name another") from None
