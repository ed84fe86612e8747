"""Tasks of both passes over pairs of tiles, as pure functions: what they need is in the task or in files.

A worker holds nothing between two tasks, so that each may run anywhere, and again after a worker was lost.
Tasks compare with values that results of other tasks have improved by then. That changes the time alone:
with an older threshold a task finds more, and with an older tree too (`proof`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from panic_tda.clustering.tiled import host
from panic_tda.clustering.tiled.blocks import Part, RowFiles
from panic_tda.clustering.tiled.contract import ByPosition, Space
from panic_tda.clustering.tiled.improving_edges import NO_EDGES, edges_within, local_forest
from panic_tda.clustering.tiled.layout import Layout
from panic_tda.clustering.tiled.space import select_kernels
from panic_tda.clustering.tiled.workers import workers
from panic_tda.clustering.trees import Edges, concatenate

if TYPE_CHECKING:
    from panic_tda.types import Float32Array, FloatArray, Int32Array

_NO_ROW = np.iinfo(np.int32).max
"""Stands in a list for the entries that its row has already: after every row number, as ties prefer small
ones."""


class NeighbourTask(NamedTuple):
    """Pairs of tiles whose rows may be neighbours.

    Attributes
    ----------
    files : RowFiles
        Rows in the order of the layout.
    part : Part
        Positions and pairs of tiles; those of a tile with itself come first.
    thresholds : (positions,) float32
        Smallest product on each row's list so far; minus infinity while the list is not full.
    length : int
        Entries of a list.
    """

    files: RowFiles
    part: Part
    thresholds: Float32Array
    length: int


class ListEntries(NamedTuple):
    """Entries for neighbour lists.

    Attributes
    ----------
    owners, others : (entries,) int32
        Local indices of the row with the list, and of its neighbour.
    sims : (entries,) float32
        Products.
    """

    owners: Int32Array
    others: Int32Array
    sims: Float32Array


class EdgeTask(NamedTuple):
    """Pairs of tiles that may have edges below the tree's path maximum.

    Attributes
    ----------
    files : RowFiles
        Rows in dendrogram order.
    part : Part
        Positions and pairs of tiles.
    between : (pairs,) float64
        Largest merge height of the tiles between the two of each pair.
    cores, merge_heights, to_end, from_start : (positions,) float64
        See `contract.ByPosition`.
    prune_rows : bool
        See `engine.Settings`.
    """

    files: RowFiles
    part: Part
    between: FloatArray
    cores: FloatArray
    merge_heights: FloatArray
    to_end: FloatArray
    from_start: FloatArray
    prune_rows: bool


def find_neighbours(task: NeighbourTask) -> ListEntries:
    """Find the pairs of rows that may enter the neighbour list of either row."""
    with workers(1) as team:
        space, layout = _read_space(task.files, task.part), _make_layout(task.part)
        rows = np.full((len(layout.order), task.length), _NO_ROW, dtype=np.int32)
        lists = host.Lists(rows, np.repeat(task.thresholds[:, None], task.length, axis=1), layout.n_tiles)
        within = task.part.pairs[:, 0] == task.part.pairs[:, 1]
        scanner = host.scanner(space, int(np.diff(layout.starts).max()))
        for tile in task.part.pairs[within, 0]:
            numbers = layout.rows(tile)
            for candidates in scanner.nearest(numbers, task.length):
                lists.push_within(candidates, tile, numbers)
        between = task.part.pairs[~within]
        if len(between):
            scan = host.neighbour_scan(space, layout, lists, team)
            for number in range(len(between)):
                # One pair at a time, so that each has the thresholds of those before.
                scan.scan(between[number : number + 1])
    owners, entries = np.nonzero(rows != _NO_ROW)
    return ListEntries(owners.astype(np.int32), rows[owners, entries], lists.sims[owners, entries])


def find_improving_edges(task: EdgeTask) -> Edges:
    """Find a minimum spanning forest of the edges that are below the tree's path maximum.

    Returns
    -------
    Edges
        Their ends are local indices.
    """
    with workers(1) as team:
        space, layout = _read_space(task.files, task.part), _make_layout(task.part)
        tiles = ByPosition(layout, task.cores, task.merge_heights, task.to_end, task.from_start)
        within = task.part.pairs[:, 0] == task.part.pairs[:, 1]
        forest = NO_EDGES
        scanner = host.scanner(space, int(np.diff(layout.starts).max()))
        for tile in task.part.pairs[within, 0]:
            forest = concatenate([forest, edges_within(scanner, tiles, int(tile))])
        pairs, heights = task.part.pairs[~within], task.between[~within]
        if len(pairs):
            scan = host.edge_scan(space, layout, team)
            scan.use(tiles, prune_rows=task.prune_rows)
            # `find` thins out what it holds.
            forest = concatenate([forest, scan.find(pairs, heights)])
    return local_forest(forest) if len(forest.u) else forest


def _read_space(files: RowFiles, part: Part) -> Space:
    vectors, coordinates = files.read(part)
    return Space(vectors, coordinates, files.bounded, files.margin, files.slack, np, select_kernels(np))


def _make_layout(part: Part) -> Layout:
    return Layout(np.arange(part.starts[-1], dtype=np.int32), part.starts)
