"""Small data sets of every kind and settings, on which trees and labels are compared with the reference."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from panic_tda.clustering import backends

if TYPE_CHECKING:
    from panic_tda.types import Float32Array

EXACT = [name for name in backends.NAMES if name not in (backends.AUTO, "cuml")]
SETTINGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "no epsilon": {"epsilon": 0.0},
    "no single cluster": {"epsilon": 0.0, "allow_single_cluster": False},
    "epsilon, no single cluster": {"epsilon": 0.3, "allow_single_cluster": False},
    "leaf": {"epsilon": 0.0, "selection_method": "leaf"},
    "small clusters": {"epsilon": 0.1, "min_cluster_size": 3, "min_samples": 1},
    "share": {"epsilon": 0.2, "min_cluster_size": 0.07, "min_samples": 4},
    "limited size": {"epsilon": 0.0, "min_cluster_size": 4, "max_cluster_size": 20},
    "high floor": {"epsilon": 0.0, "distance_floor": 0.2},
}


def caps(sizes: list[int], d: int, spread: float, seed: int = 0) -> np.ndarray:
    """Return rows around random directions, of many lengths."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((len(sizes), d))
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    rows = np.repeat(centres, sizes, axis=0) + spread * rng.standard_normal((sum(sizes), d)) / np.sqrt(d)
    return rows * np.exp(rng.standard_normal(len(rows)))[:, None]


def unit_rows(vectors: np.ndarray) -> Float32Array:
    """Normalise rows as the package does: float32 values, norms in double precision."""
    rows = vectors.astype(np.float32).astype(np.float64)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def _make_data() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    angles = np.cumsum(np.linspace(0.005, 0.03, 90))
    blobs = caps([40, 25, 15, 10], 12, 0.15)
    distinct = rng.standard_normal((25, 6))
    return {
        "two rows": rng.standard_normal((2, 5)),
        "two equal rows": np.ones((2, 5)),
        "one dimension": np.array([[1.0], [-1], [1], [1], [-1]]),
        "blobs": blobs,
        "blobs in noise": np.concatenate([blobs, rng.standard_normal((40, 12))]),
        "one cap": caps([80], 6, 0.2),
        "noise in 768 dimensions": rng.standard_normal((60, 768)),
        "chain": np.stack([np.cos(angles), np.sin(angles)], axis=1),
        "lattice": np.array([p for p in np.ndindex(3, 3, 3, 3) if p != (1, 1, 1, 1)]) - 1.0,
        "copies": caps([9, 8, 3], 5, 0.2)[rng.integers(0, 20, 120)],
        "near copies": np.repeat(distinct[:3], 25, axis=0) + 1e-4 * rng.standard_normal((75, 6)),
        "opposite": np.concatenate([distinct, -distinct]),
        "a pile among blobs": np.concatenate([blobs, np.repeat(blobs[:1], 50, axis=0)]),
        "equal blobs": np.concatenate(
            [np.roll(np.eye(12)[:1] + 0.05 * np.eye(12), s, axis=1) for s in (0, 4, 8)]
        ),
    }


DATA = _make_data()
_PAIRS = product((name for name, rows in DATA.items() if len(rows) > 5), SETTINGS)
CASES = [(EXACT[number % len(EXACT)], *pair) for number, pair in enumerate(_PAIRS)]
"""All data of more than a few rows with all settings, on the exact backends in turn: their trees are compared
on all data anyway."""
