"""Flash profiles read from TOML: every key known, present, of its type and between its bounds, or the file is refused.

The profiles that come with the package lie in `profiles/`; `docs/flash.md` says how to write one.
"""

import difflib
import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar, get_args

from virtflash.flash.profile_sections import LAWS, Errors, ExponentialLaw, Law, PowerLaw, Profile

PROFILES = Path(__file__).parent / "profiles"
LONGEST = 65536  # bytes: an image keeps the text

Table = Mapping[str, object]
Section = TypeVar("Section")


class ProfileError(Exception):
    """A profile that cannot be used; one line that says which, where in it, and what to do."""


@dataclass(frozen=True)
class Place:
    """Where in which profile something is read."""

    where: str
    section: str = ""

    def error(self, key: str, problem: str) -> ProfileError:
        section = f"[{self.section}] " if self.section else ""
        return ProfileError(f"{self.where}: {section}{key}: {problem}")


def profile_names() -> list[str]:
    """The profiles that come with the package."""
    return sorted(path.stem for path in PROFILES.glob("*.toml"))


def load_profile(name_or_path: str | Path) -> Profile:
    """A profile of the package by its name, or a file of the user's by its path (with a slash, or ending in .toml).

    Raises ProfileError.
    """
    text = str(name_or_path)
    if text in profile_names():
        return parse_profile(read_file(PROFILES / f"{text}.toml"), text)
    if isinstance(name_or_path, Path) or "/" in text or text.endswith(".toml"):
        return parse_profile(read_file(Path(name_or_path)), text)
    raise ProfileError(
        f"there is no flash profile {shown(text)}: name {', '.join(profile_names())}, or a path that ends in .toml"
    )


def read_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(LONGEST + 1)
    except OSError as error:
        raise ProfileError(f"{path}: {error.strerror}: name a TOML file that can be read") from None
    if len(data) > LONGEST:
        raise ProfileError(f"{path}: longer than {LONGEST} bytes: name a TOML file, or shorten its comments")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ProfileError(f"{path}: not UTF-8 text: name a TOML file") from None


def parse_profile(text: str, where: str) -> Profile:
    """The profile that this TOML text describes. `where` names it in errors.

    Raises ProfileError.
    """
    place = Place(where)
    tables = parse_toml(text, where)
    refuse_unknown(tables, [item.name for item in fields(Profile) if item.name != "text"], place)
    sections = {item.name: read_table(item, tables, place) for item in fields(Profile) if item.name != "text"}
    profile = Profile(**sections, text=text)
    problem = next(profile.problems(), None)
    if problem is not None:
        raise ProfileError(f"{where}: {problem}")
    return profile


