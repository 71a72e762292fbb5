"""In which line of a TOML text each key stands. The parser of the standard library tells values only.

The text has been parsed before: it is TOML, so that one needs to tell things apart here, not to find mistakes.
"""

import re
import tomllib

Path = tuple[str | int, ...]

SPACE = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
BLANK = re.compile(r"[ \t]*")
BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
STRING = re.compile(r'"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'', re.DOTALL)
SCALAR = re.compile(r"[^,\]}#\n]+")


def key_lines(text: str) -> dict[Path, int]:
    """By path ("volume", "cluster", "size"), of tables too; members of an array of tables have numbers. From 1."""
    return Scanner(text).scan()


class Scanner:
    """Goes through a text once, from left to right."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0
        self._lines: dict[Path, int] = {}
        self._arrays: dict[Path, int] = {}  # of tables: the number of the last one

    def scan(self) -> dict[Path, int]:
        table: Path = ()
        self._skip(SPACE)
        while self._at < len(self._text):
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)
            self._skip(SPACE)
        return self._lines

    def _skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise ValueError(f"line {self._line()}: this is no TOML")
        self._at = match.end()
        return match[0]

    def _line(self) -> int:
        return self._text.count("\n", 0, self._at) + 1

    def _note(self, path: Path) -> None:
        for length in range(1, len(path) + 1):
            self._lines.setdefault(path[:length], self._line())

    def _header(self) -> Path:
        is_array = self._text.startswith("[[", self._at)
        line = self._line()
        self._at += 2 if is_array else 1
        keys = self._key()
        self._at = self._text.index("]", self._at) + (2 if is_array else 1)
        path = (*self._inside_arrays(keys[:-1]), keys[-1])
        if is_array:
            self._arrays[path] = self._arrays.get(path, -1) + 1
            self._lines.setdefault(path, line)
            path += (self._arrays[path],)
        elif path in self._arrays:
            path += (self._arrays[path],)
        self._note(path)
        return path

    def _inside_arrays(self, keys: Path) -> Path:
        """A table of an array of tables is one of its last member."""
        path: Path = ()
        for key in keys:
            path += (key,)
            if path in self._arrays:
                path += (self._arrays[path],)
        return path

    def _key(self) -> Path:
        """A dotted key."""
        keys: list[str] = []
        while True:
            self._skip(BLANK)
            if self._text[self._at] in "\"'":
                keys.append(tomllib.loads(f"key = {self._skip(STRING)}")["key"])
            else:
                keys.append(self._skip(BARE_KEY))
            self._skip(BLANK)
            if not self._text.startswith(".", self._at):
                return tuple(keys)
            self._at += 1

    def _pair(self, table: Path) -> None:
        begin = self._at
        path = table + self._key()
        end, self._at = self._at, begin
        self._note(path)
        self._at = end + 1  # the equals sign
        self._value(path)

    def _value(self, path: Path) -> None:
        self._skip(BLANK)
        match self._text[self._at]:
            case '"' | "'":
                self._skip(STRING)
            case "[":
                self._items("]", path)
            case "{":
                self._items("}", path)
            case _:
                self._skip(SCALAR)

    def _items(self, end: str, path: Path) -> None:
        """Of an array or an inline table."""
        self._at += 1
        number = 0
        while True:
            self._skip(SPACE)
            if self._text[self._at] == end:
                self._at += 1
                return
            if end == "}":
                self._pair(path)
            else:
                self._note((*path, number))
                self._value((*path, number))
            number += 1
            self._skip(SPACE)
            if self._text[self._at] == ",":
                self._at += 1
