"""A control socket, by the bytes that go through it."""

import contextlib
import errno
import json
import os
import select
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from controlled import DEADLINE_SECONDS, Controlled, Wire, controlled
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from virtflash.control import admission, control_socket, conversation
from virtflash.control.connection import LINE_MOST
from virtflash.control.operator import OperatorError

GOOD = {"jsonrpc": "2.0", "id": 7, "method": "log_level"}
GOOD_ANSWER = {"jsonrpc": "2.0", "id": 7, "result": "info"}

# What is sent, the id and the code of the answer, and what its message says.
BAD = [
    (b"{", None, -32700, "this is no JSON"),
    (b"status", None, -32700, "this is no JSON"),
    (b'"\xff"', None, -32700, "this is no JSON"),
    (b'{"jsonrpc":"2.0","id":1,"method":"status"}}', None, -32700, "trailing"),
    (b"[" * 30000, None, -32700, "recursion"),
    (b"1e999", None, -32700, "out of range"),
    (b"1", None, -32600, "a call is an object"),
    (b"null", None, -32600, "a call is an object"),
    (b"[]", None, -32600, "an empty batch"),
    (b"[" + b",".join([b"1"] * 65) + b"]", None, -32600, "at most 64"),
    (b"{}", None, -32600, 'jsonrpc: "2.0" is expected'),
    (b'{"jsonrpc":"1.0","id":1,"method":"status"}', 1, -32600, "jsonrpc"),
    (b'{"jsonrpc":"2.0","id":1}', 1, -32600, "method"),
    (b'{"jsonrpc":"2.0","id":1,"method":1}', 1, -32600, "method"),
    (b'{"jsonrpc":"2.0","id":1,"method":"status","params":1}', 1, -32600, "params"),
    (b'{"jsonrpc":"2.0","id":1,"method":"status","params":null}', 1, -32600, "params"),
    (b'{"jsonrpc":"2.0","id":true,"method":"status"}', None, -32600, "id"),
    (b'{"jsonrpc":"2.0","id":[1],"method":"status"}', None, -32600, "id"),
    (b'{"jsonrpc":"2.0","id":99999999999999999999,"method":"status"}', None, -32600, "id"),
    (b'{"jsonrpc":"2.0","id":"' + b"x" * 257 + b'","method":"status"}', None, -32600, "id"),
    (b'{"jsonrpc":"2.0","id":"a","method":"statsu"}', "a", -32601, "did you mean status"),
    (b'{"jsonrpc":"2.0","id":1.5,"method":"frobnicate"}', 1.5, -32601, "there are: status, volumes"),
    (b'{"jsonrpc":"2.0","id":null,"method":"__init__"}', None, -32601, "there is no method"),
    (b'{"jsonrpc":"2.0","id":1,"method":"grow","params":{"name":"a"}}', 1, -32602, "size: this is missing"),
    (b'{"jsonrpc":"2.0","id":1,"method":"grow","params":{"name":"a","size":"2 Gib"}}', 1, -32602, 'like "8 GiB"'),
    (b'{"jsonrpc":"2.0","id":1,"method":"grow","params":{"name":7,"size":1}}', 1, -32602, "name: expected str"),
    (b'{"jsonrpc":"2.0","id":1,"method":"grow","params":{"nam":"a","size":1}}', 1, -32602, "did you mean name?"),
    (b'{"jsonrpc":"2.0","id":1,"method":"grow","params":["a",1,2]}', 1, -32602, "3 parameters; grow has 2: name, size"),
    (b'{"jsonrpc":"2.0","id":1,"method":"status","params":{"all":true}}', 1, -32602, "status has no parameters"),
    (b'{"jsonrpc":"2.0","id":1,"method":"log_level","params":["loud"]}', 1, -32602, "one of debug, info, warning"),
    (b'{"jsonrpc":"2.0","id":1,"method":"watch","params":{"recent":257}}', 1, -32602, "recent: expected int <= 256"),
    (b'{"jsonrpc":"2.0","id":1,"method":"watch","params":{"events":[1]}}', 1, -32602, "events: expected str, got int"),
    (b'{"jsonrpc":"2.0","id":1,"method":"delete","params":{"name":"tv"}}', 1, -32000, "there is no volume tv"),
]  # fmt: skip


