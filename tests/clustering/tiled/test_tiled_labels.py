"""Compare labels, probabilities and medoids of the tiled engine with the reference, on difficult data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

from panic_tda.clustering import backends
from panic_tda.clustering.recipe import hdbscan
from panic_tda.clustering.tiled.engine import Settings, TiledBackend
from panic_tda.files.importing import sample_files
from panic_tda.parameters import ClusteringParameters
from tests.clustering.test_recipe import assert_is_the_oracles
from tests.clustering.tiled.test_tiled import DATA, anisotropic, blobs, random_tree

# The oracle is slow: with more rows it takes most of the time.
ROWS = 77


def choose_rows(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return some of the rows, in their order."""
    return rows[np.sort(rng.choice(len(rows), min(ROWS, len(rows)), replace=False))]


def make_data() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(20)
    samples = {name: choose_rows(make(rng), rng) for name, make in DATA.items()}
    return samples | {
        "all_equal": np.tile(rng.standard_normal(64), (60, 1)),
        "two_points_with_copies": rng.standard_normal((2, 64))[rng.integers(2, size=50)],
        "heavy_duplicates": choose_rows(blobs(rng), rng)[rng.integers(30, size=ROWS)],
        "heavy_duplicates_768": anisotropic(rng, 60)[rng.integers(60, size=ROWS)],
    }


ORACLE_DATA = make_data()
ENGINES = {
    "tiles that divide": Settings(tile_rows=11),
    "tiles that do not": Settings(tile_rows=16),
    "one tile": Settings(),
    "nothing pruned": Settings(tile_rows=30, n_axes=0, prune_rows=False),
    "a random first tree": Settings(tile_rows=13, n_axes=8, initial_tree=random_tree),
}
ASKED: dict[str, dict[str, Any]] = {
    "no epsilon": {"epsilon": 0.0, "allow_single_cluster": False, "min_cluster_size": 4, "min_samples": 3},
    "epsilon": {"epsilon": 0.2, "min_cluster_size": 5, "min_samples": 2},
    "all rows": {"epsilon": 0.0, "min_cluster_size": 2, "min_samples": 10**6},
}


@pytest.mark.parametrize("settings", ASKED.values(), ids=ASKED)
@pytest.mark.parametrize("vectors", ORACLE_DATA.values(), ids=ORACLE_DATA)
def test_labels_equal_the_reference(
    monkeypatch: pytest.MonkeyPatch, vectors: np.ndarray, settings: dict[str, Any]
) -> None:
    n = len(vectors)
    settings = {name: min(value, n) if name.startswith("min") else value for name, value in settings.items()}
    clusterings = []
    for engine in ENGINES.values():
        monkeypatch.setattr(backends, "get_backend", lambda _name, engine=engine: TiledBackend(engine))
        clusterings.append(hdbscan(vectors, backend="tiled", **settings))
    assert_is_the_oracles(clusterings[0], vectors, ClusteringParameters(**settings))
    for engine, clustering in zip(ENGINES, clusterings, strict=True):
        assert clustering.labels.tolist() == clusterings[0].labels.tolist(), engine
        np.testing.assert_allclose(
            clustering.probabilities, clusterings[0].probabilities, rtol=1e-9, err_msg=engine
        )
        assert clustering.medoid_indices == clusterings[0].medoid_indices, engine


def test_the_test_data_contain_clusters() -> None:
    cluster_counts = {
        name: hdbscan(rows, **ASKED["no epsilon"]).n_clusters for name, rows in ORACLE_DATA.items()
    }
    assert sum(n_clusters > 1 for n_clusters in cluster_counts.values()) > len(cluster_counts) / 2, (
        cluster_counts
    )


@pytest.mark.parametrize(
    "settings", [{}, {"epsilon": 0.0, "allow_single_cluster": False}], ids=["default", "eom"]
)
@pytest.mark.parametrize("file", sample_files(), ids=lambda file: file.stem)
def test_real_captions_are_clustered_as_by_the_reference_backend(
    file: Path, settings: dict[str, Any]
) -> None:
    vectors = np.stack(parquet.read_table(file)["vector"].to_numpy())
    tiled, dense = (hdbscan(vectors, backend=backend, **settings) for backend in ("tiled", "sklearn"))
    assert tiled.labels.tolist() == dense.labels.tolist()
    np.testing.assert_allclose(tiled.probabilities, dense.probabilities, rtol=1e-9)
    assert tiled.medoid_indices == dense.medoid_indices
    assert tiled.n_clusters > 20
