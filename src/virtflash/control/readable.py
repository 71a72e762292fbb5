"""What a server answers, as text for people: tables where there is much of one kind, else a line for each thing."""

import textwrap
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any

import msgspec

from virtflash.control.events import Event
from virtflash.control.operator import MethodDescription, Parameter
from virtflash.report.quantities import binary_bytes, decimal_bytes, number
from virtflash.status import Budget, FlashStatus, Status, VolumeStatus, WearStatus
from virtflash.text_table import aligned

NOTHING = "done"
LIFETIME_EXCEEDED = 11  # of the codes in EXT_CSD
INDENT = "    "


def readable(method: str, result: Any) -> list[str]:
    """Lines, of a result in words of JSON."""
    kind, shown = SHOWN.get(method, (Any, plain_lines))
    try:
        lines: list[str] = shown(msgspec.convert(result, kind))
    except msgspec.ValidationError:  # a server of another version
        return plain_lines(result)
    return lines


def plain_lines(result: Any) -> list[str]:
    match result:
        case None:
            return [NOTHING]
        case dict():
            return aligned([(name, in_line(value)) for name, value in result.items()], left=2)
        case list():
            return [in_line(value) for value in result]
    return [in_line(result)]


def in_line(value: Any) -> str:
    """Of a value inside of another."""
    match value:
        case str():
            return value
        case None:
            return "none"
        case list() if all(isinstance(entry, str) for entry in value):
            return ", ".join(value) or "none"
    return msgspec.json.encode(value).decode()


def status_lines(status: Status) -> list[str]:
    up = timedelta(seconds=int(status.uptime))
    lines = [
        f"virtflash {status.version}, process {status.process}, up {up}, log level {status.log_level}",
        f"configuration: {status.configuration or 'none'}",
    ]
    if status.volumes:
        lines += ["", *volume_lines(status.volumes)]
    if status.flashes:
        lines += ["", *flash_lines(status.flashes)]
    return lines


def volume_lines(volumes: Sequence[VolumeStatus]) -> list[str]:
    heading = ("volume", "flash", "state", "front end", "size", "read", "written", "errors")
    return aligned([heading, *map(volume_row, volumes)], left=4)


def volume_row(volume: VolumeStatus) -> tuple[str, ...]:
    return (
        volume.name,
        volume.flash or "-",
        volume.state,
        "none" if volume.front_end is None else f"process {volume.front_end.process}",
        binary_bytes(volume.size),
        decimal_bytes(volume.bytes_read),
        decimal_bytes(volume.bytes_written),
        str(volume.errors),
    )


def flash_lines(flashes: Sequence[FlashStatus]) -> list[str]:
    heading = ("flash", "profile", "size", "free", "degC", "used (A, B)", "amplification", "bad blocks")
    return aligned([heading, *map(flash_row, flashes)], left=2)


def flash_row(flash: FlashStatus) -> tuple[str, ...]:
    return (
        flash.name,
        flash.profile,
        binary_bytes(flash.size),
        binary_bytes(flash.free),
        number(flash.celsius),
        f"{used(flash.lifetime_a)}, {used(flash.lifetime_b)}",
        number(flash.write_amplification),
        str(flash.bad_blocks),
    )


def used(tenths: int) -> str:
    if tenths == 0:
        return "unknown"
    return "exceeded" if tenths >= LIFETIME_EXCEEDED else f"up to {tenths * 10} %"


def wear_lines(volumes: Sequence[WearStatus]) -> list[str]:
    heading = ("volume", "flash", "written", "programmed", "amplification", "budget", "left", "when spent")
    return aligned([heading, *map(wear_row, volumes)], left=2)


def wear_row(volume: WearStatus) -> tuple[str, ...]:
    return (
        volume.name,
        volume.flash or "-",
        decimal_bytes(volume.bytes_written),
        "-" if volume.programmed is None else decimal_bytes(volume.programmed),
        "-" if volume.write_amplification is None else number(volume.write_amplification),
        *budget_cells(volume.budget, volume.when_spent),
    )


def budget_cells(budget: Budget | None, when_spent: str) -> tuple[str, str, str]:
    if budget is None:
        return "none", "-", "-"
    left = f"-{decimal_bytes(-budget.left)}" if budget.left < 0 else decimal_bytes(budget.left)
    return f"{decimal_bytes(budget.per_day)} a day", left, f"{when_spent}{': now' if budget.spent else ''}"


def event_line(event: Event) -> str:
    """As it stands in a log."""
    clock = time.strftime("%H:%M:%S", time.localtime(event.time))
    where = f"{event.volume}: " if event.volume else ""
    text = " ".join(event.text.split())
    return f"{clock}.{int(event.time % 1 * 1000):03d} {event.level:<7} {where}{text}"


def method_list(methods: Iterable[MethodDescription], width: int) -> list[str]:
    """Each with its parameters, and what it does."""
    lines: list[str] = []
    for method in methods:
        words = " ".join([method.name, *map(as_typed, method.parameters)])
        lines += textwrap.wrap(
            words, width, subsequent_indent=2 * INDENT, break_long_words=False, break_on_hyphens=False
        )
        lines += textwrap.wrap(method.summary, width, initial_indent=INDENT, subsequent_indent=INDENT)
    return lines


def method_lines(method: MethodDescription, width: int) -> list[str]:
    """All that is to know of one."""
    lines = textwrap.wrap(method.summary, width) + textwrap.wrap(method.details, width)
    if method.parameters:
        rows = [("", each.name, each.type, need(each), each.description) for each in method.parameters]
        lines += ["", "Parameters:", *aligned(rows, left=5)]
    return [*lines, "", f"Answer: {method.result}"]


def as_typed(parameter: Parameter) -> str:
    word = f"{parameter.name}={parameter.type.replace(' ', '-')}"
    return word if parameter.required else f"[{word}]"


def need(parameter: Parameter) -> str:
    if parameter.required:
        return "needed"
    return "" if parameter.default in (msgspec.UNSET, None, []) else f"[{in_line(parameter.default)}]"


def methods_lines(methods: list[MethodDescription]) -> list[str]:
    return aligned([(method.name, method.summary) for method in methods], left=2)


def one_volume_lines(volume: VolumeStatus) -> list[str]:
    return volume_lines([volume])


SHOWN: dict[str, tuple[Any, Callable[[Any], list[str]]]] = {
    "status": (Status, status_lines),
    "volumes": (list[VolumeStatus], volume_lines),
    "create": (VolumeStatus, one_volume_lines),
    "grow": (VolumeStatus, one_volume_lines),
    "wear": (list[WearStatus], wear_lines),
    "methods": (list[MethodDescription], methods_lines),
}
