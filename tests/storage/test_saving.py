"""Test that any failure of saving ends in a pending file, and that missing rights are found beforehand."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import sqlalchemy as sa

from panic_tda.errors import DatabaseError, SaveFailed
from panic_tda.storage.read.results import get_cluster_details, list_clusterings
from panic_tda.storage.write import pending
from panic_tda.storage.write.recovery import save_pending
from panic_tda.storage.write.saving import require_savable, save_clustering, save_or_write_pending
from panic_tda.types import FinishedClustering
from tests.conftest import MakeFile, UpgradedFile, ids_of, make_finished
from tests.field_files import FieldSpec

pytestmark = [pytest.mark.both_engines, pytest.mark.usefixtures("temporary_folder")]


def forget_the_results(file: UpgradedFile) -> None:
    """Delete as the sqlite3 shell does, without foreign keys."""
    with file.opened() as connection:
        connection.execute("DELETE FROM clusteringresult")


def save(file: UpgradedFile, finished: FinishedClustering) -> None:
    save_or_write_pending(file.database, finished)


@pytest.mark.parametrize("left", ["assignments", "clusters"])
def test_a_key_is_above_those_of_rows_whose_clustering_is_gone(upgraded: MakeFile, left: str) -> None:
    # 14 embeddings of one model inherited 999 assignments of another.
    file = upgraded()
    for number in (1, 2, 3):
        save(file, replace(make_finished(ids_of(file)), id=UUID(int=number)))
    forget_the_results(file)
    with file.opened() as connection:
        connection.execute(f"DELETE FROM {'cluster' if left == 'assignments' else 'embeddingcluster'}")
    finished = make_finished(ids_of(file, "STSBMpnet")[:14], model="STSBMpnet")
    save(file, finished)
    with file.database.session() as session:
        (clustering,) = list_clusterings(session)
        details = get_cluster_details(clustering.id, session)
    assert sum(detail.size for detail in details) == int((finished.labels >= 0).sum())
    with file.opened() as connection:
        ((key,),) = connection.execute("SELECT key FROM clusteringresult")
        ((assigned,),) = connection.execute(
            "SELECT count(*) FROM embeddingcluster WHERE result_key = ?", (key,)
        )
    assert (key, assigned) == (4, 14)


@pytest.mark.sqlite_only("its statements")
@pytest.mark.parametrize("n_rows", [1, 199, 200, 401])
def test_assignments_are_inserted_by_hundreds(upgraded: MakeFile, n_rows: int) -> None:
    file = upgraded(FieldSpec(layout=0, runs=9, length=100))
    finished = make_finished(ids_of(file)[:n_rows])
    statements: list[str] = []
    with file.database.writing() as connection:
        driver: Any = connection.connection.driver_connection
        driver.set_trace_callback(statements.append)
        save_clustering(connection, finished)
    inserts = [sql for sql in statements if sql.startswith("INSERT INTO embeddingcluster")]
    assert len(inserts) == n_rows // 200 + n_rows % 200
    with file.opened() as connection:
        stored = connection.execute(
            "SELECT embedding_id, label, probability FROM embeddingcluster"
        ).fetchall()
    expected = zip(finished.ids.astype("U32"), finished.labels, finished.probabilities, strict=True)
    assert sorted(stored) == sorted(expected)


@pytest.mark.parametrize("n_rows", [7, 430])
def test_a_deleted_embedding_saves_no_assignment(upgraded: MakeFile, n_rows: int) -> None:
    file = upgraded(FieldSpec(layout=0, runs=9, length=100))
    finished = make_finished([*ids_of(file)[: n_rows - 1], "f" * 32])
    with pytest.raises(DatabaseError), file.database.writing() as connection:
        save_clustering(connection, finished)
    with file.opened() as connection:
        assert connection.execute("SELECT count(*) FROM embeddingcluster").fetchall() == [(0,)]


@pytest.mark.sqlite_only("its plans")
def test_a_key_is_found_without_going_through_the_assignments(upgraded: MakeFile) -> None:
    file = upgraded()
    save(file, make_finished(ids_of(file)))
    plans: list[str] = []
    explain = "EXPLAIN QUERY PLAN "

    def look(_connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("SELECT max"):
            plans.extend(row[3] for row in cursor.execute(explain + statement, parameters).fetchall())

    sa.event.listen(sa.Engine, "before_cursor_execute", look)
    try:
        require_savable(file.database)
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", look)
    assert len(plans) == 4
    assert {plan.split()[0] for plan in plans} == {"SEARCH"}


class Odd:
    """A value that JSON does not know."""

    def __str__(self) -> str:
        return "an odd value"


ODD = {
    "NumPy's number": (np.int64(5), 5),
    "NumPy's array": (np.arange(3), [0, 1, 2]),
    "a path": (Path("/x"), "/x"),
    "bytes": (b"\xff", "b'\\xff'"),
    "an object": (Odd(), "an odd value"),
}


@pytest.mark.parametrize("kind", ODD)
def test_parameters_that_json_cannot_encode_do_not_lose_the_result(upgraded: MakeFile, kind: str) -> None:
    file = upgraded()
    value, kept_as = ODD[kind]
    finished = make_finished(ids_of(file))
    finished = replace(finished, record=replace(finished.record, further={"odd": value}))
    with pytest.raises(SaveFailed, match=r"not saved \(unexpected TypeError: .*\); the result is kept in"):
        save(file, finished)
    (saved,) = save_pending(file.database)
    with file.database.session() as session:
        (clustering,) = list_clusterings(session)
    assert (saved.id, clustering.record.further) == (finished.id, {"odd": kept_as})


def test_labels_of_numpy_types_are_stored(upgraded: MakeFile) -> None:
    file = upgraded()
    finished = make_finished(ids_of(file))
    odd = replace(
        finished,
        medoids={np.int64(label): np.int64(row) for label, row in finished.medoids.items()},
        persistence={np.int64(label): np.float32(0.5) for label in finished.persistence},
    )
    pending_result = pending.read_pending(pending.write_pending(file.database, odd))
    assert pending_result.medoids == finished.medoids
    assert pending_result.persistence == dict.fromkeys(finished.persistence, 0.5)


def test_a_result_that_no_file_can_store_is_an_error_with_both_reasons(
    upgraded: MakeFile, caplog: pytest.LogCaptureFixture
) -> None:
    file = upgraded()
    caplog.set_level(logging.DEBUG)
    finished = make_finished(ids_of(file))
    broken = replace(finished, probabilities=finished.probabilities[:-1], medoids={0: 0})
    with pytest.raises(SaveFailed) as refusal:
        save(file, broken)
    message = str(refusal.value)
    assert "computed but not saved" in message
    assert "the result could not be written to a file either (unexpected ArrowInvalid: " in message
    assert message.endswith("and is lost")
    assert any(record.exc_info for record in caplog.records if "keeping" in record.message)


def test_a_missing_database_does_not_hide_the_error(upgraded: MakeFile) -> None:
    finished = make_finished(ids_of(upgraded()))
    with pytest.raises(SaveFailed, match=r"computed but not saved .*could not be written to a file either"):
        save_or_write_pending(None, finished)  # type: ignore[arg-type]


@pytest.mark.sqlite_only("its file")
def test_a_name_too_long_for_a_file_beside_is_kept_in_the_temporary_folder(
    upgraded: MakeFile, temporary_folder: Path
) -> None:
    file = upgraded(name=f"{'n' * 230}.sqlite")
    path = pending.write_pending(file.database, make_finished(ids_of(file)))
    assert path.parent == temporary_folder
    assert pending.find_pending(file.database) == [path]


@pytest.mark.sqlite_only("its triggers")
def test_tables_that_refuse_rows_are_detected_before_computing(upgraded: MakeFile) -> None:
    file = upgraded()
    before = file.snapshot()
    require_savable(file.database)
    assert file.snapshot() == before
    for table in ("clusteringresult", "cluster", "embeddingcluster"):
        with file.opened() as connection:
            connection.execute(
                f"CREATE TRIGGER no BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'not {table}'); END"
            )
        with pytest.raises(DatabaseError, match=f"not {table}"):
            require_savable(file.database)
        with file.opened() as connection:
            connection.execute("DROP TRIGGER no")
    assert file.snapshot() == before


def test_a_database_without_embeddings_can_be_checked_for_writing(upgraded: MakeFile) -> None:
    file = upgraded()
    with file.opened() as connection:
        connection.execute("DELETE FROM embedding")
    require_savable(file.database)
