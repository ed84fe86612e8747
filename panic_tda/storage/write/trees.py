"""Write the spanning tree of a clustering, part by part, as `read.trees` reads it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from pyarrow import ipc
from sqlalchemy.engine import Connection

from panic_tda.storage.arrow import to_arrow
from panic_tda.storage.read import trees
from panic_tda.storage.schema.tables import ClusteringTree
from panic_tda.storage.write.insertion import insert_rows
from panic_tda.types import SpanningTree

_OPTIONS = ipc.IpcWriteOptions(compression="zstd")


def save_tree(connection: Connection, key: int, tree: SpanningTree) -> None:
    """Write a tree with the result of this key, part by part.

    Parameters
    ----------
    connection : Connection
        From `Database.writing`.
    key : int
        Key of the clustering.
    tree : SpanningTree
        A tree of n - 1 edges over the n assignments, with core distances; n must be below 2**31.
    """
    save_parts(connection, key, as_table(tree), part_rows=trees.PART_ROWS)


def save_parts(
    connection: Connection, key: int, table: pa.Table, *, part_rows: int, first_part: int = 0
) -> None:
    """Write a table in parts of `part_rows` rows, numbered from `first_part`."""
    parts = enumerate(serialize_parts(table, part_rows), start=first_part)
    insert_rows(connection, ClusteringTree, ((key, part, data) for part, data in parts))


def as_table(tree: SpanningTree) -> pa.Table:
    """Convert a tree to a table with one row per assignment, the shortest edges first."""
    order = np.argsort(tree.height, kind="stable")
    missing = np.arange(len(order) + 1) == len(order)
    columns = [
        to_arrow(np.append(values[order], 0), kind, missing=missing)
        for values, kind in ((tree.u, pa.int32()), (tree.v, pa.int32()), (tree.height, pa.float64()))
    ]
    table = pa.table([*columns, to_arrow(tree.core_distances, pa.float64())], schema=trees.SCHEMA)
    return table.replace_schema_metadata({trees.TOLERANCE: repr(tree.tie_tolerance).encode()})


def serialize_parts(table: pa.Table, part_rows: int) -> Iterator[bytes]:
    """Yield the parts of a table as Arrow IPC streams."""
    for first in range(0, table.num_rows, part_rows):
        sink = pa.BufferOutputStream()
        with ipc.new_stream(sink, table.schema, options=_OPTIONS) as writer:
            writer.write_table(table.slice(first, part_rows))
        yield sink.getvalue().to_pybytes()
