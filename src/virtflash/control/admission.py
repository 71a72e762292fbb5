"""Who may control the server."""

import os
from dataclasses import dataclass

from virtflash import peer

ROOT_USER = 0


@dataclass(frozen=True)
class Peer(peer.Peer):
    """Whoever has connected to the control socket."""

    def is_admitted(self, group: int | None) -> bool:
        """Root, the server's own user, and members of `group`; whatever the socket's mode has become."""
        return self.user in (ROOT_USER, os.geteuid()) or (group is not None and group in self.groups)

    __str__ = peer.Peer.__str__
