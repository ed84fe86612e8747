"""Formatting shared by messages, files and the HTML page: counts, sizes, times, ids and untrusted texts."""

from __future__ import annotations

import importlib.metadata
import unicodedata
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

JOINERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"
_LEAST_ID = 8
"""Least number of characters of a shortened id."""


def pluralize(number: float, noun: str, plural: str | None = None) -> str:
    """Return the form of a noun after a number; the default plural ends in s.

    >>> [f"{number} {pluralize(number, 'run')}" for number in (0, 1, 2)]
    ['0 runs', '1 run', '2 runs']
    """
    return noun if number == 1 else plural or f"{noun}s"


def format_bytes(size: int) -> str:
    """Return a number of bytes in GiB, or in MiB below one GiB.

    >>> format_bytes(28 << 30), format_bytes(512 << 20)
    ('28.0 GiB', '512 MiB')
    """
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.0f} MiB"


def format_utc(time: datetime) -> str:
    """Return a stored time, which is UTC without a time zone, as a text with its time zone.

    >>> format_utc(datetime(2026, 11, 30, 9, 15))
    '2026-11-30 09:15:00+00:00'
    """
    return time.replace(tzinfo=UTC).isoformat(sep=" ")


def install_extra(extra: str) -> str:
    """Return the command that installs an extra of this package, from a checkout or from the wheel.

    >>> install_extra("report")
    "pip install '.[report]' in the checkout of panic_tda"
    """
    if (Path(__file__).parents[1] / "pyproject.toml").is_file():
        return f"pip install '.[{extra}]' in the checkout of panic_tda"
    # No package index has it.
    version = importlib.metadata.version("panic_tda")
    return f"pip install 'panic_tda-{version}-py3-none-any.whl[{extra}]' in the folder of the wheel"


def escape_control_characters(text: str) -> str:
    r"""Replace control characters by their escape sequences, so that a terminal shows them; keep line breaks.

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
    # Joiners do not control a terminal, and some scripts and emoji need them.
    return character.isprintable() or character in f"\n\t{JOINERS}" or unicodedata.category(character) == "Zs"


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or the name of its class if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def on_one_line(text: str) -> str:
    """Return a text as one line, with its control characters escaped."""
    return escape_control_characters(" ".join(text.split()))


def shorten_ids(ids: Iterable[str]) -> Mapping[str, str]:
    """Return the shortest beginnings of ids, all of the same length, that distinguish all of them.

    Options that take an id also take its beginning. Ids created one after another have the same first digits.

    >>> sorted(shorten_ids(["01a1fbfd-1fbd-75e0", "01a1fbfd-2068-7bb5"]).values())
    ['01a1fbfd-1', '01a1fbfd-2']
    """
    distinct, length = set(ids), _LEAST_ID
    while len({identity[:length] for identity in distinct}) < len(distinct):
        length += 1
    return {identity: identity[:length] for identity in distinct}
