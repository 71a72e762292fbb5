"""Events: from log records to those who watch, who may be slow."""

import json
import logging
import threading
from typing import Any

import pytest
from controlled import DEADLINE_SECONDS, Controlled

from virtflash.control import conversation
from virtflash.control.events import WAITING_MOST, EventLog
from virtflash.control.operator import EVENTS_KEPT
from virtflash.logs import ROOT, Log, log_level, set_log_level, set_up_logging


def happen(kind: str, volume: str = "", text: str = "it happened", level: int = logging.INFO, **data: Any) -> None:
    Log(volume).log(level, text, extra={"event": {"kind": kind, **data}})


def test_what_watchers_are_told(served: Controlled) -> None:
    wire = served.wire()
    assert wire.ask("watch") == {"jsonrpc": "2.0", "id": 1, "result": {"last": 0}}
    Log("cluster").info("no event")
    happen("io-error", "cluster", "ring 0: 2 requests failed", logging.WARNING, count=2, path=b"x", odd={1: ...})
    told = wire.line()
    assert (told["jsonrpc"], told["method"], "id" in told) == ("2.0", "event", False)
    assert told["params"].pop("time") > 1e9
    assert told["params"] == {
        "number": 1,
        "kind": "io-error",
        "volume": "cluster",
        "level": "warning",
        "text": "ring 0: 2 requests failed",
        "data": {"count": 2, "path": "eA==", "odd": {"1": "Ellipsis"}},
    }


def test_an_event_in_words_that_are_no_text(served: Controlled) -> None:
    wire = served.wire()
    wire.ask("watch")
    happen("opened", text="opened \udcff")
    assert wire.line()["params"]["text"] == "opened ?"


def test_a_record_that_cannot_be_told_is_no_failure_of_whoever_logs(served: Controlled) -> None:
    wire = served.wire()
    wire.ask("watch")
    raising, logging.raiseExceptions = logging.raiseExceptions, False
    try:
        logging.getLogger(ROOT).info("%d", "no number", extra={"event": {"kind": "bad"}})
    finally:
        logging.raiseExceptions = raising
    happen("good")
    assert wire.line()["params"]["kind"] == "good"


@pytest.mark.parametrize(
    ("asked", "kinds"),
    [
        ({}, ["a", "b", "c"]),
        ({"events": ["b", "c"]}, ["b", "c"]),
        ({"volume": "cluster"}, ["b"]),
        ({"volume": "cluster", "events": ["a"]}, []),
    ],
)
def test_what_is_chosen(served: Controlled, asked: dict[str, Any], kinds: list[str]) -> None:
    wire = served.wire()
    wire.ask("watch", **asked)
    happen("a")
    happen("b", "cluster")
    happen("c", "radio")
    wire.call("log_level", "end")
    told = list(iter(wire.line, {"jsonrpc": "2.0", "id": "end", "result": "info"}))
    told += [wire.line() for _ in range(len(kinds) - len(told))]  # the answer may have come before
    assert [message["params"]["kind"] for message in told] == kinds


@pytest.mark.parametrize(
    ("asked", "first"),
    [
        ({}, 301),
        ({"recent": 3}, 298),
        ({"recent": EVENTS_KEPT}, 301 - EVENTS_KEPT),
        ({"since": 290}, 291),
        ({"since": 0}, 301 - EVENTS_KEPT),
        ({"since": 299, "recent": 5}, 296),
        ({"since": 300}, 301),
        ({"since": 10**9}, 301),
    ],
)
def test_what_was_before(served: Controlled, asked: dict[str, Any], first: int) -> None:
    for number in range(1, 301):
        happen(f"kind {number}")
    wire = served.wire()
    assert wire.ask("watch", **asked)["result"] == {"last": 300}
    happen("now")
    assert [wire.line()["params"]["number"] for _ in range(first, 302)] == list(range(first, 302))


def test_a_watcher_that_does_not_read_is_told_what_it_missed(served: Controlled) -> None:
    """Nobody waits for it, and it costs no more than its bound."""
    wire = served.wire()
    wire.ask("watch")
    text = "x" * 4000
    happened = 2000
    for _ in range(happened):
        happen("much", text=text)
    happen("last")
    (watcher,) = served.control._conversations
    assert watcher.connection.unsent < 2 * conversation.UNSENT_HIGH
    numbers, missed = [], 0
    while (params := wire.line()["params"])["kind"] != "last":
        if params["kind"] == "missed":
            missed += params["data"]["count"]
            assert params["text"].startswith(f"{params['data']['count']} events were missed")
        else:
            numbers.append(params["number"])
    assert numbers == sorted(set(numbers))
    assert missed > 0
    assert len(numbers) + missed == happened


def test_a_subscription_is_bounded() -> None:
    events = EventLog()
    woken: list[int] = []
    subscription = events.subscribe(lambda: woken.append(1))
    for number in range(WAITING_MOST + 5):
        events.handle(logging.makeLogRecord({"msg": "it", "event": {"kind": str(number)}}))
    assert woken == [1], "it is told once, until it has taken all"
    first = subscription.take()
    assert first is not None
    assert (first.kind, first.data) == ("missed", {"count": 5})
    kinds = [event.kind for event in iter(subscription.take, None)]
    assert kinds == [str(number) for number in range(5, WAITING_MOST + 5)]


def test_watching_again_changes_what_is_watched(served: Controlled) -> None:
    wire = served.wire()
    wire.ask("watch", events=["a"])
    wire.ask("watch", events=["b"])
    happen("a")
    happen("b")
    assert wire.line()["params"]["kind"] == "b"


def test_watchers_have_their_bound_and_leave(served: Controlled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "WATCHERS_MOST", 2)
    for _ in range(2):
        assert "result" in served.wire().ask("watch")
    assert served.wire().ask("watch")["error"]["code"] == -32002
    served.wires[0].close()
    late = served.wire()
    while "error" in (answer := late.ask("watch")):  # until the server has seen it leave
        assert answer["error"]["code"] == -32002
    assert len(served.events._subscriptions) == 2


def test_many_who_log_at_once(served: Controlled) -> None:
    wire = served.wire()
    wire.ask("watch")
    threads = [threading.Thread(target=lambda: [happen("x") for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    numbers = [wire.line()["params"]["number"] for _ in range(200)]
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    assert numbers == list(range(1, 201))


def test_the_log_level_hides_no_events(capsys: pytest.CaptureFixture[str]) -> None:
    """A server that logs errors alone tells all the same who comes and goes."""
    root = logging.getLogger(ROOT)
    before, propagates, level = root.handlers, root.propagate, root.level
    events = EventLog()
    try:
        set_up_logging("error", as_json=True)
        events.attach()
        got = events.subscribe(lambda: None)
        happen("connected", text="quiet")
        assert log_level() == "error"
        set_log_level("info")
        happen("left", text="loud")
    finally:
        root.handlers, root.propagate = before, propagates
        root.setLevel(level)
    assert [event.kind for event in iter(got.take, None)] == ["connected", "left"]
    assert [json.loads(line)["text"] for line in capsys.readouterr().err.splitlines()] == ["loud"]
