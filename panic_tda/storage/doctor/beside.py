"""What waits beside a database: results that were not saved, and states of runs that have not ended."""

from __future__ import annotations

import time

from panic_tda.clustering.checkpoint import saved_states
from panic_tda.parameters import format_bytes
from panic_tda.storage.doctor.findings import Findings
from panic_tda.storage.doctor.subject import Subject
from panic_tda.storage.write import pending

UNFINISHED = "unfinished_work"


def check_beside(subject: Subject, found: Findings) -> None:
    """Find kept results and saved states of this database."""
    subject.progress.phase("look beside the database")
    for path in pending.find(subject.database):
        found.add(
            UNFINISHED, str(path), f"a result; save it with: {subject.database.command('save-pending')}"
        )
    for state in saved_states(subject.database.work_root):
        age = _age(time.time() - state.saved_at)
        found.add(UNFINISHED, str(state.folder), f"a state of {format_bytes(state.n_bytes)}, saved {age} ago")


def _age(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours / 24:.0f} days" if hours >= 48 else f"{hours:.1f} hours"
