"""Wear across a device as text: a character for each block, or for a few of them."""

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy
from numpy.typing import NDArray

from virtflash.report.flash_report import Columns
from virtflash.report.quantities import counted

SHADES = ".:-=+*%@"  # from least to most ink
BAD = "x"
WIDTH = 64
ROWS_MOST = 16

Column: TypeAlias = NDArray[Any]


def wear_picture(columns: Columns) -> list[str]:
    """A grid of the blocks in their order, and what its characters mean. No line is longer than 80 columns.

    Where a character stands for several blocks, it shows the most worn of them, or that one is bad.
    """
    blocks = len(columns.wear)
    each = -(-blocks // (WIDTH * ROWS_MOST))
    wear, bad = folded(columns.wear, each), folded(columns.bad, each)
    characters = shades_of(wear)
    characters[bad > 0] = BAD
    text = "".join(characters)
    rows = [text[start : start + WIDTH] for start in range(0, len(text), WIDTH)]
    margin = len(str(blocks))
    numbered = [f"{row * WIDTH * each:>{margin}}  {cells}" for row, cells in enumerate(rows)]
    return [*numbered, *legend(columns, wear, each)]


def folded(column: Column, each: int) -> Column:
    """The largest of every `each` values."""
    padded = numpy.zeros(-(-len(column) // each) * each)
    padded[: len(column)] = column
    made: Column = padded.reshape(-1, each).max(axis=1)
    return made


def shades_of(wear: Column) -> Column:
    most = max(float(wear.max()), 1.0)
    index = numpy.minimum(wear * len(SHADES) / most, len(SHADES) - 1).astype(int)
    shades: Column = numpy.array(list(SHADES))[index]
    return shades


def legend(columns: Columns, wear: Column, each: int) -> Iterator[str]:
    most = max(float(wear.max()), 1.0)
    yield f"{SHADES[0]} up to {most / len(SHADES):.3g} cycles, and so on: {SHADES} up to {most:.4g}"
    bad = int(columns.bad.sum())
    yield f"{BAD} {counted(bad, 'bad block')}; a character is {counted(each, 'block')}"
