"""Where front ends come: a path that is free, left over, in use, or something else; or an inherited descriptor."""

import os
import socket
import stat
from pathlib import Path

import pytest

from virtflash.vhost_user.listening_socket import PATH_LIMIT, SocketError, adopt_socket, bind_socket


def test_a_path_that_is_free(tmp_path: Path) -> None:
    with bind_socket(tmp_path / "s"), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_the_mode_is_what_was_asked_for(mode: int, umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        with bind_socket(tmp_path / "s", mode):
            assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == mode
    finally:
        os.umask(before)


def test_at_no_moment_is_more_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is changed after bind: the file came into being with no more than its mode."""
    monkeypatch.setattr(Path, "chmod", lambda *_arguments: pytest.fail("it was there with another mode"))
    before = os.umask(0)
    try:
        bind_socket(tmp_path / "s", 0o600).close()
    finally:
        os.umask(before)


def test_a_socket_that_a_dead_server_left_is_replaced(tmp_path: Path) -> None:
    bind_socket(tmp_path / "s").close()
    with bind_socket(tmp_path / "s"), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))


def test_a_socket_that_is_served_is_left_alone(tmp_path: Path) -> None:
    with bind_socket(tmp_path / "s"):
        with pytest.raises(SocketError, match="another server listens"):
            bind_socket(tmp_path / "s")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "s"))


def test_a_file_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("precious")
    with pytest.raises(SocketError, match="no socket"):
        bind_socket(tmp_path / "s")
    assert (tmp_path / "s").read_text() == "precious"


def test_a_path_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(SocketError, match=f"longer than the {PATH_LIMIT} bytes"):
        bind_socket(tmp_path / ("x" * 120))


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SocketError, match="No such file"):
        bind_socket(tmp_path / "no/s")


def test_an_inherited_socket(tmp_path: Path) -> None:
    listening = bind_socket(tmp_path / "s")
    with adopt_socket(os.dup(listening.fileno())) as adopted:
        assert not os.get_inheritable(adopted.fileno())
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "s"))
            adopted.accept()[0].close()
    listening.close()


def test_descriptors_that_are_no_listening_socket() -> None:
    one, other = socket.socketpair()
    with one, other, pytest.raises(SocketError, match="no listening UNIX socket"):
        adopt_socket(one.fileno())
    pipe, end = os.pipe()
    with pytest.raises(SocketError, match="no socket"):
        adopt_socket(pipe)
    os.close(pipe)
    os.close(end)
    with pytest.raises(SocketError, match="was not inherited"):
        adopt_socket(pipe)
