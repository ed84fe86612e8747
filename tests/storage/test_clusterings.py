"""Test that a stored clustering is read part by part, each once, and usable after the transaction."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from panic_tda.errors import NoTree
from panic_tda.storage.cells import read_distinct_values, row_locator
from panic_tda.storage.read.assignments import read_assignments
from panic_tda.storage.read.clusterings import find_stored, open_clustering
from panic_tda.storage.read.medoids import read_medoid_ids
from panic_tda.storage.read.results import ClusteringSummary, get_cluster_details
from panic_tda.storage.read.trajectories import RunTexts, read_steps, stream_texts
from panic_tda.storage.schema.tables import Embedding, EmbeddingCluster
from panic_tda.storage.write.saving import save_clustering
from tests.conftest import MakeFile, UpgradedFile, ids_of, make_finished
from tests.snapshots import run_python


def save_one(file: UpgradedFile) -> ClusteringSummary:
    with file.database.writing() as connection:
        save_clustering(connection, make_finished(ids_of(file)))
    return find_stored(file.database, "latest")[1]


@pytest.mark.both_engines
def test_parts_equal_what_the_functions_read(upgraded: MakeFile) -> None:
    file = upgraded()
    summary = save_one(file)
    first, second = list[RunTexts](), list[RunTexts]()
    with open_clustering(file.database, summary) as stored:
        steps, runs = stored.steps, stored.runs
        medoids, clusters, invocations = stored.medoids, stored.clusters, stored.invocations
        stored.read_texts(first.append, second.append)
        vectors = stored.read_vectors(np.array([7, 2]))
        texts = stored.read_medoid_texts(medoids)
        with pytest.raises(NoTree, match="no spanning tree"):
            _ = stored.tree
    ids = stored.assignments.ids
    with file.database.reading() as connection:
        expected = read_assignments(connection, summary.id)
        np.testing.assert_array_equal(ids, expected.ids)
        np.testing.assert_array_equal(stored.assignments.labels, expected.labels)
        assert {label: ids[row] for label, row in medoids.items()} == read_medoid_ids(connection, summary.id)
        np.testing.assert_array_equal(steps.rows, read_steps(connection, summary).rows)
        of_runs = list(stream_texts(connection, steps.run_ids))
    with file.database.session() as session:
        assert clusters == get_cluster_details(summary.id, session)
    assert texts == {cluster.label: cluster.medoid_text for cluster in clusters}
    assert [(run.run_id, run.texts) for run in first] == [(run.run_id, run.texts) for run in of_runs] != []
    assert first == second
    assert set(runs) == set(file.facts.runs)
    invocation_of = {
        embedding.id: embedding.invocation.id for embedding in file.facts.embeddings if embedding.invocation
    }
    assert invocations.tolist() == [invocation_of[embedding_id.decode()].encode() for embedding_id in ids]
    by_id = {embedding.id: embedding.vector for embedding in file.facts.embeddings}
    np.testing.assert_array_equal(vectors, np.array([by_id[ids[row].decode()] for row in (7, 2)]))


@pytest.mark.sqlite_only("what a connection was asked")
@pytest.mark.parametrize("steps_first", [True, False])
def test_every_part_is_read_once(upgraded: MakeFile, steps_first: bool) -> None:
    file = upgraded()
    summary = save_one(file)
    statements: list[str] = []
    with open_clustering(file.database, summary) as stored:
        driver: Any = stored.connection.connection.driver_connection
        driver.set_trace_callback(statements.append)
        for part in ("steps", "assignments") if steps_first else ("assignments", "steps"):
            getattr(stored, part)
        passes = [text for text in statements if "embeddingcluster.probability" in text]
        # Who asks for the steps first has the assignments with them.
        assert len(passes) == (1 if steps_first else 2)
        _ = stored.medoids, stored.clusters
        n_statements = len(statements)
        _ = stored.steps, stored.assignments, stored.medoids, stored.clusters
        assert len(statements) == n_statements > len(passes)
    assert len(stored.steps.rows) == len(stored.assignments.ids) == summary.record.n_embeddings
    assert len(stored.clusters) == len(stored.medoids) == summary.record.n_clusters


@pytest.mark.both_engines
def test_an_index_is_walked_from_value_to_value(upgraded: MakeFile) -> None:
    file = upgraded()
    save_one(file)
    with file.database.reading() as connection:
        models = list(read_distinct_values(connection, Embedding.embedding_model))
        labels = list(read_distinct_values(connection, EmbeddingCluster.label, EmbeddingCluster.label > 1))
        table = Embedding.__table__
        query = sa.select(row_locator(connection, table)).select_from(table)
        locators = connection.execute(query).scalars().all()
    assert models == sorted({embedding.model for embedding in file.facts.embeddings})
    assert labels == [2, 3]
    assert len(set(locators)) == len(file.facts.embeddings)


def test_the_reader_imports_no_compiler(unmeasured: None) -> None:
    code = "import sys, panic_tda.storage.read.clusterings; print(*sys.modules)"
    loaded = run_python(code).stdout.split()
    assert "panic_tda.storage.read.trajectories" in loaded
    assert not {"numba", "panic_tda.storage.read.trees"} & set(loaded)
