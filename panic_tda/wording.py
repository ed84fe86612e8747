"""How messages word what they are about: counts, times, and how to install what is missing."""

from __future__ import annotations

from datetime import UTC, datetime


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
