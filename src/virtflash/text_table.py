"""Tables as plain text, the same on a terminal and in a file."""

from collections.abc import Sequence
from itertools import zip_longest

GAP = "  "


def aligned(rows: Sequence[Sequence[str]], *, left: int = 1) -> list[str]:
    """A line for each row: the first `left` columns begin below each other, the others end there.

    A row of one cell is a line of its own, as wide as it likes.
    """
    columns = zip_longest(*(row for row in rows if len(row) > 1), fillvalue="")
    widths = [max(map(len, column)) for column in columns]
    return [_line(row, widths, left).rstrip() for row in rows]


def _line(row: Sequence[str], widths: Sequence[int], left: int) -> str:
    if len(row) == 1:
        return row[0]
    cells = zip(row, widths, strict=False)
    return GAP.join(cell.ljust(width) if i < left else cell.rjust(width) for i, (cell, width) in enumerate(cells))
