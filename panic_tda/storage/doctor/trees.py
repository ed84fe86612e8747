"""Check stored spanning trees: unreadable trees, and trees with edges of wrong height."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from panic_tda.arrays.rows import has_direction, normalise
from panic_tda.errors import DamagedTree, NoTree
from panic_tda.records import COSINE, ClusteringRecord
from panic_tda.storage.cells import as_literal
from panic_tda.storage.doctor.database_info import DatabaseInfo
from panic_tda.storage.doctor.findings import Findings
from panic_tda.storage.read.clusterings import StoredClustering
from panic_tda.storage.read.neighbour_graphs import FIRST_PART, read_graph
from panic_tda.storage.read.summaries import ClusteringSummary, read_result_rows
from panic_tda.storage.read.trees import read_tree
from panic_tda.storage.read.vectors_by_id import read_vectors
from panic_tda.storage.schema.tables import ClusteringTree
from panic_tda.types import BoolArray, Float32Array, IntArray, SpanningTree

TREE, WRONG_TREE, NEIGHBOURS = "damaged_tree", "wrong_tree", "damaged_neighbours"
SAMPLE_EDGES = 1_000
"""Largest number of edges of a tree that are compared with the vectors of their rows."""
_SEED = 0
_EXACT, _SINGLE = 1e-6, 8 * 1.01 * 2.0**-24
"""Tolerance of squared heights: relative in an exact tree, otherwise absolute per dimension (float32)."""
_READERS: dict[str, Callable[[Connection, UUID], object]] = {TREE: read_tree, NEIGHBOURS: read_graph}


def check_trees(info: DatabaseInfo, findings: Findings) -> None:
    """Find stored trees that cannot be read as spanning trees of distances."""
    for summary, _, fault in find_damaged(info, TREE):
        findings.add(TREE, summary.id.hex, fault)


def check_neighbours(info: DatabaseInfo, findings: Findings) -> None:
    """Find stored neighbour lists that cannot be read."""
    for summary, _, fault in find_damaged(info, NEIGHBOURS):
        findings.add(NEIGHBOURS, summary.id.hex, fault)


def find_damaged(info: DatabaseInfo, kind: str) -> Iterator[tuple[ClusteringSummary, Any, str]]:
    """Yield each clustering whose tree or lists (by the kind) cannot be read, with its key and the reason."""
    for stored, key in _open_clusterings(info):
        try:
            _READERS[kind](stored.connection, stored.summary.id)
        except DamagedTree as error:
            yield stored.summary, key, error.fault


def check_heights(info: DatabaseInfo, findings: Findings) -> None:
    """Find trees with sampled edges whose height is not the mutual reachability distance of their rows."""
    for stored, _ in _open_clusterings(info):
        try:
            tree = stored.tree
        except (NoTree, DamagedTree):
            continue  # Embeddings were deleted since, or the tree is damaged: other kinds of findings.
        if reason := _describe_wrong_heights(stored, tree):
            findings.add(WRONG_TREE, stored.summary.id.hex, reason)


def delete_tree(connection: Connection, key: Any) -> None:
    """Delete the tree of a clustering, and its neighbour lists; the clustering stays."""
    connection.execute(sa.delete(ClusteringTree).where(ClusteringTree.result_key == as_literal(key)))


def delete_neighbours(connection: Connection, key: Any) -> None:
    """Delete the neighbour lists of a clustering; its tree stays."""
    # In SQLite, a part whose number is damaged (text) is above every number.
    is_list = (ClusteringTree.result_key == as_literal(key)) & (ClusteringTree.part >= FIRST_PART)
    connection.execute(sa.delete(ClusteringTree).where(is_list))


def _open_clusterings(info: DatabaseInfo) -> Iterator[tuple[StoredClustering, Any]]:
    """Yield each readable clustering and its key, in a transaction for each."""
    if not info.has_ours("clusteringtree"):
        return
    with info.reading("list trees") as connection:
        rows = list(read_result_rows(connection))
    for row in rows:
        if row.summary is not None:
            with info.reading(f"check the tree of clustering {row.summary.id}") as connection:
                yield StoredClustering(connection, row.summary), row.key


def _describe_wrong_heights(stored: StoredClustering, tree: SpanningTree) -> str:
    """Describe how many sampled edges of a tree have a wrong height; "" if none has."""
    edges = _sample_edges(len(tree.height))
    rows = np.unique([tree.u[edges], tree.v[edges]])
    ids = stored.assignments.ids[rows]
    vectors = read_vectors(stored.connection, ids, dimensions=stored.dimensions)
    is_wrong = _find_wrong_edges(tree, edges, rows, vectors, stored.summary.record)
    return f"{np.count_nonzero(is_wrong)} of {len(is_wrong)} sampled edges" if is_wrong.any() else ""


def _sample_edges(n_edges: int) -> IntArray:
    generator = np.random.default_rng(_SEED)
    edges: IntArray = generator.choice(n_edges, min(n_edges, SAMPLE_EDGES), replace=False)
    return edges


def _find_wrong_edges(
    tree: SpanningTree, edges: IntArray, rows: IntArray, vectors: Float32Array, record: ClusteringRecord
) -> BoolArray:
    """Return a mask of the edges whose height is wrong; edges without vectors are left out.

    Parameters
    ----------
    tree : SpanningTree
        A tree with core distances.
    edges : (m,) int64
        Indices of the edges to check.
    rows : (k,) int64
        The rows at the ends of these edges, ascending.
    vectors : (k, d) float32
        Stored vectors of the rows, NaN where a row has none.
    record : ClusteringRecord
        Record of the clustering.
    """
    if record.metric in (None, COSINE):
        has_vector = has_direction(vectors)
        normalise(vectors := vectors[has_vector])
    else:
        has_vector = np.asarray(np.isfinite(vectors).all(axis=1))
        vectors = vectors[has_vector]
    row_indices = np.cumsum(has_vector) - 1
    ends = [np.searchsorted(rows, end[edges]) for end in (tree.u, tree.v)]
    is_known = has_vector[ends[0]] & has_vector[ends[1]]
    edges, (left, right) = edges[is_known], (row_indices[end[is_known]] for end in ends)
    differences = vectors[left].astype(np.float64) - vectors[right]
    squared_distances = np.maximum(np.einsum("ij,ij->i", differences, differences), record.distance_floor**2)
    assert tree.core_distances is not None  # a stored tree has them
    for end in (tree.u, tree.v):
        squared_distances = np.maximum(squared_distances, tree.core_distances[end[edges]] ** 2)
    stored = np.maximum(tree.height[edges], record.distance_floor) ** 2
    tolerance = _EXACT * stored if record.exact else _SINGLE * vectors.shape[1]
    is_wrong: BoolArray = np.abs(stored - squared_distances) > tolerance
    return is_wrong
