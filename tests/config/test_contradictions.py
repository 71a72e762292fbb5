"""Any mixture of mistakes in keys and between them, against a model of what is to be told."""

import json
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtflash.config import ConfigurationError
from virtflash.config.reading import parse_configuration

# How a key may stand in a file: as it is written there (None: not at all), and what is meant (WRONG: nothing).
WRONG = object()
Written = tuple[str | None, object]

MIB = 1 << 20
CONTROLS: list[Written] = [(None, None), ('"s"', "s"), ('"c"', "c"), ("3", WRONG)]
CAPACITIES: list[Written] = [(None, None), ('"4 GiB"', 4096 * MIB), ('"1 GiB"', 1024 * MIB), ('"8 Gigs"', WRONG)]
PATHS: list[Written] = [('"a"', "a"), ('"b"', "b"), ('"x/../b"', "b"), ("1", WRONG), (None, WRONG)]
FLASHES: list[Written] = [('"m"', "m"), ('"n"', "n"), ('"nowhere"', "nowhere"), ("7", WRONG), (None, WRONG)]
SIZES: list[Written] = [('"1 GiB"', 1024 * MIB), ('"2 MiB"', 2 * MIB), ("1000", WRONG), ('"big"', WRONG), (None, WRONG)]
SOCKETS: list[Written] = [('"s"', "s"), ('"./s"', "s"), ('"t"', "t"), ("2", WRONG), (None, WRONG)]
BUDGETS: list[Written] = [(None, None), ('"1 GB/day"', 1), ('"20"', WRONG), ('"0 GB/day"', WRONG)]
ANSWERS: list[Written] = [(None, "throttle"), ('"throttle"', "throttle"), ('"alarm"', "alarm"), ('"burn"', WRONG)]
ODD = object()  # nothing that is measured of a flash; no threshold of what is
SENSORS: list[Written] = [
    ('"m.life_time_b"', "m"),
    ('"platform.life_time_b"', "platform"),
    ('"o.life_time_b"', "o"),
    ('"m.life_span"', ODD),
    ('"life_time_b"', WRONG),
]
SENSORS += [(None, WRONG)]
THRESHOLDS: list[Written] = [(None, None), ("50", 50), ('"60 %"', 60), ('"60 V"', ODD), ("[60]", WRONG)]
STATES: list[Written] = [('"durable"', "durable"), ('"throttled"', "throttled"), ('"offline"', "offline"), ("1", WRONG)]
ON_STALE: list[Written] = [(None, None), *STATES]
STATES += [(None, WRONG)]
ENTER: list[Written] = [(None, "flush"), ('"freeze"', "freeze"), ('"thaw"', WRONG)]
LIMITS: list[Written] = [(None, None), ('"1 MB/s"', 1), ('"0 B/s"', WRONG)]
CONCERNED: list[Written] = [(None, []), ('["v"]', ["v"]), ('["v", "x"]', ["v", "x"]), ("3", WRONG)]


