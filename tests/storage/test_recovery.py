"""What was kept as a file is saved later, without losing anything and into no wrong database."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import numpy as np
import pytest

from panic_tda.clustering_manager import list_clusterings
from panic_tda.errors import BadInput, DatabaseError, MissingPath, NeedsUpgrade
from panic_tda.storage import pending
from panic_tda.storage.database import Database, open_database
from panic_tda.storage.recovery import save_pending
from panic_tda.types import FinishedClustering
from tests import reference
from tests.conftest import MakeFile, UpgradedFile, ids_of, make_finished
from tests.field_files import FieldSpec, write_field_file
from tests.snapshots import snapshot

pytestmark = pytest.mark.usefixtures("temporary_folder")


def delete_embeddings(file: UpgradedFile, ids: list[str]) -> None:
    with sqlite3.connect(file.path) as connection:
        connection.executemany("DELETE FROM embedding WHERE id = ?", [(identity,) for identity in ids])


def test_saving_puts_it_into_the_database_and_removes_the_file(upgraded: MakeFile) -> None:
    file = upgraded()
    first, second = make_finished(ids_of(file)), make_finished(ids_of(file, "STSBMpnet"), model="STSBMpnet")
    paths = [pending.keep(file.database, finished) for finished in (first, second)]
    saved = save_pending(file.database)
    assert {(one.id, one.embedding_model, one.n_vanished) for one in saved} == {
        (first.id, "Nomic", 0),
        (second.id, "STSBMpnet", 0),
    }
    assert not any(path.exists() for path in paths)
    with file.database.session() as session:
        assert {found.id: found.record for found in list_clusterings(session)} == {
            first.id: first.record,
            second.id: second.record,
        }
    assert save_pending(file.database) == []


def test_what_is_saved_already_is_not_saved_twice(upgraded: MakeFile) -> None:
    # Killed between the commit and the removal of the file.
    file = upgraded()
    finished = make_finished(ids_of(file))
    pending.keep(file.database, finished)
    save_pending(file.database)
    before = snapshot(file.path)
    path = pending.keep(file.database, finished)
    assert [saved.id for saved in save_pending(file.database)] == [finished.id]
    assert snapshot(file.path) == before
    assert not path.exists()


def test_vanished_rows_are_left_out_and_counted(upgraded: MakeFile) -> None:
    file = upgraded()
    finished = make_finished(ids_of(file))
    pending.keep(file.database, finished)
    medoids = set(finished.medoids.values())
    gone = [row for row in range(len(finished.ids)) if row not in medoids][::5]
    delete_embeddings(file, [finished.ids[row].decode() for row in gone])
    (saved,) = save_pending(file.database)
    assert saved.n_vanished == len(gone) > 3
    stored = snapshot(file.path)
    left = sorted(set(range(len(finished.ids))) - set(gone))
    assert {(row[2], row[4], row[6]) for row in stored["embeddingcluster"][1]} == {
        (finished.ids[row].decode(), int(finished.labels[row]), float(finished.probabilities[row]))
        for row in left
    }
    with file.database.session() as session:
        (summary,) = list_clusterings(session)
    assert summary.record.n_embeddings == len(left)
    assert summary.record.n_vanished == len(gone)
    assert summary.record.n_outliers == int((finished.labels[left] == -1).sum())
    assert summary.record.seconds == finished.record.seconds


def unit_rows(file: UpgradedFile, finished: FinishedClustering) -> np.ndarray:
    by_id = {embedding.id: embedding.vector for embedding in file.facts.of("Nomic")}
    rows = np.array([by_id[identity.decode()] for identity in finished.ids], dtype=np.float64)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("seed", range(4))
def test_a_lost_medoid_is_found_anew_among_those_that_are_left(upgraded: MakeFile, seed: int) -> None:
    file = upgraded(FieldSpec(duplicates=0.4, seed=seed))
    finished = make_finished(ids_of(file), seed=seed)
    pending.keep(file.database, finished)
    gone = sorted(finished.medoids.values())[:2]
    delete_embeddings(file, [finished.ids[row].decode() for row in gone])
    save_pending(file.database)

    labels = finished.labels.copy()
    labels[gone] = -1
    oracle = reference.medoids(unit_rows(file, finished), labels, finished.probabilities)
    expected = {label: row for label, row in finished.medoids.items() if row not in gone}
    expected |= {label: row for label, row in oracle.items() if finished.medoids[label] in gone}
    assert set(expected) == set(finished.medoids)
    stored = snapshot(file.path)["cluster"][1]
    assert {(row[2], row[4], row[6]) for row in stored} == {
        (label, finished.ids[row].decode(), int((labels == label).sum())) for label, row in expected.items()
    }


def test_a_cluster_that_lost_everything_is_left_out(upgraded: MakeFile) -> None:
    file = upgraded()
    finished = make_finished(ids_of(file))
    pending.keep(file.database, finished)
    gone = np.flatnonzero(finished.labels == 1)
    delete_embeddings(file, [finished.ids[row].decode() for row in gone])
    save_pending(file.database)
    with file.database.session() as session:
        (summary,) = list_clusterings(session)
    assert summary.record.n_clusters == len(finished.medoids) - 1
    # The others keep their numbers: somebody may have written them down.
    assert {row[2] for row in snapshot(file.path)["cluster"][1]} == set(finished.medoids) - {1}


def test_a_result_is_never_saved_into_a_database_that_has_none_of_its_rows(upgraded: MakeFile) -> None:
    ours, theirs = upgraded(FieldSpec()), upgraded(FieldSpec(seed=5), "other.sqlite")
    path = pending.keep(ours.database, make_finished(ids_of(ours)))
    before = snapshot(theirs.path)
    with pytest.raises(BadInput, match=r"none of the 40 embeddings in .* are in .*other\.sqlite") as refusal:
        save_pending(theirs.database, [path])
    assert "--db" in str(refusal.value)
    assert snapshot(theirs.path) == before
    assert path.exists()


def damage(path: Path, kind: str) -> None:
    content = path.read_bytes()
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "half":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "tail missing":
        path.write_bytes(content[:-3])
    elif kind == "text":
        path.write_text("hello")
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    elif kind == "other metadata":
        path.write_bytes(content.replace(b'"embedding_model"', b'"embedding-model"'))
    elif kind == "no json":
        path.write_bytes(content.replace(b'{"id"', b'{id"""'[:5]))
    elif kind == "no id":
        path.write_bytes(content.replace(b'{"id": "0', b'{"id": "x'))