@pytest.mark.parametrize(("sent", "number", "code", "words"), BAD, ids=[str(row[0][:60]) for row in BAD])
def test_what_is_wrong_is_answered_with_its_reason(
    served: Controlled, sent: bytes, number: object, code: int, words: str
) -> None:
    wire = served.wire()
    wire.send(sent + b"\n" + json.dumps(GOOD).encode() + b"\n")
    answers = [wire.line(), wire.line()]
    bad = next(answer for answer in answers if "error" in answer)
    assert (bad["jsonrpc"], bad["id"], bad["error"]["code"]) == ("2.0", number, code)
    assert words in bad["error"]["message"]
    assert "\n" not in bad["error"]["message"]
    assert GOOD_ANSWER in answers


def test_all_that_is_wrong_with_parameters_is_told(served: Controlled) -> None:
    error = served.wire().ask("create", name="a b", flsh="emmc0", size="1 GB", iops=5)["error"]
    assert list(error["data"]) == ["flsh", "name", "flash", "socket", "iops"]
    assert served.operator.asked == []


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_call(served: Controlled, end: bytes) -> None:
    wire = served.wire()
    wire.send(json.dumps(GOOD).encode() + end)
    assert wire.line() == GOOD_ANSWER


def test_parameters_by_position(served: Controlled) -> None:
    wire = served.wire()
    wire.send(b'{"jsonrpc":"2.0","id":1,"method":"grow","params":["cluster","2 GiB"]}\n')
    assert wire.line()["result"]["size"] == 2 << 30


def test_a_notification_is_not_answered(served: Controlled) -> None:
    wire = served.wire()
    wire.send(b'{"jsonrpc":"2.0","method":"log_level","params":{"level":"debug"}}\n')
    wire.send(b'{"jsonrpc":"2.0","method":"no such thing"}\n')
    wire.send(b'{"jsonrpc":"2.0","method":"grow"}\n')
    wire.send(b'[{"jsonrpc":"2.0","method":"log_level"},{"jsonrpc":"2.0","method":"log_level"}]\n\n  \n')
    assert wire.ask("log_level", 5) == {"jsonrpc": "2.0", "id": 5, "result": "debug"}


def test_a_batch_is_answered_as_one(served: Controlled) -> None:
    """Of the specification's own example the kinds: calls, a notification, what is no call, no such method."""
    wire = served.wire()
    entries: list[Any] = [
        {"jsonrpc": "2.0", "id": "1", "method": "log_level"},
        {"jsonrpc": "2.0", "method": "log_level", "params": ["debug"]},
        {"jsonrpc": "2.0", "id": 2, "method": "flush"},
        {"foo": "boo"},
        1,
        {"jsonrpc": "2.0", "id": "5", "method": "foo.get", "params": {"name": "myself"}},
    ]
    wire.send(json.dumps(entries).encode() + b"\n")
    answers = wire.line()
    assert [answer["error"]["code"] for answer in answers if answer["id"] is None] == [-32600, -32600]
    by_id = {answer["id"]: answer for answer in answers}
    assert by_id["1"]["result"] == "info"
    assert by_id[2]["result"] is None
    assert by_id["5"]["error"]["code"] == -32601
    assert len(answers) == 5


def test_a_batch_with_too_long_answers(served: Controlled) -> None:
    served.operator.names = tuple(f"volume{number}" for number in range(128))
    wire = served.wire()
    wire.send(
        json.dumps([{"jsonrpc": "2.0", "id": number, "method": "status"} for number in range(64)]).encode() + b"\n"
    )
    answers = wire.line()
    codes = [answer.get("error", {}).get("code") for answer in answers]
    assert codes[0] is None
    assert codes[-1] == -32002
    assert [answer["id"] for answer in answers] == list(range(64))
    assert len(json.dumps(answers)) < 2 * conversation.BATCH_ANSWERS_MOST


