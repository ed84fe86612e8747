"""Test that a full disk fails only the work that needs it, with an error, and leaves no partial file."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from panic_tda.clustering.checkpoint import Checkpoint
from panic_tda.clustering_manager import cluster_all_data
from panic_tda.errors import DatabaseError
from panic_tda.files.importing import import_embeddings
from panic_tda.main import main
from panic_tda.parameters import ClusteringParameters, Resources
from panic_tda.storage.database import open_database
from panic_tda.storage.schema.upgrade import plan_upgrade, upgrade
from panic_tda.storage.write import pending
from panic_tda.storage.write.recovery import save_pending
from panic_tda.types import CLUSTERED, FAILED
from tests.conftest import MakeDisk, MakeFile
from tests.faults.runs import read_results, require_complete, write_import_file
from tests.field_files import FieldSpec, write_field_file
from tests.snapshots import snapshot

MIB = 1 << 20
TILED = ClusteringParameters(backend="tiled", epsilon=0.0, allow_single_cluster=False)
SPEC = FieldSpec(runs=30, length=40, dimensions=512, text_models=("Nomic",), layout=0)
"""600 vectors of 1.2 MiB together."""


def fill(disk: Path, *, leave: int) -> Path:
    """Fill a disk except for some bytes."""
    filler = disk / "filler"
    filler.write_bytes(bytes(max(0, shutil.disk_usage(disk).free - leave)))
    return filler


def test_states_on_a_full_disk_are_not_saved_and_the_run_goes_on(
    upgraded: MakeFile, disk: MakeDisk, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, work = upgraded(SPEC), disk(24 << 10)
    monkeypatch.setitem(Checkpoint.__init__.__kwdefaults__, "save_seconds", 0.0)
    (outcome,) = cluster_all_data(file.database, parameters=TILED, resources=Resources(work_dir=work))
    assert outcome.status == CLUSTERED
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    pattern = rf"the state of \d+ MiB could not be saved in {re.escape(str(work))}/Nomic/\w+, 0 MiB are free"
    assert warnings
    assert all(re.match(pattern, line) for line in warnings)
    assert "No space left on device" in warnings[0]
    assert list(work.iterdir()) == []
    assert require_complete(file.path) == 1


def test_a_state_is_saved_once_there_is_disk_space_again(disk: MakeDisk) -> None:
    import numpy as np

    folder = disk(MIB)
    checkpoint = Checkpoint(folder / "work", "rows")
    checkpoint.open(k=3)
    filler = fill(folder, leave=0)
    checkpoint.save("state", rows=np.ones(100_000))
    assert [path for path in folder.rglob("*") if path.is_file()] == [filler]
    filler.unlink()
    checkpoint.save("state", rows=np.ones(100_000))
    before = (checkpoint.folder / "state.state").read_bytes()
    fill(folder, leave=100_000)
    checkpoint.save("state", rows=np.zeros(100_000))
    assert (checkpoint.folder / "state.state").read_bytes() == before
    names = sorted(path.name for path in checkpoint.folder.iterdir())
    # Whose state it is can be read: an empty file was left by the first attempt, and stayed.
    assert names == ["checkpoint.json", "state.state"]
    assert '"input_sha256": "rows"' in (checkpoint.folder / "checkpoint.json").read_text()


def test_rows_that_do_not_fit_on_the_disk_are_an_error_with_their_size(
    upgraded: MakeFile, disk: MakeDisk
) -> None:
    file, work = upgraded(SPEC), disk(MIB)
    before = snapshot(file.path)
    resources = Resources(work_dir=work, memory_limit=MIB)
    (outcome,) = cluster_all_data(file.database, parameters=TILED, resources=resources)
    assert outcome.status == FAILED
    assert re.search(
        rf"a temporary file of 1 MiB could not be made in {re.escape(str(work))}/Nomic \(No space left on "
        r"device, 1 MiB are free\): name another folder with --work-dir",
        str(outcome.reason),
    )
    assert [path for path in work.rglob("*") if path.is_file()] == []
    assert snapshot(file.path) == before
    resources = Resources(work_dir=disk(20 * MIB), memory_limit=MIB)
    (outcome,) = cluster_all_data(file.database, parameters=TILED, resources=resources)
    assert outcome.status == CLUSTERED


def test_a_result_on_a_full_disk_is_written_to_another_folder(
    upgraded: MakeFile, disk: MakeDisk, temporary_folder: Path
) -> None:
    # The result takes more than what is left, which takes SQLite's own files.
    spec = FieldSpec(runs=80, length=40, dimensions=16, text_models=("Nomic",), layout=0)
    file, folder = upgraded(spec), disk(16 * MIB)
    cluster_all_data(file.database, parameters=TILED)
    path = folder / "field.sqlite"
    shutil.copy(file.path, path)
    database = open_database(path)
    before = snapshot(path)
    filler = fill(folder, leave=60_000)
    resources = Resources(work_dir=temporary_folder / "work")
    (outcome,) = cluster_all_data(database, parameters=TILED, resources=resources)
    assert outcome.status == FAILED
    (pending_file,) = pending.find_pending(database)
    assert pending_file.parent == temporary_folder
    assert re.search(
        rf"is full: in {re.escape(str(folder))}, 0 MiB are free.*saving needs up to .* MiB", outcome.reason
    )
    assert f"the result is kept in {pending_file}" in str(outcome.reason)
    assert snapshot(path) == before
    assert {path.name for path in folder.iterdir()} <= {
        path.name,
        "filler",
        f"{path.name}-wal",
        f"{path.name}-shm",
    }
    filler.unlink()
    assert [saved.n_vanished for saved in save_pending(database)] == [0]
    assert require_complete(path) == 2
    assert read_results(path) == read_results(file.path)


def test_an_export_on_a_full_disk_leaves_nothing(upgraded: MakeFile, disk: MakeDisk) -> None:
    file, folder = upgraded(SPEC), disk(200_000)
    cluster_all_data(file.database, parameters=TILED)
    words = [
        "export-clustering",
        "latest",
        str(folder / "rows.parquet"),
        "--with-vectors",
        "--db",
        str(file.path),
    ]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1
    assert re.search(
        r"rows\.parquet cannot be written: .*No space left on device \(\d+ MiB of it were written, 0 MiB are",
        result.stderr,
    )
    assert list(folder.iterdir()) == []


def test_an_import_on_a_full_disk_adds_nothing(tmp_path: Path, disk: MakeDisk) -> None:
    folder = disk(3 * MIB)
    path = folder / "new.sqlite"
    write_import_file(tmp_path / "new.sqlite", 10_000)
    database = open_database(path, create=True)
    before = snapshot(path)
    with pytest.raises(DatabaseError, match=rf"is full: in {re.escape(str(folder))}, \d+ MiB are free"):
        import_embeddings([tmp_path / "import.parquet"], database)
    assert snapshot(path) == before
    subprocess.run(["mount", "-o", f"remount,size={40 * MIB}", str(folder)], check=True)
    assert import_embeddings([tmp_path / "import.parquet"], database).n_new_embeddings == 10_000


def test_an_upgrade_checks_the_space_of_the_temporary_folder(
    tmp_path: Path, disk: MakeDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Indexes of 1 GB are sorted in temporary files: a small /tmp of its own stopped it after minutes."""
    facts = write_field_file(tmp_path / "field.sqlite", SPEC)
    database, before = open_database(facts.path), snapshot(facts.path)
    folder = disk(256 << 10)
    monkeypatch.setenv("SQLITE_TMPDIR", str(folder))
    fill(folder, leave=0)
    plan = plan_upgrade(database)
    assert (plan.sorting_folder, plan.sorting_free) == (folder, 0)
    assert f"in {folder}; 0 MiB are free there" in str(plan)
    with pytest.raises(DatabaseError, match=rf"in {re.escape(str(folder))}, where 0 MiB are free; make room"):
        upgrade(database)
    assert snapshot(facts.path) == before
    monkeypatch.setenv("SQLITE_TMPDIR", str(tmp_path))
    plan = plan_upgrade(database)
    assert plan.sorting_folder is None
    # On the same disk, what is sorted needs its place there.
    assert plan.bytes_needed > 3 * plan.bytes_kept
    assert not upgrade(database).is_current


def test_an_upgrade_on_a_full_disk_changes_nothing(
    tmp_path: Path, disk: MakeDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program used the space between the check and the work."""
    facts = write_field_file(tmp_path / "field.sqlite", FieldSpec(runs=100, length=60, layout=2, wal=True))
    folder = disk(24 * MIB)
    path = folder / "field.sqlite"
    shutil.copy(facts.path, path)
    before = snapshot(path)
    database = open_database(path)
    filler = fill(folder, leave=200_000)
    with monkeypatch.context() as patched:
        patched.setattr("panic_tda.storage.schema.upgrade.SPARE_BYTES", -100 * MIB)
        patched.setattr("panic_tda.storage.connections.CACHE_KIBIBYTES", 100)
        with pytest.raises(DatabaseError, match=rf"is full: in {re.escape(str(folder))}, .*make room"):
            upgrade(database)
    assert snapshot(path) == before
    filler.unlink()
    assert not upgrade(database).is_current
    database.require_current()
