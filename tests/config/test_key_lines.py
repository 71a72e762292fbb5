"""The line of each key, against what the standard library's parser finds."""

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtflash.config.key_lines import Path, key_lines

NAME = st.text("abcdef-_0", min_size=1, max_size=4)
VALUES = st.sampled_from(
    [
        "1",
        "true",
        '"a # b"',
        "'c = [d'",
        '"""\ntwo\n[lines]\n"""',
        "[1, 2]",
        "[\n  'x', # note\n  'y',\n]",
        "1979-05-27",
    ]
)


def paths_of(value: Any, path: Path = ()) -> set[Path]:
    """Of everything in parsed TOML."""
    found = {path} if path else set()
    if isinstance(value, dict):
        return found.union(*(paths_of(inner, (*path, key)) for key, inner in value.items()))
    if isinstance(value, list):
        return found.union(*(paths_of(inner, (*path, number)) for number, inner in enumerate(value)))
    return found


@given(st.dictionaries(NAME, st.dictionaries(NAME, VALUES, max_size=4), max_size=4), st.booleans(), st.integers(0, 2))
def test_every_key_is_found_in_its_line(tables: dict[str, dict[str, str]], arrays: bool, blank: int) -> None:
    lines: list[str] = []
    expected: dict[Path, int] = {}
    for table, keys in tables.items():
        path: Path = (table, 0) if arrays else (table,)
        lines += [""] * blank + [f"[[{table}]]  # a table" if arrays else f"[ {table} ]"]
        expected[path] = len(lines)
        for key, value in keys.items():
            expected[(*path, key)] = len(lines) + 1
            lines += f"{key} = {value}  # note".split("\n")
    text = "\n".join(lines)
    found = key_lines(text)
    assert {path: found.get(path) for path in expected} == expected
    assert paths_of(tomllib.loads(text)) <= found.keys()


@pytest.mark.parametrize(
    ("text", "path", "line"),
    [
        ("a = 1", ("a",), 1),
        ("\n# a = 0\na.b.c = 1", ("a", "b", "c"), 3),
        ("x = 1\n'quo.ted' . \"k\\u0065y\" = 1", ("quo.ted", "key"), 2),
        ("a = {b = 1, c = {d = [1, {e = 2}]}}", ("a", "c", "d", 1, "e"), 1),
        ("a = [\n 1,\n 2\n]", ("a", 1), 3),
        ("a = [[1],\n [2, 3]]", ("a", 1, 1), 2),
        ('a = """\nb = 1\n"""\nb = 2', ("b",), 4),
        ("a = '''x''''\nb = 2", ("b",), 2),
        ("[[a]]\nb = 1\n[[a]]\nb = 2", ("a", 1, "b"), 4),
        ("[[a]]\n[a.b]\nc = 1\n[[a]]\n[a.b]\nc = 1", ("a", 1, "b", "c"), 6),
        ("[[a]]\n[[a.b]]\n[[a.b]]\nc = 1", ("a", 0, "b", 1, "c"), 4),
        ('[a."b.c"]\nd = 1', ("a", "b.c", "d"), 2),
        ("a = 1 # b = 2\nb = '#'", ("b",), 2),
        ("a = 1\r\nb = 2\r\n", ("b",), 2),
    ],
)
def test_where_it_stands(text: str, path: Path, line: int) -> None:
    assert key_lines(text)[path] == line
    assert paths_of(tomllib.loads(text)) <= key_lines(text).keys()
