"""What is said of a file that was written."""

from __future__ import annotations

from typing import Any

from panic_tda.cli.text import on_one_line
from panic_tda.files.exporting import Written
from panic_tda.wording import pluralize


def written_json(written: Written) -> dict[str, Any]:
    """Return the object that the exports print with --json."""
    return {"file": str(written.file), "rows": written.rows, "bytes": written.bytes}


def written_text(written: Written) -> str:
    """Say what was written."""
    rows = f"{written.rows:,} {pluralize(written.rows, 'row')}"
    return f"Wrote {rows} to {on_one_line(str(written.file))} ({written.bytes:,} bytes)."