KINDS = ("empty", "half", "tail missing", "text", "folder", "other metadata", "no json", "no id")


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_refused_and_stays_and_costs_no_other(upgraded: MakeFile, kind: str) -> None:
    file = upgraded()
    paths = [
        pending.keep(file.database, replace(make_finished(ids_of(file)), id=UUID(int=number)))
        for number in (1, 2, 3)
    ]
    damage(paths[1], kind)
    with pytest.raises(BadInput, match="is no complete clustering kept by panic_tda") as refusal:
        save_pending(file.database)
    assert str(paths[1]) in str(refusal.value)
    assert "2 other clusterings were saved" in str(refusal.value)
    assert [path.exists() for path in paths] == [False, True, False]
    with file.database.session() as session:
        assert {found.id for found in list_clusterings(session)} == {UUID(int=1), UUID(int=3)}


def test_another_arrow_file_is_refused(upgraded: MakeFile, tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import ipc

    table = pa.table({"id": ["a"], "label": [1]})
    path = tmp_path / "other.arrow"
    with ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(BadInput, match="is no complete clustering"):
        save_pending(upgraded().database, [path])
    assert path.exists()


def test_a_file_that_is_not_there(upgraded: MakeFile, tmp_path: Path) -> None:
    with pytest.raises(MissingPath, match=r"no file at .*nowhere\.arrow"):
        save_pending(upgraded().database, [tmp_path / "nowhere.arrow"])


def test_when_it_cannot_be_saved_now_either_the_file_stays(upgraded: MakeFile) -> None:
    file = upgraded()
    path = pending.keep(file.database, make_finished(ids_of(file)))
    with sqlite3.connect(file.path) as connection:
        connection.execute(
            "CREATE TRIGGER full BEFORE INSERT ON embeddingcluster WHEN new.label = 2 "
            "BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        )
    before = snapshot(file.path)
    with pytest.raises(DatabaseError, match="disk is full"):
        save_pending(file.database)
    assert path.exists()
    assert snapshot(file.path) == before


def test_a_file_that_needs_an_upgrade_is_refused_first(tmp_path: Path) -> None:
    facts = write_field_file(tmp_path / "field.sqlite")
    database: Database = open_database(facts.path)
    path = pending.keep(database, make_finished([e.id for e in facts.sample("Nomic")]))
    with pytest.raises(NeedsUpgrade):
        save_pending(database)
    assert path.exists()
