"""Read the spanning tree that is stored with a clustering; with it, a recut needs no new fit.

A tree is stored as Arrow IPC streams, compressed with zstd, one stream per row of `clusteringtree`. Row i of
their table has edge i (`u`, `v`: row numbers; `height`), the shortest edges first, and the core distance of
row i, which is the i-th assignment by ascending embedding id. A tree over n rows has n - 1 edges, so the last
row has no edge.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import sqlalchemy as sa
from pyarrow import ipc
from sqlalchemy.engine import Connection

from panic_tda.clustering.trees import Edges, minimum_forest
from panic_tda.errors import DamagedTree, NoTree
from panic_tda.records import COSINE, ClusteringRecord
from panic_tda.storage.arrow import to_numpy
from panic_tda.storage.bulk import stream_rows
from panic_tda.storage.cells import read_rows
from panic_tda.storage.read.assignments import count_assignments, select_key
from panic_tda.storage.schema.tables import ClusteringResult, ClusteringTree
from panic_tda.types import FloatArray, SpanningTree
from panic_tda.wording import pluralize

PART_BYTES = 8 << 20
_ROW_BYTES = 24
PART_ROWS = (PART_BYTES - (1 << 14)) // _ROW_BYTES
"""Rows per part; an uncompressed part still fits into `PART_BYTES`."""
MOST_PARTS = 1 << 30
"""Parts of a tree have smaller numbers; larger ones are those of neighbour lists (see `neighbour_graphs`)."""
TOLERANCE = b"tie_tolerance"
_MOST_TOLERANCE = 0.1
_SQUARED_ROUNDING = 1e-3
"""Upper bound of the float32 rounding error of a squared distance (3.7e-4 at 768 dimensions)."""
SCHEMA = pa.schema(
    [("u", pa.int32()), ("v", pa.int32()), ("height", pa.float64()), ("core_distance", pa.float64())]
)


def read_tree(
    connection: Connection, clustering_id: UUID, record: ClusteringRecord | None = None
) -> SpanningTree | None:
    """Return the tree of a clustering, or None if it was stored without one.

    The record is read if it is None.

    Raises
    ------
    DatabaseError
        The stored tree is damaged or incomplete; every value is checked here, and only here.
    """
    with naming_damage(clustering_id, "tree"):
        table = _read_table(connection, clustering_id, SCHEMA.names)
        return as_tree(table, has_chords=has_chords(connection, clustering_id, record))


def require_tree(
    connection: Connection, clustering_id: UUID, record: ClusteringRecord, n_assigned: int | None = None
) -> SpanningTree:
    """Return the tree of a clustering, and check that it matches the current assignments.

    Raises
    ------
    NoTree
        No tree was stored, or embeddings were deleted since, so that row numbers no longer match.
    DatabaseError
        The tree is damaged; see `read_tree`.
    """
    tree = read_tree(connection, clustering_id, record)
    if tree is None:
        needed = max(record.min_cluster_size, record.min_samples)
        why = (
            f"it has {record.n_embeddings} {pluralize(record.n_embeddings, 'embedding')}, "
            f"fewer than min_cluster_size or min_samples ({needed})"
            if needed > record.n_embeddings
            else "it was stored without one, by an earlier version or with --no-tree"
        )
        raise NoTree(
            f"clustering {clustering_id} has no spanning tree: {why}; cluster again "
            "(panic-tda cluster-embeddings), then the new clustering has one"
        )
    require_assigned(connection, clustering_id, tree, n_assigned, "a tree")
    return tree


def read_core_distances(connection: Connection, clustering_id: UUID) -> FloatArray | None:
    """Return the core distances of a clustering, (n,) float64, or None if no tree was stored.

    Raises
    ------
    DatabaseError
        The tree is damaged; see `read_tree`.
    """
    with naming_damage(clustering_id, "tree"):
        table = _read_table(connection, clustering_id, ["core_distance"])
        if table is None:
            return None
        cores: FloatArray = to_numpy(table.column("core_distance"))
        _require_distances("core distance", cores, has_chords=has_chords(connection, clustering_id))
        return cores


def has_chords(connection: Connection, clustering_id: UUID, record: ClusteringRecord | None = None) -> bool:
    """Return whether the distances of a clustering are chords (metric cosine), which are at most 2."""
    if record is not None:
        return record.metric in (None, COSINE)
    query = sa.select(ClusteringResult.parameters).where(ClusteringResult.id == clustering_id)
    return all(parameters.get("metric") in (None, COSINE) for (parameters,) in read_rows(connection, query))


def as_tree(table: pa.Table | None, *, has_chords: bool = True) -> SpanningTree | None:
    """Convert a table, as `write.trees.as_table` builds it, to a tree.

    `has_chords` is whether its distances are chords.

    Raises
    ------
    ValueError, KeyError, TypeError
        The table is not a spanning tree of distances; see `require_meaning`.
    """
    if table is None:
        return None
    edges = table.select(SCHEMA.names).slice(0, max(0, table.num_rows - 1))
    if any(column.null_count for column in edges.columns) or table.column("core_distance").null_count:
        raise ValueError("a value of its tree is missing")
    u, v, height = (to_numpy(edges.column(name)) for name in ("u", "v", "height"))
    tree = SpanningTree(
        u=u.astype(np.int64),
        v=v.astype(np.int64),
        height=height,
        core_distances=to_numpy(table.column("core_distance")),
        tie_tolerance=float(table.schema.metadata[TOLERANCE]),
    )
    require_meaning(tree, has_chords=has_chords)
    return tree


def require_meaning(tree: SpanningTree, *, has_chords: bool = True) -> None:
    """Check that a tree is a spanning tree of distances; its edges may be in any order.

    `has_chords` is whether its distances are chords.

    Raises
    ------
    ValueError
        A chord is not from 0 to 2, another distance is below 0 or not finite, an edge is shorter than the
        core distance of an end, the edges do not span the rows, or the tolerance is invalid.
    """
    assert tree.core_distances is not None
    n = len(tree.core_distances)
    _require_distances("core distance", tree.core_distances, has_chords=has_chords)
    _require_distances("height", tree.height, has_chords=has_chords)
    if not 0 <= tree.tie_tolerance <= _MOST_TOLERANCE:
        raise ValueError(f"its tolerance is not from 0 to {_MOST_TOLERANCE:g} but {tree.tie_tolerance:g}")
    if len(tree.height) != max(0, n - 1):
        raise ValueError(f"it has {len(tree.height)} edges for {n} rows")
    if not len(tree.height):
        return
    lowest, highest = np.minimum(tree.u, tree.v).min(), np.maximum(tree.u, tree.v).max()
    if lowest < 0 or highest >= n:
        raise ValueError(f"it joins rows {lowest} to {highest} of {n}")
    cores = np.maximum(tree.core_distances[tree.u], tree.core_distances[tree.v])
    # For a backend that computes in float32, both distances are equal only up to rounding. Chords are at most
    # 2; the rounding of other distances is relative.
    largest = 1.0 if has_chords else tree.height.max() ** 2
    if np.any(cores**2 - tree.height**2 > _SQUARED_ROUNDING * largest):
        raise ValueError("an edge is shorter than the core distance of one of its ends")
    if len(minimum_forest(n, Edges(tree.u, tree.v, tree.height)).height) != n - 1:
        raise ValueError("its edges do not join all rows")


def _require_distances(name: str, values: FloatArray, *, has_chords: bool) -> None:
    if has_chords and not np.all((values >= 0) & (values <= 2 + _SQUARED_ROUNDING)):
        raise ValueError(f"a {name} is not from 0 to 2")
    if not np.all((values >= 0) & np.isfinite(values)):
        raise ValueError(f"a {name} is below 0 or not finite")


def _read_table(connection: Connection, clustering_id: UUID, names: list[str]) -> pa.Table | None:
    return read_parts(connection, clustering_id, SCHEMA, (TOLERANCE,), lambda first: PART_ROWS, names=names)


def read_parts(
    connection: Connection,
    clustering_id: UUID,
    schema: pa.Schema,
    metadata: Collection[bytes],
    count_rows: Callable[[pa.Table], int],
    *,
    first: int = 0,
    names: Sequence[str] | None = None,
) -> pa.Table | None:
    """Read the parts from number `first` on into one table, or return None if there are none.

    Parts from `MOST_PARTS` on are not read if `first` is below.

    Parameters
    ----------
    connection, clustering_id
        The clustering.
    schema, metadata
        Columns that every part must have, and keys that its metadata must have.
    count_rows : callable
        Returns the number of rows of every part but the last, from the first part.
    first : int
        Number of the first part.
    names : sequence of str, optional
        Columns of the result; None means all.

    Raises
    ------
    ArrowException, OSError, TypeError, ValueError
        A part is missing or incomplete, or cannot be read.
    """
    stored = _stream_parts(connection, clustering_id, schema, metadata, first)
    parts = [part if names is None else part.select(names) for part in stored]
    if not parts:
        return None
    part_rows = count_rows(parts[0])
    if any(len(part) != part_rows for part in parts[:-1]):
        raise ValueError("a part is incomplete")
    return pa.concat_tables(parts).combine_chunks()


def _stream_parts(
    connection: Connection, clustering_id: UUID, schema: pa.Schema, metadata: Collection[bytes], first: int
) -> Iterator[pa.Table]:
    columns: tuple[Any, ...] = (ClusteringTree.part, ClusteringTree.data)
    has_key = ClusteringTree.result_key == select_key(clustering_id)
    if first:
        has_key &= ClusteringTree.part >= first
    query = sa.select(*columns).where(has_key).order_by(ClusteringTree.part)
    for number, rows in enumerate(stream_rows(connection, query, batch_rows=1)):
        ((part, data),) = rows
        # No condition of the query: it would pass over parts whose number is damaged.
        if number and isinstance(part, int) and first < MOST_PARTS <= part:
            return
        if not isinstance(part, int) or part != first + number:
            raise ValueError(f"part {number} is missing")
        with ipc.open_stream(data) as reader:
            table = reader.read_all()
        # Without validation, a damaged table could be read beyond its end.
        table.validate(full=True)
        if table.schema != schema or not set(metadata) <= set(table.schema.metadata or {}):
            raise ValueError("its columns are wrong")
        yield table


@contextmanager
def naming_damage(clustering_id: UUID, name: str) -> Iterator[None]:
    """Raise `DamagedTree` if the block cannot read the tree or the neighbour lists (`name`)."""
    try:
        yield
    except (ValueError, TypeError, KeyError, OSError, pa.ArrowException) as error:
        raise DamagedTree(
            f"damaged {name} of clustering {clustering_id} ({error}); its clusters are not affected: cluster "
            f"again to replace the {name}",
            str(error),
        ) from error


def require_assigned(
    connection: Connection, clustering_id: UUID, tree: SpanningTree, n_assigned: int | None, name: str
) -> None:
    """Raise `NoTree` unless a tree has a row for each assignment; None: count them here."""
    n_rows = len(tree.height) + 1
    if n_assigned is None:
        n_assigned = count_assignments(connection, clustering_id)
    if n_assigned != n_rows:
        raise NoTree(
            f"clustering {clustering_id} has {n_assigned} {pluralize(n_assigned, 'assignment')}, and {name} "
            f"of {n_rows} {pluralize(n_rows, 'row')}: embeddings were deleted since; cluster again "
            "(panic-tda cluster-embeddings)"
        )
