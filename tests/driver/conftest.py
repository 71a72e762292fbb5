"""What the tests of the driver drive."""

import socket
from collections.abc import Iterator

import pytest
from driven_servers import server  # noqa: F401 - a fixture
from scripted_back_end import ScriptedBackEnd

from virtflash.driver.front_end import FrontEnd


@pytest.fixture
def pair() -> Iterator[tuple[FrontEnd, socket.socket]]:
    """A front end and the bare other end of its socket."""
    ours, theirs = socket.socketpair()
    with theirs, FrontEnd(ours, timeout=0.2) as front_end:
        yield front_end, theirs


@pytest.fixture
def scripted() -> Iterator[tuple[FrontEnd, ScriptedBackEnd]]:
    """A front end and a scripted back end that answers it."""
    ours, theirs = socket.socketpair()
    back_end = ScriptedBackEnd(theirs)
    back_end.start()
    with FrontEnd(ours) as front_end:
        yield front_end, back_end
    back_end.stop()
