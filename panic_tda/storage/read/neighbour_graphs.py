"""Read the neighbour lists that are stored with a clustering; with them, other `min_samples` need no fit.

They are stored with the tree of their `min_samples` (see `clustering.neighbour_graph`), like a tree (see
`trees`), as further rows of `clusteringtree`, the first of which has the number `FIRST_PART`. Row i of their
table has what a tree has, and also the first row that equals row i (`original`) and, if that is row i, its
list (`neighbours`): row numbers and chord distances of the rows nearer than its core distance, the nearest
first.
"""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import numpy as np
import pyarrow as pa
from sqlalchemy.engine import Connection

from panic_tda.clustering.neighbour_graph import find_owners
from panic_tda.errors import NoTree
from panic_tda.records import ClusteringRecord
from panic_tda.storage.arrow import to_numpy
from panic_tda.storage.read import trees
from panic_tda.types import FloatArray, IntArray, NeighbourLists, SpanningTree

FIRST_PART = trees.MOST_PARTS
"""Number of the first part; the parts of the tree have smaller numbers."""
SAMPLES, FORMAT = b"min_samples", b"neighbours_format"
VERSION = b"1"
_ENTRY = pa.struct([("row", pa.int32()), ("distance", pa.float64())])
SCHEMA = pa.schema([*trees.SCHEMA, ("original", pa.int32()), ("neighbours", pa.list_(_ENTRY))])
_METADATA = (trees.TOLERANCE, SAMPLES, FORMAT)
_EDGE_BYTES, _ENTRY_BYTES = 32, 12
_MOST_SAMPLES = 2**31 - 1
_NAME = "neighbour lists"


