"""All rows that are nearer than a row's core distance, from the lists of the neighbour pass.

A list that was long enough for an exact core distance has all of them. A row q with d(p, q) < core_p has a
larger s' than the row at the core distance, so that its product is above `low` (see `cores`), and the list
has all rows with such products. The other lists are filled when their rows are looked up again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from panic_tda.arrays.namespace import to_host
from panic_tda.clustering.neighbour_graph import fill_lists
from panic_tda.clustering.tiled import margins

if TYPE_CHECKING:
    from panic_tda.clustering.tiled.contract import Lists, Space
    from panic_tda.types import BoolArray, FloatArray, NeighbourLists


def fill_from_lists(
    space: Space,
    lists: Lists,
    part: slice,
    cores: FloatArray,
    is_complete: BoolArray,
    *,
    floor: float,
    out: NeighbourLists,
) -> None:
    """Measure the rows that are nearer than the core distance, for some rows.

    Parameters
    ----------
    space : Space
        n rows.
    lists : Lists
        Those that the core distances were measured from.
    part : slice
        Rows to look at.
    cores : (rows,) float64
        Their core distances.
    is_complete : (rows,) bool
        Whether the list of each row was long enough; those of other rows are not read.
    floor : float
        Smaller distances count as this one.
    out : NeighbourLists
        Lists to fill, without entries.
    """
    listed, sims = to_host(lists.rows[part]), to_host(lists.sims[part])
    may_be_near = sims >= margins.lower_products(cores, space.margin)[:, None]
    owners, at = np.nonzero(may_be_near & is_complete[:, None])
    rows = listed[owners, at].astype(np.int64)
    distances = np.maximum(space.kernels.distances(space, owners + part.start, rows), floor)
    near = np.flatnonzero(distances < cores[owners])
    fill_lists(out, owners[near] + part.start, rows[near], distances[near])
