"""Test that a saved clustering is read back bit for bit and deleted completely."""

from __future__ import annotations

import json
import signal
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import sqlalchemy as sa

from panic_tda.errors import DatabaseError, UnknownClustering, UnknownModel
from panic_tda.records import ClusteringRecord
from panic_tda.storage.database import Database, open_database
from panic_tda.storage.read.results import (
    find_clustering,
    find_clusterings,
    get_cluster_details,
    get_medoid_invocation,
    list_all_clusterings,
    list_clusterings,
)
from panic_tda.storage.schema.tables import Base, Embedding, InvocationType
from panic_tda.storage.write import saving
from panic_tda.storage.write.saving import delete_clusterings, is_saved, save_clustering
from panic_tda.types import FinishedClustering
from tests.conftest import MakeFile, UpgradedFile, ids_of, make_finished
from tests.field_files import FieldSpec
from tests.snapshots import KILL_AFTER, run_python

pytestmark = pytest.mark.both_engines

UNLUCKY = (
    "06888680501e75097830817616369915",  # as a number: infinite
    "06888680501875097830817616369915",  # as a number: 6.888e30
    "00000000000000000000000000000000",
    "00000000000000000000000000000001",
    "99999999999999999999999999999999",
    "1e000000000000000000000000000000",
    "0000000000000000000000000000000e",
    "e0000000000000000000000000000001",
)


def save(database: Database, *finished: FinishedClustering) -> None:
    for clustering in finished:
        with database.writing() as connection:
            save_clustering(connection, clustering)


def rows(file: UpgradedFile, query: str, *values: object) -> list[tuple[Any, ...]]:
    with file.opened() as connection:
        return connection.execute(query, values).fetchall()


def stored_assignments(file: UpgradedFile, finished: FinishedClustering) -> list[tuple[Any, ...]]:
    return rows(
        file,
        "SELECT embedding_id, label, probability FROM embeddingcluster "
        "JOIN clusteringresult ON key = result_key WHERE id = ? ORDER BY embedding_id",
        finished.id.hex,
    )


@pytest.mark.parametrize("digit_ids", [False, True])
def test_results_are_stored_bit_by_bit(upgraded: MakeFile, digit_ids: bool) -> None:
    file = upgraded(FieldSpec(digit_ids=digit_ids))
    finished = make_finished(ids_of(file))
    finished.probabilities[:4] = [1.0, 5e-324, np.nextafter(1, 0), 0.1 + 0.2]
    save(file.database, finished)

    assignments = stored_assignments(file, finished)
    assert [row[0] for row in assignments] == [identity.decode() for identity in finished.ids]
    assert [row[1] for row in assignments] == finished.labels.tolist()
    assert np.array([row[2] for row in assignments]).tobytes() == finished.probabilities.tobytes()
    clusters = rows(file, "SELECT label, medoid_embedding_id, size, persistence FROM cluster ORDER BY label")
    assert clusters == [
        (
            label,
            finished.ids[finished.medoids[label]].decode(),
            int((finished.labels == label).sum()),
            finished.persistence[label],
        )
        for label in sorted(finished.medoids)
    ]
    with file.database.session() as session:
        (summary,) = list_clusterings(session)
    assert (summary.id, summary.embedding_model, summary.algorithm) == (finished.id, "Nomic", "hdbscan")
    assert (summary.started_at, summary.completed_at) == (finished.started_at, finished.completed_at)
    assert summary.record == finished.record
    assert summary.seconds == 6299.876544


@pytest.mark.sqlite_only("affinity")
def test_ids_of_digits_stay_text_in_every_table(upgraded: MakeFile) -> None:
    # A column declared UUID has numeric affinity: such ids became floats, often infinite.
    file = upgraded()
    originals = ids_of(file)[: len(UNLUCKY)]
    with file.opened() as connection:
        connection.executemany(
            "UPDATE embedding SET id = ? WHERE id = ?", zip(UNLUCKY, originals, strict=True)
        )
    finished = make_finished(UNLUCKY)
    for result_id in UNLUCKY:
        save(file.database, replace(finished, id=UUID(result_id)))
    for table, column in [
        ("clusteringresult", "id"),
        ("cluster", "medoid_embedding_id"),
        ("embeddingcluster", "embedding_id"),
        ("embedding", "id"),
    ]:
        assert rows(file, f"SELECT DISTINCT typeof({column}) FROM {table}") == [("text",)]
    assert {row[0] for row in rows(file, "SELECT id FROM clusteringresult")} == set(UNLUCKY)
    assert {row[0] for row in rows(file, "SELECT embedding_id FROM embeddingcluster")} == set(UNLUCKY)
    with file.database.session() as session:
        for result_id in UNLUCKY:
            details = get_cluster_details(UUID(result_id), session)
            assert {detail.label: detail.medoid_embedding_id for detail in details} == {
                label: UUID(finished.ids[row].decode()) for label, row in finished.medoids.items()
            }
            assert [clustering.id for clustering in find_clusterings(session, [result_id])] == [
                UUID(result_id)
            ]
        assert session.get(Embedding, UUID(UNLUCKY[0])) is not None
    delete_clusterings(file.database, [UUID(result_id) for result_id in UNLUCKY])
    assert rows(file, "SELECT count(*) FROM embeddingcluster") == [(0,)]


