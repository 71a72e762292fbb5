"""A file of TOML becomes a `Configuration`, or all that is wrong with it is told, each mistake in a line of its own."""

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from virtflash.config import key_lines
from virtflash.config.configuration import Configuration, Section
from virtflash.config.contradictions import contradictions
from virtflash.config.quantities import Quantity

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
    configuration: Configuration | None = reading.section(Configuration, tables, ())
    if configuration is not None:
        for path, problem in contradictions(configuration):
            reading.complain(path, problem)
    if reading.problems or configuration is None:
        raise ConfigurationError([text for _, text in sorted(reading.problems, key=lambda problem: problem[0])])
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
        self.problems.append((line, f"{self._where}:{line}: {shown(path)}: {problem}"))

    def section(self, cls: type[Section], table: object, path: key_lines.Path) -> Any:
        """None: something is wrong with it, and noted."""
        if not isinstance(table, dict):
            return self.complain(path, "a table is expected here, with keys in it")
        before = len(self.problems)
        fields = {item.encode_name: item for item in msgspec.structs.fields(cls)}
        for key in table.keys() - fields.keys():
            self.complain((*path, key), f"there is no such key; {hint(key, list(fields))}")
        for name in fields.keys() - table.keys():
            if fields[name].required:
                self.complain((*path, name), f"this is missing: {description(fields[name].type)}")
        values = {name: self.value(fields[name].type, table[name], (*path, name)) for name in fields if name in table}
        return cls(**values) if len(self.problems) == before else None

    def value(self, annotated: Any, written: object, path: key_lines.Path) -> Any:
        kind = bare_type(annotated)
        if isinstance(kind, type) and issubclass(kind, Section):
            return self.section(kind, written, path)
        inner = get_args(kind)[-1] if get_origin(kind) in (dict, list) else None
        if isinstance(inner, type) and issubclass(inner, Section):
            return self._sections(inner, written, path, dict if get_origin(kind) is dict else list)
        try:
            return msgspec.convert(written, annotated, dec_hook=read_quantity)
        except msgspec.ValidationError as error:
            return self.complain(path, problem_of(str(error), kind, written))

    def _sections(self, cls: type[Section], written: object, path: key_lines.Path, kind: type) -> Any:
        if not isinstance(written, kind):
            example = f"[{shown_path(path)}.NAME]" if kind is dict else f"[[{shown_path(path)}]]"
            return self.complain(path, f"tables are expected here; write {example}")
        if isinstance(written, dict):
            return {name: self.section(cls, table, (*path, name)) for name, table in written.items()}
        assert isinstance(written, list)
        return [self.section(cls, table, (*path, number)) for number, table in enumerate(written)]


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


def hint(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, 1)
    return f"did you mean {close[0]}?" if close else f"there are: {', '.join(known)}"


def shown_path(path: key_lines.Path) -> str:
    return ".".join(str(key) for key in path if isinstance(key, str))


def shown(path: key_lines.Path) -> str:
    """As in the file: the section, and the key in it."""
    section, key = path[:-1], str(path[-1])
    is_table = len(path) == 1 or (len(path) == 2 and section[0] in ("flash", "volume"))
    if is_table or isinstance(path[-1], int):
        return f"[{shown_path(path)}]"
    return f"[[{shown_path(section)}]] {key}" if isinstance(section[-1], int) else f"[{shown_path(section)}] {key}"
