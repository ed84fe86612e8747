"""Test that results written as pending files are saved later, completely and into the right database only."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import ipc
from sqlalchemy.engine import make_url

from panic_tda.clustering.checkpoint import Checkpoint
from panic_tda.clustering_manager import list_clusterings
from panic_tda.errors import BadInput, BadVectors, DatabaseError, MissingPath, NeedsUpgrade
from panic_tda.storage.database import Database, open_database
from panic_tda.storage.write import pending, recovery
from panic_tda.storage.write.copying import copy_database
from panic_tda.storage.write.recovery import save_pending
from panic_tda.types import FinishedClustering
from tests import reference
from tests.conftest import MakeFile, UpgradedFile, ids_of, make_finished
from tests.field_files import FieldSpec, write_field_file
from tests.servers import Server

pytestmark = [pytest.mark.both_engines, pytest.mark.usefixtures("temporary_folder")]


def delete_embeddings(file: UpgradedFile, ids: list[str]) -> None:
    with file.opened() as connection:
        connection.executemany("DELETE FROM embedding WHERE id = ?", [(identity,) for identity in ids])


def test_saving_stores_the_result_and_removes_the_file(upgraded: MakeFile) -> None:
    file = upgraded()
    first, second = make_finished(ids_of(file)), make_finished(ids_of(file, "STSBMpnet"), model="STSBMpnet")
    paths = [pending.write_pending(file.database, finished) for finished in (first, second)]
    saved = save_pending(file.database)
    assert {(summary.id, summary.embedding_model, summary.n_vanished) for summary in saved} == {
        (first.id, "Nomic", 0),
        (second.id, "STSBMpnet", 0),
    }
    assert not any(path.exists() for path in paths)
    with file.database.session() as session:
        assert {clustering.id: clustering.record for clustering in list_clusterings(session)} == {
            first.id: first.record,
            second.id: second.record,
        }
    assert save_pending(file.database) == []


def test_a_result_that_is_stored_already_is_not_saved_twice(upgraded: MakeFile) -> None:
    # Killed between the commit and the removal of the file.
    file = upgraded()
    finished = make_finished(ids_of(file))
    pending.write_pending(file.database, finished)
    save_pending(file.database)
    before = file.snapshot()
    path = pending.write_pending(file.database, finished)
    assert [saved.id for saved in save_pending(file.database)] == [finished.id]
    assert file.snapshot() == before
    assert not path.exists()


def test_vanished_rows_are_left_out_and_counted(upgraded: MakeFile) -> None:
    file = upgraded()
    finished = make_finished(ids_of(file))
    pending.write_pending(file.database, finished)
    medoids = set(finished.medoids.values())
    deleted_rows = [row for row in range(len(finished.ids)) if row not in medoids][::5]
    delete_embeddings(file, [finished.ids[row].decode() for row in deleted_rows])
    (saved,) = save_pending(file.database)
    assert saved.n_vanished == len(deleted_rows) > 3
    stored = file.snapshot()
    left = sorted(set(range(len(finished.ids))) - set(deleted_rows))
    assert {(row[2], row[4], row[6]) for row in stored["embeddingcluster"][1]} == {
        (finished.ids[row].decode(), int(finished.labels[row]), float(finished.probabilities[row]))
        for row in left
    }
    with file.database.session() as session:
        (summary,) = list_clusterings(session)
    assert summary.record.n_embeddings == len(left)
    assert summary.record.n_vanished == len(deleted_rows)
    assert summary.record.n_outliers == int((finished.labels[left] == -1).sum())
    assert summary.record.seconds == finished.record.seconds


def unit_rows(file: UpgradedFile, finished: FinishedClustering) -> np.ndarray:
    by_id = {embedding.id: embedding.vector for embedding in file.facts.of("Nomic")}
    rows = np.array([by_id[identity.decode()] for identity in finished.ids], dtype=np.float64)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("seed", range(2))
def test_a_deleted_medoid_is_replaced_by_the_best_remaining_member(upgraded: MakeFile, seed: int) -> None:
    file = upgraded(FieldSpec(duplicates=0.4, seed=seed))
    finished = make_finished(ids_of(file), seed=seed)
    pending.write_pending(file.database, finished)
    deleted_rows = sorted(finished.medoids.values())[:2]
    delete_embeddings(file, [finished.ids[row].decode() for row in deleted_rows])
    save_pending(file.database)

    labels = finished.labels.copy()
    labels[deleted_rows] = -1
    oracle = reference.medoids(unit_rows(file, finished), labels, finished.probabilities)
    expected = {label: row for label, row in finished.medoids.items() if row not in deleted_rows}
    expected |= {label: row for label, row in oracle.items() if finished.medoids[label] in deleted_rows}
    assert set(expected) == set(finished.medoids)
    stored = file.snapshot()["cluster"][1]
    assert {(row[2], row[4], row[6]) for row in stored} == {
        (label, finished.ids[row].decode(), int((labels == label).sum())) for label, row in expected.items()
    }


def test_a_cluster_without_remaining_members_is_left_out(upgraded: MakeFile) -> None:
    file = upgraded()
    finished = make_finished(ids_of(file))
    pending.write_pending(file.database, finished)
    deleted_rows = np.flatnonzero(finished.labels == 1)
    delete_embeddings(file, [finished.ids[row].decode() for row in deleted_rows])
    save_pending(file.database)
    with file.database.session() as session:
        (summary,) = list_clusterings(session)
    assert summary.record.n_clusters == len(finished.medoids) - 1
    # The others keep their numbers: somebody may have written them down.
    assert {row[2] for row in file.snapshot()["cluster"][1]} == set(finished.medoids) - {1}


def test_a_result_is_never_saved_into_a_database_that_has_none_of_its_rows(upgraded: MakeFile) -> None:
    ours, theirs = upgraded(FieldSpec()), upgraded(FieldSpec(seed=5), "other.sqlite")
    path = pending.write_pending(ours.database, make_finished(ids_of(ours)))
    before = theirs.snapshot()
    wanted = rf"belongs to the database .*, not to {re.escape(str(theirs.database))}"
    with pytest.raises(BadInput, match=wanted) as refusal:
        save_pending(theirs.database, [path])
    assert "--db" in str(refusal.value)
    assert theirs.snapshot() == before
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
def test_a_damaged_file_is_refused_kept_and_does_not_block_others(upgraded: MakeFile, kind: str) -> None:
    file = upgraded()
    paths = [
        pending.write_pending(file.database, replace(make_finished(ids_of(file)), id=UUID(int=number)))
        for number in (1, 2, 3)
    ]
    damage(paths[1], kind)
    with pytest.raises(BadInput, match="is not a complete result file of panic_tda") as refusal:
        save_pending(file.database)
    assert str(paths[1]) in str(refusal.value)
    assert "2 other clusterings were saved" in str(refusal.value)
    assert [path.exists() for path in paths] == [False, True, False]
    with file.database.session() as session:
        assert {clustering.id for clustering in list_clusterings(session)} == {UUID(int=1), UUID(int=3)}


def test_another_arrow_file_is_refused(upgraded: MakeFile, tmp_path: Path) -> None:
    table = pa.table({"id": ["a"], "label": [1]})
    path = tmp_path / "other.arrow"
    with ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(BadInput, match="is not a complete result file"):
        save_pending(upgraded().database, [path])
    assert path.exists()


def test_a_missing_file_is_an_error(upgraded: MakeFile, tmp_path: Path) -> None:
    with pytest.raises(MissingPath, match=r"no file at .*nowhere\.arrow"):
        save_pending(upgraded().database, [tmp_path / "nowhere.arrow"])


@pytest.mark.sqlite_only("its triggers")
def test_the_file_stays_if_saving_fails_again(upgraded: MakeFile) -> None:
    file = upgraded()
    path = pending.write_pending(file.database, make_finished(ids_of(file)))
    with file.opened() as connection:
        connection.execute(
            "CREATE TRIGGER full BEFORE INSERT ON embeddingcluster WHEN new.label = 2 "
            "BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
        )
    before = file.snapshot()
    with pytest.raises(DatabaseError, match="disk is full"):
        save_pending(file.database)
    assert path.exists()
    assert file.snapshot() == before


def test_a_file_that_needs_an_upgrade_is_refused_first(tmp_path: Path) -> None:
    facts = write_field_file(tmp_path / "field.sqlite")
    database: Database = open_database(facts.path)
    path = pending.write_pending(database, make_finished([e.id for e in facts.sample("Nomic")]))
    with pytest.raises(NeedsUpgrade):
        save_pending(database)
    assert path.exists()


def spoil(file: UpgradedFile, identity: str, kind: str) -> None:
    vector = {"missing": None, "short": b"\0" * 28, "zero": b"\0" * 32, "infinite": b"\0\0\x80\x7f" * 8}[kind]
    with file.opened() as connection:
        connection.execute("UPDATE embedding SET vector = ? WHERE id = ?", (vector, identity))


@pytest.mark.parametrize("kind", ["missing", "short", "zero", "infinite"])
def test_an_invalid_vector_fails_its_file_only(upgraded: MakeFile, kind: str) -> None:
    # NumPy's ValueError left the loop, and the files behind this one unsaved.
    file = upgraded()
    first, second = make_finished(ids_of(file)), make_finished(ids_of(file, "STSBMpnet"), model="STSBMpnet")
    first = replace(first, id=UUID(int=1))
    path, _ = (pending.write_pending(file.database, finished) for finished in (first, second))
    members = np.flatnonzero(first.labels == 0)
    spoil(file, first.ids[members[members != first.medoids[0]][0]].decode(), kind)
    delete_embeddings(file, [first.ids[first.medoids[0]].decode()])
    with pytest.raises(BadVectors, match=r"cluster 0 lost its medoid.*\(1 other clustering was saved\)"):
        save_pending(file.database)
    assert pending.find_pending(file.database) == [path]
    with file.database.session() as session:
        assert [clustering.id for clustering in list_clusterings(session)] == [second.id]


def test_an_unexpected_error_fails_its_file_only(upgraded: MakeFile, monkeypatch: pytest.MonkeyPatch) -> None:
    file = upgraded()
    paths = [
        pending.write_pending(file.database, replace(make_finished(ids_of(file)), id=UUID(int=number)))
        for number in (1, 2)
    ]
    read_pending_for = pending.read_pending_for

    def broken(database: Database, path: Path) -> FinishedClustering:
        if path == paths[0]:
            raise ZeroDivisionError("of all things")
        return read_pending_for(database, path)

    monkeypatch.setattr(pending, "read_pending_for", broken)
    with pytest.raises(DatabaseError, match="unexpected ZeroDivisionError: of all things") as refusal:
        save_pending(file.database)
    assert str(paths[0]) in str(refusal.value)
    assert [path.exists() for path in paths] == [True, False]


def test_rows_deleted_between_reading_and_saving_are_left_out_too(
    upgraded: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database is not locked while medoids are found anew: whoever deletes meanwhile need not wait."""
    file = upgraded()
    finished = make_finished(ids_of(file))
    pending.write_pending(file.database, finished)
    delete_embeddings(file, [finished.ids[finished.medoids[0]].decode()])
    victims = iter([finished.ids[finished.medoids[1]].decode(), finished.ids[finished.medoids[2]].decode()])
    find_medoid = recovery.find_medoid

    def meanwhile(*arguments: Any) -> int:
        for victim in victims:
            delete_embeddings(file, [victim])
            break
        return find_medoid(*arguments)

    monkeypatch.setattr(recovery, "find_medoid", meanwhile)
    (saved,) = save_pending(file.database)
    assert saved.n_vanished == 3
    stored = {row[2] for row in file.snapshot()["embeddingcluster"][1]}
    assert stored == set(ids_of(file)) - {
        finished.ids[finished.medoids[label]].decode() for label in (0, 1, 2)
    }


