"""Judgement on a flash: which blocks to refresh, and which to collect next, seen from a snapshot of the block table.

What comes of it is advice. The translation layer takes it when it has a move to choose, checks that the block is still
what it was in the snapshot, and goes by its own rule where there is none: nobody waits for this.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy
from numpy.typing import NDArray

CLOSED = 2  # BLOCK_CLOSED of state.pxd
FLAG_SLC, FLAG_META, FLAG_REFRESH = 1, 2, 8
HOURS_MOST = 15 * 8766.0  # the life of a car
CYCLES_MARKS = 65  # of the table of age limits, from new to twice the rated cycles
ADVICE_MOST = 32  # blocks to collect that are named at once

ErrorRate = Callable[[float, float], float]  # of cycles and hours at the reference temperature


@dataclass(frozen=True)
class Advice:
    """Blocks, best first. `collect`: with the erases and valid units of each, by which a stale one is known."""

    refresh: list[int] = field(default_factory=list)
    collect: list[tuple[int, int, int]] = field(default_factory=list)


class AgeLimits:
    """How long data may lie in a block of so many cycles: until the bits to correct in a codeword reach a share of what
    the ECC can do. Hours at the profile's reference temperature."""

    def __init__(
        self, rate: ErrorRate, *, codeword_bits: int, correctable: int, rated_cycles: int, share: float
    ) -> None:
        # Densely where the part is new: there the limit falls as fast as near its end.
        new = numpy.geomspace(1, rated_cycles, CYCLES_MARKS)
        self._cycles = numpy.union1d(new, numpy.linspace(0, 2 * rated_cycles, CYCLES_MARKS))
        allowed = share * correctable / codeword_bits
        self._hours = numpy.array([longest(rate, cycles, allowed) for cycles in self._cycles])

    def of(self, cycles: NDArray[Any]) -> NDArray[Any]:
        return numpy.asarray(numpy.interp(cycles, self._cycles, self._hours))


def longest(rate: ErrorRate, cycles: float, allowed: float) -> float:
    """Hours after which data in a block of so many cycles has an error rate of `allowed`; 0: it has from the start."""
    if rate(cycles, 0.0) >= allowed:
        return 0.0
    if rate(cycles, HOURS_MOST) < allowed:
        return HOURS_MOST
    low, high = 0.0, math.log1p(HOURS_MOST)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if rate(cycles, math.expm1(middle)) < allowed else (low, middle)
    return math.expm1(low)


def profile_limits(physics: Mapping[str, Any], *, share: float, slc: bool = False) -> AgeLimits:
    """The limits of a part whose physics are known, for its worst blocks: three deviations of their quality.

    `share`: of the ECC's strength, 0 to 1. Hardly anything is moved for nothing, since data that is moved wears.
    """
    from virtflash.flash.laws import raw_bit_error_rate  # noqa: PLC0415

    worst = math.exp(3 * float(physics["spread"]))

    def rate(cycles: float, hours: float) -> float:
        return raw_bit_error_rate(physics, slc=slc, cycles=cycles, hours=hours, factor=worst)

    return AgeLimits(
        rate,
        codeword_bits=int(physics["raw_codeword_bits"]) or 8 * int(physics["codeword_bytes"]),
        correctable=int(physics["correctable_bits"]),
        rated_cycles=int(physics["slc_rated_cycles" if slc else "rated_cycles"]),
        share=share,
    )


def judge(
    table: NDArray[Any],
    hours: float,
    sequence: int,
    limits: AgeLimits,
    slc_limits: AgeLimits | None,
    *,
    block_units: int,
) -> Advice:
    """Look at a snapshot (`Translation.snapshot`), taken at a time in hours and a sequence number.

    `block_units`: units of a block that is not in SLC mode.
    """
    data = holds_data(table)
    return Advice(
        refresh=too_old(table, data, hours, limits, slc_limits),
        collect=worth_collecting(table, data, sequence, block_units),
    )


def holds_data(table: NDArray[Any]) -> NDArray[Any]:
    """Of each block: it is full, and not of what the translation layer keeps for itself."""
    return numpy.asarray((table["use"] == CLOSED) & (table["flags"] & FLAG_META == 0))


def older_than(table: NDArray[Any], hours: float, age: float) -> list[int]:
    """Blocks of a snapshot taken at a time in hours, whose data has lain for so many hours, or longer."""
    since = hours - table["hours"].astype("int64")
    return [int(block) for block in numpy.flatnonzero(holds_data(table) & (table["valid"] > 0) & (since >= age))]


def too_old(
    table: NDArray[Any], data: NDArray[Any], hours: float, limits: AgeLimits, slc_limits: AgeLimits | None
) -> list[int]:
    """Blocks whose data has lain longer than it should, the most overdue first."""
    allowed = limits.of(table["erases"])
    if slc_limits is not None:
        allowed = numpy.where(table["flags"] & FLAG_SLC, slc_limits.of(table["erases"]), allowed)
    overdue = hours - table["hours"] - allowed
    # Where new data is beyond the limit already, moving it would never end: there the reads themselves decide.
    due = data & (table["flags"] & FLAG_REFRESH == 0) & (overdue > 0) & (allowed > 0) & (table["valid"] > 0)
    blocks = numpy.flatnonzero(due)
    return [int(block) for block in blocks[numpy.argsort(-overdue[blocks], kind="stable")]]


def worth_collecting(
    table: NDArray[Any], data: NDArray[Any], sequence: int, block_units: int
) -> list[tuple[int, int, int]]:
    """By benefit over cost (Rosenblum and Ousterhout, 1992): what has been free for long is worth more than what is
    free and may soon be freer still."""
    share = table["valid"] / block_units
    age = numpy.maximum(float(sequence) - table["changed"], 0) + 1
    gain = numpy.where(data & (share < 1), age * (1 - share) / (1 + share), 0)
    order = numpy.argsort(-gain, kind="stable")[:ADVICE_MOST]
    return [(int(b), int(table["erases"][b]), int(table["valid"][b])) for b in order if gain[b] > 0]
