"""The service's side of systemd's protocols, against sockets as systemd makes them."""

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from virtflash.logs import ROOT, Log
from virtflash.systemd import SystemdError, Watchdog, listening_sockets, notify, notify_reloading

DEADLINE_SECONDS = 20


class NotifySocket:
    """Where systemd hears of its services."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(DEADLINE_SECONDS)
        self.socket.bind(address)

    def next(self) -> list[str]:
        return self.socket.recv(4096).decode().split("\n")

    def drop(self) -> None:
        """What was sent and not read."""
        self.socket.setblocking(False)
        with suppress(BlockingIOError):
            while self.socket.recv(4096):
                continue

    def is_silent_for(self, seconds: float) -> bool:
        self.socket.settimeout(seconds)
        try:
            self.socket.recv(4096)
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(DEADLINE_SECONDS)
        return False


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NotifySocket]:
    name = f"virtflash-{os.getpid()}-{tmp_path.name}"
    address = str(tmp_path / "notify") if request.param == "path" else f"\0{name}"
    monkeypatch.setenv("NOTIFY_SOCKET", address.replace("\0", "@"))
    listening = NotifySocket(address)
    yield listening
    listening.socket.close()


def test_states_are_told_in_one_message(systemd: NotifySocket) -> None:
    assert notify("READY=1", "STATUS=two\nvolumes")
    assert systemd.next() == ["READY=1", "STATUS=two volumes"]


def test_a_reload_is_told_with_its_time(systemd: NotifySocket) -> None:
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notify_reloading()
    word, moment = systemd.next()
    assert word == "RELOADING=1"
    assert before <= int(moment.removeprefix("MONOTONIC_USEC=")) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


def test_nobody_is_told_where_nobody_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify("READY=1")


@pytest.mark.parametrize(("address", "named"), [("vsock:2:1234", "absolute path"), ("/no/such/socket", "No such file")])
def test_an_address_of_no_use_is_one_line(address: str, named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    with pytest.raises(SystemdError, match=named) as raised:
        notify("READY=1")
    assert "\n" not in str(raised.value)


# Puts the sockets where systemd puts them, becomes the process that they are meant for, and tells what that one sees.
ACTIVATED = """
import json, os, subprocess, sys
count, names = int(sys.argv[1]), sys.argv[2]
given = [int(text) for text in sys.argv[3:]]
kept = [os.dup2(fd, 100 + i) for i, fd in enumerate(given)]
for i, fd in enumerate(kept):
    os.dup2(fd, 3 + i)
    os.close(fd)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(count)}
if names:
    os.environ["LISTEN_FDNAMES"] = names
from virtflash.systemd import SystemdError, listening_sockets
try:
    found = listening_sockets()
except SystemdError as error:
    sys.exit(str(error))
