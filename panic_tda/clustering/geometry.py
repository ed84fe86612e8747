"""Preparation of rows for a metric: unit rows for cosine, centred and scaled rows for euclidean.

Backends work on prepared rows. Euclidean distances are scaled by a power of two for them, and their tree is
scaled back, which rounds nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from panic_tda.arrays.frames import Frame, centre_rows
from panic_tda.arrays.rows import normalise
from panic_tda.clustering.backends.base import FitOptions
from panic_tda.parameters import EUCLIDEAN_FLOOR
from panic_tda.records import COSINE, EffectiveParameters
from panic_tda.types import Array, SpanningTree


def row_type(metric: str) -> type[np.floating[Any]]:
    """Return the data type of the rows: float32 for cosine, float64 for euclidean."""
    return np.float32 if metric == COSINE else np.float64


def convert_rows(vectors: Array, metric: str) -> Array:
    """Return float32 rows in the type of a metric: the same array for cosine, a copy for euclidean."""
    return vectors if metric == COSINE else vectors.astype(row_type(metric))


def prepare_rows(vectors: Array, metric: str) -> Frame | None:
    """Prepare rows in place, and return the frame of Euclidean ones (None for cosine).

    Raises
    ------
    BadVectors
        Rows are NaN or infinite, zero with cosine, or too far apart for float64 with euclidean.
    """
    if metric == COSINE:
        normalise(vectors)
        return None
    return centre_rows(vectors)


def prepare_more_rows(vectors: Array, frame: Frame | None) -> None:
    """Prepare further rows in place as those of the fit were."""
    if frame is None:
        normalise(vectors)
    else:
        frame.apply(vectors)


def fit_floor(effective: EffectiveParameters, frame: Frame | None) -> EffectiveParameters:
    """Return the parameters with the distance floor of these rows; for cosine, unchanged."""
    if frame is None:
        return effective
    # Without a spread, all rows are copies, and any floor will do.
    return replace(effective, distance_floor=EUCLIDEAN_FLOOR * (frame.radius or 1.0))


def scale_options(options: FitOptions, frame: Frame | None) -> FitOptions:
    """Return the options in the distances of the prepared rows."""
    if frame is None:
        return options
    return replace(options, metric="euclidean", distance_floor=options.distance_floor * frame.scale)


def scale_tree(tree: SpanningTree, frame: Frame | None) -> SpanningTree:
    """Return a tree of prepared rows in the distances of the rows as they came."""
    if frame is None:
        return tree
    cores, lists = tree.core_distances, tree.neighbours
    if lists is not None:
        lists = replace(lists, distances=lists.distances / frame.scale)
    return replace(
        tree,
        height=tree.height / frame.scale,
        core_distances=None if cores is None else cores / frame.scale,
        neighbours=lists,
    )
