"""Test that the spanning tree is stored with its clustering and read back unchanged."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import ipc

from panic_tda import clustering_manager
from panic_tda.clustering import hierarchy
from panic_tda.errors import BadInput, DatabaseError
from panic_tda.files.importing import import_embeddings
from panic_tda.parameters import Resources
from panic_tda.storage.database import Database, open_database
from panic_tda.storage.doctor import examine_database, plan_repairs, repair
from panic_tda.storage.read import trees
from panic_tda.storage.read.assignments import read_assignments
from panic_tda.storage.read.results import find_clustering, get_cluster_details
from panic_tda.storage.write import pending
from panic_tda.storage.write import trees as written
from panic_tda.storage.write.recovery import save_pending
from panic_tda.storage.write.saving import delete_clusterings, save_clustering
from panic_tda.types import FinishedClustering, SpanningTree
from tests.conftest import MakeFile, ids_of, make_finished
from tests.snapshots import opened

pytestmark = pytest.mark.both_engines

SAMPLE = Path(__file__).parents[2] / "panic_tda" / "sample"


def random_tree(n: int, seed: int = 0) -> SpanningTree:
    rng = np.random.default_rng(seed)
    u, v = rng.integers(0, np.arange(1, n)), np.arange(1, n)
    height = rng.choice([0.25, 0.5, rng.random()], n - 1)
    # No edge is shorter than the core distances of its ends.
    cores = rng.random(n)
    np.minimum.at(cores, u, height)
    np.minimum.at(cores, v, height)
    return SpanningTree(
        u=u,
        v=v,
        height=height,
        core_distances=cores,
        tie_tolerance=1e-6,
    )


def edges_of(tree: SpanningTree) -> list[tuple[float, int, int]]:
    return sorted(zip(tree.height.tolist(), tree.u.tolist(), tree.v.tolist(), strict=True))


def with_tree(file_ids: list[str], seed: int = 0) -> FinishedClustering:
    finished = make_finished(file_ids, seed=seed)
    copies = dict.fromkeys(finished.medoids, 2)
    return replace(finished, tree=random_tree(len(file_ids), seed), medoid_copies=copies)


def assert_is_tree(tree: SpanningTree | None, expected: SpanningTree | None) -> None:
    assert tree is not None
    assert expected is not None
    assert edges_of(tree) == edges_of(expected)
    assert (tree.u.dtype, tree.v.dtype, tree.height.dtype) == (np.int64, np.int64, np.float64)
    np.testing.assert_array_equal(tree.core_distances, expected.core_distances)
    assert tree.tie_tolerance == expected.tie_tolerance


@pytest.mark.parametrize("rows_of_a_part", [1, 7, 10_000])
def test_a_tree_is_read_back_unchanged(
    upgraded: MakeFile, monkeypatch: pytest.MonkeyPatch, rows_of_a_part: int
) -> None:
    monkeypatch.setattr(trees, "PART_ROWS", rows_of_a_part)
    file = upgraded()
    first, second = (with_tree(ids_of(file), seed) for seed in (1, 2))
    without = make_finished(ids_of(file), seed=3)
    with file.database.writing() as connection:
        for finished in (first, second, without):
            save_clustering(connection, finished)
    with file.database.reading() as connection:
        for finished in (first, second):
            assert_is_tree(trees.read_tree(connection, finished.id), finished.tree)
            np.testing.assert_array_equal(
                trees.read_core_distances(connection, finished.id), finished.tree.core_distances
            )
        assert trees.read_tree(connection, without.id) is None
        assert trees.read_core_distances(connection, without.id) is None


def test_a_part_is_no_larger_than_its_limit(tmp_path: Path) -> None:
    # Random numbers do not compress.
    rng = np.random.default_rng(0)
    n = trees.PART_ROWS + 1000
    tree = SpanningTree(
        rng.integers(0, 2**31 - 1, n - 1), rng.integers(0, 2**31 - 1, n - 1), rng.random(n - 1), rng.random(n)
    )
    parts = [len(part) for part in written.serialize_parts(written.as_table(tree), trees.PART_ROWS)]
    assert len(parts) == 2
    assert max(parts) <= trees.PART_BYTES


def test_a_tree_is_deleted_with_its_clustering(upgraded: MakeFile) -> None:
    file = upgraded()
    first, second = (with_tree(ids_of(file), seed) for seed in (1, 2))
    with file.database.writing() as connection:
        save_clustering(connection, first)
        save_clustering(connection, second)
    delete_clusterings(file.database, [first.id])
    with file.opened() as connection:
        keys = connection.execute("SELECT DISTINCT result_key FROM clusteringtree").fetchall()
        assert keys == connection.execute("SELECT key FROM clusteringresult").fetchall() != []


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ("UPDATE clusteringtree SET data = x'00' WHERE part = 1", ""),
        ("UPDATE clusteringtree SET data = 'text' WHERE part = 1", ""),
        ("UPDATE clusteringtree SET data = substr(data, 1, 200) WHERE part = 1", ""),
        ("DELETE FROM clusteringtree WHERE part = 1", "part 1 is missing"),
        (
            "UPDATE clusteringtree SET data = (SELECT data FROM clusteringtree WHERE part = 3) "
            "WHERE part = 1",
            "incomplete|missing",
        ),
    ],
)
def test_a_damaged_tree_is_named(
    upgraded: MakeFile, monkeypatch: pytest.MonkeyPatch, statement: str, fault: str
) -> None:
    file = upgraded()
    finished = with_tree(ids_of(file))
    monkeypatch.setattr(trees, "PART_ROWS", (len(finished.ids) - 1) // 3)
    with file.database.writing() as connection:
        save_clustering(connection, finished)
    with file.opened() as connection:
        connection.execute(statement)
    with (
        file.database.reading() as connection,
        pytest.raises(DatabaseError, match=f"damaged tree of clustering {finished.id} .*({fault})"),
    ):
        trees.read_tree(connection, finished.id)


def test_a_pending_file_contains_its_tree(upgraded: MakeFile) -> None:
    file = upgraded()
    finished = with_tree(ids_of(file))
    path = pending.write_pending(file.database, finished)
    pending_result = pending.read_pending(path)
    assert_is_tree(pending_result.tree, finished.tree)
    assert pending_result.medoid_copies == finished.medoid_copies
    save_pending(file.database)
    with file.database.reading() as connection:
        assert_is_tree(trees.read_tree(connection, finished.id), finished.tree)


def test_a_pending_file_with_an_incomplete_tree_is_refused(upgraded: MakeFile) -> None:
    file = upgraded()
    path = pending.write_pending(file.database, with_tree(ids_of(file)))
    content = path.read_bytes()
    # The Arrow file ends where the mark begins; the digest of both is behind the mark.
    table = ipc.open_file(content[: content.rindex(pending.MARK)]).read_all()
    holes = pa.array([None] * table.num_rows, pa.int32())
    damaged = table.set_column(table.column_names.index("u"), "u", holes)
    arrow = pa.BufferOutputStream()
    with ipc.new_file(arrow, damaged.schema) as writer:
        writer.write_table(damaged)
    content = arrow.getvalue().to_pybytes() + pending.MARK
    path.write_bytes(content + hashlib.blake2b(content, digest_size=pending.DIGEST_BYTES).digest())
    with pytest.raises(BadInput, match="a value of its tree is missing"):
        pending.read_pending(path)


def test_deleted_embeddings_make_the_pending_tree_unusable(upgraded: MakeFile) -> None:
    file = upgraded()
    finished = with_tree(ids_of(file))
    pending.write_pending(file.database, finished)
    with file.opened() as connection:
        connection.execute("DELETE FROM embedding WHERE id = ?", (finished.ids[0].decode(),))
    ((saved),) = save_pending(file.database)
    assert saved.n_vanished == 1
    with file.database.session() as session:
        assert trees.read_tree(session.connection(), finished.id) is None
        # Nobody counted these anew: they are looked up.
        details = get_cluster_details(finished.id, session)
        assert all(
            detail.medoid_copies is not None and detail.medoid_copies < detail.size for detail in details
        )


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Database:
    database = open_database(tmp_path_factory.mktemp("sample") / "sample.sqlite", create=True)
    import_embeddings(sorted(SAMPLE.glob("*.parquet")), database)
    return database


@pytest.mark.parametrize("backend", ["tiled", "sklearn"])
def test_the_stored_tree_gives_the_stored_clusters(sample: Database, backend: str) -> None:
    parameters = clustering_manager.ClusteringParameters(backend=backend)
    (outcome,) = clustering_manager.cluster_all_data(sample, ["MiniLM"], parameters=parameters)
    assert outcome.id is not None
    with sample.session() as session:
        record = find_clustering(session, str(outcome.id)).record
        tree = trees.read_tree(session.connection(), outcome.id)
        stored = read_assignments(session.connection(), outcome.id)
        details = get_cluster_details(outcome.id, session)
        texts = {detail.label: detail.medoid_text for detail in details}
    assert tree is not None
    flat = hierarchy.relabel_by_size(hierarchy.extract_clusters(tree, record))
    np.testing.assert_array_equal(flat.labels, stored.labels)
    np.testing.assert_array_equal(flat.probabilities, stored.probabilities)
    with opened(sample.path) as connection:
        query = """
            SELECT a.label, count(*) FROM clusteringresult r JOIN embeddingcluster a ON a.result_key = r.key
            JOIN embedding e ON e.id = a.embedding_id JOIN invocation i ON i.id = e.invocation_id
            JOIN cluster c ON c.result_key = r.key AND c.label = a.label
            JOIN embedding m ON m.id = c.medoid_embedding_id JOIN invocation n ON n.id = m.invocation_id
            WHERE r.id = ? AND n.output_text = i.output_text GROUP BY a.label"""
        by_text = dict(connection.execute(query, (outcome.id.hex,)).fetchall())
        stored_copies = dict(
            connection.execute(
                "SELECT label, medoid_copies FROM cluster WHERE result_key = (SELECT key FROM "
                "clusteringresult WHERE id = ?)",
                (outcome.id.hex,),
            ).fetchall()
        )
    assert len(texts) > 10
    assert stored_copies == by_text == {detail.label: detail.medoid_copies for detail in details}
    assert max(by_text.values()) > 5


def test_core_distances_are_those_of_all_rows(sample: Database) -> None:
    kinds = []
    for backend in ("tiled", "sklearn"):
        parameters = clustering_manager.ClusteringParameters(backend=backend, min_samples=7)
        (outcome,) = clustering_manager.cluster_all_data(sample, ["LSA"], parameters=parameters, downsample=3)
        assert outcome.id is not None
        with sample.reading() as connection:
            cores = trees.read_core_distances(connection, outcome.id)
            ids = read_assignments(connection, outcome.id).ids
        assert cores is not None
        kinds.append(cores)
    with opened(sample.path) as connection:
        stored = dict(connection.execute("SELECT id, vector FROM embedding WHERE embedding_model = 'LSA'"))
    rows = np.stack(
        [np.frombuffer(stored[embedding_id.decode()], dtype="<f4") for embedding_id in ids]
    ).astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1)[:, None]
    differences = rows[:, None, :] - rows[None, :, :]
    expected = np.sort(np.linalg.norm(differences, axis=2), axis=1)[:, 6]
    for cores in kinds:
        np.testing.assert_allclose(cores, np.maximum(expected, 1e-3), rtol=1e-6, atol=1e-9)


def test_no_tree_is_stored_if_not_requested(sample: Database) -> None:
    (outcome,) = clustering_manager.cluster_all_data(
        sample, ["MiniLM"], downsample=10, resources=Resources(keep_tree=False)
    )
    assert outcome.id is not None
    with sample.reading() as connection:
        assert trees.read_tree(connection, outcome.id) is None
        assert len(read_assignments(connection, outcome.id).ids) == outcome.n_embeddings


def with_value(tree: SpanningTree, name: str, value: float) -> SpanningTree:
    """Return a tree in which the first number of an array is changed."""
    array = getattr(tree, name).copy()
    array[0] = value
    return replace(tree, **{name: array})


def with_cycle(tree: SpanningTree) -> SpanningTree:
    """Return a tree with one edge twice and another edge missing."""
    return replace(tree, u=np.append(tree.u[:-1], tree.u[0]), v=np.append(tree.v[:-1], tree.v[0]))


FORGERIES: dict[str, tuple[Callable[[SpanningTree], SpanningTree], str]] = {
    "NaN core distance": (lambda tree: with_value(tree, "core_distances", np.nan), "core distance"),
    "infinite core distance": (lambda tree: with_value(tree, "core_distances", np.inf), "core distance"),
    "negative core distance": (lambda tree: with_value(tree, "core_distances", -0.1), "core distance"),
    "core distance above 2": (lambda tree: with_value(tree, "core_distances", 2.1), "core distance"),
    "NaN height": (lambda tree: with_value(tree, "height", np.nan), "height"),
    "negative height": (lambda tree: with_value(tree, "height", -0.1), "height"),
    "infinite height": (lambda tree: with_value(tree, "height", np.inf), "height"),
    "short edge": (
        lambda tree: replace(tree, core_distances=np.full_like(tree.core_distances, 1.5)),
        "shorter than the core distance",
    ),
    "row below all": (lambda tree: with_value(tree, "u", -1), "joins rows -1"),
    "row beyond all": (lambda tree: with_value(tree, "v", 10**6), "to 1000000 of"),
    "cycle": (with_cycle, "do not join all rows"),
    "loop": (lambda tree: with_value(tree, "u", int(tree.v[0])), "do not join all rows"),
    "infinite tolerance": (lambda tree: replace(tree, tie_tolerance=np.inf), "tolerance"),
    "negative tolerance": (lambda tree: replace(tree, tie_tolerance=-1e-9), "tolerance"),
    "NaN tolerance": (lambda tree: replace(tree, tie_tolerance=np.nan), "tolerance"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_an_invalid_tree_is_refused_found_and_removed(upgraded: MakeFile, name: str) -> None:
    forge, fault = FORGERIES[name]
    file = upgraded()
    finished = with_tree(ids_of(file))
    assert finished.tree is not None
    forged = replace(finished, tree=forge(finished.tree))
    with file.database.writing() as connection:
        save_clustering(connection, forged)
    with file.database.session() as session:
        source = find_clustering(session)
    with file.database.reading() as connection:
        with pytest.raises(DatabaseError, match=f"damaged tree of clustering {forged.id} .*{fault}.*again"):
            trees.require_tree(connection, forged.id, source.record)
        if "core distance" in name:
            with pytest.raises(DatabaseError, match=fault):
                trees.read_core_distances(connection, forged.id)
    findings = {
        finding.kind: finding for finding in examine_database(file.database, ["damaged_tree"]).findings
    }
    assert findings["damaged_tree"].ids == (str(forged.id),)
    assert repair(file.database, plan_repairs(file.database, ["damaged_tree"])) == [1]
    with file.database.reading() as connection:
        assert trees.read_tree(connection, forged.id) is None
        assert len(read_assignments(connection, forged.id).ids) == len(forged.ids)
    assert examine_database(file.database, ["damaged_tree"]).findings == ()


def test_the_order_of_edges_does_not_matter(upgraded: MakeFile) -> None:
    file = upgraded()
    finished = with_tree(ids_of(file))
    assert finished.tree is not None
    order = np.random.default_rng(1).permutation(len(finished.tree.height))
    shuffled = pa.concat_tables(
        [written.as_table(finished.tree).take(order), written.as_table(finished.tree)[-1:]]
    )
    table = written.as_table(finished.tree)
    columns = {name: table.column(name) for name in table.column_names}
    for name in ("u", "v", "height"):
        columns[name] = shuffled.column(name)
    tree = trees.as_tree(pa.table(columns).replace_schema_metadata(table.schema.metadata))
    assert_is_tree(tree, finished.tree)
