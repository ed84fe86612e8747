"""Test features of PostgreSQL alone and commands on it; other files test what both databases share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.orm import Session

from panic_tda import (
    ClusteringParameters,
    cluster_all_data,
    delete_clusterings,
    get_medoid_invocation,
    hdbscan,
)
from panic_tda.errors import DatabaseError, SaveFailed
from panic_tda.files.importing import import_embeddings
from panic_tda.insight.recut import Changes, recut_clustering
from panic_tda.insight.sweep import Grid, sweep_clustering
from panic_tda.main import main
from panic_tda.storage import connections
from panic_tda.storage.database import Database, lock_for_saving, open_database
from panic_tda.storage.read.assignments import read_assignments
from panic_tda.storage.read.census import take_census
from panic_tda.storage.read.completions import read_clustering_entries, read_model_names
from panic_tda.storage.read.medoids import find_medoid_images, read_image, read_medoid_ids
from panic_tda.storage.read.results import find_clustering
from panic_tda.storage.read.row_samples import read_row_sample
from panic_tda.storage.read.trajectories import read_medoid_texts, read_steps, stream_texts
from panic_tda.storage.read.trees import require_tree
from panic_tda.storage.read.vectors_by_id import require_vectors
from panic_tda.storage.schema.tables import (
    Embedding,
    EmbeddingCluster,
    ExperimentConfig,
    Invocation,
    InvocationType,
    Run,
    uuid7,
)
from panic_tda.storage.write import pending
from panic_tda.storage.write.saving import save_clustering, save_or_write_pending
from panic_tda.types import FinishedClustering
from tests.conftest import make_finished
from tests.dump_files import DumpSpec, dump_tables, import_tables, mixed, rows_where
from tests.storage.doctor_oracle import expected
from tests.storage.test_two_processes import finish, go, start

MODEL = "Odd % name"
N_RUNS, LENGTH = 4, 50
FIELD_TABLES = ("experimentconfig", "run", "invocation", "embedding")
pytestmark = pytest.mark.xdist_group("postgres")


@pytest.fixture
def database(url: str) -> Database:
    database = open_database(url, create=True)
    generator = np.random.default_rng(0)
    with database.writing() as connection, Session(connection) as session:
        for number in range(N_RUNS):
            run = Run(network=["a"], seed=number, max_length=LENGTH, initial_prompt="p")
            for step in range(LENGTH):
                vector = 0.3 * generator.standard_normal(8)
                vector[number] += 5
                invocation = Invocation(
                    model="a",
                    type=InvocationType.TEXT,
                    seed=number,
                    run=run,
                    sequence_number=step,
                    output_text=f"run {number} step {step}",
                )
                session.add(Embedding(invocation=invocation, embedding_model=MODEL, vector=vector))
        session.flush()
    return database


def test_clusters_on_postgres_equal_those_of_the_library(database: Database) -> None:
    (outcome,) = cluster_all_data(database)
    assert (outcome.status, outcome.n_embeddings, outcome.n_clusters) == (
        "clustered",
        N_RUNS * LENGTH,
        N_RUNS,
    )
    with database.session() as session:
        rows = session.execute(sa.select(Embedding.id, Embedding.vector).order_by(Embedding.id)).all()
        stored = dict(session.execute(sa.select(EmbeddingCluster.embedding_id, EmbeddingCluster.label)).all())
        medoid = get_medoid_invocation(0, outcome.id, session)
        assert medoid is not None
        medoid_text = medoid.output_text
    expected = hdbscan(np.stack([vector for _, vector in rows]))
    np.testing.assert_array_equal([stored[embedding_id] for embedding_id, _ in rows], expected.labels)
    with database.session() as session:
        row = expected.medoid_indices[0]
        query = sa.select(Invocation.output_text).join(Embedding).where(Embedding.id == rows[row][0])
        assert session.scalar(query) == medoid_text


def test_trees_on_postgres_are_cut_as_on_sqlite(database: Database) -> None:
    (outcome,) = cluster_all_data(database, parameters=ClusteringParameters(min_samples=5))
    with database.session() as session:
        source = find_clustering(session)
        tree = require_tree(session.connection(), source.id, source.record)
        assigned = read_assignments(session.connection(), source.id)
    assert len(tree.height) + 1 == len(assigned.ids) == N_RUNS * LENGTH
    (same, other_summary) = sweep_clustering(
        database, source, Grid(epsilons=[0.4, 2.0], allow_single_cluster=True)
    )
    assert (same.n_clusters, same.ari_stored) == (outcome.n_clusters, 1.0)
    recut = recut_clustering(database, source, Changes(epsilon=2.0, allow_single_cluster=True))
    assert (
        (recut.n_clusters, recut.n_outliers) == (other_summary.n_clusters, other_summary.n_outliers) == (1, 0)
    )
    with database.reading() as connection:
        np.testing.assert_array_equal(read_assignments(connection, source.id).labels, assigned.labels)
        counted = "SELECT count(*), count(medoid_copies) FROM cluster"
        assert connection.execute(sa.text(counted)).one() == (N_RUNS + 1, N_RUNS + 1)
    delete_clusterings(database, [source.id])
    with database.reading() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM clusteringtree")).scalar() == 1


def test_commands_work_on_postgres(url: str, database: Database) -> None:
    runner = CliRunner()
    clustered_result = runner.invoke(main, ["cluster-embeddings", "--json", "--db", url])
    assert clustered_result.exit_code == 0, clustered_result.stderr
    (result,) = json.loads(clustered_result.stdout)["results"]
    shown = runner.invoke(main, ["show-clustering", result["id"][:20], "--json", "--db", url])
    (clustering,) = json.loads(shown.stdout)
    assert (
        sum(cluster["size"] for cluster in clustering["clusters"]) == LENGTH * N_RUNS - result["n_outliers"]
    )
    compared = runner.invoke(main, ["compare-clusterings", "latest", "latest", "--json", "--db", url])
    assert json.loads(compared.stdout)["ari"] == 1.0, compared.stderr
    examined = runner.invoke(main, ["doctor", "--json", "--db", url])
    assert (examined.exit_code, json.loads(examined.stdout)["findings"]) == (0, []), examined.output
    outcome = runner.invoke(main, ["delete-clusterings", "--all", "--yes", "--db", url])
    assert outcome.exit_code == 0
    with database.reading() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM embeddingcluster")).scalar() == 0


def test_trajectories_work_on_postgres(url: str, database: Database) -> None:
    (outcome,) = cluster_all_data(database, downsample=3)
    assert outcome.id is not None
    with database.session() as session:
        clustering = find_clustering(session, str(outcome.id))
        label = dict(session.execute(sa.select(EmbeddingCluster.embedding_id, EmbeddingCluster.label)).all())
        rows = session.execute(
            sa.select(Invocation.run_id, Invocation.sequence_number, Embedding.id)
            .join(Embedding.invocation)
            .order_by(Invocation.run_id, Invocation.sequence_number)
        ).all()
    sampled = [
        (run.hex, number, label[embedding_id]) for run, number, embedding_id in rows if embedding_id in label
    ]
    assert len(sampled) == N_RUNS * 17
    with database.reading() as connection:
        steps = read_steps(connection, clustering)
        texts = list(stream_texts(connection, steps.run_ids))
        medoids = read_medoid_texts(connection, clustering.id, [0])
    runs = [steps.run_ids[number] for number in steps.run_numbers]
    assert list(zip(runs, steps.steps.tolist(), steps.labels.tolist(), strict=True)) == sampled
    ascending = sorted(identity.hex for identity in label)
    by_id = {identity.hex: (run.hex, number) for run, number, identity in rows}
    assert [by_id[ascending[row]] for row in steps.rows] == [sampled_row[:2] for sampled_row in sampled]
    assert [run_texts.steps.tolist() for run_texts in texts] == [list(range(LENGTH))] * N_RUNS
    assert {run_texts.run_id for run_texts in texts} == {run for run, *_ in sampled}
    assert {run_texts.texts[7][-7:] for run_texts in texts} == {" step 7"}
    assert "step" in str(medoids[0])
    with database.reading() as connection:
        of_medoids = read_medoid_ids(connection, clustering.id)
        vectors = require_vectors(
            connection, np.array(list(of_medoids.values()), dtype="S32"), model=clustering.embedding_model
        )
        assert find_medoid_images(connection, clustering.id, of_medoids) == {}
        assert read_image(connection, rows[0][0]) is None
    with database.session() as session:
        for (number, identity), vector in zip(of_medoids.items(), vectors, strict=True):
            stored = session.get_one(Embedding, UUID(identity.decode()))
            assert label[stored.id] == number
            np.testing.assert_array_equal(vector, stored.vector)
    words = ["show-trajectories", str(outcome.id), "--db", url, "--by", "model"]
    shown = CliRunner().invoke(main, [*words, "--json", "--runs"])
    assert shown.exit_code == 0, shown.output
    printed = json.loads(shown.stdout)
    assert [(group["group"], group["n_runs"]) for group in printed["groups"]] == [({"model": "a"}, N_RUNS)]
    assert [(run["n_steps"], run["distinct_texts"]) for run in printed["runs"]] == [(17, LENGTH)] * N_RUNS
    assert CliRunner().invoke(main, words).exit_code == 0


def everything(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """Return all rows except those of panic_tda's tables."""
    tables = (ExperimentConfig, Run, Invocation, Embedding)
    with database.reading() as connection:
        return {
            table.__tablename__: [
                tuple(value.tobytes() if isinstance(value, np.ndarray) else value for value in row)
                for row in connection.execute(sa.select(table.__table__).order_by(table.id))
            ]
            for table in tables
        }


