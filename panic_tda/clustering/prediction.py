"""Clusters of new rows: that of the nearest row of the fit by mutual reachability distance.

The definition is that of hdbscan's `approximate_predict`, with exact neighbours. The core distance of a new
row is its distance to the `min_samples`-th nearest row of the fit. The row joins the hierarchy at the
smallest mutual reachability distance to a row of the fit, its *height*; of several rows at this distance, the
nearest one is its neighbour. The new row belongs to the innermost cluster of that neighbour that was born
above the height. If that cluster is part of a selected one, the new row gets its label.

Distances that decide are sums of squared differences in float64. Products in float64 find the rows for which
they are computed, within the error bound of `_bound_error`. New rows and rows of the fit are compared tile by
tile; only the pairs that may decide are kept, so that memory does not grow with the number of pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from panic_tda.arrays.namespace import squared_lengths
from panic_tda.arrays.rows import slices
from panic_tda.clustering.condensed import ROOT, CondensedTree, build_single_linkage, condense_tree
from panic_tda.clustering.duplicates import find_distinct, keep_distinct
from panic_tda.clustering.hierarchy import densest_levels, mark_chosen, nearest_chosen
from panic_tda.records import ClusteringRecord
from panic_tda.types import OUTLIER, Array, Clustering, FloatArray, IntArray

QUERY_ROWS = 2_048
"""New rows that are compared with all rows of the fit at once."""
TILE_ROWS = 2_048
_MEASURED_VALUES = 1 << 22
_TIE_TOLERANCE = 1e-9
"""Heights that differ by less, relative to the smaller one, are one distance computed twice."""


@dataclass(frozen=True)
class Predictor:
    """Distinct rows of a fit and their clusters, to which new rows are assigned.

    Attributes
    ----------
    rows : (n, d) float32 or float64
        Distinct prepared rows of the fit.
    counts : (n,) int64
        Number of copies of each.
    scale : float
        Factor from the distances of the clustering to those of `rows`.
    cores : (n,) float64
        Core distances in the distances of `rows`.
    min_samples : int
        Number of the neighbour that gives a core distance.
    labels, probabilities : (n,) int64, (n,) float64
        Of the rows.
    row_cluster : (n,) int64
        Deepest cluster of the condensed tree that contains each row.
    condensed : CondensedTree or None
        Condensed tree of the fit; None if no row has a cluster.
    selected : (m,) int64
        Selected cluster of the condensed tree that contains each of its clusters, or `OUTLIER`.
    label_of : (m,) int64
        Label of each selected cluster, or `OUTLIER`.
    densest : (m,) float64
        Smallest height at which rows leave each cluster.
    finest : float
        Smaller heights count as this one in a probability.
    root_limit : float
        Height up to which a new row belongs to the root cluster, if that is selected.
    """

    rows: Array
    counts: IntArray
    scale: float
    cores: FloatArray
    min_samples: int
    labels: IntArray
    probabilities: FloatArray
    row_cluster: IntArray
    condensed: CondensedTree | None
    selected: IntArray
    label_of: IntArray
    densest: FloatArray
    finest: float
    root_limit: float

    def predict(self, new_rows: Array) -> tuple[IntArray, FloatArray]:
        """Return the label and the membership probability of prepared new rows; 0 for outliers.

        A row that equals a row of the fit gets the label and the probability of that row.
        """
        labels = np.full(len(new_rows), OUTLIER, dtype=np.int64)
        probabilities = np.zeros(len(new_rows))
        if self.condensed is None:
            return labels, probabilities
        for batch in slices(len(new_rows), QUERY_ROWS):
            joins = find_joins(self, new_rows[batch].astype(np.float64))
            labels[batch], probabilities[batch] = self._label(self.condensed, joins)
        return labels, probabilities

    def _label(self, condensed: CondensedTree, joins: Joins) -> tuple[IntArray, FloatArray]:
        height = joins.height / self.scale
        cluster = self.row_cluster[joins.neighbour]
        while (climbing := (cluster != ROOT) & (condensed.birth[cluster] <= height)).any():
            cluster = np.where(climbing, condensed.parent[cluster], cluster)
        selected = self.selected[cluster]
        labels = np.where(selected == OUTLIER, OUTLIER, self.label_of[selected])
        labels[(selected == ROOT) & (height > self.root_limit)] = OUTLIER
        strength = np.maximum(self.densest[selected], self.finest) / np.maximum(height, self.finest)
        probabilities = np.where(labels == OUTLIER, 0.0, np.minimum(strength, 1.0))
        is_copy = joins.distance == 0
        labels[is_copy] = self.labels[joins.neighbour[is_copy]]
        probabilities[is_copy] = self.probabilities[joins.neighbour[is_copy]]
        return labels, probabilities


def build_predictor(rows: Array, clustering: Clustering, scale: float = 1.0) -> Predictor:
    """Build the predictor of a clustering.

    Parameters
    ----------
    rows : (n, d) float32 or float64
        The prepared rows of the fit, copies included. If they are writable, distinct rows are moved to the
        front; otherwise they are copied.
    clustering : Clustering
        Its result.
    scale : float
        Factor from the distances of the clustering to those of `rows`.
    """
    record, tree = clustering.record, clustering.tree
    empty = np.empty(0, dtype=np.int64)
    if tree is None or tree.core_distances is None or not clustering.n_clusters:
        nothing = np.empty(0)
        return Predictor(
            rows, empty, scale, nothing, record.min_samples, empty, nothing, empty,
            None, empty, empty, nothing, 0.0, 0.0,
        )  # fmt: skip
    linkage = build_single_linkage(tree, record.distance_floor)
    condensed = condense_tree(linkage, record.min_cluster_size, tree.tie_tolerance)
    chosen = mark_chosen(condensed, record)
    selected = nearest_chosen(condensed.parent, chosen)
    label_of = np.full(len(condensed.parent), OUTLIER, dtype=np.int64)
    members = np.flatnonzero(clustering.labels != OUTLIER)
    label_of[selected[condensed.row_cluster[members]]] = clustering.labels[members]
    densest = densest_levels(condensed)
    distinct = find_distinct(rows)
    first = distinct.first
    return Predictor(
        rows=keep_distinct(rows, distinct) if rows.flags.writeable else rows[first],
        counts=distinct.counts,
        scale=scale,
        cores=np.maximum(tree.core_distances[first], record.distance_floor) * scale,
        min_samples=record.min_samples,
        labels=clustering.labels[first],
        probabilities=clustering.probabilities[first],
        row_cluster=condensed.row_cluster[first],
        condensed=condensed,
        selected=selected,
        label_of=label_of,
        densest=densest,
        finest=max(record.cluster_selection_epsilon, record.distance_floor),
        root_limit=_limit_root(record, chosen.sum() == 1, float(densest[ROOT])),
    )


def _limit_root(record: ClusteringRecord, is_alone: bool, densest: float) -> float:
    """Return the height up to which rows belong to a selected root, as the labels of the fit have it."""
    return (record.cluster_selection_epsilon or densest) if is_alone else 0.0


class Joins(NamedTuple):
    """Points at which new rows join the hierarchy: row of the fit, its distance, and the height."""

    neighbour: IntArray
    distance: FloatArray
    height: FloatArray


def find_joins(predictor: Predictor, queries: FloatArray) -> Joins:
    """Find the nearest row of the fit by mutual reachability of every query, (b, d) float64."""
    i, j = _find_candidates(predictor, queries)
    distances = _measure(predictor.rows, queries, i, j)
    order = np.lexsort((j, distances, i))
    i, j, distances = i[order], j[order], distances[order]
    starts = np.searchsorted(i, np.arange(len(queries)))
    # The core distance: copies count as so many neighbours.
    neighbours = np.cumsum(predictor.counts[j])
    before = np.where(starts > 0, neighbours[starts - 1], 0)
    core = distances[np.searchsorted(neighbours, before + predictor.min_samples)]

    heights = np.maximum(np.maximum(distances, predictor.cores[j]), core[i])
    lowest = np.minimum.reduceat(heights, starts)
    # Sorted by distance and row, the first of the tied rows is the nearest one.
    tied = np.flatnonzero(heights <= lowest[i] * (1 + _TIE_TOLERANCE))
    first = tied[np.searchsorted(i[tied], np.arange(len(queries)))]
    return Joins(j[first], distances[first], heights[first])


def _find_candidates(predictor: Predictor, queries: FloatArray) -> tuple[IntArray, IntArray]:
    """Find the rows that may be among the `min_samples` nearest ones of a query, or join it lowest.

    Returns
    -------
    queries, rows : (p,) int64
        The pairs, some of them needlessly.
    """
    k = min(predictor.min_samples, len(predictor.rows))
    error, squared_cores = 2 * _bound_error(predictor.rows, queries), predictor.cores**2
    nearest = np.full((len(queries), k), np.inf)
    lowest = np.full(len(queries), np.inf)
    pairs: list[tuple[IntArray, IntArray]] = []
    for tile, squares in _iterate_squares(predictor.rows, queries):
        closer = np.flatnonzero(squares.min(axis=1) < nearest[:, -1])
        merged = np.concatenate([nearest[closer], squares[closer]], axis=1)
        nearest[closer] = np.partition(merged, k - 1, axis=1)[:, :k]
        among_nearest = squares <= (nearest[:, -1] + error)[:, None]
        heights = np.maximum(squares, squared_cores[tile], out=squares)
        np.minimum(lowest, heights.min(axis=1), out=lowest)
        limits = (np.maximum(lowest, nearest[:, -1]) + error) * (1 + 3 * _TIE_TOLERANCE)
        i, j = np.nonzero(among_nearest | (heights <= limits[:, None]))
        pairs.append((i, j + tile.start))
    return tuple(map(np.concatenate, zip(*pairs, strict=True)))  # type: ignore[return-value]


def _iterate_squares(rows: Array, queries: FloatArray) -> Iterator[tuple[slice, FloatArray]]:
    """Yield ‖x‖² + ‖y‖² - 2·x·y in float64, (queries, rows of a tile), for each tile of the rows."""
    of_queries = squared_lengths(queries)[:, None]
    for tile in slices(len(rows), TILE_ROWS):
        columns = rows[tile].astype(np.float64)
        squares = queries @ (-2 * columns.T)
        squares += squared_lengths(columns)
        squares += of_queries
        yield tile, squares


def _bound_error(rows: Array, queries: FloatArray) -> FloatArray:
    """Bound the error of `_iterate_squares`, and of squares of core distances, for each query.

    The norms of prepared rows are at most 1 (1 + 1e-6 for unit rows in float32).
    """
    reach = (1.001 + np.sqrt(squared_lengths(queries))) ** 2
    bound: FloatArray = 4 * (rows.shape[1] + 4) * 2.0**-53 * reach
    return bound


def _measure(rows: Array, queries: FloatArray, i: IntArray, j: IntArray) -> FloatArray:
    """Return the distances of pairs of queries and rows."""
    distances = np.empty(len(i))
    for part in slices(len(i), _MEASURED_VALUES // max(1, queries.shape[1])):
        distances[part] = np.sqrt(squared_lengths(queries[i[part]] - rows[j[part]]))
    return distances
