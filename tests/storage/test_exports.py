"""Compare exported rows with a look-up of each value by itself."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from panic_tda.errors import DatabaseError
from panic_tda.storage.database import Database
from panic_tda.storage.read import exports
from panic_tda.storage.read.assignments import read_assignments
from panic_tda.storage.read.exports import open_rows
from panic_tda.storage.read.results import ClusteringSummary
from panic_tda.storage.read.row_streams import METADATA_KEY, with_dashes
from panic_tda.storage.read.vectors_by_id import read_vectors
from tests.conftest import MakeFile
from tests.exported import COLUMNS, clustered, expected_core_distances, expected_rows, stored_vectors
from tests.field_files import EVERYTHING, FieldSpec
from tests.storage.test_query_plans import (
    IMAGE_BYTES,
    SPECS,
    cost,
    plan,
    queries,
    scans_rows,
    statements,
)

pytestmark = pytest.mark.both_engines

PLAIN = FieldSpec(vision_models=("NomicVision",))


def streamed(database: Database, clustering: ClusteringSummary, **options: Any) -> pa.Table:
    with open_rows(database, clustering, **options) as rows:
        table = pa.Table.from_batches(rows.batches, rows.schema)
    assert table.num_rows == rows.n_rows
    table.validate(full=True)
    return table


def plain_rows(table: pa.Table) -> list[dict[str, Any]]:
    return table.drop_columns(["core_distance"]).to_pylist()


@pytest.mark.parametrize("model", ["Nomic", "NomicVision"])
@pytest.mark.parametrize("downsample", [1, 3])
@pytest.mark.parametrize(
    "spec",
    [PLAIN, EVERYTHING, replace(EVERYTHING, digit_ids=True, migrated=False)],
    ids=["plain", "all", "digits"],
)
def test_rows_equal_those_of_single_queries(
    upgraded: MakeFile, spec: FieldSpec, model: str, downsample: int
) -> None:
    file = upgraded(spec)
    clustering = clustered(file.database, model, downsample)
    table = streamed(file.database, clustering)
    assert tuple(table.column_names) == COLUMNS
    rows = expected_rows(file.target, clustering.id)
    assert len(rows) > 5
    assert any(row["is_medoid"] for row in rows)
    if model == "Nomic" and downsample == 1:
        assert -1 in {row["label"] for row in rows}
    assert plain_rows(table) == rows
    record = clustering.record
    core_distances = expected_core_distances(file.target, rows, record.min_samples, record.distance_floor)
    np.testing.assert_allclose(table["core_distance"].to_numpy(), core_distances, rtol=1e-6, atol=1e-6)


def test_rows_of_the_real_file_equal_those_of_single_queries(real_file: Database) -> None:
    clustering = clustered(real_file, "Nomic", downsample=2)
    assert real_file.path is not None
    rows = expected_rows(real_file.path, clustering.id)
    assert len(rows) > 400
    assert plain_rows(streamed(real_file, clustering)) == rows


def test_the_batch_size_does_not_change_the_rows(upgraded: MakeFile, monkeypatch: pytest.MonkeyPatch) -> None:
    file = upgraded()
    clustering = clustered(file.database, "Nomic")
    all_rows = streamed(file.database, clustering, with_vectors=True)
    monkeypatch.setattr(exports, "BATCH_ROWS", 7)
    with open_rows(file.database, clustering, with_vectors=True) as rows:
        batches = list(rows.batches)
    assert {batch.num_rows for batch in batches[:-1]} == {7}
    assert pa.Table.from_batches(batches).equals(all_rows)
    # Large rows come in fewer; their ids and texts count too.
    monkeypatch.setattr(exports, "BATCH_BYTES", 3 * 8 * 4)
    with open_rows(file.database, clustering, with_vectors=True) as rows:
        first = next(rows.batches)
    assert first.num_rows == 1


def test_vectors_are_those_stored(upgraded: MakeFile) -> None:
    file = upgraded(EVERYTHING)
    clustering = clustered(file.database, "Nomic")
    table = streamed(file.database, clustering, with_vectors=True)
    assert table.schema.field("vector").type == pa.list_(pa.float32(), 8)
    rows = plain_rows(table)
    vectors = np.array(table["vector"].to_pylist(), dtype="<f4")
    np.testing.assert_array_equal(vectors, stored_vectors(file.target, rows))


def test_the_schema_names_the_clustering(upgraded: MakeFile) -> None:
    file = upgraded()
    clustering = clustered(file.database, "Nomic")
    metadata = json.loads(streamed(file.database, clustering).schema.metadata[METADATA_KEY.encode()])
    assert metadata["clustering"] == str(clustering.id)
    assert metadata["embedding_model"] == "Nomic"
    with file.opened() as connection:
        ((stored,),) = connection.execute("SELECT parameters FROM clusteringresult")
    assert metadata["parameters"] == json.loads(stored)
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", metadata["version"])


def test_deleted_rows_are_null(upgraded: MakeFile, caplog: pytest.LogCaptureFixture) -> None:
    file = upgraded()
    clustering = clustered(file.database, "Nomic")
    before = expected_rows(file.target, clustering.id)
    plain = [row for row in before if not row["is_medoid"]]
    first, second, third, fourth = (
        {name: str(row[name]).replace("-", "") for name in ("embedding_id", "invocation_id", "run_id")}
        for row in (plain[0], plain[10], plain[20], plain[-1])
    )
    assert len({row["run_id"] for row in (first, second, third, fourth)}) > 2
    # Other programs enforce no foreign keys.
    with file.opened() as connection:
        connection.execute("DELETE FROM embedding WHERE id = ?", (first["embedding_id"],))
        connection.execute("DELETE FROM invocation WHERE id = ?", (second["invocation_id"],))
        connection.execute("DELETE FROM run WHERE id = ?", (fourth["run_id"],))
        connection.execute("UPDATE embedding SET vector = x'00' WHERE id = ?", (third["embedding_id"],))
    rows = expected_rows(file.target, clustering.id)
    assert [row["text"] for row in rows].count(None) == 2
    with caplog.at_level(logging.WARNING):
        table = streamed(file.database, clustering, with_vectors=True)
    assert plain_rows(table.drop_columns(["vector"])) == rows
    assert table["core_distance"].null_count == 0
    ids = table["embedding_id"].to_pylist()
    missing = [
        ids[row].replace("-", "") for row, vector in enumerate(table["vector"].to_pylist()) if vector is None
    ]
    assert missing == [first["embedding_id"], third["embedding_id"]]
    assert f"2 of {len(ids)} vectors were deleted, or do not have 8 values; they are null" in caplog.text


def test_core_distances_are_null_if_embeddings_were_deleted(
    upgraded: MakeFile, caplog: pytest.LogCaptureFixture
) -> None:
    file = upgraded()
    clustering = clustered(file.database, "Nomic")
    n_rows = clustering.record.n_embeddings
    with file.opened() as connection:
        connection.execute(
            "DELETE FROM embeddingcluster "
            "WHERE embedding_id = (SELECT min(embedding_id) FROM embeddingcluster)"
        )
    with caplog.at_level(logging.WARNING):
        assert streamed(file.database, clustering)["core_distance"].null_count == n_rows - 1
    assert f"there are {n_rows} for {n_rows - 1} assignments" in caplog.text
    with file.opened() as connection:
        connection.execute("UPDATE clusteringtree SET data = x'00'")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert streamed(file.database, clustering)["core_distance"].null_count == n_rows - 1
    assert re.search("core distances are null: damaged tree of clustering ", caplog.text)
    # A clustering of an earlier version has none, and that is no fault.
    with file.opened() as connection:
        connection.execute("DELETE FROM clusteringtree")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert streamed(file.database, clustering)["core_distance"].null_count == n_rows - 1
    assert "core distances" not in caplog.text
    assert f"1 of {n_rows} rows of clustering {clustering.id} have no assignment" in caplog.text


@pytest.mark.sqlite_only("JSON that is none")
def test_every_spelling_of_a_network_is_written_the_same(upgraded: MakeFile) -> None:
    file = upgraded()
    clustering = clustered(file.database, "Nomic")
    written = ('["SDXLTurbo","BLIP2"]', '[ "SDXLTurbo", "BLIP2" ]', "no JSON", '["\\u98a8", "\\ud800"]')
    with file.opened() as connection:
        for run, network in zip(sorted(file.facts.runs), written, strict=True):
            connection.execute("UPDATE run SET network = ? WHERE id = ?", (network, run))
    rows = streamed(file.database, clustering)["network"].unique().to_pylist()
    assert sorted(rows) == sorted(['["SDXLTurbo", "BLIP2"]', "no JSON", written[3]])
    with file.opened() as connection:
        connection.execute("UPDATE run SET network = ?", ('["\\u98a8"]',))
    assert streamed(file.database, clustering)["network"].unique().to_pylist() == ['["風"]']


@pytest.mark.sqlite_only("columns of any length")
def test_invalid_ids_are_written_unchanged(upgraded: MakeFile) -> None:
    ids = ["06888680501e75097830817616369915", "inf", "06888680501E75097830817616369915", "", None, "0" * 33]
    assert with_dashes(pa.array(ids)).to_pylist() == ["06888680-501e-7509-7830-817616369915", *ids[1:]]
    file = upgraded()
    clustering = clustered(file.database, "Nomic")
    with file.opened() as connection:
        connection.execute("UPDATE run SET experiment_id = 1e400")
        connection.execute("UPDATE embedding SET invocation_id = x'ff00'")
    table = streamed(file.database, clustering)
    assert table["invocation_id"].unique().to_pylist() == [str(b"\xff\x00")]
    assert table["run_id"].null_count == table.num_rows


@pytest.mark.sqlite_only("columns of any type")
def test_an_invalid_number_is_refused(upgraded: MakeFile) -> None:
    file = upgraded()
    clustering = clustered(file.database, "Nomic")
    with file.opened() as connection:
        connection.execute("UPDATE run SET seed = 'many'")
    with pytest.raises(DatabaseError, match=r"table run, column seed, row [0-9a-f-]+: .*many"):
        streamed(file.database, clustering)


@pytest.mark.sqlite_only("columns of any type")
def test_an_invalid_text_is_refused(upgraded: MakeFile) -> None:
    file = upgraded()
    clustering = clustered(file.database, "Nomic")
    with file.opened() as connection:
        # Half of a surrogate pair, as no Python program could have written it.
        connection.execute("UPDATE invocation SET output_text = CAST(x'61eda080' AS TEXT)")
    with pytest.raises(DatabaseError, match=r"column output_text, row [0-9a-f-]+: .* is not text in UTF-8"):
        streamed(file.database, clustering)


@pytest.mark.sqlite_only("its plans")
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_no_query_scans_or_sorts_rows(upgraded: MakeFile, spec: FieldSpec) -> None:
    file = upgraded(spec)
    summaries = [clustered(file.database, model) for model in ("Nomic", "NomicVision")]
    with statements() as executed:
        for clustering in summaries:
            streamed(file.database, clustering, with_vectors=True)
            with file.database.reading() as connection:
                ids = read_assignments(connection, clustering.id).ids
                assert np.isfinite(read_vectors(connection, ids, dimensions=8)).all()
    selects = queries(executed)
    assert any("ORDER BY embeddingcluster.embedding_id" in sql for sql in selects)
    with file.opened() as connection:
        plans = {sql: plan(connection, sql) for sql in selects}
    assert not [step for steps in plans.values() for step in steps if scans_rows(step)]
    assert not [step for steps in plans.values() for step in steps if step.startswith("SCAN step")]
    assert not [step for steps in plans.values() for step in steps if "TEMP B-TREE" in step]


@pytest.mark.sqlite_only("its pages")
@pytest.mark.parametrize("migrated", [False, True])
def test_images_are_not_read(upgraded: MakeFile, migrated: bool) -> None:
    """In migrated files the name of the model that wrote an image may lie behind the image."""
    spec = FieldSpec(
        layout=0,
        runs=3,
        length=200,
        vision_models=("NomicVision",),
        image_bytes=IMAGE_BYTES,
        migrated=migrated,
    )
    file = upgraded(spec)
    clustering = clustered(file.database, "NomicVision")
    with file.opened() as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    size = file.path.stat().st_size
    assert size > 300 * IMAGE_BYTES
    full_cost, _ = cost(file.path, file.path.read_bytes)
    if full_cost < size:
        pytest.skip("the file cannot be made to come from the disk here (a file system in memory?)")
    tables: list[pa.Table] = []
    with statements() as executed:
        n_read, _ = cost(file.path, lambda: tables.append(streamed(file.database, clustering)))
    assert set(tables[0]["model"].to_pylist()) == {"SDXLTurbo"}
    assert len([sql for sql in executed if sql.startswith("SELECT invocation.model")]) == 3
    # One image a run, where it lies before what is looked up, and as much again that is read ahead.
    assert n_read < 0.25 * size