def count_part_rows(min_samples: int) -> int:
    """Return the number of rows per part; an uncompressed part has about `trees.PART_BYTES`."""
    return max(1, trees.PART_BYTES // (_EDGE_BYTES + _ENTRY_BYTES * max(0, min_samples - 2)))


def read_graph(
    connection: Connection, clustering_id: UUID, record: ClusteringRecord | None = None
) -> SpanningTree | None:
    """Return the tree with the neighbour lists of a clustering, or None if it was stored without them.

    Raises
    ------
    DatabaseError
        The stored lists are damaged or incomplete; every value is checked here, and only here.
    """
    with trees.naming_damage(clustering_id, _NAME):
        table = trees.read_parts(
            connection,
            clustering_id,
            SCHEMA,
            _METADATA,
            lambda first: count_part_rows(_parse_min_samples(first)),
            first=FIRST_PART,
        )
        if table is None:
            return None
        return as_graph(table, has_chords=trees.has_chords(connection, clustering_id, record))


def require_graph(
    connection: Connection, clustering_id: UUID, record: ClusteringRecord, n_assigned: int | None = None
) -> SpanningTree:
    """Return the tree with the neighbour lists of a clustering, and check that it matches the assignments.

    Raises
    ------
    NoTree
        No lists are stored, or embeddings were deleted since, so that row numbers no longer match.
    DatabaseError
        The lists are damaged; see `read_graph`.
    """
    graph = None if record.keep_neighbours is None else read_graph(connection, clustering_id, record)
    if graph is None:
        raise NoTree(f"clustering {clustering_id} has no neighbour lists: {explain_missing(record)}")
    trees.require_assigned(connection, clustering_id, graph, n_assigned, _NAME)
    return graph


def explain_missing(record: ClusteringRecord) -> str:
    """Explain why a clustering has no neighbour lists, and what to do."""
    if record.keep_neighbours is not None:
        return "they were deleted since; cluster again (panic-tda cluster-embeddings)"
    if record.recut_of is not None:
        return f"it was cut from clustering {record.recut_of}, which may have them: name that one"
    if max(record.min_cluster_size, record.min_samples) > record.n_embeddings:
        return "it has fewer embeddings than min_cluster_size or min_samples, and so no tree"
    if not record.exact:
        return (
            f"backend {record.backend} has none; cluster again with an exact backend (panic-tda "
            "cluster-embeddings --exact)"
        )
    return (
        "it was stored without them, by an earlier version, with --no-tree or with --keep-neighbours 0; "
        "cluster again (panic-tda cluster-embeddings)"
    )


def as_graph(table: pa.Table, *, has_chords: bool = True) -> SpanningTree:
    """Convert a table, as `write.neighbour_graphs.as_table` builds it, to a tree with neighbour lists.

    Raises
    ------
    ValueError, KeyError, TypeError
        A value is invalid; see `require_meaning`.
    """
    if table.schema.metadata[FORMAT] != VERSION:
        raise ValueError(f"its format is {table.schema.metadata[FORMAT]!r}, not {VERSION!r}")
    tree, min_samples = trees.as_tree(table, has_chords=has_chords), _parse_min_samples(table)
    assert tree is not None
    assert tree.core_distances is not None
    original, lists = table.column("original"), table.column("neighbours").combine_chunks()
    lists = lists.combine_chunks() if isinstance(lists, pa.ChunkedArray) else lists
    entries = lists.flatten()
    if any(column.null_count for column in (original, lists, entries, *entries.flatten())):
        raise ValueError("a value of its lists is missing")
    originals = to_numpy(original).astype(np.int64)
    n, counts = len(originals), to_numpy(lists.value_lengths()).astype(np.int64)
    rows, distances = (to_numpy(entries.field(name)) for name in ("row", "distance"))
    if len(rows) != counts.sum():
        raise ValueError("its lists have entries that belong to no row")
    owners = np.flatnonzero(originals == np.arange(n))
    shape = len(owners), max(0, min_samples - 2)
    if counts.max(initial=0) > shape[1] or counts.sum() != counts[owners].sum():
        raise ValueError("a list is too long, or belongs to a copy")
    list_rows, list_distances = np.full(shape, -1, dtype=np.int32), np.full(shape, np.inf)
    at = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    owner = np.repeat(np.arange(len(owners)), counts[owners])
    list_rows[owner, at], list_distances[owner, at] = rows, distances
    graph_lists = NeighbourLists(min_samples, list_rows, list_distances, originals)
    require_meaning(tree.core_distances, graph_lists, owner, at)
    return replace(tree, neighbours=graph_lists)


def require_meaning(cores: FloatArray, lists: NeighbourLists, owner: IntArray, at: IntArray) -> None:
    """Check neighbour lists against each other and the core distances, (n,).

    Parameters
    ----------
    cores : (n,) float64
        Core distances at the `min_samples` of the lists.
    lists : NeighbourLists
        Lists to check.
    owner, at : (entries,) int64
        Number of the list of each entry, and its place there.

    Raises
    ------
    ValueError
        A row number is out of range or that of a copy or of the row itself, a distance is not below the core
        distance, distances do not ascend, or more rows are nearer than `min_samples` allows.
    """
    n, originals = len(cores), lists.originals
    if n and (originals.min() < 0 or np.any(originals > np.arange(n))):
        raise ValueError("a copy is no later row than its original")
    if np.any(originals[originals] != originals):
        raise ValueError("an original is a copy")
    rows, distances = lists.rows[owner, at], lists.distances[owner, at]
    owners = find_owners(lists)[owner]
    if np.any((rows < 0) | (rows >= n)):
        raise ValueError("a row number of its lists is out of range")
    if np.any(originals[rows] != rows) or np.any(rows == owners):
        raise ValueError("a list has a copy, or the row itself")
    if not np.all((distances >= 0) & (distances < cores[owners])):
        raise ValueError("a distance of its lists is not from 0 to the core distance")
    if np.any(np.diff(distances)[np.diff(owners) == 0] < 0):
        raise ValueError("the distances of a list do not ascend")
    weights = np.bincount(originals, minlength=n)
    n_nearer = weights + np.bincount(owners, weights=weights[rows], minlength=n).astype(np.int64)
    if np.any(n_nearer[owners] >= lists.min_samples):
        raise ValueError("a list has more rows than its min_samples allows")


def _parse_min_samples(table: pa.Table) -> int:
    min_samples = int(table.schema.metadata[SAMPLES])
    if not 1 <= min_samples <= _MOST_SAMPLES:
        raise ValueError(f"its min_samples is {min_samples}")
    return min_samples