def test_a_dump_on_postgres_is_what_it_is_on_sqlite(database: Database, tmp_path: Path) -> None:
    before = everything(database)
    other_database = open_database(tmp_path / "other.sqlite", create=True)
    part, all_tables = dump_tables(DumpSpec(length=10)), dump_tables()
    part["invocations"] = rows_where(part["invocations"], lambda row: row["sequence_number"] != 4)
    rng = np.random.default_rng(0)
    for tables in (part, all_tables, all_tables):
        shuffled = {name: mixed(table, rng) for name, table in tables.items()}
        summaries = [
            import_tables(tmp_path / "dump", shuffled, target, batch_rows=16)
            for target in (database, other_database)
        ]
        assert summaries[0] == summaries[1]
        after = everything(database)
        assert {name: [row for row in rows if row not in before[name]] for name, rows in after.items()} == (
            everything(other_database)
        )
    # Two embeddings of each of three prompts are among them.
    assert (summaries[0].n_present, summaries[0].n_new_invocations, summaries[0].n_unlinked) == (96, 0, 0)
    (outcome,) = cluster_all_data(database, ["Nomic"])
    with database.session() as session:
        medoid = get_medoid_invocation(0, outcome.id or "", session)
        assert medoid is not None
        assert str(medoid.id) in all_tables["invocations"]["id"]