def test_the_number_of_missing_rows_is_logged(upgraded: MakeFile, caplog: pytest.LogCaptureFixture) -> None:
    # Of ids that were one character too short and one too long in one batch, 7 of 25 "had gone since".
    file = upgraded()
    finished = make_finished(ids_of(file))
    odd = finished.ids.copy()
    odd[:7] = [identity[1:] for identity in odd[:7]]
    finished = replace(
        finished,
        ids=odd,
        record=replace(finished.record, n_total=40),
        medoids={label: 7 + label for label in finished.medoids},
        labels=np.r_[[-1] * 7, sorted(finished.medoids), [-1] * (33 - len(finished.medoids))],
    )
    path = pending.write_pending(file.database, finished)
    (saved,) = save_pending(file.database)
    assert saved.n_vanished == 7
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert f"{path}: 7 of its 40 embeddings are not in the database and are left out" in warning
    assert "Nomic has 40 embeddings now and had 40 when it was clustered" in warning


@pytest.mark.sqlite_only("columns of any length")
def test_ids_are_compared_completely(upgraded: MakeFile) -> None:
    file = upgraded()
    finished = make_finished(ids_of(file))
    pending.write_pending(file.database, finished)
    row = next(row for row in range(40) if row not in finished.medoids.values())
    with file.opened() as connection:
        connection.execute("UPDATE embedding SET id = id || '0' WHERE id = ?", (finished.ids[row].decode(),))
    connection.close()
    (saved,) = save_pending(file.database)
    assert saved.n_vanished == 1


