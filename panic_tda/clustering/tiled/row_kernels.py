"""Compiled inner loops over rows and their lists, on NumPy arrays; see `kernels` for those over tiles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from panic_tda.clustering.compiled import IN_ANY_ORDER, compiled
from panic_tda.clustering.tiled import kernels

if TYPE_CHECKING:
    from panic_tda.types import BoolArray, Float32Array, FloatArray, Int32Array, IntArray


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
def update_best(
    products: Float32Array,
    rows: IntArray,
    first: int,
    cores: FloatArray,
    leader: IntArray,
    best: IntArray,
    weight: FloatArray,
) -> None:
    """Offer columns `first` and on to every row that looks for its nearest one in another component."""
    for i in range(len(rows)):
        mine, core = leader[rows[i]], cores[rows[i]]
        lower = 1 - weight[i] * weight[i] / 2
        for j in range(products.shape[1]):
            s = np.float64(products[i, j])
            other = first + j
            if s <= lower or cores[other] >= weight[i] or leader[other] == mine:
                continue
            w = max(core, cores[other], np.sqrt(max(0.0, 2 - 2 * s)))
            if w < weight[i]:
                weight[i], best[i] = w, other
                lower = 1 - w * w / 2


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