def test_a_file_with_numbered_rows_added_in_front_keeps_its_run_on_postgres(
    database: Database, tmp_path: Path
) -> None:
    texts = [f"text {row}" for row in range(20)]
    for first in (5, 0, 0):
        vectors = pa.array([[row + 1.0, 1.0] for row in range(first, 20)], pa.list_(pa.float32()))
        columns = {"text": texts[first:], "vector": vectors, "sequence_number": list(range(first, 20))}
        pq.write_table(pa.table(columns), tmp_path / "a.parquet")
        summary = import_embeddings([tmp_path / "a.parquet"], database, model="New")
    assert (summary.n_present, len(everything(database)["run"])) == (20, N_RUNS + 1)


def test_completions_are_read_from_postgres(url: str, database: Database) -> None:
    finished = invented(database)
    with database.writing() as connection:
        save_clustering(connection, finished)
    (clustering_entry,) = read_clustering_entries(url)
    assert (clustering_entry.id, clustering_entry.embedding_model, len(clustering_entry.created_at)) == (
        str(finished.id),
        MODEL,
        16,
    )
    assert read_model_names(url) == [MODEL]


def test_a_plan_on_postgres_is_measured_on_its_rows(url: str, database: Database) -> None:
    words = ["--downsample", "1", "--downsample", "7", "--within", "1h"]
    planned = CliRunner().invoke(main, ["plan-clustering", *words, "--json", "--db", url])
    assert planned.exit_code == 0, planned.stderr
    (model,) = json.loads(planned.stdout)["models"]
    assert [plan["n_rows"] for plan in model["plans"]] == [N_RUNS * LENGTH, N_RUNS * 8]
    assert [plan["measured_rows"] for plan in model["plans"]] == [N_RUNS * LENGTH, N_RUNS * 8]
    assert [plan["measured_runs"] for plan in model["plans"]] == [N_RUNS] * 2
    assert model["smallest_factor_within"] == 1
    census = take_census(database)[MODEL]
    piece = read_row_sample(database, census, downsample=3, n_rows=40)
    with database.session() as session:
        stored = {vector.tobytes() for vector in session.scalars(sa.select(Embedding.vector))}
    assert {vector.tobytes() for vector in piece.vectors} <= stored
    assert 20 <= len(piece.vectors) <= 40


