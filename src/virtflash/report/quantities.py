"""Amounts as people read them."""

BINARY = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")
DECIMAL = ("bytes", "kB", "MB", "GB", "TB", "PB")
HOURS_PER_DAY, HOURS_PER_YEAR = 24, 8766


def binary_bytes(count: float) -> str:
    """As capacities are counted: 8 GiB."""
    return scaled(count, 1024, BINARY)


def decimal_bytes(count: float) -> str:
    """As what was written is counted: 12.3 TB."""
    return scaled(count, 1000, DECIMAL)


def scaled(count: float, base: int, units: tuple[str, ...]) -> str:
    step = 0
    while count >= base and step < len(units) - 1:
        count /= base
        step += 1
    return f"{number(count)} {units[step]}"


def number(value: float) -> str:
    """Three digits, or all of them where it is whole: 8, 1.23, 12.3, 1234."""
    if value == round(value) or value >= 999.5:  # 999.7 in three digits would be 1e+03
        return f"{value:.0f}"
    return f"{value:.3g}"


def duration(hours: float) -> str:
    """5.2 hours, 12 days, 3.4 years."""
    if hours < 2 * HOURS_PER_DAY:
        return f"{number(round(hours, 1))} hours"
    if hours < HOURS_PER_YEAR:
        return f"{number(round(hours / HOURS_PER_DAY, 1))} days"
    return f"{number(round(hours / HOURS_PER_YEAR, 2))} years"


def counted(count: int, noun: str) -> str:
    """1 block, 2 blocks."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
