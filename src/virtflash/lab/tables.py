"""Files that describe an experiment: TOML tables and CSV rows, read strictly. An error is one line with its place."""

import csv
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from virtflash.lab.errors import LabError

BYTES_MOST = 1 << 30


def read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise LabError(f"{path}: not TOML: {error}") from None


def read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(BYTES_MOST + 1)
    except OSError as error:
        raise LabError(f"{path}: {error.strerror}") from None
    if len(data) > BYTES_MOST:
        raise LabError(f"{path}: longer than {BYTES_MOST} bytes: cut a part out of it")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise LabError(f"{path}: not UTF-8 text") from None


def read_csv(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, list[str]]]:
    """Rows with where each is, for errors. A first row of the columns' names, empty rows and # comments are skipped."""
    for number, row in enumerate(csv.reader(read_text(path).splitlines()), 1):
        cells = [cell.strip() for cell in row]
        if not any(cells) or cells[0].startswith("#") or (number == 1 and tuple(cells) == columns):
            continue
        if len(cells) != len(columns):
            raise LabError(f"{path}: line {number}: {len(cells)} values: a row is {','.join(columns)}")
        yield f"{path}: line {number}", cells


def read_number(where: str, name: str, value: object, least: float, most: float) -> float:
    """LabError: it is none, or beyond its bounds."""
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else float("nan")
    except (ValueError, OverflowError):
        number = float("nan")
    if not least <= number <= most:
        raise LabError(f"{where}: {name}: {str(value)[:40]!r} is no number from {least:g} to {most:g}")
    return number


def refuse_unknown(path: Path, table: Mapping[str, object], known: tuple[str, ...]) -> None:
    for key in table:
        if key not in known:
            raise LabError(f"{path}: {key[:40]!r}: there is no such key: write {', '.join(known)}")
