"""Test that a fit without numba's compiler gives the same result.

What is compiled has no lines that could be counted; here it has.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from panic_tda.arrays.rows import normalise
from panic_tda.clustering import hierarchy
from panic_tda.clustering.backends.base import FitOptions
from panic_tda.clustering.tiled.engine import Settings, TiledBackend
from panic_tda.parameters import ClusteringParameters
from tests.snapshots import run_python

N = 160


def rows_of(name: str) -> np.ndarray:
    """Return distinct unit rows: with minor axes, in groups of near copies, or on a lattice."""
    rng = np.random.default_rng(0)
    if name == "lattice":
        rows = np.array([[a, b, c] for a in range(8) for b in range(8) for c in (3, 5)]) + 1.0
    else:
        centres = rng.standard_normal((6, 192))[rng.integers(6, size=N)]
        spread = 0.6 if name == "axes" else np.array([1e-6, 1e-4, 1e-2])[rng.integers(3, size=N)][:, None]
        rows = (centres + spread * rng.standard_normal((N, 192))) * np.arange(1, 193) ** -0.6
    rows = rows.astype(np.float32)
    normalise(rows)
    return rows[np.sort(np.unique(rows, axis=0, return_index=True)[1])]


CASES = ("axes", "piles", "lattice")
ASKED: tuple[dict[str, Any], ...] = (
    {},
    {"epsilon": 0.0, "allow_single_cluster": False},
    {"epsilon": 0.0, "selection_method": "leaf"},
    {"epsilon": 0.3, "selection_method": "leaf", "allow_single_cluster": False},
    {"epsilon": 0.0, "max_cluster_size": 60},
)


def answers(name: str) -> list[Any]:
    """Return a tree's sorted heights, and labels and probabilities by each of the settings."""
    rows = rows_of(name)
    weights = 1 + np.arange(len(rows)) % 3
    # Small tiles: most pairs are of two.
    backend = TiledBackend(Settings(tile_rows=64, threads=1, library=np))
    tree = backend.fit(rows, weights, FitOptions(min_samples=5, distance_floor=1e-3))
    heights: list[Any] = [np.sort(tree.height).tolist()]
    for settings_name in ASKED:
        parameters = ClusteringParameters(min_cluster_size=5, **settings_name).resolve(len(rows))
        flat = hierarchy.extract_clusters(tree, parameters)
        heights.append([flat.labels.tolist(), flat.probabilities.tolist(), sorted(flat.persistence)])
    return heights


UNCOMPILED = """
import json, os, sys
os.environ["NUMBA_DISABLE_JIT"] = "1"
from tests.clustering.test_uncompiled import answers
print(json.dumps(answers(sys.argv[1])))
"""


@pytest.mark.parametrize("name", CASES)
def test_a_fit_is_the_same_without_a_compiler(name: str) -> None:
    process = run_python(UNCOMPILED, name)
    assert process.returncode == 0, process.stderr
    (heights, *plain), (compiled_heights, *compiled) = json.loads(process.stdout), answers(name)
    np.testing.assert_allclose(heights, compiled_heights, rtol=1e-12)
    for (labels, probabilities, persistence), expected in zip(plain, compiled, strict=True):
        assert labels == expected[0]
        np.testing.assert_allclose(probabilities, expected[1], rtol=1e-9)
        np.testing.assert_allclose(persistence, expected[2], rtol=1e-9)
    assert max(compiled[1][0]) > 0
