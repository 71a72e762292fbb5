"""Whole messages over a socket that cuts them as it likes, and front ends that stall or leave."""

import array
import gc
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from virtflash.vhost_user import connection as connection_module
from virtflash.vhost_user.connection import Connection
from virtflash.vhost_user.messages import FD_LIMIT, HEADER, PAYLOAD_LIMIT, U64, Message, ProtocolError, Request

Pair = tuple[Connection, socket.socket]
MESSAGE = Message(Request.SET_FEATURES, U64.pack(7))


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    connection = Connection(ours)
    gc.collect()  # what earlier tests left to the garbage collector is not this one's
    before = len(list(Path("/proc/self/fd").iterdir()))
    yield connection, theirs
    assert len(list(Path("/proc/self/fd").iterdir())) in (before, before - 1), "descriptors are left"
    connection.close()
    theirs.close()


def send_fds(sock: socket.socket, data: bytes, count: int) -> None:
    fds = array.array("i", [os.eventfd(0) for _ in range(count)])
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
    for fd in fds:
        os.close(fd)


def close_fds(message: Message | None) -> int:
    assert message is not None
    for fd in message.fds:
        os.close(fd)
    return len(message.fds)


@pytest.mark.parametrize("cut", range(1, HEADER.size + U64.size))
def test_a_message_may_come_in_two_pieces(pair: Pair, cut: int) -> None:
    connection, theirs = pair
    data = MESSAGE.pack()
    sender = threading.Thread(target=lambda: (theirs.sendall(data[:cut]), theirs.sendall(data[cut:])))
    sender.start()
    assert connection.read() == MESSAGE
    sender.join()


@pytest.mark.parametrize("count", [0, 1, 8, FD_LIMIT])
def test_descriptors_come_along(pair: Pair, count: int) -> None:
    connection, theirs = pair
    send_fds(theirs, MESSAGE.pack(), count)
    assert close_fds(connection.read()) == count


def test_a_front_end_that_leaves_between_messages(pair: Pair) -> None:
    connection, theirs = pair
    theirs.sendall(MESSAGE.pack())
    theirs.close()
    assert connection.read() == MESSAGE
    assert connection.read() is None


@pytest.mark.parametrize("cut", [1, HEADER.size - 1, HEADER.size, HEADER.size + 1])
def test_a_front_end_that_leaves_in_the_middle_takes_its_descriptors_along(pair: Pair, cut: int) -> None:
    connection, theirs = pair
    send_fds(theirs, MESSAGE.pack()[:cut], 3)
    theirs.close()
    with pytest.raises(ProtocolError, match="in the middle of a message"):
        connection.read()


def test_a_front_end_that_stalls_is_not_waited_for(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    connection, theirs = pair
    monkeypatch.setattr(connection_module, "STALL_SECONDS", 0.05)
    send_fds(theirs, MESSAGE.pack()[:-1], 1)
    with pytest.raises(ProtocolError, match="stalled"):
        connection.read()


def test_a_front_end_that_does_not_read_its_answers(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    connection, _theirs = pair
    monkeypatch.setattr(connection_module, "STALL_SECONDS", 0.05)
    with pytest.raises(ProtocolError, match="could not be sent"):
        for _ in range(10_000):
            connection.write(Message(Request.GET_CONFIG, bytes(256)))


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (HEADER.pack(1, 1, PAYLOAD_LIMIT + 1), "at most"),
        (HEADER.pack(1, 1, 0xFFFFFFFF), "at most"),
        (HEADER.pack(1, 0, 0), "version 0"),
        (HEADER.pack(1, 2, 0), "version 2"),
    ],
)
def test_headers_of_no_message(pair: Pair, header: bytes, why: str) -> None:
    connection, theirs = pair
    theirs.sendall(header)
    with pytest.raises(ProtocolError, match=why):
        connection.read()
