"""docs/control.md says what is so."""

import re
from pathlib import Path

import msgspec
import pytest

from virtflash.config.configuration import Volume
from virtflash.control import connection, control_socket, conversation, json_rpc
from virtflash.control.events import MISSED, Event
from virtflash.control.methods import Method, Methods
from virtflash.control.operator import EVENTS_KEPT, NewLimits
from virtflash.export import EVENT_TEXTS
from virtflash.status import Limits

ROOT = Path(__file__).parents[2]
MANUAL = (ROOT / "docs" / "control.md").read_text()
METHODS = {method.name: Methods().find(method.name) for method in Methods().described()}


def chapter(name: str) -> str:
    return MANUAL.partition(f"\n## {name}\n")[2].partition("\n## ")[0]


def rows(text: str) -> dict[str, list[str]]:
    """Of tables: the cells, by what stands in the first one."""
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:1] == "|"]
    return {row[0].strip("`| "): row for row in cells if row[0].startswith("`")}


def test_it_has_all_methods() -> None:
    assert list(rows(chapter("Methods").partition("`limits` changes")[0])) == list(METHODS)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_it_has_what_a_method_is(method: Method) -> None:
    _, parameters, result, summary = rows(chapter("Methods"))[method.name]
    described = method.described()
    own = [
        each for each in described.parameters if method.name != "create" or each.name not in Volume.__struct_fields__
    ]
    needed = {each.name for each in own if each.required}
    assert re.findall(r"`(\w+)`", parameters) == [each.name for each in own]
    assert set(re.findall(r"(?<!\[)`(\w+)`", parameters)) == needed
    assert result == described.result.replace("|", ", ")
    assert summary.removesuffix(" |").removesuffix(" *long*") == method.summary
    assert ("*long*" in summary) == method.takes_long


def test_it_has_all_limits() -> None:
    """What is told of them is all that can be changed, and the other way round."""
    told = [name for name in rows(chapter("Methods")) if name not in METHODS]
    assert told == list(Limits.__struct_fields__) == list(NewLimits.__struct_fields__)


def test_it_has_all_errors() -> None:
    codes = re.findall(r"^\| (-32\d+) \|", chapter("The protocol"), re.MULTILINE)
    assert sorted(map(int, codes)) == sorted(json_rpc.ErrorCode)


def test_it_has_all_of_an_event() -> None:
    told = rows(chapter("Events"))
    assert [name for name in told if name in Event.__struct_fields__] == list(Event.__struct_fields__)


def test_it_has_all_kinds_of_events() -> None:
    """As they stand in the source."""
    kinds = {MISSED, *EVENT_TEXTS}
    for path in (ROOT / "src" / "virtflash").rglob("*.py"):
        kinds |= set(re.findall(r'"event": \{\s*"kind": "([^"]+)"|_tell\(\s*"([^"]+)"', path.read_text()))
    names = {name for kind in kinds for name in ([kind] if isinstance(kind, str) else kind) if name}
    assert names - rows(chapter("Events")).keys() == set()


@pytest.mark.parametrize(
    "words",
    [
        f"batch of up to {json_rpc.BATCH_MOST} in an array",
        f"at most {connection.LINE_MOST} bytes",
        f"{conversation.CALLS_MOST} long calls at most",
        f"{conversation.UNSENT_HIGH >> 10} KiB of answers",
        f"for {control_socket.STALL_SECONDS:.0f} seconds is dropped",
        f"up to {control_socket.CONNECTIONS_MOST} connections",
        f"watchers ({conversation.WATCHERS_MOST})",
        f"({conversation.BATCH_ANSWERS_MOST >> 20} MiB)",
        f"The last {EVENTS_KEPT} events are kept",
    ],
)
def test_its_bounds_are_those_of_the_code(words: str) -> None:
    assert words in " ".join(MANUAL.split())


def test_methods_are_told_as_json() -> None:
    assert msgspec.json.decode(json_rpc.result_line(1, Methods().described()))["result"][0]["name"] == "status"