@dataclass
class File:
    """Of sections, in any order, each with its keys as they are written and meant."""

    sections: dict[str, dict[str, Written]]

    @property
    def lines(self) -> list[str]:
        lines: list[str] = []
        for name, keys in self.sections.items():
            lines += [header(name), *(f"{key} = {text}" for key, (text, _) in keys.items() if text is not None)]
        return lines

    def place(self, section: str, key: str) -> int:
        """The line of a key; of one that is missing, that of its section."""
        begin = self.lines.index(header(section)) + 1
        present = [name for name, (text, _) in self.sections[section].items() if text is not None]
        return begin + present.index(key) + 1 if key in present else begin

    def meant(self, section: str, key: str) -> object:
        return self.sections[section][key][1]

    def expected(self) -> list[tuple[int, str]]:
        """The line and the key of each mistake."""
        wrong = [(name, key) for name, keys in self.sections.items() for key in keys if self.meant(name, key) is WRONG]
        return sorted((self.place(*each), each[1]) for each in [*wrong, *self._between()])

    def _between(self) -> Iterator[tuple[str, str]]:
        volumes = [name for name in self.sections if name.startswith("volume.")]
        for volume in volumes:
            if self.meant(volume, "flash") == "nowhere":
                yield volume, "flash"
            if self.meant(volume, "when_spent") == "alarm" and self.meant(volume, "wear_budget") is None:
                yield volume, "when_spent"
        yield from self._taken([("server", "control"), *((volume, "socket") for volume in volumes)])
        flashes = [name for name in self.sections if name.startswith("flash.")]
        yield from self._taken([(flash, "path") for flash in flashes])
        for flash in flashes:
            on_it = [volume for volume in volumes if flash == f"flash.{self.meant(volume, 'flash')}"]
            sizes = [size for volume in on_it if isinstance(size := self.meant(volume, "size"), int)]
            capacity = self.meant(flash, "capacity")
            if isinstance(capacity, int) and sum(sizes) > capacity:
                yield flash, "capacity"
        yield from self._of_rule()

    def _of_rule(self) -> Iterator[tuple[str, str]]:
        sensor, above, below, until, state, on_stale = (
            self.meant(RULE_NAME, key) for key in ("sensor", "above", "below", "until", "state", "on_stale")
        )
        thresholds = {"above": above, "below": below, "until": until}
        if sensor in ("o", ODD):
            yield RULE_NAME, "sensor"
        if WRONG not in (above, below) and (above is None) == (below is None):
            yield RULE_NAME, ""
        if sensor not in (WRONG, ODD):
            yield from ((RULE_NAME, key) for key, value in thresholds.items() if value is ODD)
            numbers = {key: value for key, value in thresholds.items() if isinstance(value, int)}
            if below is None and numbers.keys() == {"above", "until"} and numbers["until"] > numbers["above"]:
                yield RULE_NAME, "until"
            if above is None and numbers.keys() == {"below", "until"} and numbers["until"] < numbers["below"]:
                yield RULE_NAME, "until"
        if WRONG not in (state, on_stale):
            if self.meant(RULE_NAME, "on_enter") == "freeze" and "offline" not in (state, on_stale):
                yield RULE_NAME, "on_enter"
            if self.meant(RULE_NAME, "limit") == 1 and "throttled" not in (state, on_stale):
                yield RULE_NAME, "limit"
        if "x" in (names if isinstance(names := self.meant(RULE_NAME, "volumes"), list) else []):
            yield RULE_NAME, "volumes"

    def _taken(self, keys: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        for number, key in enumerate(keys):
            path = self.meant(*key)
            if isinstance(path, str) and path in [self.meant(*other) for other in keys[:number]]:
                yield key


RULE_NAME = "health.rule"


def header(section: str) -> str:
    return f"[[{section}]]" if section == RULE_NAME else f"[{section}]"


def section(**keys: list[Written]) -> st.SearchStrategy[dict[str, Written]]:
    return st.fixed_dictionaries({key: st.sampled_from(choices) for key, choices in keys.items()})


FLASH = section(kind=[('"emmc"', "emmc")], path=PATHS, capacity=CAPACITIES)
VOLUME = section(flash=FLASHES, size=SIZES, socket=SOCKETS, wear_budget=BUDGETS, when_spent=ANSWERS)
RULE = section(
    sensor=SENSORS,
    above=THRESHOLDS,
    below=THRESHOLDS,
    until=THRESHOLDS,
    state=STATES,
    on_stale=ON_STALE,
    on_enter=ENTER,
    limit=LIMITS,
    volumes=CONCERNED,
)
FILES = st.fixed_dictionaries(
    {
        "server": section(control=CONTROLS),
        "flash.m": FLASH,
        "flash.n": FLASH,
        "volume.v": VOLUME,
        "volume.w": VOLUME,
        RULE_NAME: RULE,
    }
).map(File)


def told(text: str) -> list[tuple[int, str]]:
    try:
        parse_configuration(text, "car.toml")
    except ConfigurationError as error:
        found = [re.match(r"car\.toml:(\d+): \[+[a-z.]+\]+ ?(\w*): .+", problem) for problem in error.problems]
        return [(int(match[1]), match[2]) for match in found if match]
    return []


@settings(max_examples=1000, deadline=None)
@given(FILES)
def test_each_mistake_is_told_once_and_nothing_else(file: File) -> None:
    found = told("\n".join(file.lines))
    assert sorted(found) == file.expected()
    assert [line for line, _ in found] == sorted(line for line, _ in found)


def test_the_model_knows_paths_as_the_reader_does() -> None:
    for text, meant in (written for written in PATHS + SOCKETS if isinstance(written[1], str)):
        assert text is not None
        assert posixpath.normpath(text.strip('"')) == meant


# Tables of any shape

WORDS = """server sever flash flahs volume volumes health rule emmc0 a kind path capacity size sise socket wear_budget
    when_spent sensor above below until limit state on_enter defaults control iops_burst"""
KEYS = st.sampled_from(WORDS.split()) | st.text(max_size=3)
TEXTS = st.sampled_from(["", "x", "8 GiB", "emmc0", "alarm", "emmc0.life_time_b", "a\nb"])
SCALARS = st.integers(-1, 2) | st.booleans() | TEXTS
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=20,
)


def toml(value: object) -> str:
    match value:
        case dict():
            return f"{{{', '.join(f'{json.dumps(key)} = {toml(inner)}' for key, inner in value.items())}}}"
        case list():
            return f"[{', '.join(map(toml, value))}]"
    return json.dumps(value)


@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_whatever_the_tables_are_each_mistake_is_one_line(tables: dict[str, object]) -> None:
    text = "\n".join(f"{json.dumps(key)} = {toml(value)}" for key, value in tables.items())
    with pytest.raises(ConfigurationError) as raised:
        parse_configuration(text, "car.toml")
    problems = raised.value.problems
    assert problems and all(problem.isprintable() for problem in problems)
    assert len(set(problems)) == len(problems)
