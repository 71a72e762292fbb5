"""Sizes as people write them: "8GiB", "512 MiB", "4096"."""

import re

import click

UNITS = {
    "": 1,
    "B": 1,
    "K": 1 << 10,
    "KIB": 1 << 10,
    "KB": 1000,
    "M": 1 << 20,
    "MIB": 1 << 20,
    "MB": 1000**2,
    "G": 1 << 30,
    "GIB": 1 << 30,
    "GB": 1000**3,
    "T": 1 << 40,
    "TIB": 1 << 40,
    "TB": 1000**4,
}


class Size(click.ParamType):  # type: ignore[type-arg]  # click became generic in 8.4
    """An option's value in bytes."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d+)\s*([A-Za-z]*)", str(value).strip())
        if match is None or match[2].upper() not in UNITS:
            self.fail(f"{value!r} is no size; write it like 4096, 64KiB, 8GiB or 8GB", param, ctx)
        return int(match[1]) * UNITS[match[2].upper()]