import socket
told = {name: socket.socket(fileno=fd).getsockname() for name, fd in found.items()}
look = "import os; print(any(k.startswith('LISTEN_') for k in os.environ), os.listdir('/proc/self/fd'))"
child = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, close_fds=False)
inherited, _, open_fds = child.stdout.partition(" ")
print(json.dumps({"told": told, "variables": inherited, "fds": sorted(found.values()), "open": open_fds}))
"""


def activated(tmp_path: Path, names: str, count: int | None = None) -> subprocess.CompletedProcess[str]:
    """A process with a listening socket for each name; `count`: what it is told instead of their number."""
    number = len(names.split(":")) if names else 1
    listening = []
    for i in range(number):
        end = socket.socket(socket.AF_UNIX)
        end.bind(str(tmp_path / str(i)))
        end.listen()
        listening.append(end)
    fds = [end.fileno() for end in listening]
    command = [sys.executable, "-c", ACTIVATED, str(count or number), names, *map(str, fds)]
    ended = subprocess.run(command, pass_fds=fds, capture_output=True, text=True, check=False, timeout=DEADLINE_SECONDS)
    for end in listening:
        end.close()
    return ended


def test_sockets_come_by_name_and_are_kept_from_children(tmp_path: Path) -> None:
    ended = activated(tmp_path, "cluster:control")
    assert ended.returncode == 0, ended.stderr
    seen = json.loads(ended.stdout)
    assert seen["told"] == {"cluster": str(tmp_path / "0"), "control": str(tmp_path / "1")}
    assert seen["fds"] == [3, 4]
    assert seen["variables"] == "False"
    assert "'4'" not in seen["open"], "3 is the child's own look into /proc"


def test_a_socket_without_a_name(tmp_path: Path) -> None:
    assert list(json.loads(activated(tmp_path, "").stdout)["told"]) == ["unknown"]


@pytest.mark.parametrize(
    ("names", "count", "named"),
    [
        ("cluster:cluster", 2, "2 sockets are called cluster"),
        ("cluster", 60, "1 names of 60"),
        ("", 60, "is not open"),
    ],
)
def test_sockets_that_make_no_sense_are_one_line(names: str, count: int, named: str, tmp_path: Path) -> None:
    ended = activated(tmp_path, names, count)
    assert ended.returncode == 1
    assert named in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_sockets_of_another_process_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getppid()))
    monkeypatch.setenv("LISTEN_FDS", "1")
    assert listening_sockets() == {}
    assert "LISTEN_FDS" not in os.environ


class Reactors:
    """They answer, or they do not."""

    def __init__(self) -> None:
        self.answer = True
        self.asked = threading.Semaphore(0)
        self.times: list[float] = []

    def __call__(self, seconds: float) -> bool:
        self.times.append(seconds)
        self.asked.release()
        return self.answer

    def wait_until_asked(self, times: int) -> None:
        for _ in range(times):
            assert self.asked.acquire(timeout=DEADLINE_SECONDS)


@pytest.fixture
def reactors() -> Reactors:
    return Reactors()


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger(ROOT), "propagate", True)
    caplog.set_level(logging.INFO, ROOT)
    return caplog


@pytest.fixture
def watchdog(reactors: Reactors, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watchdog]:
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    made = Watchdog(reactors, Log())
    yield made
    made.stop()


def test_the_watchdog_is_fed_twice_as_often_as_asked_for(
    systemd: NotifySocket, watchdog: Watchdog, reactors: Reactors
) -> None:
    watchdog.start()
    assert [systemd.next() for _ in range(3)] == [["WATCHDOG=1"]] * 3
    assert all(0 < seconds < 0.1 for seconds in reactors.times)
    assert "WATCHDOG_USEC" not in os.environ
    watchdog.stop()
    systemd.drop()
    assert systemd.is_silent_for(0.3)


def test_it_starves_while_a_reactor_does_not_answer_and_says_so_once(
    systemd: NotifySocket, watchdog: Watchdog, reactors: Reactors, logged: pytest.LogCaptureFixture
) -> None:
    reactors.answer = False
    watchdog.start()
    reactors.wait_until_asked(4)
    assert systemd.is_silent_for(0.05)
    reactors.answer = True
    assert systemd.next() == ["WATCHDOG=1"]
    said = [record.getMessage() for record in logged.records]
    assert [("is not fed" in text, "again" in text) for text in said] == [(True, False), (False, True)]


def test_an_end_does_not_wait_for_the_next_meal(watchdog: Watchdog) -> None:
    watchdog.seconds = 3600.0
    watchdog.start()
    began = time.monotonic()
    watchdog.stop()
    assert time.monotonic() - began < DEADLINE_SECONDS


@pytest.mark.parametrize(
    ("variables", "seconds"),
    [({}, None), ({"WATCHDOG_USEC": "5000000"}, 5.0), ({"WATCHDOG_USEC": "5000000", "WATCHDOG_PID": "1"}, None)],
)
def test_it_is_fed_only_where_systemd_watches_this_process(
    variables: dict[str, str], seconds: float | None, reactors: Reactors, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Watchdog(reactors, Log()).seconds == seconds


@pytest.mark.parametrize("text", ["soon", "0", "-1"])
def test_a_time_that_is_none_is_one_line(text: str, reactors: Reactors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", text)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    with pytest.raises(SystemdError, match="WATCHDOG_USEC"):
        Watchdog(reactors, Log())
