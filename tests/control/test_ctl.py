"""`virtflash ctl` as a user meets it: the real program, against a control socket."""

import json
import os
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest
from controlled import DEADLINE_SECONDS, Controlled
from ctl_program import PROGRAM, Watching, ctl
from test_events import happen

from virtflash.cli.ctl import value
from virtflash.config.configuration import Volume
from virtflash.control.client import Client, ControlError
from virtflash.control.methods import Methods
from virtflash.control.operator import NewLimits, OperatorError

# What is written, what the server is asked for, and words of what is printed.
CALLS: list[tuple[str, tuple[Any, ...] | None, str]] = [
    ("status", ("status",), "infotainment  emmc0  serving"),
    ("volumes", ("volumes",), "volume        flash"),
    (
        "create|name=7|flash=emmc0|size=2 GiB|socket=run/7.sock|mode=660|iops=500 /s|owner=null|read_only=true",
        (
            "create",
            "7",
            Volume(
                flash="emmc0",
                size=2 << 30,  # type: ignore[arg-type]
                socket="run/7.sock",
                mode="660",
                iops=500,  # type: ignore[arg-type]
                read_only=True,
            ),
        ),
        "2 GiB",
    ),
    ("delete|name=cluster|secure=true", ("delete", "cluster", True), "done"),
    ("grow|name=cluster|size=4096", ("grow", "cluster", 4096), "4 KiB"),
    ("flush", ("flush", None), "done"),
    ("flush|name=cluster", ("flush", "cluster"), "done"),
    ("erase|name=cluster", ("erase", "cluster", False), "done"),
    ("refresh|older_than=30 days", ("refresh", None, 30 * 86_400_000), "emmc0  12"),
    ("sensors", ("sensors",), "emmc0.temperature"),
    ("push|sensor=platform.supply|value=3.1|ttl=30 s", ("push", "platform.supply", 3.1, 30_000), "done"),
    ("simulate|sensor=emmc0.temperature|value=90", ("simulate", "emmc0.temperature", 90.0), "done"),
    ("simulate|sensor=emmc0.temperature", ("simulate", "emmc0.temperature", None), "done"),
    ("reload", ("reload",), "applied  [volume.cluster] iops: 500 /s"),
    (
        "limits|name=cluster|iops=null|wear_budget=20 GB/day|when_spent=alarm",
        ("limits", "cluster", NewLimits(iops=None, wear_budget=20 * 10**9, when_spent="alarm")),  # type: ignore[arg-type]
        "iops             500",
    ),
    (
        "limits|name=cluster|iops_burst=7|bandwidth_burst=1 MiB|wear_burst=null",
        ("limits", "cluster", NewLimits(iops_burst=7, bandwidth_burst=1 << 20, wear_burst=None)),  # type: ignore[arg-type]
        "iops_burst       50",
    ),
    ("limits|name=cluster", ("limits", "cluster", NewLimits()), "wear_budget      20000000000"),
    ("wear|name=cluster", ("wear", "cluster"), "-5 bytes  throttle: now"),
    ("log_level|level=debug", ("log_level", "debug"), "debug"),
    ("shutdown", ("shutdown",), "done"),
    ("methods", None, "Make a volume, and serve it at once."),
]


@pytest.mark.parametrize(("written", "asked", "said"), CALLS, ids=[row[0].split("|")[0] for row in CALLS])
def test_every_method(served: Controlled, written: str, asked: tuple[Any, ...] | None, said: str) -> None:
    ended = ctl(served.path, *written.split("|"))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert served.operator.asked == ([] if asked is None else [asked])
    assert said in ended.stdout


def test_none_is_left_out() -> None:
    called = {row[0].split("|")[0] for row in CALLS} | {"watch"}
    assert called == {method.name for method in Methods().described()}


def test_as_json(served: Controlled) -> None:
    assert json.loads(ctl(served.path, "wear", "--json").stdout)[0]["budget"]["left"] == -5
    assert json.loads(ctl(served.path, "--json", "flush").stdout) is None


