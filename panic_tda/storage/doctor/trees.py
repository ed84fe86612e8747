"""Stored spanning trees with edges that do not have the height of their rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from panic_tda.arrays.rows import normalise, usable
from panic_tda.errors import DatabaseError, NoTree
from panic_tda.parameters import ClusteringRecord
from panic_tda.storage.bulk import stream_rows
from panic_tda.storage.doctor.findings import Findings, is_id
from panic_tda.storage.doctor.subject import BATCH_ROWS, Subject
from panic_tda.storage.read.assignments import read_assignments
from panic_tda.storage.read.census import FLOAT_BYTES, stored_width
from panic_tda.storage.read.picking import read_vectors
from panic_tda.storage.read.trees import require_tree
from panic_tda.storage.schema.tables import ClusteringResult, ClusteringTree

if TYPE_CHECKING:
    from panic_tda.types import BoolArray, Float32Array, IntArray, SpanningTree

WRONG_TREE = "wrong_tree"
SAMPLE_EDGES = 1_000
"""Edges of a tree that are compared with the vectors of their rows, at most."""
_SEED = 0
_EXACT, _SINGLE = 1e-6, 8 * 1.01 * 2.0**-24
"""Tolerance of squared heights: a share of them in an exact tree, else so much a dimension (float32)."""
_result: Any = ClusteringResult.__table__


class _StoredTree(NamedTuple):
    id: UUID
    model: str
    record: ClusteringRecord


def check_trees(subject: Subject, found: Findings) -> None:
    """Find trees with sampled edges whose height is not the mutual reachability distance of their rows."""
    if not subject.has_ours("clusteringtree"):
        return
    with subject.reading("look for stored trees") as connection:
        stored = list(_stored_trees(connection))
    for tree in stored:
        with subject.reading(f"look at the tree of clustering {tree.id}") as connection:
            reason = _fault(connection, tree)
        if reason:
            found.add(WRONG_TREE, tree.id.hex, reason)


def _stored_trees(connection: Connection) -> Iterator[_StoredTree]:
    """Yield the clusterings with a tree; those that cannot be read are another kind of finding."""
    has_tree = sa.select(ClusteringTree.part).where(ClusteringTree.result_key == _result.c.key).exists()
    identity = sa.type_coerce(_result.c.id, sa.String)
    parameters = sa.type_coerce(_result.c.parameters, sa.String)
    query = sa.select(identity, _result.c.embedding_model, parameters).where(has_tree).order_by(_result.c.key)
    for rows in stream_rows(connection, query, batch_rows=BATCH_ROWS):
        for identity, model, text in rows:
            try:
                stored = json.loads(text) if isinstance(text, str) else text
                record = ClusteringRecord.from_json(stored)
            except (DatabaseError, TypeError, ValueError):
                continue
            if is_id(identity):
                yield _StoredTree(UUID(identity), model, record)


def _fault(connection: Connection, stored: _StoredTree) -> str:
    """Say what is wrong with a tree; nothing where its sampled edges are right."""
    try:
        tree = require_tree(connection, stored.id, stored.record)
    except (NoTree, DatabaseError):
        return ""  # Embeddings have gone since, or the tree is damaged, which is a kind of its own.
    edges = _sampled_edges(len(tree.height))
    rows = np.unique([tree.u[edges], tree.v[edges]])
    if len(rows) and not 0 <= rows[0] <= rows[-1] <= len(tree.height):
        return "an edge names a row that the clustering does not have"
    ids = read_assignments(connection, stored.id).ids[rows]
    width = stored_width(connection, stored.model) // FLOAT_BYTES
    vectors = read_vectors(connection, ids, dimensions=width)
    is_wrong = _wrong_edges(tree, edges, rows, vectors, stored.record)
    if not is_wrong.any():
        return ""
    return f"{np.count_nonzero(is_wrong)} of {len(is_wrong)} sampled edges"


def _sampled_edges(n_edges: int) -> IntArray:
    generator = np.random.default_rng(_SEED)
    edges: IntArray = generator.choice(n_edges, min(n_edges, SAMPLE_EDGES), replace=False)
    return edges


def _wrong_edges(
    tree: SpanningTree, edges: IntArray, rows: IntArray, vectors: Float32Array, record: ClusteringRecord
) -> BoolArray:
    """Tell which edges do not have the height of their rows; those without vectors are left out.

    Parameters
    ----------
    tree : SpanningTree
        With core distances.
    edges : (m,) int64
        The edges to look at.
    rows : (k,) int64
        Their rows, ascending.
    vectors : (k, d) float32
        As stored, NaN where there is none.
    record : ClusteringRecord
        Of the clustering.
    """
    has_vector = usable(vectors)
    normalise(vectors := vectors[has_vector])
    places = np.cumsum(has_vector) - 1
    ends = [np.searchsorted(rows, end[edges]) for end in (tree.u, tree.v)]
    is_known = has_vector[ends[0]] & has_vector[ends[1]]
    edges, (left, right) = edges[is_known], (places[end[is_known]] for end in ends)
    apart = vectors[left].astype(np.float64) - vectors[right]
    squares = np.maximum(np.einsum("ij,ij->i", apart, apart), record.distance_floor**2)
    assert tree.core_distances is not None  # what is stored has them
    for end in (tree.u, tree.v):
        squares = np.maximum(squares, tree.core_distances[end[edges]] ** 2)
    stored = np.maximum(tree.height[edges], record.distance_floor) ** 2
    tolerance = _EXACT * stored if record.exact else _SINGLE * vectors.shape[1]
    is_wrong: BoolArray = np.abs(stored - squares) > tolerance
    return is_wrong
