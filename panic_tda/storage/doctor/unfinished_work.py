"""Check for files next to a database: results that were not saved, and checkpoints of unfinished runs."""

from __future__ import annotations

import time

from panic_tda.clustering.checkpoint import find_saved_states
from panic_tda.storage.doctor.database_info import DatabaseInfo
from panic_tda.storage.doctor.findings import Findings
from panic_tda.storage.write import pending
from panic_tda.wording import format_bytes

UNFINISHED = "unfinished_work"


def check_unfinished_work(info: DatabaseInfo, findings: Findings) -> None:
    """Find results of this database that were not saved, and checkpoints of its unfinished runs."""
    info.progress.phase("find unfinished work")
    for path in pending.find_pending(info.database):
        findings.add(
            UNFINISHED, str(path), f"a result; save it with: {info.database.command('save-pending')}"
        )
    for state in find_saved_states(info.database.work_root):
        age = _format_age(time.time() - state.saved_at)
        findings.add(
            UNFINISHED, str(state.folder), f"a state of {format_bytes(state.n_bytes)}, saved {age} ago"
        )


def _format_age(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours / 24:.0f} days" if hours >= 48 else f"{hours:.1f} hours"
