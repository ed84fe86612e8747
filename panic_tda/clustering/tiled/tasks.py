"""Tasks of all passes that grow with n², as pure functions: what they need is in the task or in files.

A task needs nothing that a worker holds, so that each may run anywhere, and again after a worker was lost.
It compares rows in the memory of the processor, or of a CUDA device if its files say so: the same kernels as
without an executor. A process with a device keeps blocks of rows there (`device_blocks`) to save time.
Tasks compare with values that results of other tasks have improved by then. That changes the time alone:
with an older threshold a task finds more, and with an older tree too (`proof`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from panic_tda.arrays.device import translate_out_of_memory
from panic_tda.arrays.namespace import device_library, to_host
from panic_tda.arrays.rows import slices
from panic_tda.clustering.tiled import device, device_blocks, host
from panic_tda.clustering.tiled.blocks import Part
from panic_tda.clustering.tiled.contract import ByPosition, Space
from panic_tda.clustering.tiled.cores import compare_with_rows
from panic_tda.clustering.tiled.improving_edges import NO_EDGES, edges_within, local_forest
from panic_tda.clustering.tiled.joining import ASKED_AT_ONCE
from panic_tda.clustering.tiled.layout import Layout
from panic_tda.clustering.tiled.row_files import MatrixFile, RowFiles
from panic_tda.clustering.tiled.space import select_kernels
from panic_tda.clustering.tiled.workers import Workers, workers
from panic_tda.clustering.trees import Edges, concatenate

if TYPE_CHECKING:
    from panic_tda.types import Float32Array, FloatArray, Int32Array, IntArray

_NO_ROW = np.iinfo(np.int32).max
"""Stands in a list for the entries that its row has already: after every row number, as ties prefer small
ones."""


_ENTRY_BYTES, _POSITION_BYTES = 32, 128
"""Bytes of an entry of a list and of its copies in a result, and of the other values of a position."""


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


class SearchTask(NamedTuple):
    """Rows with too short a list, to compare with all rows of a block.

    Attributes
    ----------
    number, block : int
        Numbers of the group of rows, and of the block.
    files : RowFiles
        Rows in the order of the layout.
    positions : (int, int)
        First position of the block, and the end.
    weights : (positions,) int64
        Copies of the rows of the block.
    query_rows : MatrixFile
        All rows to compare with the others.
    rows : (int, int)
        The rows of the group there: the first one, and the end.
    itself : (rows,) int64
        Local index of each of these rows in the block; -1 in other blocks.
    missing : (rows,) int64
        Weight that the neighbours of each must add up to.
    upper_bounds : (rows,) float64
        Upper bounds of their core distances, as known when the task was made.
    batch_rows : int
        Rows to compare at once.
    """

    number: int
    block: int
    files: RowFiles
    positions: tuple[int, int]
    weights: IntArray
    query_rows: MatrixFile
    rows: tuple[int, int]
    itself: IntArray
    missing: IntArray
    upper_bounds: FloatArray
    batch_rows: int


class NearRows(NamedTuple):
    """Rows of a block that may be nearer than a core distance.

    Attributes
    ----------
    queries, others : (entries,) int64
        Number in the group of the row that asked, and local index of the near row.
    distances : (entries,) float64
        Chord lengths.
    """

    queries: IntArray
    others: IntArray
    distances: FloatArray


class PanelTask(NamedTuple):
    """Rows of some components, to compare with the centres of panels; see `host.OutsideSearch`.

    Attributes
    ----------
    query_rows, centres : MatrixFile
        Coordinates of all rows that ask, and of all centres.
    rows, panels : (int, int)
        The rows and the panels of the task: the first one of each, and the end.
    owners : (rows,) int64
        Component of each row.
    only : (panels,) int64
        Component of each panel that holds no other, else -1.
    on_device : bool
        See `row_files.RowFiles`.
    """

    query_rows: MatrixFile
    centres: MatrixFile
    rows: tuple[int, int]
    panels: tuple[int, int]
    owners: IntArray
    only: IntArray
    on_device: bool


class PanelChoice(NamedTuple):
    """The most similar panels of each row.

    Attributes
    ----------
    panels : (rows, count) int32
        Their numbers, the most similar first; -1 where there are fewer.
    products : (rows, count) float32
        Their similarities; minus infinity where there are fewer.
    """

    panels: Int32Array
    products: Float32Array


def find_neighbours(task: NeighbourTask) -> ListEntries:
    """Find the pairs of rows that may enter the neighbour list of either row."""
    with _open_space(task.files, task.part) as (space, layout, team):
        lists = space.kernels.empty_lists(space.xp, layout, task.length, None)
        lists.rows[:] = _NO_ROW
        lists.sims[:] = space.xp.asarray(task.thresholds)[:, None]
        within = task.part.pairs[:, 0] == task.part.pairs[:, 1]
        scanner = space.kernels.scanner(space, int(np.diff(layout.starts).max()))
        for tile in task.part.pairs[within, 0].tolist():
            numbers = layout.rows(tile)
            for candidates in scanner.nearest(numbers, task.length):
                lists.push_within(candidates, tile, numbers)
        lists.flush()
        between = task.part.pairs[~within]
        if len(between):
            scan = space.kernels.neighbour_scan(space, layout, lists, team)
            for number in range(len(between)):
                # One pair at a time, so that each has the thresholds of those before.
                scan.scan(between[number : number + 1])
            lists.flush()
        rows, sims = to_host(lists.rows), to_host(lists.sims)
    owners, entries = np.nonzero(rows != _NO_ROW)
    return ListEntries(owners.astype(np.int32), rows[owners, entries], sims[owners, entries])


def find_improving_edges(task: EdgeTask) -> Edges:
    """Find a minimum spanning forest of the edges that are below the tree's path maximum.

    Returns
    -------
    Edges
        Their ends are local indices.
    """
    with _open_space(task.files, task.part) as (space, layout, team):
        values = (task.cores, task.merge_heights, task.to_end, task.from_start)
        tiles = ByPosition(layout, *(space.xp.asarray(of) for of in values))
        within = task.part.pairs[:, 0] == task.part.pairs[:, 1]
        forest = NO_EDGES
        scanner = space.kernels.scanner(space, int(np.diff(layout.starts).max()))
        for tile in task.part.pairs[within, 0].tolist():
            forest = concatenate([forest, edges_within(scanner, tiles, tile)])
        pairs, heights = task.part.pairs[~within], task.between[~within]
        if len(pairs):
            scan = space.kernels.edge_scan(space, layout, team)
            scan.use(tiles, prune_rows=task.prune_rows)
            # `find` thins out what it holds.
            forest = concatenate([forest, scan.find(pairs, heights)])
    return local_forest(forest) if len(forest.u) else forest


def estimate_bytes(tile_rows: int, n_tiles: int, n_features: int, *, n_coordinates: int, length: int) -> int:
    """Return the most bytes that a task takes, its result included.

    Parameters
    ----------
    tile_rows : int
        Most rows of a tile.
    n_tiles : int
        Tiles of both blocks.
    n_features, n_coordinates : int
        Numbers of a row, and of its projected coordinates.
    length : int
        Entries of a neighbour list.
    """
    coordinates = 4 * n_coordinates + host.packed_bytes(n_coordinates)
    by_position = 4 * n_features + coordinates + _ENTRY_BYTES * length + _POSITION_BYTES
    return n_tiles * tile_rows * by_position + host.buffer_bytes(tile_rows, n_features)


def estimate_device_bytes(
    tile_rows: int, n_tiles: int, n_features: int, *, n_coordinates: int, length: int
) -> int:
    """Return the most bytes of device memory that a task takes, without kept blocks; see `estimate_bytes`."""
    # Rows are copied from two blocks into one matrix.
    by_position = 8 * (n_features + n_coordinates) + device.list_bytes(length) + _POSITION_BYTES
    return n_tiles * tile_rows * by_position + device.buffer_bytes(tile_rows, n_features)


def find_near_rows(task: SearchTask) -> NearRows:
    """Find the rows of a block that are nearer to some rows than the upper bounds of their core distances."""
    n_columns, n_queries = len(task.weights), len(task.missing)
    with _open_memory(n_columns + n_queries, task.query_rows.width, on_device=task.files.on_device):
        space, parts = _read_search_space(task), []
        for part in slices(n_queries, task.batch_rows):
            nearest = compare_with_rows(
                space,
                task.weights,
                np.arange(part.start, part.stop) + n_columns,
                task.missing[part],
                task.upper_bounds[part].copy(),
                task.itself[part],
            )
            parts.append((nearest.queries + part.start, nearest.rows, nearest.distances))
    return NearRows(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def choose_panels(task: PanelTask) -> PanelChoice:
    """Choose the panels with rows of other components that are most similar to each row."""
    xp = device_library() if task.on_device else np
    # The last coordinate is part of a bound; similarities do without it.
    width = task.centres.width
    with _open_memory(len(task.owners) + len(task.only), width, on_device=task.on_device):
        centres = xp.asarray(task.centres.read([task.panels]))
        points = xp.asarray(task.query_rows.read([task.rows]))[:, :width]
        choose = select_kernels(xp).choose_panels
        parts = [
            choose(points[part], task.owners[part], centres, task.only)
            for part in slices(len(points), ASKED_AT_ONCE)
        ]
    panels, products = (np.concatenate(values) for values in zip(*parts, strict=True))
    panels[panels >= 0] += task.panels[0]
    return PanelChoice(panels.astype(np.int32), products)


@contextlib.contextmanager
def _open_memory(n_rows: int, n_features: int, *, on_device: bool) -> Iterator[Workers]:
    """Open the thread of a task, and name the rows if device memory runs out."""
    if on_device:
        device_blocks.require_device()
    translated = translate_out_of_memory(n_rows, n_features, "tiled")
    with workers(1) as team, translated if on_device else contextlib.nullcontext():
        yield team


@contextlib.contextmanager
def _open_space(files: RowFiles, part: Part) -> Iterator[tuple[Space, Layout, Workers]]:
    """Read the rows of a part; its local indices are their numbers."""
    n_rows = int(part.starts[-1])
    with _open_memory(n_rows, files.vectors.width, on_device=files.on_device) as team:
        if files.on_device:
            space = device_blocks.read_space(files, part.ranges)
        else:
            vectors, coordinates = files.read(part.ranges)
            kernels = select_kernels(np)
            space = Space(vectors, coordinates, files.bounded, files.margin, files.slack, np, kernels)
        yield space, Layout(space.xp.arange(n_rows, dtype=np.int32), part.starts), team


def _read_search_space(task: SearchTask) -> Space:
    """Read the rows of a block, and below them those of the group."""
    files, n_columns = task.files, len(task.weights)
    if files.on_device:
        return device_blocks.read_search_space(files, task.positions, task.query_rows, task.rows)
    vectors = np.empty((n_columns + len(task.missing), task.query_rows.width), dtype=np.float32)
    files.vectors.read_into([task.positions], vectors[:n_columns])
    task.query_rows.read_into([task.rows], vectors[n_columns:])
    return Space(vectors, vectors, False, files.margin, 0.0, np, select_kernels(np))
