"""Test that neighbour lists are stored with a clustering, read back unchanged, and checked when read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from panic_tda.clustering.backends.base import FitOptions
from panic_tda.clustering.placement import Placement
from panic_tda.clustering.recipe import cluster_rows
from panic_tda.clustering.tiled.engine import TiledBackend
from panic_tda.errors import DatabaseError, NoTree
from panic_tda.parameters import ClusteringParameters
from panic_tda.progress import Silent
from panic_tda.storage.database import open_database
from panic_tda.storage.doctor import examine_database, plan_repairs, repair
from panic_tda.storage.read import neighbour_graphs, trees
from panic_tda.storage.read.results import find_clustering
from panic_tda.storage.write import pending
from panic_tda.storage.write.copying import copy_database
from panic_tda.storage.write.saving import delete_clusterings, save_clustering
from panic_tda.types import FinishedClustering, NeighbourLists, SpanningTree
from tests.conftest import MakeFile, ids_of, make_finished
from tests.datasets import unit_rows
from tests.storage.test_trees import assert_is_tree

pytestmark = pytest.mark.both_engines
K = 8


def with_graph(file_ids: list[str]) -> FinishedClustering:
    """Return a clustering with the tree and the lists of random rows, a fifth of them copies."""
    n = len(file_ids)
    rng = np.random.default_rng(n)
    rows = unit_rows(rng.normal(size=(n, 6)))
    rows[rng.permutation(n)[: n // 5]] = rows[0]
    placement = Placement(
        backend=TiledBackend(),
        options=FitOptions(min_samples=2, distance_floor=0.0, keep_neighbours=K),
        rows_on_device=False,
    )
    parameters = ClusteringParameters(min_samples=3, min_cluster_size=2)
    clustering = cluster_rows(rows, parameters, Silent(), placement=placement)
    finished = make_finished(file_ids)
    record = replace(finished.record, keep_neighbours=K, min_samples=3)
    return replace(finished, tree=clustering.tree, graph=clustering.graph, record=record)


def assert_is_graph(actual: SpanningTree | None, expected: SpanningTree | None) -> None:
    assert_is_tree(actual, expected)
    assert actual is not None
    assert expected is not None
    assert actual.neighbours is not None
    assert expected.neighbours is not None
    assert actual.neighbours.min_samples == expected.neighbours.min_samples
    for name in ("rows", "distances", "originals"):
        stored, expected_values = getattr(actual.neighbours, name), getattr(expected.neighbours, name)
        assert stored.dtype == expected_values.dtype
        np.testing.assert_array_equal(stored, expected_values)


@pytest.mark.parametrize("part_bytes", [100, 1000, trees.PART_BYTES])
def test_lists_are_read_back_unchanged(
    upgraded: MakeFile, monkeypatch: pytest.MonkeyPatch, part_bytes: int
) -> None:
    monkeypatch.setattr(trees, "PART_BYTES", part_bytes)
    file = upgraded()
    finished, without = with_graph(ids_of(file)), replace(with_graph(ids_of(file)), graph=None)
    without = replace(without, id=make_finished(ids_of(file)).id)
    with file.database.writing() as connection:
        save_clustering(connection, finished)
        save_clustering(connection, without)
    with file.database.reading() as connection:
        assert_is_graph(neighbour_graphs.read_graph(connection, finished.id), finished.graph)
        # Trees are read without their lists.
        assert_is_tree(trees.read_tree(connection, finished.id), finished.tree)
        assert neighbour_graphs.read_graph(connection, without.id) is None
        with pytest.raises(NoTree, match="no neighbour lists: they were deleted since; cluster again"):
            neighbour_graphs.require_graph(connection, without.id, without.record)
    delete_clusterings(file.database, [finished.id, without.id])
    with file.opened() as connection:
        assert connection.execute("SELECT count(*) FROM clusteringtree").fetchall() == [(0,)]


def test_a_file_of_a_result_that_could_not_be_saved_has_the_lists(upgraded: MakeFile) -> None:
    file = upgraded()
    finished = with_graph(ids_of(file))
    read = pending.read_pending(pending.write_pending(file.database, finished))
    assert_is_graph(read.graph, finished.graph)
    assert_is_tree(read.tree, finished.tree)
    # Row numbers would be those of other rows.
    present = np.arange(len(finished.ids)) > 0
    fewer = pending.drop_rows(read, present, dict.fromkeys(finished.medoids, 1))
    assert (fewer.graph, fewer.record.keep_neighbours) == (None, None)


def test_a_copy_of_a_database_has_the_lists(upgraded: MakeFile, tmp_path: Path) -> None:
    file = upgraded()
    finished = with_graph(ids_of(file))
    with file.database.writing() as connection:
        save_clustering(connection, finished)
    copy_database(file.database, tmp_path / "copied.sqlite")
    with open_database(tmp_path / "copied.sqlite").reading() as connection:
        assert_is_graph(neighbour_graphs.read_graph(connection, finished.id), finished.graph)


def with_lists(graph: SpanningTree, **changes: object) -> SpanningTree:
    assert graph.neighbours is not None
    return replace(graph, neighbours=replace(graph.neighbours, **changes))  # type: ignore[arg-type]


def changed(lists: NeighbourLists, name: str, at: int, value: float) -> np.ndarray:
    """Return lists in which entry `at` of the first full list is changed."""
    array = getattr(lists, name).copy()
    full = int(np.argmax((lists.rows >= 0).sum(axis=1)))
    array[full, at] = value
    return array


def full_owner(lists: NeighbourLists) -> int:
    owners = np.flatnonzero(lists.originals == np.arange(len(lists.originals)))
    return int(owners[np.argmax((lists.rows >= 0).sum(axis=1))])


FORGERIES: dict[str, tuple[Callable[[SpanningTree, NeighbourLists], SpanningTree], str]] = {
    "row beyond all": (
        lambda graph, lists: with_lists(graph, rows=changed(lists, "rows", 0, 10**6)),
        "row number of its lists is out of range",
    ),
    "the row itself": (
        lambda graph, lists: with_lists(graph, rows=changed(lists, "rows", 0, full_owner(lists))),
        "has a copy, or the row itself",
    ),
    "NaN distance": (
        lambda graph, lists: with_lists(graph, distances=changed(lists, "distances", 1, np.nan)),
        "is not from 0 to the core distance",
    ),
    "distance above the core distance": (
        lambda graph, lists: with_lists(graph, distances=changed(lists, "distances", 3, 2.0)),
        "is not from 0 to the core distance",
    ),
    "distances out of order": (
        lambda graph, lists: with_lists(graph, distances=changed(lists, "distances", 3, 0.0)),
        "do not ascend",
    ),
    "copy before its original": (
        lambda graph, lists: with_lists(graph, originals=np.roll(lists.originals, 1)),
        "list is too long, or belongs to a copy|no later row|is a copy",
    ),
    "smaller min_samples": (
        lambda graph, lists: with_lists(graph, min_samples=K - 2),
        "too long|incomplete",
    ),
    "core distance": (
        lambda graph, lists: replace(graph, core_distances=np.full_like(graph.core_distances, np.nan)),
        "core distance is not from 0 to 2",
    ),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_invalid_lists_are_refused_found_and_removed(upgraded: MakeFile, name: str) -> None:
    forge, fault = FORGERIES[name]
    file = upgraded()
    finished = with_graph(ids_of(file))
    assert finished.graph is not None
    assert finished.graph.neighbours is not None
    forged = replace(finished, graph=forge(finished.graph, finished.graph.neighbours))
    with file.database.writing() as connection:
        save_clustering(connection, forged)
    with (
        file.database.reading() as connection,
        pytest.raises(DatabaseError, match=f"damaged neighbour lists of clustering {forged.id} .*({fault})"),
    ):
        neighbour_graphs.read_graph(connection, forged.id)
    kinds = ["damaged_tree", "damaged_neighbours"]
    (finding,) = examine_database(file.database, kinds).findings
    assert (finding.kind, finding.ids) == ("damaged_neighbours", (str(forged.id),))
    assert repair(file.database, plan_repairs(file.database, ["damaged_neighbours"])) == [1]
    with file.database.reading() as connection:
        assert neighbour_graphs.read_graph(connection, forged.id) is None
        assert_is_tree(trees.read_tree(connection, forged.id), finished.tree)
    assert examine_database(file.database, kinds).findings == ()


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ("UPDATE clusteringtree SET data = x'00' WHERE part = {first} + 1", ""),
        ("DELETE FROM clusteringtree WHERE part = {first} + 1", "part 1 is missing"),
        ("DELETE FROM clusteringtree WHERE part > {first}", ""),
    ],
)
def test_damaged_parts_are_named(
    upgraded: MakeFile, monkeypatch: pytest.MonkeyPatch, statement: str, fault: str
) -> None:
    monkeypatch.setattr(trees, "PART_BYTES", 1000)
    file = upgraded()
    finished = with_graph(ids_of(file))
    with file.database.writing() as connection:
        save_clustering(connection, finished)
    with file.opened() as connection:
        connection.execute(statement.format(first=neighbour_graphs.FIRST_PART))
    with file.database.reading() as connection:
        with pytest.raises(DatabaseError, match=f"neighbour lists .*{fault}"):
            neighbour_graphs.read_graph(connection, finished.id)
        assert_is_tree(trees.read_tree(connection, finished.id), finished.tree)


def test_lists_do_not_fit_once_embeddings_were_deleted(upgraded: MakeFile) -> None:
    file = upgraded()
    finished = with_graph(ids_of(file))
    with file.database.writing() as connection:
        save_clustering(connection, finished)
    with file.opened() as connection:
        connection.execute(
            "DELETE FROM embeddingcluster WHERE embedding_id = (SELECT min(id) FROM embedding)"
        )
    with file.database.session() as session:
        source = find_clustering(session)
        with pytest.raises(NoTree, match="embeddings were deleted since; cluster again"):
            neighbour_graphs.require_graph(session.connection(), finished.id, source.record)
