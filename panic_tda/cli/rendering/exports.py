"""Render the summary of an exported file."""

from __future__ import annotations

from panic_tda.files.exporting import WrittenFile
from panic_tda.wording import on_one_line, pluralize


def written_text(written: WrittenFile) -> str:
    """Return a sentence with the file, its rows and its size."""
    rows = f"{written.rows:,} {pluralize(written.rows, 'row')}"
    return f"Wrote {rows} to {on_one_line(str(written.file))} ({written.bytes:,} bytes)."