@pytest.mark.parametrize("lacking", ["medoids", "persistence"])
def test_a_file_whose_clusters_lack_something_is_incomplete(upgraded: MakeFile, lacking: str) -> None:
    file = upgraded()
    finished = make_finished(ids_of(file))
    del getattr(finished, lacking)[1]
    path = pending.write_pending(file.database, finished)
    with pytest.raises(BadInput, match="a cluster has no medoid or no persistence"):
        save_pending(file.database)
    assert path.exists()


FITTED_WITH = {"backend": "sklearn", "min_samples": 5, "distance_floor": 1e-3, "library": "numpy"}
"""Fields of the state file of the fit that `make_finished` describes."""
OTHER_FITS = {
    "input": ("00" * 32, {}),
    "min_samples": ("5f" * 32, {"min_samples": 6}),
    "floor": ("5f" * 32, {"distance_floor": 1e-2}),
    "backend": ("5f" * 32, {"backend": "tiled"}),
}
"""Identities of the input and parameters of states that are not those of the saved clustering."""


def save_state(root: Path, identity: str, **parameters: Any) -> Checkpoint:
    checkpoint = Checkpoint(root, identity)
    checkpoint.open(**FITTED_WITH | parameters)
    checkpoint.save("finished-tree", height=np.arange(3))
    return checkpoint


