"""Shared by all renderings: the width of tables, and the format of shares, ids and times."""

from __future__ import annotations

import shutil
import sys

PIPE_COLUMNS = 160
"""Largest width of paragraphs in a file or a pipe, in columns."""


def table_width() -> int:
    """Return the width of tables in columns; unlimited if stdout is not a terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize


def percent(part: int, total: int) -> str:
    """Return a share as `12.3 %`, or `-` if it is undefined."""
    # A part above the total means that the two numbers are not of one clustering.
    return f"{100 * part / total:.1f} %" if part <= total != 0 else "-"


def decimal(value: float | None) -> str:
    """Return a number with three decimals, or `–` if it is undefined."""
    return "–" if value is None else f"{value:.3f}"


def yes_no(value: bool | None) -> str:
    """Return `yes`, `no`, or `-` for None."""
    return "-" if value is None else "yes" if value else "no"
