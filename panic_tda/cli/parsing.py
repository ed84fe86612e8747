"""Parse values of options: sizes, times, devices and cluster sizes."""

from __future__ import annotations

import re
from typing import Any

from panic_tda.errors import InvalidParameter
from panic_tda.parameters import ClusteringParameters


def parse_bytes(text: str) -> int:
    """Parse a size in bytes such as `2GiB`, `512MiB` or `4GB`.

    Raises
    ------
    InvalidParameter
        The text is not a size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]i?)?B?\s*", text, flags=re.IGNORECASE)
    if not match:
        raise InvalidParameter(
            f"a size must be a number with KiB, MiB, GiB, TiB, KB, MB, GB or TB; got {text!r}"
        )
    unit = (match[2] or "").upper()
    base = 1024 if unit.endswith("I") else 1000
    return int(float(match[1]) * base ** " KMGT".index(unit[:1] or " "))


def parse_duration(text: str) -> float:
    """Parse a time such as `8h`, `30m`, `90s` or `1h30m`, in seconds.

    >>> parse_duration("1h30m")
    5400.0

    Raises
    ------
    InvalidParameter
        The text is not a time.
    """
    match = re.fullmatch(
        r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?",
        "".join(text.split()).lower(),
        flags=re.ASCII,
    )
    if not match or not any(match.groups()):
        raise InvalidParameter(f"a time must be such as 8h, 30m, 90s or 1h30m; got {text!r}")
    return sum(float(amount) * unit for amount, unit in zip(match.groups("0"), (3600, 60, 1), strict=True))


def parse_devices(text: str) -> tuple[int, ...]:
    """Parse device numbers such as `0,1`, or `none`.

    Raises
    ------
    InvalidParameter
        The text is neither of the two.
    """
    if text.strip().lower() == "none":
        return ()
    if not re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*)*", text, flags=re.ASCII):
        raise InvalidParameter(f"devices are numbers such as 0 or 0,1, or none; got {text!r}")
    return tuple(int(number) for number in text.split(","))


def parse_min_cluster_size(text: str) -> int | float:
    """Parse a count (`25`) or a share of the rows (`0.1%`).

    Raises
    ------
    InvalidParameter
        The text is neither of the two.
    """
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else int(text)
    except ValueError:
        raise InvalidParameter(
            f"min_cluster_size is a count such as 25 or a share of the rows such as 0.1%; got {text!r}"
        ) from None


def from_options(*, min_cluster_size: str | None = None, **others: Any) -> ClusteringParameters:
    """Return the clustering parameters of a command's options; `min_cluster_size` is text.

    Raises
    ------
    InvalidParameter
        A value outside its range.
    """
    size = None if min_cluster_size is None else parse_min_cluster_size(min_cluster_size)
    return ClusteringParameters(min_cluster_size=size, **others)
