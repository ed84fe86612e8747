"""Write the neighbour lists of a clustering, part by part, as `read.neighbour_graphs` reads them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from sqlalchemy.engine import Connection

from panic_tda.arrays.rows import slices
from panic_tda.clustering.neighbour_graph import find_owners
from panic_tda.storage.arrow import to_arrow
from panic_tda.storage.read import neighbour_graphs
from panic_tda.storage.write import trees
from panic_tda.types import SpanningTree


def save_graph(connection: Connection, key: int, graph: SpanningTree) -> None:
    """Write a tree with neighbour lists with the result of this key; see `trees.save_tree`."""
    assert graph.neighbours is not None
    part_rows = neighbour_graphs.count_part_rows(graph.neighbours.min_samples)
    trees.save_parts(
        connection, key, as_table(graph), part_rows=part_rows, first_part=neighbour_graphs.FIRST_PART
    )


def as_table(graph: SpanningTree) -> pa.Table:
    """Convert a tree with neighbour lists to a table with one row per assignment, in chunks of a part."""
    lists = graph.neighbours
    assert lists is not None
    tree, owners = trees.as_table(graph), find_owners(lists)
    metadata = {
        **tree.schema.metadata,
        neighbour_graphs.SAMPLES: str(lists.min_samples).encode(),
        neighbour_graphs.FORMAT: neighbour_graphs.VERSION,
    }
    tables = []
    for part in slices(tree.num_rows, neighbour_graphs.count_part_rows(lists.min_samples)):
        first, last = np.searchsorted(owners, [part.start, part.stop])
        is_entry = lists.rows[first:last] >= 0
        counts = np.zeros(part.stop - part.start, dtype=np.int64)
        counts[owners[first:last] - part.start] = is_entry.sum(axis=1)
        rows = to_arrow(lists.rows[first:last][is_entry], pa.int32())
        distances = to_arrow(lists.distances[first:last][is_entry], pa.float64())
        entries = pa.StructArray.from_arrays([rows, distances], ["row", "distance"])
        offsets = to_arrow(np.concatenate([[0], np.cumsum(counts)]), pa.int32())
        columns = to_arrow(lists.originals[part], pa.int32()), pa.ListArray.from_arrays(offsets, entries)
        edges = tree.slice(part.start, part.stop - part.start).columns
        tables.append(pa.table([*edges, *columns], schema=neighbour_graphs.SCHEMA))
    return pa.concat_tables(tables).replace_schema_metadata(metadata)