MISUSE = {  # what a user may get wrong: the arguments, the exit status, and what the one line must name
    "no socket": ("", 2, "name the control socket"),
    "no method": ("{s}", 2, "name a method; this server has status, volumes"),
    "no such method": ("{s} stats", 1, "there is no method 'stats'; did you mean status?"),
    "help of no such method": ("{s} stats --help", 2, "no method 'stats'; did you mean status?"),
    "no such parameter": ("{s} flush nam=a", 1, "nam: flush has no such parameter; did you mean name?"),
    "none of our own names": ("{s} flush method=a timeout=1 self=2", 1, "timeout: flush has no such parameter"),
    "no key": ("{s} grow cluster", 2, "write parameters as KEY=VALUE, such as name=cluster"),
    "nothing before the sign": ("{s} grow =5", 2, "KEY=VALUE"),
    "a key twice": ("{s} flush name=a name=b", 2, "name is given twice"),
    "a parameter too few": ("{s} grow name=a", 1, "size: this is missing: what its machine shall see"),
    "a bad size": ("{s} grow name=a size=2Gigs", 1, 'size: a size is written like "8 GiB"'),
    "refused by the server": ("{s} delete name=tv", 1, "there is no volume tv; there are: cluster"),
    "no socket there": ("{s}.not status", 1, "is the server running"),
    "no server there": ("{dead} status", 1, "no server listens there"),
    "a file": ("{file} status", 1, "no server listens there"),
    "a long path": ("{long} status", 1, "too long"),
    "an unknown option": ("{s} status --jsno", 2, "--jsno"),
}


@pytest.mark.parametrize("what", MISUSE)
def test_misuse_is_one_line(served: Controlled, tmp_path: Path, what: str) -> None:
    arguments, status, words = MISUSE[what]
    (tmp_path / "file").touch()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead"))
    places = {"s": served.path, "file": tmp_path / "file", "dead": tmp_path / "dead", "long": tmp_path / ("x" * 120)}
    ended = ctl(*arguments.format(**places).split())
    assert (ended.returncode, ended.stdout) == (status, "")
    assert words in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("columns", ["40", "80", "200"])
def test_help_is_the_server_s(served: Controlled, columns: str) -> None:
    said = ctl(served.path, "--help", env=os.environ | {"COLUMNS": columns}).stdout
    for method in Methods().described():
        assert any(line.startswith(method.name) for line in said.splitlines())
        for parameter in method.parameters:
            assert f"{parameter.name}={parameter.type.replace(' ', '-')}" in said
    assert max(map(len, said.splitlines())) <= max(int(columns), 60)
    assert served.operator.asked == []


@pytest.mark.parametrize("name", [method.name for method in Methods().described()])
def test_help_of_one_method(served: Controlled, name: str) -> None:
    said = ctl(served.path, name, "--help").stdout
    method = Methods().find(name)
    assert method.summary in " ".join(said.split())
    assert all(f"  {field}  " in said for field in method.fields)
    assert served.operator.asked == []


def test_help_without_a_server() -> None:
    ended = ctl("--help")
    assert ended.returncode == 0
    assert "virtflash ctl SOCKET --help" in ended.stdout


class WatchingNow(Watching):
    """Entering returns when it watches."""

    def __init__(self, served: Controlled, *words: str) -> None:
        super().__init__(served.path, *words)
        self._served = served

    def __enter__(self) -> Self:
        super().__enter__()
        ended = threading.Timer(DEADLINE_SECONDS, self.process.kill)
        ended.start()
        while not self._served.events._subscriptions:
            assert self.process.poll() is None
        ended.cancel()
        return self


def test_events_as_lines(served: Controlled) -> None:
    with WatchingNow(served, "events=connected,left", "volume=cluster") as watching:
        happen("connected", "cluster", "it came\nand stayed")
        happen("other", "cluster")
        happen("left", "cluster", "it left", 40)
        lines = [watching.line().split(maxsplit=1)[1] for _ in range(2)]
        assert watching.interrupted() == (0, "")
    assert lines == ["info    cluster: it came and stayed\n", "error   cluster: it left\n"]


def test_events_as_json(served: Controlled) -> None:
    happen("before")
    with WatchingNow(served, "recent=1", "--json") as watching:
        happen("budget", "cluster", left=0)
        events = [json.loads(watching.line()) for _ in range(2)]
    assert [event["kind"] for event in events] == ["before", "budget"]
    assert events[1]["data"] == {"left": 0}


def test_a_server_that_goes_is_told_in_one_line(served: Controlled) -> None:
    with WatchingNow(served) as watching:
        happen("stopping")
        served.control.close()
        said, complained = watching.process.communicate(timeout=DEADLINE_SECONDS)
    assert watching.process.returncode == 1
    assert "it happened" in said
    assert complained.splitlines() == [f"virtflash ctl: {served.path}: the server went away"]


def test_a_reader_that_goes(served: Controlled) -> None:
    with WatchingNow(served) as watching:
        assert watching.process.stdout is not None and watching.process.stderr is not None
        watching.process.stdout.close()
        happen("much")
        assert watching.process.wait(DEADLINE_SECONDS) == 1
        assert len(watching.process.stderr.read().splitlines()) == 1


