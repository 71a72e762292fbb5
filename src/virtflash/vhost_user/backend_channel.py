"""The way back: what a back end tells its front end unasked, over a socket that the front end gave it."""

import os
import socket
import stat

from virtflash.vhost_user.backend import RefusedError
from virtflash.vhost_user.messages import BackendRequest, Message


class BackendChannel:
    """Owns the descriptor. RefusedError: it is no socket."""

    def __init__(self, fd: int) -> None:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            os.close(fd)
            raise RefusedError("the descriptor for back-end requests is no socket")
        self._socket = socket.socket(fileno=fd)

    def announce_config_change(self) -> None:
        """Ask the front end to read the configuration space again. No answer is asked for: it could keep us waiting.

        OSError: its end is closed, or it does not read what it was sent.
        """
        message = Message(BackendRequest.CONFIG_CHANGE_MSG).pack()
        self._socket.send(message, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def close(self) -> None:
        self._socket.close()
