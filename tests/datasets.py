"""Small data sets on the unit sphere, each named for what it tries; every call returns the same rows."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.random import Generator
    from numpy.typing import ArrayLike

    from panic_tda.types import Float32Array


def unit_rows(vectors: ArrayLike) -> Float32Array:
    """Divide rows by their float64 norms and round to float32."""
    rows = np.asarray(vectors, dtype=np.float64)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def caps(generator: Generator, sizes: list[int], d: int, spread: float) -> np.ndarray:
    """Gaussian clouds of about `spread` chord length around random directions, not normalised."""
    centres = unit_rows(generator.normal(size=(len(sizes), d))).astype(np.float64)
    return np.repeat(centres, sizes, axis=0) + generator.normal(size=(sum(sizes), d)) * spread / np.sqrt(d)


def on_circle(angles: ArrayLike) -> np.ndarray:
    """Points of the unit circle, (n, 2)."""
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def blobs() -> Float32Array:
    """Clear clusters of unequal size and spread."""
    generator = np.random.default_rng(1)
    tight, wide = caps(generator, [30, 20, 9], 8, 0.2), caps(generator, [25, 12], 8, 0.5)
    return unit_rows(np.concatenate([tight, wide]))


def blobs_in_noise() -> Float32Array:
    """Clusters with a third of the rows anywhere."""
    generator = np.random.default_rng(2)
    return unit_rows(np.concatenate([caps(generator, [30, 20, 14], 6, 0.3), generator.normal(size=(36, 6))]))


def nested_blobs() -> Float32Array:
    """Clusters inside clusters inside clusters, so that selection has a choice at three levels."""
    generator = np.random.default_rng(3)
    outer = np.repeat(caps(generator, [1] * 3, 8, 0.0), [4, 3, 2], axis=0)
    inner = np.repeat(outer + generator.normal(size=outer.shape) * 0.12, 3, axis=0)
    leaves = np.repeat(inner + generator.normal(size=inner.shape) * 0.04, 4, axis=0)
    return unit_rows(leaves + generator.normal(size=leaves.shape) * 0.01)


def chain() -> Float32Array:
    """An arc along which steps grow: single linkage is one long branch."""
    return unit_rows(on_circle(np.cumsum(np.linspace(0.005, 0.04, 100))))


def drifting_walks() -> Float32Array:
    """Trajectories that linger and drift, as generated captions do, a few rows repeated."""
    generator = np.random.default_rng(4)
    walks = []
    for start in caps(generator, [1] * 4, 10, 0.0):
        steps = generator.normal(size=(25, 10)) * generator.choice([0.0, 0.02, 0.15], 25)[:, None]
        walks.append(start + np.cumsum(steps, axis=0))
    return unit_rows(np.concatenate(walks))


def ring_of_clusters() -> Float32Array:
    """Equal clusters at nearly equal distances around a great circle."""
    generator = np.random.default_rng(5)
    angles = np.repeat(np.arange(8) * np.pi / 4, 12) + generator.normal(size=96) * 0.05
    return unit_rows(np.column_stack([on_circle(angles), generator.normal(size=96) * 0.05]))


def touching_arcs() -> Float32Array:
    """Two dense arcs whose ends nearly meet, far from each other elsewhere."""
    turn = np.linspace(0, 1.2, 50)
    first = np.column_stack([np.cos(turn), np.sin(turn), np.zeros(50)])
    second = np.column_stack([np.cos(turn + 0.03), np.zeros(50), np.sin(turn + 0.03)])
    return unit_rows(np.concatenate([first, second]))


def single_cluster() -> Float32Array:
    """One cap, denser towards its middle."""
    return unit_rows(caps(np.random.default_rng(6), [90], 5, 0.3))


def all_noise() -> Float32Array:
    """Directions at random in 64 dimensions: all nearly orthogonal."""
    return unit_rows(np.random.default_rng(7).normal(size=(90, 64)))


def lattice() -> Float32Array:
    """Directions of an integer grid: few distinct distances, many exact ties."""
    return unit_rows([point for point in product((-1, 0, 1), repeat=4) if any(point)])


def tied_groups() -> Float32Array:
    """Groups of orthogonal-looking sign vectors: groups tie inside, with each other, and as merges."""
    generator = np.random.default_rng(8)
    signs = generator.choice([-1, 1], size=(8, 32))
    rows = np.repeat(signs, 9, axis=0)
    for row in range(len(rows)):
        rows[row, row % 9] *= -1
    return unit_rows(rows)


def duplicates() -> Float32Array:
    """Few distinct rows, most of them many times."""
    generator = np.random.default_rng(9)
    distinct = caps(generator, [5, 4, 3, 1, 1, 1], 6, 0.3)
    return unit_rows(np.repeat(distinct, [20, 11, 8, 5, 5, 4, 3, 3, 2, 2, 1, 1, 9, 6, 1], axis=0))


def near_copies() -> Float32Array:
    """Groups of rows closer than the distance floor, and a sparse surrounding."""
    generator = np.random.default_rng(10)
    piles = np.repeat(caps(generator, [1] * 4, 8, 0.0), [25, 15, 10, 3], axis=0)
    piles += generator.normal(size=piles.shape) * 1e-5
    return unit_rows(np.concatenate([piles, caps(generator, [20, 12], 8, 0.6)]))


def two_points() -> Float32Array:
    """Two distinct rows, many times each."""
    return unit_rows(np.repeat([[1.0, 0.2, 0.0], [0.0, 1.0, 0.3]], [17, 12], axis=0))


def identical() -> Float32Array:
    """One row, forty times."""
    return unit_rows(np.tile([0.3, -0.4, 0.5], (40, 1)))


def one_dimension() -> Float32Array:
    """The unit sphere of the line: two points, antipodal."""
    return unit_rows(np.random.default_rng(11).normal(size=(30, 1)))


def circle() -> Float32Array:
    """Angles at random on the circle."""
    return unit_rows(on_circle(np.random.default_rng(12).uniform(0, 2 * np.pi, 80)))


def wide() -> Float32Array:
    """Clusters in 768 dimensions around a common mean, as sentence encoders give them."""
    generator = np.random.default_rng(13)
    return unit_rows(caps(generator, [30, 22, 15, 8], 768, 0.4) + 0.05)


def pair() -> Float32Array:
    """Two rows."""
    return unit_rows([[1.0, 0.0], [0.8, 0.6]])


DATASETS: dict[str, Callable[[], Float32Array]] = {
    make.__name__: make
    for make in (
        blobs,
        blobs_in_noise,
        nested_blobs,
        chain,
        drifting_walks,
        ring_of_clusters,
        touching_arcs,
        single_cluster,
        all_noise,
        lattice,
        tied_groups,
        duplicates,
        near_copies,
        two_points,
        identical,
        one_dimension,
        circle,
        wide,
        pair,
    )
}
"""Every data set by its name."""