def test_completion(served: Controlled) -> None:
    def complete(words: str) -> set[str]:
        environment = os.environ | {
            "_VIRTFLASH_COMPLETE": "bash_complete",
            "COMP_WORDS": f"virtflash ctl {words}",
            "COMP_CWORD": str(1 + len(words.split(" "))),
        }
        said = subprocess.run(
            [PROGRAM], env=environment, capture_output=True, text=True, check=False, timeout=DEADLINE_SECONDS
        )
        return {line.partition(",")[2] for line in said.stdout.split()}

    assert complete(f"{served.path} re") == {"refresh", "reload"}
    assert complete(f"{served.path} grow s") == {"size="}
    assert complete(f"{served.path}.not re") == set()


@pytest.mark.parametrize(
    ("text", "schema", "meant"),
    [
        ("7", {"type": "string"}, "7"),
        ('"7"', {"type": "string"}, "7"),
        ("7", {"type": "integer"}, 7),
        ("7", {"type": "number"}, 7),
        ("0660", {"type": "string"}, "0660"),
        ("null", {"anyOf": [{"type": "string"}, {"type": "null"}]}, None),
        ("null", {"type": "string"}, "null"),
        ("true", {"type": "boolean"}, True),
        ("yes", {"type": "boolean"}, "yes"),
        ("4096", {"anyOf": [{"type": "string"}, {"type": "integer"}]}, 4096),
        ("2 GiB", {"anyOf": [{"type": "string"}, {"type": "integer"}]}, "2 GiB"),
        ("1.5", {"enum": ["alarm"]}, "1.5"),
        ("a,b", {"type": "array"}, ["a", "b"]),
        ('["a,b"]', {"type": "array"}, ["a,b"]),
        ("7", {}, 7),
        ("\udcff", {"type": "string"}, "\udcff"),
        ("[" * 5000, {"type": "string"}, "[" * 5000),
    ],
)
def test_values(text: str, schema: dict[str, Any], meant: object) -> None:
    assert value(text, schema) == meant


# The client


def test_errors_carry_what_the_server_said(served: Controlled) -> None:
    served.operator.failure = OperatorError("the disk is full")
    with Client(served.path) as client:
        with pytest.raises(ControlError, match=r"^the disk is full$") as refused:
            client.call("flush")
        assert refused.value.code == -32000
        with pytest.raises(ControlError) as refused:
            client.call("grow", name=5)
        assert refused.value.data == {
            "name": "expected str, got int; here it is '5'",
            "size": refused.value.data["size"],
        }
        assert client.call("log_level") == "info"


def test_calls_between_events(served: Controlled) -> None:
    with Client(served.path) as client:
        events = client.events(events=["a"], recent=10)
        happen("a", n=1)
        assert next(events).data == {"n": 1}
        happen("a", n=2)
        assert client.call("log_level") == "info"
        happen("a", n=3)
        assert [next(events).data["n"] for _ in range(2)] == [2, 3]


def test_a_server_that_does_not_answer(served: Controlled) -> None:
    served.operator.gate.clear()
    with Client(served.path, timeout=0.05) as client, pytest.raises(ControlError, match="does not answer"):
        client.call("flush")


@pytest.mark.parametrize("said", [b"HTTP/1.0 400\n", b"[]\n", b"\xff\n", b"", b"half a line"])
def test_another_server(said: bytes, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()

        def answer() -> None:
            with listening.accept()[0] as connected:
                connected.recv(100)
                connected.sendall(said)

        thread = threading.Thread(target=answer)
        thread.start()
        refused = pytest.raises(ControlError, match=r"no server of ours|the server went away")
        with Client(tmp_path / "s", timeout=DEADLINE_SECONDS) as client, refused:
            client.call("status")
        thread.join(DEADLINE_SECONDS)


def test_who_is_turned_away_reads_why(tmp_path: Path) -> None:
    """Although the server closed before anything was sent."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        with Client(tmp_path / "s") as client:
            connected, _ = listening.accept()
            connected.sendall(b'{"jsonrpc":"2.0","id":null,"error":{"code":-32001,"message":"not you"}}\n')
            connected.close()
            with pytest.raises(ControlError, match=r"^not you$"):
                client.call("status")


def test_results_of_another_version_are_shown_plainly() -> None:
    from virtflash.control.readable import readable

    assert readable("status", {"a": 1, "b": ["x", "y"], "c": None}) == ["a  1", "b  x, y", "c  none"]
    assert readable("unheard of", msgspec.json.decode(b"[1]")) == ["1"]