@pytest.mark.sqlite_only("the folder beside its file")
def test_only_the_states_of_the_saved_clustering_are_removed(upgraded: MakeFile) -> None:
    """States of all parameters were removed, so that hours of another fit were lost."""
    file = upgraded()
    finished = make_finished(ids_of(file))
    finished = replace(finished, record=replace(finished.record, input_sha256="5f" * 32))
    path = pending.write_pending(file.database, finished)
    root = file.path.with_name("field.sqlite.panic-tda")
    ours = [save_state(root / "Nomic", "5f" * 32, library=library) for library in ("numpy", "cupy")]
    others = {
        name: save_state(root / "Nomic", identity, **parameters)
        for name, (identity, parameters) in OTHER_FITS.items()
    }
    for name, text in (("null", "null"), ("list", '{"input_sha256": "' + "5f" * 32 + '", "parameters": []}')):
        (root / name).mkdir()
        (root / name / "checkpoint.json").write_text(text)
    assert [saved.id for saved in save_pending(file.database, [path])] == [finished.id]
    assert not any(checkpoint.folder.exists() for checkpoint in ours)
    assert [name for name, checkpoint in others.items() if checkpoint.load("finished-tree") is None] == []
    assert (root / "null" / "checkpoint.json").exists()
    assert (root / "list" / "checkpoint.json").exists()


