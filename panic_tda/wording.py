"""Wording that messages, files and pages share: counts, times, ids, and texts of other people on one line."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

JOINERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"
_LEAST_ID = 8
"""Characters that are left of an id at least."""


def pluralize(number: float, noun: str, plural: str | None = None) -> str:
    """Return a noun as it stands behind a number; the plural ends in s where none is given.

    >>> [f"{number} {pluralize(number, 'run')}" for number in (0, 1, 2)]
    ['0 runs', '1 run', '2 runs']
    """
    return noun if number == 1 else plural or f"{noun}s"


def format_utc(time: datetime) -> str:
    """Return the time of a clustering, which is stored as UTC without saying so, with its zone.

    >>> format_utc(datetime(2026, 11, 30, 9, 15))
    '2026-11-30 09:15:00+00:00'
    """
    return time.replace(tzinfo=UTC).isoformat(sep=" ")


def install_extra(extra: str) -> str:
    """Return how an extra of this package is installed: no index has it, so it takes a checkout.

    >>> install_extra("report")
    "pip install '.[report]' in the checkout of panic_tda"
    """
    return f"pip install '.[{extra}]' in the checkout of panic_tda"


def escape_control_characters(text: str) -> str:
    r"""Replace what a terminal would obey, rather than show, by its escape sequence; keep line breaks.

    >>> print(escape_control_characters("one\x1b[2J\u202etwo"))
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
    return character.isprintable() or character in f"\n\t{JOINERS}" or unicodedata.category(character) == "Zs"


def on_one_line(text: str) -> str:
    """Return a text as one line, with its control characters escaped."""
    return escape_control_characters(" ".join(text.split()))


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