def test_an_unreachable_server_is_an_error_without_password() -> None:
    result = CliRunner().invoke(main, ["list-clusterings", "--db", "postgresql://me:secret@127.0.0.1:9/none"])
    assert result.exit_code == 1
    assert "secret" not in result.stderr


# What two devices do that end at once, after an upgrade where there is one to do.
SAVER = """
import sys
from dataclasses import replace
from pathlib import Path
from panic_tda.storage.write import pending, saving
from panic_tda.storage.database import open_database
from panic_tda.storage.schema.tables import uuid7
from panic_tda.storage.schema.upgrade import upgrade
database, kept = open_database(sys.argv[1]), pending.read_pending(Path(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
upgrade(database)
for _ in range(int(sys.argv[3])):
    one = replace(kept, id=uuid7())
    saving.save_or_write_pending(database, one)
    print(one.id.hex, flush=True)
"""
ROUNDS = 5


def invented(database: Database) -> FinishedClustering:
    with database.session() as session:
        ids = [identity.hex for identity in session.scalars(sa.select(Embedding.id))]
    return make_finished(ids, model=MODEL)


@pytest.mark.parametrize(
    ("isolation", "other_model"), [("read committed", MODEL), ("repeatable read", "Another")]
)
def test_two_processes_that_save_at_once_lose_nothing(
    url: str,
    database: Database,
    isolation: str,
    other_model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    finished = invented(database)
    paths = [
        pending.write_pending(database, replace(finished, id=uuid7(), embedding_model=model))
        for model in (MODEL, other_model)
    ]
    options = {"options": f"-c default_transaction_isolation={isolation.replace(' ', chr(92) + ' ')}"}
    target = make_url(url).update_query_dict(options).render_as_string(hide_password=False)
    savers = [start(SAVER, target, path, ROUNDS) for path in paths]
    go(*savers)
    saved = {identity for saver in savers for identity in finish(saver)}
    assert len(saved) == 2 * ROUNDS
    assert whole_clusterings(database) == saved


def whole_clusterings(database: Database) -> set[str]:
    """Check that all clusterings are complete and have different keys, and return their ids."""
    with database.reading() as connection:
        stored = dict(connection.execute(sa.text("SELECT key, id FROM clusteringresult")).all())
        for table in ("cluster", "embeddingcluster"):
            counts = f"SELECT result_key, count(*) FROM {table} GROUP BY result_key"
            counted = dict(connection.execute(sa.text(counts)).all())
            assert counted.keys() == stored.keys()
            assert len(set(counted.values())) <= 1
    return set(stored.values())


# Deletes whatever is there, until it has seen enough of it.
DELETER = """
import sys
from uuid import UUID
from panic_tda.clustering_manager import list_clusterings
from panic_tda.storage.write import saving
from panic_tda.storage.database import open_database
database = open_database(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
gone = set()
while len(gone) < int(sys.argv[2]):
    with database.session() as session:
        found = [one.id for one in list_clusterings(session)][:2]
    saving.delete_clusterings(database, found)
    gone |= set(found)
print(*(one.hex for one in gone), flush=True)
"""


def test_saving_and_deleting_at_once_leave_whole_clusterings(
    url: str, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = pending.write_pending(database, invented(database))
    savers = [start(SAVER, url, path, ROUNDS) for _ in range(2)]
    deleter = start(DELETER, url, ROUNDS)
    go(*savers, deleter)
    deleted_ids = set(finish(deleter))
    saved = {identity for saver in savers for identity in finish(saver)}
    assert len(deleted_ids) >= ROUNDS
    assert whole_clusterings(database) == saved - deleted_ids


def test_upgrading_and_saving_at_once_lose_nothing(
    url: str, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = pending.write_pending(database, invented(database))
    with database.writing() as connection:
        for statement in (
            "DROP TABLE clusteringtree",
            "ALTER TABLE cluster DROP COLUMN medoid_copies",
            "UPDATE panic_tda_version SET version_num = '0002'",
        ):
            connection.exec_driver_sql(statement)
    savers = [start(SAVER, url, path, 3) for _ in range(2)]
    go(*savers)
    saved = {identity for saver in savers for identity in finish(saver)}
    database.require_current()
    assert len(saved) == 6
    assert whole_clusterings(database) == saved


def test_a_lock_that_another_process_keeps_makes_the_result_a_pending_file(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(connections, "BUSY_TIMEOUT_SECONDS", 0.05)
    finished = invented(database)
    with database.writing() as connection:
        lock_for_saving(connection)
        with pytest.raises(SaveFailed, match=r"another process was saving .* for 0\.05 s"):
            save_or_write_pending(database, finished)
    (path,) = pending.find_pending(database)
    assert path.parent == tmp_path


@pytest.fixture
def reader(url: str, database: Database) -> Iterator[Database]:
    """Return the database for a user with read access and write access to one of three tables."""
    with database.writing() as connection:
        connection.execute(sa.text("CREATE ROLE reader LOGIN PASSWORD 'sesame'"))
        connection.execute(sa.text("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader"))
        connection.execute(sa.text("GRANT INSERT ON clusteringresult TO reader"))
    target = make_url(url).set(username="reader", password="sesame")
    yield open_database(target.render_as_string(hide_password=False))
    with database.writing() as connection:
        connection.execute(sa.text("DROP OWNED BY reader"))
        connection.execute(sa.text("DROP ROLE reader"))


def test_missing_rights_are_found_before_computing(reader: Database) -> None:
    with pytest.raises(DatabaseError, match="permission denied for table cluster"):
        cluster_all_data(reader)


def test_a_hint_shows_no_password_and_no_command_that_lacks_it(
    reader: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SaveFailed) as refusal:
        save_or_write_pending(reader, invented(reader))
    (path,) = tmp_path.iterdir()
    message = str(refusal.value)
    assert message.endswith(
        f"panic-tda save-pending {path} (with PANIC_TDA_DB set to the URL of the database)"
    )
    assert "sesame" not in message
    assert "***" not in message


def tables_of(connection: Connection) -> dict[str, list[dict[str, Any]]]:
    """Return all rows as the doctor's oracle reads them."""
    tables = {}
    for name in (*FIELD_TABLES, "clusteringresult", "cluster", "embeddingcluster"):
        rows = connection.execute(sa.text(f"SELECT * FROM {name}")).mappings().all()
        tables[name] = [
            {key: str(cell) if "_at" in key and cell else cell for key, cell in row.items()} for row in rows
        ]
    return tables


def test_the_doctor_on_postgres_finds_what_the_oracle_finds(url: str, database: Database) -> None:
    for _ in range(2):
        save_or_write_pending(database, invented(database))
    with database.reading() as connection:
        ids = connection.execute(sa.text("SELECT id FROM embedding ORDER BY id")).scalars().all()
        steps = connection.execute(sa.text("SELECT id FROM invocation ORDER BY id")).scalars().all()
    copy = (
        "INSERT INTO embedding (id, invocation_id, embedding_model, vector, started_at) "
        "SELECT '{}', invocation_id, embedding_model, {}, '2030-01-01' FROM embedding WHERE id = '{}'"
    )
    changes = [
        f"UPDATE embedding SET vector = NULL WHERE id IN ('{ids[0]}', '{ids[1]}')",
        f"UPDATE embedding SET vector = decode('0000c07f' || repeat('0', 56), 'hex') WHERE id = '{ids[2]}'",
        f"UPDATE embedding SET vector = decode(repeat('0', 64), 'hex') WHERE id = '{ids[3]}'",
        f"UPDATE embedding SET vector = decode('00', 'hex') WHERE id = '{ids[4]}'",
        copy.format("f" * 32, "vector", ids[5]),
        copy.format("e" * 32, "decode(repeat('01', 32), 'hex')", ids[6]),
        f"DELETE FROM invocation WHERE id = '{steps[7]}'",
        f"UPDATE invocation SET type = 'IMAGE' WHERE id = '{steps[8]}'",
        f"UPDATE invocation SET output_text = NULL WHERE id = '{steps[9]}'",
        f"UPDATE invocation SET run_id = '{'0' * 32}' WHERE id = '{steps[10]}'",
        f"UPDATE invocation SET id = 'short' WHERE id = '{steps[11]}'",
        f"UPDATE run SET experiment_id = '{'0' * 32}', max_length = 99",
        "DELETE FROM clusteringresult WHERE key = 1",
        f"DELETE FROM embedding WHERE id = '{ids[12]}'",
    ]
    unique = "uq_embedding_invocation_id"
    with database.writing() as connection:
        connection.execute(sa.text(f"ALTER TABLE embedding DROP CONSTRAINT {unique}"))
        # As in the field: nobody looks at foreign keys.
        connection.execute(sa.text("SET LOCAL session_replication_role = replica"))
        for change in changes:
            connection.execute(sa.text(change))
    for _ in range(2):
        with database.reading() as connection:
            wanted = expected(tables_of(connection))
        examined = CliRunner().invoke(main, ["doctor", "--limit", "0", "--json", "--db", url])
        printed = json.loads(examined.stdout)
        assert {finding["kind"]: finding["ids"] for finding in printed["findings"]} == wanted
        assert printed["unchecked"] == []
        mended = CliRunner().invoke(main, ["doctor", "--fix", "--yes", "--json", "--db", url])
        fixed = {
            finding["kind"]: (finding["count"], finding["left"])
            for finding in json.loads(mended.stdout)["fixed"]
        }
        n_wanted = {kind: len(wanted.get(kind, [])) for kind in fixed}
        assert {kind: sum(counts) for kind, counts in fixed.items()} == n_wanted
    assert fixed == {
        "duplicate_embedding": (0, 1),
        "orphan_assignment": (0, 0),
        "broken_clustering": (0, 0),
        "damaged_tree": (0, 0),
        "damaged_neighbours": (0, 0),
        "damaged_prediction": (0, 0),
    }