@pytest.mark.sqlite_only("the folder beside its file")
def test_a_saved_cut_of_an_earlier_tree_removes_no_state(upgraded: MakeFile) -> None:
    file = upgraded()
    finished = make_finished(ids_of(file))
    record = replace(finished.record, input_sha256="5f" * 32, recut_of=str(UUID(int=9)))
    path = pending.write_pending(file.database, replace(finished, record=record))
    state = save_state(file.path.with_name("field.sqlite.panic-tda") / "Nomic", "5f" * 32)
    save_pending(file.database, [path])
    assert state.load("finished-tree") is not None


def test_a_file_that_cannot_be_removed_is_saved_anyway(
    upgraded: MakeFile, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = upgraded()
    path = pending.write_pending(file.database, make_finished(ids_of(file)))

    def refuse(_path: Path, **_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    (saved,) = save_pending(file.database)
    assert path.exists()
    assert f"{saved.id} is saved, but not everything of it could be removed" in caplog.text


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@needs_root
@pytest.mark.parametrize("place", ["beside", "temporary"])
def test_another_users_file_is_not_saved(
    upgraded: MakeFile, place: str, temporary_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A forged file with a predictable name was saved as a clustering."""
    file = upgraded()
    path = pending.write_pending(file.database, make_finished(ids_of(file)))
    if place == "temporary":
        folder, stem = pending.find_locations(file.database)[1]
        path = path.rename(folder / f"{stem}{UUID(int=7).hex}.arrow")
    os.chown(path, 4321, 4321)
    before = file.snapshot()
    assert pending.find_pending(file.database) == []
    assert save_pending(file.database) == []
    assert f"{path} belongs to another user and is not saved" in caplog.text
    with pytest.raises(BadInput, match=r"it belongs to another user \(uid 4321\); copy it, if you trust it"):
        save_pending(file.database, [path])
    assert file.snapshot() == before
    assert path.exists()


@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_a_link_or_a_fifo_is_not_saved(upgraded: MakeFile, kind: str) -> None:
    file = upgraded()
    path = pending.write_pending(file.database, make_finished(ids_of(file)))
    target = path.rename(path.with_name("elsewhere.arrow"))
    if kind == "link":
        path.symlink_to(target)
    else:
        os.mkfifo(path)
    before = file.snapshot()
    for files in ([], [path]):
        with pytest.raises(BadInput, match="not a regular file") as refusal:
            save_pending(file.database, files)
        assert str(path) in str(refusal.value)
    assert file.snapshot() == before
    assert target.exists()


def test_no_pending_file_with_a_flipped_bit_is_saved(upgraded: MakeFile) -> None:
    file = upgraded()
    path = pending.write_pending(file.database, make_finished(ids_of(file)))
    content, before = path.read_bytes(), file.snapshot()
    rng = np.random.default_rng(0)
    for place in (*rng.integers(len(content), size=60), *range(len(content) - 48, len(content), 5)):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        with pytest.raises(BadInput, match="is not a complete result file of panic_tda"):
            save_pending(file.database, [path])
    assert file.snapshot() == before


@pytest.mark.parametrize("named", [True, False])
def test_a_result_of_a_copy_with_the_same_rows_is_not_saved_into_the_other(
    upgraded: MakeFile, named: bool, tmp_path: Path
) -> None:
    """Two databases, or two schemas, that were made of the same files have the same embeddings."""
    ours, theirs = upgraded(FieldSpec()), upgraded(FieldSpec(), "other.sqlite")
    path = pending.write_pending(ours.database, make_finished(ids_of(ours)))
    if not named:
        folder, stem = pending.find_locations(theirs.database)[0]
        path = path.rename(folder / f"{stem}{UUID(int=7).hex}.arrow")
    before = theirs.snapshot()
    if named:
        with pytest.raises(BadInput, match=r"belongs to the database .*; name that one with --db"):
            save_pending(theirs.database, [path])
    else:
        assert save_pending(theirs.database) == []
    assert theirs.snapshot() == before
    assert [saved.n_vanished for saved in save_pending(ours.database, [path])] == [0]


@pytest.mark.sqlite_only("a file that moves")
def test_a_moved_database_accepts_its_pending_results(upgraded: MakeFile, tmp_path: Path) -> None:
    file = upgraded()
    path = pending.write_pending(file.database, make_finished(ids_of(file)))
    (tmp_path / "elsewhere").mkdir()
    moved = [source.rename(tmp_path / "elsewhere" / source.name) for source in (file.path, path)]
    database = open_database(moved[0])
    assert pending.find_pending(database) == [moved[1]]
    assert [saved.n_vanished for saved in save_pending(database)] == [0]


def as_written_before(path: Path) -> None:
    """Rewrite a pending file as earlier versions did: without digest and database name."""
    with ipc.open_file(pa.py_buffer(path.read_bytes()[:-48])) as reader:
        table = reader.read_all()
    metadata = dict(table.schema.metadata)
    about = json.loads(metadata[b"panic_tda_clustering"])
    del about["database"]
    table = table.replace_schema_metadata(metadata | {b"panic_tda_clustering": json.dumps(about).encode()})
    with ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)


def test_files_of_earlier_versions_are_saved_if_their_database_is_certain(
    upgraded: MakeFile, caplog: pytest.LogCaptureFixture
) -> None:
    """Beside an SQLite file it is; on a server the user has to name the file."""
    file = upgraded()
    finished = make_finished(ids_of(file))
    path = pending.write_pending(file.database, finished)
    as_written_before(path)
    if file.database.path is None:
        assert save_pending(file.database) == []
        assert f"{path} belongs to a database that it does not name" in caplog.text
        saved = save_pending(file.database, [path])
    else:
        saved = save_pending(file.database)
    assert [summary.id for summary in saved] == [finished.id]


def test_a_result_of_one_schema_is_not_saved_into_another(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both schemas are in one database and have the same embeddings."""
    monkeypatch.chdir(tmp_path)
    template, facts = server.field_database(FieldSpec(), tmp_path / "field.sqlite")
    with server.database(template) as url:
        theirs = make_url(url).update_query_dict({"options": "-csearch_path=other"})
        with open_database(url).writing() as connection:
            connection.exec_driver_sql("CREATE SCHEMA other")
        source = write_field_file(tmp_path / "source.sqlite", FieldSpec())
        copy_database(source.path, theirs.render_as_string(hide_password=False))
        databases = [open_database(url), open_database(theirs.render_as_string(hide_password=False))]
        finished = make_finished([embedding.id for embedding in facts.sample("Nomic")])
        path = pending.write_pending(databases[0], finished)
        assert pending.find_pending(databases[1]) == []
        with pytest.raises(BadInput, match=r"belongs to the database \d+/.*/public, not to"):
            save_pending(databases[1], [path])
        with databases[1].session() as session:
            assert list_clusterings(session) == []
        assert [saved.id for saved in save_pending(databases[0])] == [finished.id]
