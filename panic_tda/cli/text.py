"""Lay out text for a terminal: widths, durations, paragraphs and tables."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from panic_tda.wording import on_one_line

_GAP = "  "
_LEAST_COLUMNS = 8
"""Smallest width of a shortened cell."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Parameters
    ----------
    name : str
        Header of the column.
    right : bool
        Whether the cells are aligned to the right.
    rank : int
        Order in which columns are left out of a table that is too wide, the highest first; 0 stays.
    elastic : bool
        Whether the cells may be shortened once no more columns can be left out.
    """

    name: str
    right: bool = False
    rank: int = 0
    elastic: bool = False


def columns(text: str) -> int:
    """Return the width of a line in terminal columns; a wide character takes two."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def shorten(text: str, width: int) -> str:
    """Cut a line to a width, with an ellipsis in its last column."""
    if columns(text) <= width:
        return text
    from rich.cells import chop_cells

    return f"{chop_cells(text, width - 1)[0] if width > 1 else ''}…"


def duration(seconds: float) -> str:
    """Return a duration as text, with about two digits.

    >>> duration(75.2), duration(400), duration(7200)
    ('75 s', '6.7 min', '2.0 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 600:
        # Whole minutes would be wrong by up to a third.
        return f"{seconds / 60:.1f} min"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def paragraph(text: str, width: int, *, indent: int | None = None) -> str:
    """Wrap a text between words; by default all lines are indented as the first."""
    if indent is None:
        indent = len(text) - len(text.lstrip())
    # Options and ids are not broken, so that they can be copied.
    return textwrap.fill(
        text, width, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
    )


def table(heads: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> str:
    """Lay out rows in columns that fit into a width.

    Parameters
    ----------
    heads : sequence of Column
        The columns, from left to right.
    rows : sequence of sequence of str
        A cell for every column.
    width : int
        Columns of the terminal. If the table is wider, the columns of the highest rank are left out, and the
        last line names them. Then elastic cells are shortened, and finally lines.
    """
    cells = [[on_one_line(cell) for cell in row] for row in rows]
    widths = [
        max([columns(head.name), *(columns(row[number]) for row in cells)])
        for number, head in enumerate(heads)
    ]
    shown = list(range(len(heads)))
    while _sum_widths(widths, shown) > width and any(heads[number].rank for number in shown):
        shown.remove(max(shown, key=lambda number: heads[number].rank))
    for number in shown:
        excess = _sum_widths(widths, shown) - width
        if heads[number].elastic and excess > 0:
            widths[number] = max(min(widths[number], _LEAST_COLUMNS), widths[number] - excess)
    header = [head.name for head in heads]
    lines = [
        _GAP.join(_pad(row[number], widths[number], heads[number].right) for number in shown).rstrip()
        for row in (header, *cells)
    ]
    lines = [shorten(line, width) for line in lines]
    hidden = ", ".join(head.name for number, head in enumerate(heads) if number not in shown)
    if hidden:
        lines.append(paragraph(f"(no room for: {hidden}; --json has all)", width))
    return "\n".join(lines)


def _sum_widths(widths: Sequence[int], shown: Sequence[int]) -> int:
    return sum(widths[number] for number in shown) + len(_GAP) * (len(shown) - 1)


def _pad(cell: str, width: int, right: bool) -> str:
    cell = shorten(cell, width)
    space = " " * (width - columns(cell))
    return space + cell if right else cell + space