def parse_toml(text: str, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except ValueError as error:  # a TOMLDecodeError, or an integer longer than Python reads
        raise ProfileError(f"{where}: not TOML: {error}: correct it there") from None
    except RecursionError:
        raise ProfileError(f"{where}: not a profile: values are nested too deep: remove them") from None


def refuse_unknown(table: Table, known: list[str], place: Place) -> None:
    for key in table:
        if key not in known:
            close = difflib.get_close_matches(key, known, 1)
            hint = f"write {close[0]}" if close else f"remove it, or write one of {', '.join(known)}"
            raise place.error(shown_key(key), f"there is no such key or section: {hint}")


def read_table(item: Field[Any], tables: Table, place: Place) -> Any:
    """One section, or None where it may be left out and is."""
    table = tables.get(item.name)
    if table is None and item.default is None:
        return None
    if not isinstance(table, dict):
        raise ProfileError(f"{place.where}: [{item.name}]: the section is missing: add it")
    cls: type[Any] = next(kind for kind in (get_args(item.type) or (item.type,)) if isinstance(kind, type))
    inside = Place(place.where, item.name)
    return read_errors(table, inside) if cls is Errors else read_section(cls, table, inside)


def read_errors(table: Table, place: Place) -> Errors:
    """The section that has sections: a law for each way to use the cells."""
    refuse_unknown(table, [item.name for item in fields(Errors)], place)
    laws: dict[str, Law] = {}
    for name in ("main", "slc"):
        if name == "main" or name in table:
            laws[name] = read_law(table.get(name), Place(place.where, f"errors.{name}"))
    figures = {key: value for key, value in table.items() if key not in ("main", "slc")}
    return read_section(Errors, figures, place, laws)


def read_law(table: object, place: Place) -> Law:
    if not isinstance(table, dict):
        raise ProfileError(f"{place.where}: [{place.section}]: the section is missing: add it")
    if table.get("law") not in list(LAWS):
        raise place.error("law", f"it names the form of the law: write {' or '.join(map(shown, LAWS))}")
    return (
        read_section(PowerLaw, table, place) if table["law"] == "power" else read_section(ExponentialLaw, table, place)
    )


def read_section(cls: type[Section], table: Table, place: Place, given: Mapping[str, object] | None = None) -> Section:
    """A section of plain keys; `given` are members that were read already."""
    given = given or {}
    items = [item for item in fields(cls) if item.metadata]  # type: ignore[arg-type]
    refuse_unknown(table, [item.name for item in items], place)
    return cls(**{item.name: read_value(item, table, place) for item in items}, **given)


def read_value(item: Field[Any], table: Table, place: Place) -> object:
    if item.name not in table:
        if item.default is not MISSING:
            return item.default
        raise place.error(item.name, f"it is missing: add it ({item.metadata['what']})")
    try:
        return READERS[item.type](table[item.name], item.metadata)
    except ValueError as error:
        raise place.error(item.name, f"{shown(table[item.name])} will not do: write {error}") from None


def read_text(value: object, limits: Table) -> str:
    choice: tuple[str, ...] = limits["choice"]  # type: ignore[assignment]
    longest: int = limits["longest"]  # type: ignore[assignment]
    if choice and value not in choice:
        raise ValueError(f"{' or '.join(map(shown, choice))} ({limits['what']})")
    if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= longest:
        raise ValueError(f"a text of 1 to {longest} printable characters ({limits['what']})")
    return value


def read_number(value: object, limits: Table) -> float:
    number = float(value) if is_number(value) else math.nan  # type: ignore[arg-type]
    if not limits["least"] <= number <= limits["most"]:  # type: ignore[operator]
        raise ValueError(f"a number from {bounds(limits)}")
    return number


def read_integer(value: object, limits: Table) -> int:
    if type(value) is not int or not limits["least"] <= value <= limits["most"]:  # type: ignore[operator]
        raise ValueError(f"a whole number from {bounds(limits)}")
    return value


def read_list(read: Callable[[object, Table], Any]) -> Callable[[object, Table], tuple[Any, ...]]:
    """What reads a list, each element by `read`."""

    def read_all(value: object, limits: Table) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise ValueError(f"a list, each of it from {bounds(limits)}")
        return tuple(read(element, limits) for element in value)

    return read_all


def read_pair(value: object, limits: Table) -> tuple[Any, ...]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"a list of pairs, each of two whole numbers from {bounds(limits)}")
    return read_list(read_integer)(value, limits)


READERS: dict[object, Callable[[object, Table], object]] = {
    str: read_text,
    float: read_number,
    int: read_integer,
    tuple[int, ...]: read_list(read_integer),
    tuple[float, ...]: read_list(read_number),
    tuple[tuple[int, int], ...]: read_list(read_pair),
}


def is_number(value: object) -> bool:
    """An integer too long for a float is none: it is beyond every bound, and Python would raise."""
    return isinstance(value, float) or (type(value) is int and abs(value) < 1 << 1000)


def bounds(limits: Table) -> str:
    return f"{limits['least']:g} to {limits['most']:.10g} ({limits['what']})"


def shown(value: object) -> str:
    """A value as one short line, however long or strange it is."""
    if isinstance(value, str):
        return f'"{value[:40]}"' if value.isprintable() else ascii(value[:40])
    text = "a table" if isinstance(value, dict) else "a list" if isinstance(value, list) else "a long number"
    return text if isinstance(value, dict | list) or is_long(value) else str(value)


def is_long(value: object) -> bool:
    return type(value) is int and abs(value) >= 1 << 200


def shown_key(key: str) -> str:
    return key[:40] if key.isprintable() and key.isascii() else ascii(key[:40])
