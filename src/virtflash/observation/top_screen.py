"""What `virtflash top` shows: lines of styled text, made of a status and the rates since the one before."""

import time
from collections.abc import Callable, Sequence

from rich.text import Text

from virtflash.observation.rates import FlashRates, Latency, Rates, VolumeRates
from virtflash.report.quantities import decimal_bytes
from virtflash.status import FlashStatus, Status, VolumeState, VolumeStatus

NONE = "-"
HELP = "q, Esc: quit   s: sort by another column   p: pause   h: this line"
STATE_STYLES: dict[VolumeState, str] = {
    "serving": "green",
    "durable": "cyan",
    "throttled": "yellow",
    "read-only": "yellow",
    "offline": "red",
    "failed": "bold red",
}
EOL = {0: "unknown", 1: "normal", 2: "warning", 3: "urgent"}
ORDERS: dict[str, Callable[[VolumeStatus, VolumeRates], float]] = {
    "configuration": lambda _volume, _rates: 0.0,
    "IOPS": lambda _volume, rates: -rates.iops,
    "bytes": lambda _volume, rates: -(rates.bytes_read + rates.bytes_written),
    "wear": lambda _volume, rates: -(rates.programmed or 0.0),
}
VOLUME_HEAD = (
    f"{'VOLUME':13} {'STATE':9} {'IOPS':>6} {'READ/s':>8} {'WRITE/s':>8}"
    f" {'R p50':>6} {'R p99':>6} {'W p50':>6} {'W p99':>6}{'QD':>4}"
)
FLASH_HEAD = f"{'FLASH':9} KIND LIFE A/B%  PRE-EOL {'TEMP':>7} {'FREE BLKS':>9} SPARE {'WEAR/s':>8}  WA NOW EVER"


def screen(
    status: Status, rates: Rates, *, order: str = "configuration", note: str = "", height: int = 0
) -> list[Text]:
    """Lines of at most 80 columns. `height`: of the terminal; volumes take one line each where two do not fit."""
    volumes = sorted(status.volumes, key=lambda volume: ORDERS[order](volume, rates.volumes[volume.name]))
    top = header(status, order, note)
    below = flash_lines(status.flashes, rates)
    room = height - len(top) - len(below) - 2 if height else 2 * len(volumes)
    two = 2 * len(volumes) <= room
    shown = volumes if two or len(volumes) <= room else volumes[: max(0, room - 1)]
    middle = [Text(VOLUME_HEAD, "bold")]
    for volume in shown:
        middle += volume_lines(volume, rates.volumes[volume.name])[: 2 if two else 1]
    if len(shown) < len(volumes):
        middle.append(Text(f"and {len(volumes) - len(shown)} more, for which the terminal is too low"))
    return [*top, *middle, Text(), *below]


def header(status: Status, order: str, note: str) -> list[Text]:
    up = int(status.uptime)
    clock = f"{up // 86400} d {up // 3600 % 24:02d}:{up // 60 % 60:02d}:{up % 60:02d}"
    first = f"virtflash {status.version}   up {clock}   process {status.process}   {time.strftime('%H:%M:%S')}"
    second = f"{printable(status.configuration or 'no configuration')}   sorted by {order}   h: help"
    return [Text(first, "bold"), Text(note or second, "reverse" if note else ""), Text()]


def volume_lines(volume: VolumeStatus, rates: VolumeRates) -> list[Text]:
    read, write = (rates.latency.get(name, Latency(0, None, None)) for name in ("read", "write"))
    figures = " ".join(f"{seconds(value):>6}" for value in (read.p50, read.p99, write.p50, write.p99))
    line = Text(f"{cut(volume.name, 13):13} ")
    line.append(f"{volume.state:9}", STATE_STYLES[volume.state])
    line.append(f" {rates.iops:>6.0f} {size(rates.bytes_read):>8} {size(rates.bytes_written):>8} {figures}")
    line.append(f"{volume.in_flight:>4}")
    return [line, Text("  ").append(", ".join(details(volume, rates)), "dim")]


def details(volume: VolumeStatus, rates: VolumeRates) -> list[str]:
    """The second line, the least important last, since there may be no room for it: why the platform holds it back,
    budget, wear, what is out of the ordinary, who is there."""
    parts, front_end = volume.health.causes[:1], volume.front_end
    if volume.budget is not None:
        spent = " SPENT" if volume.budget.spent else ""
        parts.append(f"budget {share(volume.budget.left, volume.budget.burst)} left{spent}")
    if volume.programmed is not None:
        parts.append(f"wear {size(rates.programmed or 0)}/s, WA {ratio(rates.write_amplification)}")
    parts += [f"{rates.delayed:.0f}/s delayed"] if rates.delayed else []
    parts += [f"{volume.errors} errors"] if volume.errors else []
    return [*parts, f"process {front_end.process} of user {front_end.user}" if front_end else "no front end"]


def flash_lines(flashes: Sequence[FlashStatus], rates: Rates) -> list[Text]:
    return [Text(FLASH_HEAD, "bold"), *(flash_line(flash, rates.flashes[flash.name]) for flash in flashes)]


def flash_line(flash: FlashStatus, rates: FlashRates) -> Text:
    used = "/".join(str(10 * estimate) if estimate else "?" for estimate in (flash.lifetime_a, flash.lifetime_b))
    style = {2: "yellow", 3: "bold red"}.get(flash.pre_eol_info, "")
    blocks = f"{flash.free_blocks}/{flash.blocks}"
    line = Text(f"{cut(flash.name, 9):9} {flash.kind:4} {used:>9} ")
    line.append(f"{EOL.get(flash.pre_eol_info, '?'):>8}", style)
    line.append(f" {flash.celsius:>5.1f} C {blocks:>9} {flash.spare_blocks:>5} {size(rates.programmed):>8}")
    return line.append(f" {ratio(rates.write_amplification):>7} {flash.write_amplification:>4.3g}")


def size(count: float) -> str:
    return decimal_bytes(round(count)).replace("bytes", "B")


def seconds(value: float | None) -> str:
    """In six columns."""
    if value is None:
        return NONE
    for unit, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if value >= unit:
            amount = value / unit
            return f"{amount:.3g}{name}" if amount < 999.5 else f"{amount:.0f}{name}"
    return f"{value * 1e9:.0f}ns"


def ratio(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"


def share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %" if whole else NONE


def cut(text: str, width: int) -> str:
    text = printable(text)
    return text if len(text) <= width else text[: width - 1] + "…"


def printable(text: str) -> str:
    """Nothing in it moves a cursor."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
