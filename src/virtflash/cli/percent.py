"""Shares as people write them: "15%", "15 %", "15"."""

import re

import click


class Percent(click.ParamType):  # type: ignore[type-arg]  # click became generic in 8.4
    """An option's value in percent."""

    name = "percent"

    def __init__(self, least: float, most: float) -> None:
        self.least, self.most = least, most

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%?", str(value).strip())
        if match is None or not self.least <= float(match[1]) <= self.most:
            self.fail(f"{value!r} is not from {self.least:g}% to {self.most:g}%", param, ctx)
        return float(match[1])