def test_what_takes_long_holds_up_nobody(served: Controlled) -> None:
    served.operator.gate.clear()
    wire = served.wire()
    wire.call("erase", "slow", name="cluster")
    wire.call("log_level", "fast")
    assert wire.line()["id"] == "fast"
    assert served.wire().ask("volumes")["result"][0]["name"] == "cluster"
    served.operator.gate.set()
    assert wire.line() == {"jsonrpc": "2.0", "id": "slow", "result": None}


def test_what_takes_long_is_done_in_its_order(served: Controlled) -> None:
    served.operator.gate.clear()
    wire = served.wire()
    for number in range(40):  # more than are taken at once
        wire.call("flush", number, name=str(number))
    assert served.operator.begun.wait(DEADLINE_SECONDS)
    served.operator.gate.set()
    assert [wire.line()["id"] for _ in range(40)] == list(range(40))
    assert served.operator.asked == [("flush", str(number)) for number in range(40)]


def test_a_mistake_inside_is_no_end(served: Controlled, caplog: pytest.LogCaptureFixture) -> None:
    served.operator.failure = ZeroDivisionError("in two\nlines")
    wire = served.wire()
    error = wire.ask("flush")["error"]
    assert error["code"] == -32603
    assert error["message"] == "flush failed inside of the server: ZeroDivisionError: in two lines"
    assert "Traceback" in caplog.text
    assert wire.ask("log_level")["result"] == "info"


def test_a_mistake_in_one_conversation_is_the_end_of_no_other(
    served: Controlled, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    other, wire = served.wire(), served.wire()
    other.ask("log_level")
    with monkeypatch.context() as patched:
        patched.setattr(conversation, "read_line", lambda _line: 1 / 0)
        wire.call("status")
        assert wire.line() is None
    assert "ZeroDivisionError" in caplog.text
    assert other.ask("log_level")["result"] == "info"


@pytest.mark.parametrize("name", ["\udcff", "ä", "\x00"])
def test_names_that_are_no_text(served: Controlled, name: str) -> None:
    served.operator.failure = OperatorError(f"{name}: no such file")
    assert ": no such file" in served.wire().ask("flush")["error"]["message"]


def test_the_last_line_needs_no_end(served: Controlled) -> None:
    """`printf ... | socat - UNIX:...`: the answer comes although nothing more will be sent."""
    served.operator.gate.clear()
    wire = served.wire()
    wire.send(b'{"jsonrpc":"2.0","id":1,"method":"flush"}')
    wire.socket.shutdown(socket.SHUT_WR)
    assert served.operator.begun.wait(DEADLINE_SECONDS)
    served.operator.gate.set()
    assert wire.line() == {"jsonrpc": "2.0", "id": 1, "result": None}
    assert wire.line() is None


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_has_its_bound(served: Controlled, end: bytes) -> None:
    wire = served.wire()
    longest = json.dumps(GOOD | {"x": ""}).encode()
    wire.send(longest[:-2] + b"x" * (LINE_MOST - len(longest) - 1) + b'"}\n')
    assert wire.line() == GOOD_ANSWER
    wire.send(b" " * LINE_MOST + end)
    error = wire.line()
    assert (error["id"], error["error"]["code"]) == (None, -32600)
    assert "more than 65536 bytes" in error["error"]["message"]
    assert wire.line() is None
    assert served.wire().ask("log_level")["result"] == "info"


def test_bytes_one_by_one(served: Controlled) -> None:
    wire = served.wire()
    for byte in json.dumps(GOOD).encode() + b"\n":
        wire.send(bytes([byte]))
    assert wire.line() == GOOD_ANSWER


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
CALLS = st.fixed_dictionaries(
    {
        "jsonrpc": st.sampled_from(["2.0", "1.0"]),
        "method": st.sampled_from(["status", "create", "limits", "watch", "methods", "log_level", "x"]) | JSON,
    },
    optional={"id": JSON, "params": JSON},
)
NOISE = st.one_of(
    st.binary(max_size=2000),
    JSON.map(lambda value: json.dumps(value).encode()),
    CALLS.map(lambda value: json.dumps(value).encode()),
    st.lists(CALLS, max_size=70).map(lambda value: json.dumps(value).encode()),
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.lists(NOISE, max_size=5), leaves=st.booleans())
def test_no_bytes_break_it(served: Controlled, noise: list[bytes], leaves: bool) -> None:
    """Whatever is sent, the same connection is answered afterwards, or, if that one has left, the next one."""
    wire = Wire(served.path)
    wire.send(b"\n".join(noise) + b"\n")
    if leaves:
        wire.close()
        wire = Wire(served.path)
    wire.call("log_level", "the end")
    answers = iter(wire.line, None)
    last = next(answer for answer in answers if isinstance(answer, dict) and answer.get("id") == "the end")
    assert last["result"] in ("debug", "info", "warning", "error")
    wire.close()


def flood(wire: Wire) -> int:
    """Ask without reading, until the socket takes no more. How many bytes were sent."""
    line = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "status"}).encode() + b"\n"
    wire.socket.setblocking(False)
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            sent += wire.socket.send(line)
    return sent


