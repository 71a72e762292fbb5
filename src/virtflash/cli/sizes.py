"""Sizes as options: "8GiB", "512 MiB", "4096"."""

import click


class Size(click.ParamType):  # type: ignore[type-arg]  # click became generic in 8.4
    """An option's value in bytes. Read as a configuration's sizes are, and short units besides."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from virtflash.config.quantities import TypedSize  # noqa: PLC0415

        try:
            return int(TypedSize.read(value))
        except ValueError as error:
            self.fail(f"{value!r} is no size; {error}", param, ctx)
