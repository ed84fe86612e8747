"""Text for a terminal: nothing that it would obey, as wide as it is shown, times, and tables that fit."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from panic_tda.errors import InvalidParameter

_GAP = "  "
_JOINERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"
_LEAST_ID = 8
"""Characters that are left of an id at least."""
_LEAST_COLUMNS = 8
"""To which a cell that may be shortened is shortened at most."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Parameters
    ----------
    name : str
        Its header.
    right : bool
        Whether its cells are flush right.
    rank : int
        Where a table is too wide, columns go by their rank, the highest first; 0 stays.
    elastic : bool
        Whether its cells may be shortened when no more columns can go.
    """

    name: str
    right: bool = False
    rank: int = 0
    elastic: bool = False


def harmless(text: str) -> str:
    r"""Write what a terminal would obey, rather than show, as its escape; lines stay lines.

    >>> print(harmless("one\x1b[2J\u202etwo"))
    one\x1b[2J\u202etwo
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character if _is_shown(character) else character.encode("unicode_escape").decode()
        for character in text
    )


def _is_shown(character: str) -> bool:
    # Joiners are no controls of a terminal: scripts and emoji are made with them.
    return (
        character.isprintable() or character in f"\n\t{_JOINERS}" or unicodedata.category(character) == "Zs"
    )


def on_one_line(text: str) -> str:
    """Make one harmless line of a text."""
    return harmless(" ".join(text.split()))


def columns(text: str) -> int:
    """Count the columns of a terminal that a line takes: East Asian wide characters take two."""
    return len(text) if text.isascii() else sum(map(_columns_of, text))


def _columns_of(character: str) -> int:
    if (
        unicodedata.combining(character)
        or unicodedata.category(character) in ("Mn", "Me")
        or character in _JOINERS
    ):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def shorten(text: str, width: int) -> str:
    """Cut a line to a width, with an ellipsis in its last column."""
    if columns(text) <= width:
        return text
    taken, room = 0, width - 1
    for position, character in enumerate(text):
        taken += _columns_of(character)
        if taken > room:
            return text[:position] + "…"
    return text


def shorten_ids(ids: Iterable[str]) -> Mapping[str, str]:
    """Return the beginning of each id, as long for all as it takes to tell all of them apart.

    Wherever an id is taken, so is its beginning. Ids that were made one after another begin alike.

    >>> sorted(shorten_ids(["01a1fbfd-1fbd-75e0", "01a1fbfd-2068-7bb5"]).values())
    ['01a1fbfd-1', '01a1fbfd-2']
    """
    distinct, length = set(ids), _LEAST_ID
    while len({one[:length] for one in distinct}) < len(distinct):
        length += 1
    return {one: one[:length] for one in distinct}


def duration(seconds: float) -> str:
    """Say how long something lasts, to two digits or so.

    >>> duration(75.2), duration(400), duration(7200)
    ('75 s', '6.7 min', '2.0 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 600:
        # Whole minutes alone would be up to a third off.
        return f"{seconds / 60:.1f} min"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def parse_duration(text: str) -> float:
    """Read a time such as `8h`, `30m`, `90s` or `1h30m`, in seconds.

    >>> parse_duration("1h30m")
    5400.0

    Raises
    ------
    InvalidParameter
        It is none.
    """
    found = re.fullmatch(
        r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?",
        "".join(text.split()).lower(),
        flags=re.ASCII,
    )
    if not found or not any(found.groups()):
        raise InvalidParameter(f"a time is such as 8h, 30m, 90s or 1h30m; got {text!r}")
    return sum(float(amount) * unit for amount, unit in zip(found.groups("0"), (3600, 60, 1), strict=True))


def paragraph(text: str, width: int, *, indent: int | None = None) -> str:
    """Break a text between words into lines of a width, by default all as far from the edge as it begins."""
    if indent is None:
        indent = len(text) - len(text.lstrip())
    # Options and ids are to be copied: they are not broken.
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
        Columns of the terminal. Where the table is wider, the columns of the highest rank are left out, which
        its last line says; then elastic cells are shortened, and at last whole lines.
    """
    cells = [[on_one_line(cell) for cell in row] for row in rows]
    widths = [
        max([columns(head.name), *(columns(row[number]) for row in cells)])
        for number, head in enumerate(heads)
    ]
    shown = list(range(len(heads)))
    while _total(widths, shown) > width and any(heads[number].rank for number in shown):
        shown.remove(max(shown, key=lambda number: heads[number].rank))
    for number in shown:
        excess = _total(widths, shown) - width
        if heads[number].elastic and excess > 0:
            widths[number] = max(min(widths[number], _LEAST_COLUMNS), widths[number] - excess)
    header = [head.name for head in heads]
    lines = [
        _GAP.join(_padded(row[number], widths[number], heads[number].right) for number in shown).rstrip()
        for row in (header, *cells)
    ]
    lines = [shorten(line, width) for line in lines]
    hidden = ", ".join(head.name for number, head in enumerate(heads) if number not in shown)
    if hidden:
        lines.append(paragraph(f"(no room for: {hidden}; --json has all)", width))
    return "\n".join(lines)


def _total(widths: Sequence[int], shown: Sequence[int]) -> int:
    return sum(widths[number] for number in shown) + len(_GAP) * (len(shown) - 1)


def _padded(cell: str, width: int, right: bool) -> str:
    cell = shorten(cell, width)
    space = " " * (width - columns(cell))
    return space + cell if right else cell + space
