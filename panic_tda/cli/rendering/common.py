"""What all answers share: how wide they may be, and how shares, ids and times are said."""

from __future__ import annotations

import shutil
import sys
from datetime import datetime
from typing import Any
from uuid import UUID

from panic_tda.wording import format_utc

PIPE_COLUMNS = 160
"""Most columns of what is read as a text where it goes to a file or another program."""


def table_width() -> int:
    """Columns for a table, and for what else is cut; where stdout is no terminal, nothing is too wide."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize


def percent(part: int, whole: int) -> str:
    """Say a share as `12.3 %`, or `-` where there is none."""
    # No part is larger than its whole, unless the two are not of one clustering.
    return f"{100 * part / whole:.1f} %" if part <= whole != 0 else "-"


def decimal(value: float | None) -> str:
    """Write a number with three decimals, or `–` where it is undefined."""
    return "–" if value is None else f"{value:.3f}"


def yes_no(value: bool | None) -> str:
    """Say `yes`, `no`, or `-` for None."""
    return "-" if value is None else "yes" if value else "no"


def plain(value: dict[str, Any]) -> dict[str, Any]:
    """Make text of ids and of times of ours, which JSON does not know."""
    return {name: _plain_value(item) for name, item in value.items()}


def _plain_value(value: Any) -> Any:
    if isinstance(value, UUID):
        return str(value)
    return format_utc(value) if isinstance(value, datetime) else value
