"""A file of TOML becomes a `Configuration`, or all that is wrong with it is told, each mistake in a line of its own."""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec import UNSET
from msgspec.structs import FieldInfo

from virtflash.config import key_lines
from virtflash.config.configuration import Configuration
from virtflash.config.contradictions import contradictions
from virtflash.config.quantities import Quantity
from virtflash.config.section import Section
from virtflash.config.values import value_problem

LONGEST = 1 << 20  # bytes


class ConfigurationError(Exception):
    """A configuration that cannot be used. `problems`: a line for each mistake, in the order of the file."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def read_configuration(path: Path) -> Configuration:
    """Raises ConfigurationError."""
    return parse_configuration(read_text(path), str(path))


def read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(LONGEST + 1)
    except OSError as error:
        raise ConfigurationError([f"{path}: {error.strerror}; name a TOML file that can be read"]) from None
    if len(data) > LONGEST:
        raise ConfigurationError([f"{path}: longer than {LONGEST} bytes; name a configuration"])
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigurationError([f"{path}:{line}: this is not UTF-8; write it as that"]) from None


def parse_configuration(text: str, where: str) -> Configuration:
    """`where` names the text in errors. Raises ConfigurationError."""
    try:
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError([f"{where}: this is no TOML: {error}"]) from None
    reading = Reading(where, key_lines.key_lines(text))
    configuration: Configuration = reading.section(Configuration, tables, ())
    for path, problem in contradictions(configuration):
        reading.complain(path, problem)
    if reading.problems:
        in_order = sorted(reading.problems, key=lambda problem: problem[0])
        raise ConfigurationError(list(dict.fromkeys(text for _, text in in_order)))
    return configuration


def complaint(file: Path, path: key_lines.Path, problem: str) -> str:
    """A line as those above, of what was found to be wrong later. The file may have changed, or gone, meanwhile."""
    try:
        lines = key_lines.key_lines(read_text(file))
    except ConfigurationError:
        lines = {}
    reading = Reading(str(file), lines)
    reading.complain(path, problem)
    return reading.problems[0][1]


class Reading:
    """Of one file. What is wrong is noted, and reading goes on."""

    def __init__(self, where: str, lines: Mapping[key_lines.Path, int]) -> None:
        self._where, self._lines = where, lines
        self.problems: list[tuple[int, str]] = []  # with their lines

    def complain(self, path: key_lines.Path, problem: str) -> None:
        """Of what is not in the file, the line of the table that should have it."""
        known = next((path[:length] for length in range(len(path), 0, -1) if path[:length] in self._lines), ())
        line = self._lines.get(known, 1)
        self.problems.append((line, in_one_line(f"{self._where}:{line}: {shown(path)}: {problem}")))

    def section(self, cls: type[Section], table: object, path: key_lines.Path) -> Any:
        """As far as it can be read. UNSET: something is wrong with this field, and noted."""
        if not isinstance(table, dict):
            self.complain(path, "a table is expected here, with keys in it")
            return unread(cls)
        fields = {item.encode_name: item for item in msgspec.structs.fields(cls)}
        values = self._misspelt(fields, table, path)
        for name, field in fields.items():
            if name in table:
                values[name] = with_names_of(values.get(name), self._checked(cls, field, table[name], (*path, name)))
            elif field.required and name not in values:
                self.complain((*path, name), f"this is missing: {description(field.type)}")
                values[name] = UNSET
        return cls(**values)

    def _misspelt(self, fields: Mapping[str, FieldInfo], table: Mapping[str, object], path: key_lines.Path) -> Any:
        """Of keys that are not known: what can be said of the fields that they were meant to be."""
        meant: dict[str, Any] = {}
        for key in table:
            if key in fields:
                continue
            self.complain((*path, key), f"there is no such key; {hint(key, list(fields))}")
            if name := close_match(key, fields):
                meant[name] = with_names_of(meant.get(name), names_in(fields[name].type, table[key]))
        return meant

    def _checked(self, cls: type[Section], field: FieldInfo, written: object, path: key_lines.Path) -> Any:
        value = self.value(field.type, written, path)
        problem = None if value is UNSET else value_problem(cls, field.encode_name, value)
        if problem is None:
            return value
        self.complain(path, problem)
        return UNSET

    def value(self, annotated: Any, written: object, path: key_lines.Path) -> Any:
        """UNSET: something is wrong with it, and noted."""
        kind = bare_type(annotated)
        if is_section(kind):
            return self.section(kind, written, path)
        if get_origin(kind) in (dict, list) and is_section(inner := get_args(kind)[-1]):
            return self._sections(inner, written, path, get_origin(kind))
        try:
            return msgspec.convert(written, annotated, dec_hook=read_quantity)
        except msgspec.ValidationError as error:
            words = str(error).replace(" | null", "")  # there is none in TOML
            self.complain(path, problem_of(words, kind, written))
            return UNSET

    def _sections(self, cls: type[Section], written: object, path: key_lines.Path, kind: Any) -> Any:
        if not isinstance(written, kind):
            example = f"[{shown_path(path)}.NAME]" if kind is dict else f"[[{shown_path(path)}]]"
            self.complain(path, f"tables are expected here; write {example}")
            return UNSET
        if isinstance(written, dict):
            return {name: self.section(cls, table, (*path, name)) for name, table in written.items()}
        assert isinstance(written, list)
        return [self.section(cls, table, (*path, number)) for number, table in enumerate(written)]


def unread(cls: type[Section]) -> Section:
    """One of which nothing could be read."""
    return cls(**dict.fromkeys(cls.__struct_fields__, UNSET))


def names_in(annotated: Any, written: object) -> Any:
    """Of a table whose own name is wrong all that is told: that there are sections of these names in it."""
    kind = bare_type(annotated)
    if is_section(kind):
        return unread(kind)
    if isinstance(written, dict) and get_origin(kind) is dict and is_section(inner := get_args(kind)[-1]):
        return {name: unread(inner) for name in written}
    return UNSET


def with_names_of(other: Any, table: Any) -> Any:
    return {**other, **table} if isinstance(other, dict) and isinstance(table, dict) else table


def is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)


def read_quantity(kind: type, written: object) -> object:
    if issubclass(kind, Quantity):
        return kind.read(written)
    raise NotImplementedError(f"a field of {kind}")


def bare_type(annotated: Any) -> Any:
    """Without its description, and without None."""
    if get_origin(annotated) is Annotated:
        annotated = get_args(annotated)[0]
    if get_origin(annotated) in (Union, UnionType):
        annotated = next(kind for kind in get_args(annotated) if kind is not NoneType)
    return annotated


def description(annotated: Any) -> str:
    """What a field is, in words."""
    if get_origin(annotated) is not Annotated:
        return "add it"
    return next((str(meta.description) for meta in get_args(annotated)[1:] if meta.description), "add it")


def problem_of(error: str, kind: Any, written: object) -> str:
    """Of msgspec's words and ours, one line."""
    words = error.partition(" - at ")[0].replace("`", "")
    if get_origin(kind) is Literal:
        words = f"one of {', '.join(map(str, get_args(kind)))} is expected"
    return f"{words[0].lower()}{words[1:]}; here it is {str(written)[:40]!r}"


def close_match(key: str, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(key, list(known), 1)), None)


def in_one_line(text: str) -> str:
    """A name may have anything in it, also what a terminal obeys."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def hint(key: str, known: list[str]) -> str:
    close = close_match(key, known)
    return f"did you mean {close}?" if close else f"there are: {', '.join(known)}"


def shown_path(path: key_lines.Path) -> str:
    return ".".join(str(key) for key in path if isinstance(key, str))


def shown(path: key_lines.Path) -> str:
    """As in the file: the section, and the key in it."""
    section, key = path[:-1], str(path[-1])
    is_table = len(path) == 1 or (len(path) == 2 and section[0] in ("flash", "volume", "sensor"))
    if is_table or isinstance(path[-1], int):
        return f"[{shown_path(path)}]"
    return f"[[{shown_path(section)}]] {key}" if isinstance(section[-1], int) else f"[{shown_path(section)}] {key}"
