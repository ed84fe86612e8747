"""Test that results that could not be saved are files that lose nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from panic_tda.storage.write import pending
from panic_tda.storage.write.recovery import save_pending
from panic_tda.types import FinishedClustering
from tests.conftest import MakeFile, ids_of, make_finished
from tests.field_files import FieldSpec

pytestmark = pytest.mark.usefixtures("temporary_folder")


def assert_equal(clustering: FinishedClustering, expected: FinishedClustering) -> None:
    for name in (
        "id",
        "embedding_model",
        "started_at",
        "completed_at",
        "record",
        "medoids",
        "persistence",
    ):
        assert getattr(clustering, name) == getattr(expected, name), name
    for name in ("ids", "labels", "probabilities"):
        first, second = getattr(clustering, name), getattr(expected, name)
        assert first.dtype == second.dtype
        assert first.tobytes() == second.tobytes(), name


@pytest.mark.parametrize("spec", [FieldSpec(), FieldSpec(digit_ids=True)], ids=["ids", "ids of digits"])
def test_pending_results_are_read_back_bit_by_bit(upgraded: MakeFile, spec: FieldSpec) -> None:
    file = upgraded(spec)
    finished = make_finished(ids_of(file))
    finished.probabilities[:3] = [5e-324, np.nextafter(1, 0), 0.1 + 0.2]
    path = pending.write_pending(file.database, finished)
    assert path.parent == file.path.parent
    assert path.name.startswith("field.sqlite.pending-")
    assert pending.find_pending(file.database) == [path]
    assert_equal(pending.read_pending(path), finished)


@pytest.mark.parametrize("n_rows", [0, 1])
def test_small_clusterings_are_written_to_pending_files_too(upgraded: MakeFile, n_rows: int) -> None:
    file = upgraded()
    finished = make_finished(ids_of(file)[:n_rows])
    assert_equal(pending.read_pending(pending.write_pending(file.database, finished)), finished)


def test_the_temporary_folder_is_used_if_the_folder_is_not_writable(
    upgraded: MakeFile, temporary_folder: Path
) -> None:
    file = upgraded()
    finished = make_finished(ids_of(file))
    # Root may write everywhere, but not over a folder.
    there = file.path.parent / f"field.sqlite.pending-{finished.id.hex}.arrow"
    there.mkdir()
    path = pending.write_pending(file.database, finished)
    assert path.parent == temporary_folder
    there.rmdir()
    assert pending.find_pending(file.database) == [path]
    assert_equal(pending.read_pending(path), finished)
    assert not list(temporary_folder.glob("*.part"))


def test_files_of_other_databases_are_not_found(upgraded: MakeFile, tmp_path: Path) -> None:
    ours = upgraded(FieldSpec())
    (tmp_path / "elsewhere").mkdir()
    theirs = upgraded(FieldSpec(seed=5), "elsewhere/field.sqlite")
    finished = make_finished(ids_of(theirs))
    there = theirs.path.parent / f"field.sqlite.pending-{finished.id.hex}.arrow"
    there.mkdir()
    path = pending.write_pending(theirs.database, finished)
    there.rmdir()
    pending.write_pending(ours.database, make_finished(ids_of(ours)))
    # Both databases are called field.sqlite, and the temporary folder is shared.
    assert path not in pending.find_pending(ours.database)
    assert pending.find_pending(theirs.database) == [path]


@pytest.mark.parametrize("name", ["data[1].sqlite", "what?*.sqlite", "a b#c%20.sqlite", "風船.sqlite"])
def test_databases_may_have_any_name(upgraded: MakeFile, name: str) -> None:
    file = upgraded(FieldSpec(), name)
    finished = make_finished(ids_of(file))
    path = pending.write_pending(file.database, finished)
    assert pending.find_pending(file.database) == [path]
    assert [saved.id for saved in save_pending(file.database)] == [finished.id]
    assert pending.find_pending(file.database) == []
