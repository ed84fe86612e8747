"""Compiled inner loops over rows and their lists, on NumPy arrays; see `kernels` for those over tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from panic_tda.clustering.compiled import IN_ANY_ORDER, compiled
from panic_tda.clustering.tiled import kernels

if TYPE_CHECKING:
    from panic_tda.types import BoolArray, Float32Array, FloatArray, Int32Array, IntArray

_MEASURED = 2
"""Rows of other components that are measured in float64, per query row."""


@compiled
def cores_from_lists(
    vectors: Float32Array,
    weights: IntArray,
    list_rows: Int32Array,
    list_sims: Float32Array,
    min_samples: int,
    floor: float,
    margin: float,
    begin: int,
    end: int,
    cores: FloatArray,
    again: BoolArray,
) -> None:
    """Measure the core distances of rows begin to end, and flag those whose lists may be too short.

    The docstring of `cores` has the proof and the names; `at` is where the k-th neighbour stands.
    """
    length = list_rows.shape[1]
    complete = length == len(weights) - 1
    measured = np.empty(length)
    for row in range(begin, end):
        missing = min_samples - weights[row]
        if missing <= 0:
            cores[row] = floor
            continue
        order = np.argsort(list_sims[row])[::-1]
        reached, at = 0, 0
        while True:
            reached += weights[list_rows[row, order[at]]]
            if reached >= missing or at == length - 1:
                break
            at += 1
        kth = np.float64(list_sims[row, order[at]])
        high, low = kth + 2 * margin, kth - 2 * margin
        first = 0
        while first < at and list_sims[row, order[first]] > high:
            missing -= weights[list_rows[row, order[first]]]
            first += 1
        last = at + 1
        while last < length and list_sims[row, order[last]] >= low:
            last += 1
        for t in range(first, last):
            measured[t - first] = kernels.distance(vectors[row], vectors[list_rows[row, order[t]]])
        core = _weighted_kth(measured[: last - first], weights, list_rows[row], order[first:last], missing)
        cores[row] = max(core, floor)
        # Below the floor all distances are one, whatever else is near.
        again[row] = last == length and not complete and core > floor


@compiled
def _weighted_kth(
    measured: FloatArray, weights: IntArray, rows: Int32Array, entries: IntArray, missing: int
) -> float:
    order = np.argsort(measured)
    reached = 0
    for t in order:
        reached += weights[rows[entries[t]]]
        if reached >= missing:
            return float(measured[t])
    return float(measured[order[-1]])


@compiled
def find_pure_panels(representative: IntArray, order: Int32Array, width: int) -> IntArray:
    """Return the component of each panel of `width` positions, or -1 where it holds several."""
    only = np.empty(-(-len(order) // width), dtype=np.int64)
    for panel in range(len(only)):
        only[panel] = representative[order[panel * width]]
        for position in range(panel * width, min(len(order), (panel + 1) * width)):
            if representative[order[position]] != only[panel]:
                only[panel] = -1
                break
    return only


@compiled
def choose_panels(
    products: Float32Array,
    first: int,
    only: IntArray,
    representative: IntArray,
    chosen: IntArray,
    largest: Float32Array,
) -> None:
    """Enter panels that hold another component among the most similar ones of each row.

    Parameters
    ----------
    products : (rows, panels) float32
        Similarities to the panels from number `first` on.
    first : int
        Number of the first of these panels.
    only : (panels,) int64
        Component of each panel that holds no other, else -1.
    representative : (rows,) int64
        Component of each row.
    chosen, largest : (rows, count) int64 and float32
        The most similar panels so far, and their similarities, in falling order; updated.
    """
    last = chosen.shape[1] - 1
    for i in range(len(products)):
        for panel in range(products.shape[1]):
            product = products[i, panel]
            if product <= largest[i, last] or only[panel] == representative[i]:
                continue
            at = last
            while at > 0 and largest[i, at - 1] < product:
                largest[i, at], chosen[i, at] = largest[i, at - 1], chosen[i, at - 1]
                at -= 1
            largest[i, at], chosen[i, at] = product, first + panel


@compiled
def probe_panels(
    points: Float32Array,
    vectors: Float32Array,
    order: Int32Array,
    cores: FloatArray,
    representative: IntArray,
    query_rows: IntArray,
    panels: IntArray,
    width: int,
    n_coordinates: int,
) -> IntArray:
    """Find a near row of another component for each query row, in the panels chosen for it.

    The `_MEASURED` best by products of the points' first coordinates are measured in float64.
    """
    best = np.full(len(query_rows), -1)
    rows, weights = np.empty(_MEASURED, dtype=np.int64), np.empty(_MEASURED)
    for i in range(len(query_rows)):
        row = query_rows[i]
        weights[:] = np.inf
        for panel in panels[i]:
            if panel < 0:
                break
            for position in range(panel * width, min(len(order), (panel + 1) * width)):
                candidate = order[position]
                if (
                    representative[candidate] == representative[row]
                    or cores[candidate] >= weights[_MEASURED - 1]
                ):
                    continue
                product = np.float64(
                    kernels.product(points[row, :n_coordinates], points[candidate, :n_coordinates])
                )
                weight = max(cores[row], cores[candidate], np.sqrt(max(0.0, 2 - 2 * product)))
                if weight >= weights[_MEASURED - 1]:
                    continue
                at = _MEASURED - 1
                while at > 0 and weights[at - 1] > weight:
                    weights[at], rows[at] = weights[at - 1], rows[at - 1]
                    at -= 1
                weights[at], rows[at] = weight, candidate
        lightest = np.inf
        for t in range(_MEASURED):
            if weights[t] < np.inf:
                candidate = rows[t]
                weight = max(cores[row], cores[candidate], kernels.distance(vectors[row], vectors[candidate]))
                if weight < lightest:
                    lightest, best[i] = weight, candidate
    return best


@compiled(fastmath=IN_ANY_ORDER)
def nearest_members(
    vectors: Float32Array,
    cores: FloatArray,
    outside: IntArray,
    members: IntArray,
    begin: IntArray,
    end: IntArray,
    inside: IntArray,
) -> None:
    """Find the row of members[begin:end] nearest to each outside row."""
    for t in range(len(outside)):
        x = vectors[outside[t]]
        best = np.inf
        for at in range(begin[t], end[t]):
            row = members[at]
            if cores[row] >= best:
                continue
            # The core of the outer row is the same for all and does not count here.
            w = max(cores[row], kernels.distance(x, vectors[row]))
            if w < best:
                best, inside[t] = w, row