def test_every_id_column_is_of_a_type_without_numeric_affinity() -> None:
    for table in Base.metadata.tables.values():
        for column in table.columns:
            if column.name == "id" or column.name.endswith("_id"):
                assert column.type.compile(dialect=sa.create_engine("sqlite://").dialect) == "CHAR(32)", (
                    column
                )


@pytest.mark.parametrize("n_rows", [0, 1])
def test_a_clustering_without_clusters_is_stored(upgraded: MakeFile, n_rows: int) -> None:
    file = upgraded()
    finished = make_finished(ids_of(file)[:n_rows])
    finished = replace(finished, labels=np.full(n_rows, -1), medoids={}, persistence={})
    save(file.database, finished)
    assert len(stored_assignments(file, finished)) == n_rows
    with file.database.session() as session:
        assert get_cluster_details(finished.id, session) == []


def test_the_chunk_size_of_assignments_does_not_matter(
    upgraded: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = upgraded()
    monkeypatch.setattr(saving, "INSERT_ROWS", 7)
    finished = make_finished(ids_of(file))
    save(file.database, finished)
    assert [row[1] for row in stored_assignments(file, finished)] == finished.labels.tolist()


def test_a_cluster_without_medoid_is_not_saved(upgraded: MakeFile) -> None:
    file = upgraded()
    before = file.snapshot()
    finished = make_finished(ids_of(file))
    del finished.medoids[1]
    with pytest.raises(KeyError):
        save(file.database, finished)
    assert file.snapshot() == before


@pytest.mark.parametrize("lost", ["medoid", "member"])
def test_a_deleted_embedding_prevents_saving(upgraded: MakeFile, lost: str) -> None:
    file = upgraded()
    finished = make_finished(ids_of(file))
    medoids = set(finished.medoids.values())
    row = min(medoids if lost == "medoid" else set(range(len(finished.ids))) - medoids)
    with file.opened() as connection:
        connection.execute("DELETE FROM embedding WHERE id = ?", (finished.ids[row].decode(),))
    before = file.snapshot()
    with pytest.raises(DatabaseError, match=r"(?i)foreign key"):
        save(file.database, finished)
    assert file.snapshot() == before


SAVE = """
import sys
from panic_tda.storage.database import open_database
from panic_tda.storage.write import pending, saving
from pathlib import Path
finished = pending.read_pending(Path(sys.argv[2]))
with open_database(sys.argv[1]).writing() as connection:
    saving.save_clustering(connection, finished)
    print("written", flush=True)
"""
KILL_WHILE_INSERTING = """
import os, signal
from panic_tda.storage.schema.tables import EmbeddingCluster
from panic_tda.storage.write import saving
insert = saving.insert_rows

def dying(rows):
    for number, row in enumerate(rows):
        if number == 900:
            os.kill(os.getpid(), signal.SIGKILL)
        yield row

saving.insert_rows = lambda connection, table, rows, **options: insert(
    connection, table, dying(rows) if table is EmbeddingCluster else rows, **options
)
"""


@pytest.mark.slow
@pytest.mark.sqlite_only("its log")
@pytest.mark.parametrize(
    "killer",
    [
        f"{KILL_AFTER}\nkill_after('nothing: only so that changes reach the disk')\n{KILL_WHILE_INSERTING}",
        f"{KILL_AFTER}\nkill_after('INSERT INTO clusteringresult')",
    ],
    ids=["among the assignments", "after the result"],
)
def test_a_crash_in_the_middle_of_a_save_leaves_nothing_behind(
    upgraded: MakeFile, tmp_path: Path, killer: str
) -> None:
    from panic_tda.storage.write import pending

    file = upgraded(FieldSpec(runs=36, length=60))
    first = make_finished(ids_of(file), seed=1)
    save(file.database, first)
    before = file.snapshot()
    finished = make_finished(ids_of(file), seed=2)
    path = pending.write_pending(file.database, finished)
    killed = run_python(f"{killer}\n{SAVE}", file.path, path)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert killed.stdout == ""
    if KILL_WHILE_INSERTING in killer:
        assert file.path.with_name("field.sqlite-wal").stat().st_size > 10_000
    assert file.snapshot() == before
    process = run_python(SAVE, file.path, path)
    assert (process.returncode, process.stdout) == (0, "written\n")
    assert len(stored_assignments(file, finished)) == len(finished.ids)
    assert len(stored_assignments(file, first)) == len(first.ids)


def test_deleting_an_embedding_takes_its_assignments_and_the_cluster_it_stands_for(
    upgraded: MakeFile,
) -> None:
    file = upgraded()
    first, second = (make_finished(ids_of(file), seed=seed) for seed in (1, 2))
    save(file.database, first, second)
    row = first.medoids[0]
    removed_id = first.ids[row].decode()
    with file.database.writing() as connection:
        connection.execute(sa.delete(Embedding).where(Embedding.id == UUID(removed_id)))
    for finished in (first, second):
        left = [identity for identity, *_ in stored_assignments(file, finished)]
        assert left == [identity.decode() for identity in finished.ids if identity.decode() != removed_id]
    labels = {
        (UUID(identity), label)
        for identity, label in rows(
            file,
            "SELECT clusteringresult.id, label FROM cluster JOIN clusteringresult ON key = result_key",
        )
    }
    expected = {
        (finished.id, label)
        for finished in (first, second)
        for label, medoid in finished.medoids.items()
        if finished.ids[medoid].decode() != removed_id
    }
    assert labels == expected
    assert (first.id, 0) not in labels
    assert rows(file, "SELECT count(*) FROM clusteringresult") == [(2,)]
    gone_too = "SELECT count(*) FROM embeddingcluster WHERE embedding_id NOT IN (SELECT id FROM embedding)"
    assert rows(file, gone_too) == [(0,)]


def test_deleting_a_clustering_takes_its_rows_and_no_others(upgraded: MakeFile) -> None:
    file = upgraded(FieldSpec(orphan_embeddings=2))
    empty = file.snapshot()
    first, second, third = (make_finished(ids_of(file), seed=seed) for seed in (1, 2, 3))
    save(file.database, first, third)
    assignments = stored_assignments(file, first), stored_assignments(file, third)
    save(file.database, second)
    delete_clusterings(file.database, [second.id])
    assert assignments == (stored_assignments(file, first), stored_assignments(file, third))
    assert stored_assignments(file, second) == []
    with file.database.reading() as connection:
        assert is_saved(connection, first.id)
        assert not is_saved(connection, second.id)
    delete_clusterings(file.database, [third.id, first.id])
    delete_clusterings(file.database, [])
    assert file.snapshot() == empty


@pytest.mark.sqlite_only("its pages")
def test_an_assignment_takes_at_most_110_bytes(upgraded: MakeFile) -> None:
    file = upgraded()
    n_rows = 50_000
    rng = np.random.default_rng(0)
    ids = [
        f"{time_part:015x}{random:017x}"
        for time_part, random in zip(range(n_rows), rng.integers(0, 2**62, n_rows), strict=True)
    ]
    with file.opened() as connection:
        connection.executemany(
            "INSERT INTO embedding (id, invocation_id, embedding_model) VALUES (?, 'none', 'Large')",
            ((identity,) for identity in ids),
        )
    size = database_bytes(file.path)
    save(file.database, make_finished(ids, model="Large"))
    assert 40 * n_rows < database_bytes(file.path) - size <= 110 * n_rows


def database_bytes(path: Path) -> int:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return path.stat().st_size


def test_latest_goes_by_time_of_creation_never_by_id(
    upgraded: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = upgraded()
    ids = [f"{first}" + "0" * 31 for first in "9f31"]
    times = ["2025-07-15 10:00:00", "2025-07-15 12:00:00", "2025-07-15 11:00:00", "2025-07-15 12:00:00"]
    for identity in ids:
        save(file.database, replace(make_finished(ids_of(file)), id=UUID(identity)))
    with file.opened() as connection:
        connection.executemany(
            "UPDATE clusteringresult SET created_at = ? WHERE id = ?", zip(times, ids, strict=True)
        )
    other_finished = make_finished(ids_of(file, "STSBMpnet"), model="STSBMpnet")
    save(file.database, other_finished)
    with file.database.session() as session:
        ordered = [clustering.id.hex for clustering in list_clusterings(session, model="Nomic")]
        # Of two at one time the one saved later comes first.
        assert ordered == [ids[3], ids[1], ids[2], ids[0]]
        assert [clustering.id.hex for clustering in list_clusterings(session)[:2]] == [
            other_finished.id.hex,
            ids[3],
        ]
        latest = {clustering.embedding_model: clustering.id.hex for clustering in find_clusterings(session)}
        assert latest == {"Nomic": ids[3], "STSBMpnet": other_finished.id.hex}
        assert [clustering.id for clustering in find_clusterings(session, model="STSBMpnet")] == [
            other_finished.id
        ]
        with pytest.raises(UnknownModel, match="no clustering of model 'Nobody'"):
            find_clusterings(session, model="Nobody")


def test_ids_may_be_shortened_to_a_unique_beginning(upgraded: MakeFile) -> None:
    file = upgraded()
    ids = ["01968a3c" + "7" * 24, "01968a3d" + "7" * 24, "f" * 32]
    for identity in ids:
        save(file.database, replace(make_finished(ids_of(file)), id=UUID(identity)))
    with file.database.session() as session:

        def find_ids(*references: str) -> list[str]:
            return [summary.id.hex for summary in find_clusterings(session, references)]

        assert find_ids("01968a3c") == ids[:1]
        assert find_ids("01968A3C-7777") == ids[:1]
        assert find_ids(str(UUID(ids[1]))) == ids[1:2]
        assert find_ids(ids[1].upper(), "f") == ids[1:]
        assert find_ids("f", "ff", "f" * 32) == ids[2:]
        assert find_ids() == find_ids("latest") == ids[2:]
        assert set(find_ids("latest", ids[0])) == {ids[0], ids[2]}
        for wrong, count in [("01968a3", "2"), ("02", "none"), ("", "none"), ("-", "none"), ("%", "none")]:
            with pytest.raises(UnknownClustering, match=f"^{count} of 3 stored clusterings begin with"):
                find_clusterings(session, [wrong])


def test_details_lead_from_the_medoid_to_its_run(upgraded: MakeFile) -> None:
    file = upgraded(FieldSpec(runs=6, duplicates=0.5, vision_models=("NomicVision",)))
    for model in ("Nomic", "NomicVision"):
        by_id = {embedding.id: embedding for embedding in file.facts.of(model)}
        finished = make_finished(ids_of(file, model), model=model)
        save(file.database, finished)
        with file.database.session() as session:
            details = get_cluster_details(finished.id, session)
            assert [detail.label for detail in details] == sorted(finished.medoids)
            for detail in details:
                members = finished.ids[finished.labels == detail.label]
                medoid = by_id[finished.ids[finished.medoids[detail.label]].decode()].invocation
                assert medoid is not None
                assert detail.size == len(members)
                assert detail.persistence == finished.persistence[detail.label]
                assert detail.medoid_invocation_id == UUID(medoid.id)
                assert detail.medoid_run_id == UUID(medoid.run_id)
                assert detail.medoid_text == medoid.text
                medoid_invocation = get_medoid_invocation(detail.label, finished.id, session)
                assert medoid_invocation is not None
                assert medoid_invocation.id == UUID(medoid.id)
                if model == "NomicVision":
                    assert detail.medoid_image_invocation_id == UUID(medoid.id)
                    assert detail.medoid_copies is None
                    assert medoid_invocation.type is InvocationType.IMAGE
                else:
                    assert medoid.input_id is not None
                    assert detail.medoid_image_invocation_id == UUID(medoid.input_id)
                    texts = [by_id[member.decode()].invocation for member in members]
                    assert detail.medoid_copies == sum(i is not None and i.text == medoid.text for i in texts)
            assert get_medoid_invocation(-1, finished.id, session) is None
            assert get_medoid_invocation(0, UUID(int=7), session) is None
            assert get_cluster_details(UUID(int=7), session) == []
            assert [detail.label for detail in get_cluster_details(finished.id, session, limit=2)] == [0, 1]


def test_the_image_is_none_if_not_stored(upgraded: MakeFile) -> None:
    file = upgraded(FieldSpec(runs=0, text_only_runs=3))
    finished = make_finished(ids_of(file))
    save(file.database, finished)
    with file.database.session() as session:
        details = get_cluster_details(finished.id, session)
        assert {detail.medoid_image_invocation_id for detail in details} == {None}


@pytest.mark.sqlite_only("its variables")
def test_more_clusters_than_parameters_of_a_statement_are_stored(upgraded: MakeFile) -> None:
    # Two variables a cluster made 12,000 clusters "too many SQL variables".
    file = upgraded()
    n_clusters = 17_000
    ids = [f"{number:032x}" for number in range(2 * n_clusters)]
    invocation = file.facts.sample("Nomic")[0].invocation
    assert invocation is not None
    with file.opened() as connection:
        connection.executemany(
            "INSERT INTO embedding (id, invocation_id, embedding_model) VALUES (?, ?, 'Large')",
            ((identity, invocation.id) for identity in ids),
        )
    finished = replace(
        make_finished(ids, model="Large"),
        labels=np.repeat(np.arange(n_clusters), 2),
        medoids={label: 2 * label for label in range(n_clusters)},
        persistence=dict.fromkeys(range(n_clusters), 0.5),
    )
    save(file.database, finished)
    steps: list[None] = []
    with file.database.session() as session:
        driver = session.connection().connection.driver_connection
        assert driver is not None
        driver.set_progress_handler(lambda: steps.append(None), 1000)
        details = get_cluster_details(finished.id, session)
    assert len(details) == n_clusters
    assert {detail.medoid_copies for detail in details} == {2}
    # Some 100 of SQLite's steps for each row, and not the more the more clusters there are.
    assert 1000 * len(steps) < 300 * len(ids), len(steps)


def test_reopening_the_database_shows_the_same(upgraded: MakeFile) -> None:
    file = upgraded()
    save(file.database, make_finished(ids_of(file)))
    with file.database.session() as first, open_database(file.target).session() as second:
        assert list_clusterings(first) == list_clusterings(second)


OLDER = {
    "cluster_selection_epsilon": 0.4,
    "min_cluster_size": 10,
    "min_samples": 10,
    "allow_single_cluster": True,
    "cluster_selection_method": "eom",
    "max_cluster_size": None,
    "distance_floor": 0.001,
    "backend": "cuml",
    "exact": False,
    "n_embeddings": 2400,
    "n_unique": 1231,
    "n_clusters": 59,
    "n_outliers": 746,
    "versions": {"python": "3.11.7", "panic_tda": "0.1.0", "numpy": "2.4.6", "cuml": "26.10.00"},
    "nn_descent": {"graph_degree": 64, "intermediate_graph_degree": 128, "max_iterations": 20},
    "lighter_edge_share": None,
    "lighter_edge_sample": 0,
    "downsample": 1,
    "n_total": 2400,
    "n_sampled": 2400,
    "n_excluded": 0,
    "input_sha256": "5f" * 32,
    "seconds": {"load": 0.01, "fit": 0.08, "medoids": 0.002},
}
"""Parameters as version 0.1.0 stored them while cuML's neighbour graph could be approximate."""


def restored(file: UpgradedFile, parameters: dict[str, Any]) -> None:
    save(file.database, make_finished(ids_of(file)))
    with file.opened() as connection:
        connection.execute("UPDATE clusteringresult SET parameters = ?", [json.dumps(parameters)])


def test_results_of_older_versions_can_be_read(upgraded: MakeFile) -> None:
    file = upgraded()
    restored(file, OLDER)
    with file.database.session() as session:
        (clustering,) = list_clusterings(session)
    older_parameters = {name: value for name, value in OLDER.items() if name != "lighter_edge_share"}
    assert clustering.record.to_json() == older_parameters
    assert clustering.record.further == {"nn_descent": OLDER["nn_descent"]}
    assert ClusteringRecord.from_json(clustering.record.to_json()) == clustering.record


@pytest.mark.parametrize("name", ["n_clusters", "cluster_selection_epsilon", "versions"])
def test_parameters_of_another_kind_are_named(upgraded: MakeFile, name: str) -> None:
    file = upgraded()
    restored(file, {key: value for key, value in OLDER.items() if key != name})
    with file.database.session() as session:
        readable, (unreadable,) = list_all_clusterings(session)
        assert readable == list_clusterings(session) == []
        assert f"lack {name}" in unreadable.reason
        with pytest.raises(DatabaseError, match=f"clustering .* lack {name}"):
            find_clustering(session, unreadable.reference)
