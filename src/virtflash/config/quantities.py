"""Sizes, rates and times as people write them: "8 GiB", "20 GB/day", "500 /s", "10 min".

A prefix means what it says: kB, MB, GB and TB are powers of 1000, KiB, MiB, GiB and TiB powers of 1024. A quantity is a
number with its unit; a bare number is taken where there is only one unit that it can have.
"""

import math
import re
from fractions import Fraction
from typing import Self

SIZES = {"B": 1, "kB": 1000, "MB": 1000**2, "GB": 1000**3, "TB": 1000**4}
SIZES |= {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
SHORT = {"K": "KiB", "M": "MiB", "G": "GiB", "T": "TiB"}
TYPED = SHORT | {unit.upper(): unit for unit in SIZES}
MILLISECONDS = {"ms": 1, "s": 1000, "min": 60_000, "h": 3_600_000, "day": 86_400_000, "days": 86_400_000}
RATES = ("s", "min", "h", "day")
MOST = 1 << 62  # of anything, in its unit: what the data plane counts with

NUMBER = r"[0-9]+(?:\.[0-9]+)?"
QUANTITY = re.compile(rf"\s*({NUMBER})\s*([A-Za-z]*)\s*(?:/\s*([a-z]+))?\s*", re.ASCII)


class Quantity(int):
    """One kind of them: how it is written, and what is meant. ValueError from `read`: what was expected."""

    expected = ""
    pattern = ""
    most: float = MOST

    @classmethod
    def read(cls, written: object) -> Self:
        match = QUANTITY.fullmatch(written) if isinstance(written, str) else None
        value = cls.value(Fraction(match[1]), match[2], match[3]) if match else cls.bare(written)
        if value is None or value > cls.most:
            raise ValueError(cls.expected)
        return cls(value)

    @classmethod
    def value(cls, number: Fraction, unit: str, per: str | None) -> int | None:
        """None: that is no unit of it."""
        raise NotImplementedError

    @classmethod
    def bare(cls, written: object) -> int | None:
        """Of a number without a unit."""
        return None


class Size(Quantity):
    """Bytes."""

    expected = 'a size is written like "8 GiB", "512 MB" or 4096 (bytes)'
    pattern = rf"^\s*{NUMBER}\s*({'|'.join(SIZES)})?\s*$"

    @classmethod
    def value(cls, number: Fraction, unit: str, per: str | None) -> int | None:
        return None if per or (unit and unit not in SIZES) else whole(number * SIZES.get(unit, 1))

    @classmethod
    def bare(cls, written: object) -> int | None:
        return written if isinstance(written, int) and not isinstance(written, bool) and written >= 0 else None


class TypedSize(Size):
    """Bytes, as they are typed on a command line: what a configuration takes, in upper and lower case, K for KiB too.

    No size is too large here: who asked for it tells what his bound is.
    """

    expected = "write it like 4096, 64KiB, 8GiB or 8GB"
    pattern = rf"(?i)^\s*{NUMBER}\s*({'|'.join([*SIZES, *SHORT])})?\s*$"
    most = math.inf

    @classmethod
    def value(cls, number: Fraction, unit: str, per: str | None) -> int | None:
        return super().value(number, TYPED.get(unit.upper(), unit), per)


class ByteRate(Quantity):
    """Bytes a day: the slowest that is written, so that none is rounded away."""

    expected = 'a rate is written like "50 MB/s" or "20 GB/day"'
    pattern = rf"^\s*{NUMBER}\s*({'|'.join(SIZES)})\s*/\s*({'|'.join(RATES)})\s*$"

    @classmethod
    def value(cls, number: Fraction, unit: str, per: str | None) -> int | None:
        if unit not in SIZES or per not in RATES:
            return None
        return round(number * SIZES[unit] * MILLISECONDS["day"] / MILLISECONDS[per])


class RequestRate(Quantity):
    """Requests a second."""

    expected = 'requests are written like "1000 /s"'
    pattern = rf"^\s*{NUMBER}\s*/\s*s\s*$"

    @classmethod
    def value(cls, number: Fraction, unit: str, per: str | None) -> int | None:
        return whole(number) if not unit and per == "s" else None


class Duration(Quantity):
    """Milliseconds."""

    expected = 'a time is written like "5 s", "10 min", "2 h" or "30 days"'
    pattern = rf"^\s*{NUMBER}\s*({'|'.join(MILLISECONDS)})\s*$"

    @classmethod
    def value(cls, number: Fraction, unit: str, per: str | None) -> int | None:
        return None if per or unit not in MILLISECONDS else whole(number * MILLISECONDS[unit])


def whole(value: Fraction) -> int | None:
    return int(value) if value.denominator == 1 else None