def test_whoever_does_not_read_is_not_read_from(served: Controlled) -> None:
    """Answers are not piled up: requests wait in the socket, until their sender cannot send any more."""
    served.operator.names = tuple(f"volume{number}" for number in range(128))
    wire, other = served.wire(), served.wire()
    other.ask("log_level")
    sent = before = 0
    while flood(wire) or len(served.operator.asked) > before:  # until it stands still
        before = len(served.operator.asked)
        assert other.ask("volumes")["result"]  # the server has had a turn
        before += 1
        sent += 1
        assert sent < 10_000
    unsent = max(each.connection.unsent for each in served.control._conversations)
    assert 0 < unsent < 2 * conversation.UNSENT_HIGH
    wire.socket.settimeout(DEADLINE_SECONDS)
    assert wire.line()["result"]["version"] == "0.1.0"


def test_whoever_reads_nothing_for_long_is_dropped(
    served: Controlled, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(control_socket, "STALL_SECONDS", 0.05)
    monkeypatch.setattr(control_socket, "PAUSE_SECONDS", 0.05)
    served.operator.names = tuple(f"volume{number}" for number in range(128))
    wire = served.wire()
    flood(wire)
    hung_up = select.poll()
    hung_up.register(wire.socket, 0)  # nothing but POLLHUP, which needs no asking
    assert hung_up.poll(DEADLINE_SECONDS * 1000)
    assert "does not read its answers" in caplog.text
    assert served.wire().ask("log_level")["result"] == "info"


# Who may, and how many


def test_only_its_owner_can_connect(served: Controlled) -> None:
    assert stat.S_IMODE(served.path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("user", "groups", "own", "group", "admitted"),
    [
        (0, {0}, 1000, None, True),
        (1000, {1000}, 1000, None, True),
        (1001, {1001}, 1000, None, False),
        (1001, {1001, 5}, 1000, 5, True),
        (1001, {1001}, 1000, 5, False),
        (1001, {0}, 1000, None, False),
        (1001, {0}, 0, None, False),
    ],
)
def test_who_is_admitted(
    user: int, groups: set[int], own: int, group: int | None, admitted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: own)
    assert admission.Peer(1, user, frozenset(groups)).is_admitted(group) is admitted


def test_the_groups_of_a_peer_are_those_it_has() -> None:
    one, other = socket.socketpair()
    with one, other:
        peer = admission.Peer.of(one)
    assert (peer.process, peer.user) == (os.getpid(), os.geteuid())
    assert peer.groups == {os.getegid(), *os.getgroups()}


def test_who_is_not_admitted_is_told_so(served: Controlled, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the mode of the socket has become."""
    monkeypatch.setattr(admission.Peer, "is_admitted", lambda _peer, _group: False)
    error = served.wire().line()["error"]
    assert error["code"] == -32001
    assert f"user {os.geteuid()} may not control this server" in error["message"]
    assert served.operator.asked == []


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user takes root")
@pytest.mark.parametrize("member", [False, True])
def test_another_user(member: bool, tmp_path: Path) -> None:
    """For real: through a socket that everybody can open."""
    for directory in (tmp_path, *list(tmp_path.parents)[:-1]):
        if not directory.stat().st_mode & stat.S_IXOTH:
            directory.chmod(directory.stat().st_mode | stat.S_IXOTH)
    with controlled(tmp_path / "s", group=4242 if member else None) as served:
        served.path.chmod(0o666)
        code = (
            "import contextlib, os, socket, sys; os.setgroups([4242]); os.setgid(4243); os.setuid(4243)\n"
            "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
            "with contextlib.suppress(BrokenPipeError):\n"  # who is turned away may be so already
            """    s.sendall(b'{"jsonrpc":"2.0","id":1,"method":"log_level"}\\n')\n"""
            "print(s.recv(4096).decode())"
        )
        command = [sys.executable, "-c", code, str(served.path)]
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=DEADLINE_SECONDS).stdout
    answer = json.loads(said)
    assert answer["result"] == "info" if member else answer["error"]["code"] == -32001


def test_the_one_that_is_silent_longest_makes_room(tmp_path: Path) -> None:
    with controlled(tmp_path / "s", connections=4) as served:
        first, second, third, watcher = (served.wire() for _ in range(4))
        watcher.ask("watch")
        for wire in (first, second, third, first):
            wire.ask("log_level")
        fifth = served.wire()
        assert fifth.ask("log_level")["result"] == "info"
        assert second.line() is None
        for wire in (first, third, watcher, fifth):
            assert wire.ask("log_level")["result"] == "info"


def test_where_all_are_busy_a_new_one_is_told_so(tmp_path: Path) -> None:
    with controlled(tmp_path / "s", connections=3) as served:
        for _ in range(3):
            served.wire().ask("watch")
        error = served.wire().line()["error"]
        assert error["code"] == -32002
        assert "all 3 connections" in error["message"]
        served.wires[0].close()
        while "error" in (answer := served.wire().ask("log_level")):
            assert answer["error"]["code"] == -32002
        assert answer["result"] == "info"


def test_the_end_of_descriptors_is_no_end(served: Controlled, caplog: pytest.LogCaptureFixture) -> None:
    """EMFILE: the socket is looked away from for a moment, not accepted from over and over."""
    before = served.wire()
    before.ask("log_level")
    accept = served.control._listening.accept
    calls = []

    class Exhausted:
        def accept(self) -> Any:
            calls.append(1)
            if len(calls) == 1:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return accept()

        def __getattr__(self, name: str) -> Any:
            return getattr(listening, name)

    listening = served.control._listening
    served.control._listening = Exhausted()  # type: ignore[assignment]
    after = served.wire()
    after.call("log_level")
    assert before.ask("log_level")["result"] == "info"
    assert after.line()["result"] == "info"
    assert "could not be accepted: Too many open files" in caplog.text
    assert len(calls) <= 3
    served.control._listening = listening


def test_the_last_answer_comes_before_the_server_goes(served: Controlled) -> None:
    served.operator.gate.clear()
    slow, wire = served.wire(), served.wire()
    slow.call("erase", "begun", name="cluster")
    assert served.operator.begun.wait(DEADLINE_SECONDS)
    slow.call("erase", "not begun", name="radio")
    slow.call("log_level", 3)
    assert slow.line()["id"] == 3  # so the others were taken
    closing = threading.Thread(target=served.control.close)
    wire.call("shutdown")
    assert served.operator.stopped.wait(DEADLINE_SECONDS)
    closing.start()
    assert wire.line() == {"jsonrpc": "2.0", "id": 1, "result": None}
    while not served.control._house.stopping:
        pass
    served.operator.gate.set()
    assert slow.line() == {"jsonrpc": "2.0", "id": "begun", "result": None}
    assert slow.line()["error"]["code"] == -32003
    assert slow.line() is None
    closing.join(DEADLINE_SECONDS)
    assert [what[0] for what in served.operator.asked] == ["erase", "log_level", "shutdown"]
