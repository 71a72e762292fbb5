"""The figures on the screen of `virtflash top`, and the same figures from what a server has counted. None: a dash."""

import re
from collections.abc import Collection
from itertools import accumulate
from typing import Any

import pytest

from virtflash.status import FlashStatus, Status, VolumeStatus

Figures = dict[str, Any]

SIZE, TIME = r"[\d.]+ [kMG]?B", r"[\d.]+[num]?s|-"
VOLUME = re.compile(
    rf"(?P<name>\S+) +(?P<state>\S+) +(?P<iops>\d+) +(?P<read>{SIZE}) +(?P<written>{SIZE})"
    rf" +(?P<read50>{TIME}) +(?P<read99>{TIME}) +(?P<write50>{TIME}) +(?P<write99>{TIME}) +(?P<depth>\d+) *"
)
DETAILS = re.compile(  # what comes last may be cut
    rf"  (?:budget (?P<left>-?\d+) % left(?P<spent> SPENT)?, )?wear (?P<wear>{SIZE})/s, WA (?P<wa>[\d.]+|-)"
    r"(?:, (?P<delayed>\d+)/s delayed)?(?:, (?P<errors>\d+) errors)?"
    r"(?:, (?:process (?P<process>\d+) of user (?P<user>\d+)|no front end|[^,]*…))? *"
)
FLASH = re.compile(
    rf"(?P<name>\S+) +(?P<kind>emmc|nand|nor) +(?P<used>\S+)/(?P<used_b>\S+) +(?P<eol>\w+) +(?P<celsius>[\d.]+) C"
    rf" +(?P<free>\d+)/(?P<blocks>\d+) +(?P<spare>\d+) +(?P<wear>{SIZE}) +(?P<wa>[\d.]+|-) +(?P<ever>[\d.]+) *"
)
UNITS = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}
WORDS = {"name", "state", "kind", "used", "used_b", "eol", "spent"}
END_OF_LIFE = ("unknown", "normal", "warning", "urgent")
STEP = {"celsius": 0.1, "wa": 0.01, "read50": 0.0, "read99": 0.0, "write50": 0.0, "write99": 0.0}  # all others: 1
DIGITS = 0.006  # a figure of three digits may be off by so much of itself


def shown(text: str) -> dict[str, Figures]:
    """By the names of volumes and flashes, as far as they are there by now."""
    lines = text.splitlines()
    found: dict[str, Figures] = {}
    for number, line in enumerate(lines):
        if (flash := FLASH.fullmatch(line)) is not None:
            found[flash["name"]] = figures_of(flash)
        volume = VOLUME.fullmatch(line)
        details = volume and DETAILS.fullmatch(lines[number + 1])
        if volume is not None and details is not None:
            found[volume["name"]] = figures_of(volume) | figures_of(details)
    return found


def figures_of(match: re.Match[str]) -> Figures:
    return {key: text if key in WORDS else number(text) for key, text in match.groupdict().items()}


def number(text: str | None) -> float | None:
    if text is None or text == "-":
        return None
    digits, unit = re.fullmatch(r"([-\d.]+) ?(\w*)", text).groups()  # type: ignore[union-attr]
    return float(digits) * UNITS.get(unit, 1.0)


def counted(earlier: Status, later: Status) -> dict[str, Figures]:
    """What a screen should show of the time between two statuses."""
    seconds = later.uptime - earlier.uptime
    figures = {
        now.name: counted_of_volume(before, now, seconds, later.latency_bounds_ns)
        for before, now in zip(earlier.volumes, later.volumes, strict=True)
    }
    for was, flash in zip(earlier.flashes, later.flashes, strict=True):
        figures[flash.name] = counted_of_flash(was, flash, seconds)
    return figures


def counted_of_volume(before: VolumeStatus, now: VolumeStatus, seconds: float, bounds: list[int]) -> Figures:
    written, programmed = now.bytes_written - before.bytes_written, (now.programmed or 0) - (before.programmed or 0)
    delayed = (now.delayed - before.delayed) / seconds
    latencies = {
        f"{kind}{percent}": within(before.latency[kind], now.latency[kind], bounds, percent)
        for kind in ("read", "write")
        for percent in (50, 99)
    }
    return latencies | {
        "name": now.name,
        "state": now.state,
        "iops": (sum(now.requests.values()) - sum(before.requests.values())) / seconds,
        "read": (now.bytes_read - before.bytes_read) / seconds,
        "written": written / seconds,
        "depth": now.in_flight,
        "process": now.front_end and now.front_end.process,
        "user": now.front_end and now.front_end.user,
        "wear": programmed / seconds,
        "wa": programmed / written if written else None,
        "left": now.budget and 100 * now.budget.left / now.budget.burst,
        "spent": " SPENT" if now.budget and now.budget.spent else None,
        "delayed": delayed or None,
        "errors": now.errors or None,
    }


def counted_of_flash(before: FlashStatus, now: FlashStatus, seconds: float) -> Figures:
    written, programmed = now.host_bytes - before.host_bytes, now.programmed_bytes - before.programmed_bytes
    return {
        "name": now.name,
        "kind": now.kind,
        "used": str(10 * now.lifetime_a or "?"),
        "used_b": str(10 * now.lifetime_b or "?"),
        "eol": END_OF_LIFE[now.pre_eol_info],
        "celsius": now.celsius,
        "free": now.free_blocks,
        "blocks": now.blocks,
        "spare": now.spare_blocks,
        "wear": programmed / seconds,
        "wa": programmed / written if written else None,
        "ever": now.write_amplification,
    }


def within(before: list[int], now: list[int], bounds: list[int], percent: int) -> float | None:
    """Seconds that so many percent of the new requests did not exceed, as far as the buckets tell."""
    new = [after - count for count, after in zip(before, now, strict=True)]
    bound = next((b for b, n in zip(bounds, accumulate(new), strict=True) if 100 * n >= percent * sum(new) > 0), None)
    return None if bound is None else bound / 1e9


def differences(text: str, earlier: Status, later: Status, but: Collection[str] = ()) -> list[str]:
    """Where the screen shows something else than was counted, as far as its digits tell; `but`: in other figures."""
    screen = shown(text)
    return [
        f"{name} {key}: {figure} was counted; the screen shows {screen.get(name, {}).get(key, 'nothing')}"
        for name, figures in counted(earlier, later).items()
        for key, figure in figures.items()
        if key not in but and not alike(screen.get(name, {}).get(key, "nothing"), figure, STEP.get(key, 1.0))
    ]


def alike(figure: object, true: object, step: float) -> bool:
    """`step`: of the last digit that is shown, where there are few."""
    if isinstance(true, str) or true is None or not isinstance(figure, float):
        return figure == true
    return figure == pytest.approx(true, rel=DIGITS, abs=0.501 * step)
