"""Sizes on a command line, and the same text in a configuration."""

import re
from fractions import Fraction

import click
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from virtflash.cli.sizes import Size as SizeOption
from virtflash.config.quantities import MOST, Size, TypedSize

# What a command line has always taken, in any case.
POWERS = {"": 1, "B": 1}
POWERS |= {unit: 1024**power for power, letter in enumerate("KMGT", 1) for unit in (letter, f"{letter}IB")}
POWERS |= {f"{letter}B": 1000**power for power, letter in enumerate("KMGT", 1)}

CASES = st.lists(st.booleans(), min_size=3, max_size=3)
NUMBERS = (
    st.integers(0, 1 << 65).map(str) | st.decimals(0, 10**6, places=3).map(str) | st.sampled_from(["", "1e3", "-1"])
)
UNITS = st.sampled_from([*POWERS, "kB", "KiB", "MiB", "GiB", "TiB", "P", "bit", "GiB/s", "/day"])
BLANKS = st.sampled_from(["", " ", "  "])
TEXTS = st.builds("{}{}{}{}{}".format, BLANKS, NUMBERS, BLANKS, UNITS, BLANKS) | st.text(max_size=8)


def configured(text: object) -> int | None:
    try:
        return Size.read(text)
    except ValueError:
        return None


def typed(text: object) -> int | None:
    try:
        return SizeOption().convert(text, None, None)
    except click.BadParameter:
        return None


@given(TEXTS)
@example("8 GiB")
@example("1.5 KiB")
@example("1.5")
@example("512 MB")
def test_what_a_configuration_takes_means_the_same_when_it_is_typed(text: str) -> None:
    meant = configured(text)
    assert meant is None or typed(text) == meant


@given(TEXTS)
@example("4 GiB")
@example("9999999 TiB")
def test_what_only_one_of_them_takes_is_a_matter_of_case_of_short_units_or_of_bounds(text: str) -> None:
    meant = typed(text)
    if meant is not None and configured(text) is None:
        unit = re.sub(r"[0-9.\s]", "", text)
        assert meant > MOST or unit not in ("", "B", "kB", "MB", "GB", "TB", "KiB", "MiB", "GiB", "TiB")


@given(st.integers(0, 1 << 70), BLANKS, st.sampled_from(sorted(POWERS)), CASES)
def test_all_that_was_ever_taken_is(number: int, blank: str, unit: str, lower: list[bool]) -> None:
    written = "".join(letter.lower() if low else letter for letter, low in zip(unit, lower, strict=False))
    assert typed(f"{number}{blank}{written}") == number * POWERS[unit]


@given(st.decimals(0, 10**9, places=3), st.sampled_from(sorted(POWERS)))
def test_fractions_are_taken_where_they_are_whole_bytes(number: object, unit: str) -> None:
    meant = Fraction(str(number)) * POWERS[unit]
    assert typed(f"{number}{unit}") == (meant if meant.denominator == 1 else None)


@given(TEXTS)
def test_the_pattern_is_what_is_read(text: str) -> None:
    """Except for what is no whole number of bytes."""
    for kind in (Size, TypedSize):
        try:
            kind.read(text)
        except ValueError:
            continue
        assert re.search(kind.pattern, text)


@pytest.mark.parametrize("value", [4096, "4096"])
def test_a_number_is_bytes(value: object) -> None:
    assert typed(value) == configured(value) == 4096


@pytest.mark.parametrize(
    "text", ["12parsecs", "", "GiB", "-1", "1 GiB GiB", "1 GB/s", "1.0001 KiB", "٣", "8 Gi", "0x10"]
)
def test_each_tells_what_it_takes(text: str) -> None:
    with pytest.raises(click.BadParameter, match=re.escape(f"{text!r} is no size; write it like 4096, 64KiB, 8GiB")):
        SizeOption().convert(text, None, None)
    with pytest.raises(ValueError, match='a size is written like "8 GiB", "512 MB" or 4096'):
        Size.read(text)
