"""Test that committed data survives a power cut, and that a clock set back does not reorder clusterings."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest
import sqlalchemy as sa

from panic_tda.clustering.checkpoint import Checkpoint
from panic_tda.clustering_manager import find_clusterings, list_clusterings
from panic_tda.files.replacing import replacing
from panic_tda.storage.read.completions import read_clustering_entries
from panic_tda.storage.schema import tables as schemas
from panic_tda.storage.write import pending, saving
from panic_tda.storage.write.saving import save_or_write_pending
from tests.conftest import MakeFile, ids_of, make_finished
from tests.field_files import FieldSpec, write_field_file
from tests.snapshots import opened


@pytest.mark.parametrize("wal", [True, False])
def test_a_commit_is_synchronous(tmp_path: Path, wal: bool) -> None:
    """EXTRA is FULL, and in a file without a log also the removal of its journal."""
    from panic_tda.storage.database import open_database

    facts = write_field_file(tmp_path / "field.sqlite", FieldSpec(wal=wal))
    with open_database(facts.path).writing() as connection:
        assert connection.execute(sa.text("PRAGMA synchronous")).scalar() == 3
        assert connection.execute(sa.text("PRAGMA journal_mode")).scalar() == "wal"


class Disk:
    """Record calls of fsync and rename, and perform them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[tuple[str, str]] = []
        fsync, replace = os.fsync, os.replace

        def see_fsync(file: int) -> None:
            self.events.append(("sync", os.readlink(f"/proc/self/fd/{file}")))
            fsync(file)

        def see_replace(source: str | Path, target: str | Path) -> None:
            self.events.append(("rename", str(source)))
            replace(source, target)
            self.events.append(("renamed", str(target)))

        monkeypatch.setattr(os, "fsync", see_fsync)
        monkeypatch.setattr(os, "replace", see_replace)

    def outlasts(self, path: Path) -> bool:
        """Return whether the content was synced before the rename, and the folder after it."""
        at = self.events.index(("renamed", str(path)))
        source = self.events[at - 1][1]
        return ("sync", source) in self.events[:at] and ("sync", str(path.parent)) in self.events[at:]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="there is no /proc that names open files")
def test_a_file_is_renamed_after_it_is_on_the_disk(
    upgraded: MakeFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, disk = upgraded(), Disk(monkeypatch)
    pending_file = pending.write_pending(file.database, make_finished(ids_of(file)))
    assert disk.outlasts(pending_file)
    root = tmp_path / "work" / "Nomic"
    checkpoint = Checkpoint(root, "rows")
    checkpoint.open(k=3)
    checkpoint.save("state", rows=np.ones(3))
    assert disk.outlasts(checkpoint.folder / "state.state")
    assert disk.outlasts(checkpoint.folder / "checkpoint.json")
    # So is the folder that was made for them, in its own.
    assert ("sync", str(root)) in disk.events
    with replacing(tmp_path / "rows.csv") as exported:
        exported.write(b"1")
    assert disk.outlasts(tmp_path / "rows.csv")


def test_the_latest_clustering_is_the_last_saved_even_if_the_clock_goes_back(
    upgraded: MakeFile, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = upgraded()
    saved: list[UUID] = []
    for hours in (0, -3, -2, 1):
        now = schemas.utc_now() + timedelta(hours=hours)
        with monkeypatch.context() as patched:
            patched.setattr(saving, "utc_now", lambda now=now: now)
            patched.setattr(schemas.time, "time_ns", lambda now=now: int(now.timestamp() * 1e9))
            finished = make_finished(ids_of(file))
            save_or_write_pending(file.database, finished)
        saved.append(finished.id)
        with file.database.session() as session:
            assert [clustering.id for clustering in list_clusterings(session)] == saved[::-1]
            assert [clustering.id for clustering in find_clusterings(session, ["latest"])] == saved[-1:]
        assert [entry.id for entry in read_clustering_entries(str(file.path))] == [
            str(clustering_id) for clustering_id in saved[::-1]
        ]
    warned = [record for record in caplog.records if "the clock is behind" in record.getMessage()]
    assert len(warned) == 2
    with opened(file.path) as connection:
        times = [row[0] for row in connection.execute("SELECT created_at FROM clusteringresult ORDER BY key")]
    assert times == sorted(set(times))


def test_a_state_with_a_future_time_is_used(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path, "rows", save_seconds=3600)
    checkpoint.open(k=3)
    checkpoint.save("state", rows=np.arange(3))
    later = 4e9
    os.utime(checkpoint.folder / "state.state", (later, later))
    again = Checkpoint(tmp_path, "rows", save_seconds=0)
    again.open(k=3)
    stored = again.load("state")
    assert stored is not None
    assert stored["rows"].tolist() == [0, 1, 2]
    assert again.due()
