"""Compare the tiled engine with the dense reference: core distances and tree weights on difficult data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panic_tda.arrays.rows import normalise
from panic_tda.clustering.backends.base import FitOptions
from panic_tda.clustering.recipe import hdbscan
from panic_tda.clustering.tiled import panels
from panic_tda.clustering.tiled.contract import Space
from panic_tda.clustering.tiled.engine import Settings, TiledBackend
from panic_tda.errors import InvalidParameter
from panic_tda.progress import Silent
from panic_tda.types import SpanningTree
from tests import reference

TOLERANCE = 1e-12
FLOOR = 1e-3


def unit(rows: np.ndarray) -> np.ndarray:
    """Distinct unit rows in float32, in the order in which they first occur."""
    rows = np.array(rows, dtype=np.float32)
    normalise(rows)
    return rows[np.sort(np.unique(rows, axis=0, return_index=True)[1])]


def blobs(rng: np.random.Generator, n: int = 600, d: int = 64) -> np.ndarray:
    return rng.standard_normal((7, d))[rng.integers(7, size=n)] * 3 + rng.standard_normal((n, d))


def chain(rng: np.random.Generator, n: int = 500, d: int = 3) -> np.ndarray:
    angle = np.cumsum(rng.uniform(0.001, 0.004, n))
    return np.stack([np.cos(angle), np.sin(angle), 0.1 * rng.random(n)], axis=1)[:, :d]


def rings(rng: np.random.Generator) -> np.ndarray:
    ring, angle = rng.integers(6, size=900), rng.uniform(0, 2 * np.pi, 900)
    centres = rng.standard_normal((6, 8)) * 2
    return (
        centres[ring]
        + 0.3 * (ring[:, None] % 3 + 1) * np.eye(8)[0] * np.cos(angle)[:, None]
        + (0.3 * (ring[:, None] % 3 + 1) * np.eye(8)[1] * np.sin(angle)[:, None])
    )


def touching_arcs(rng: np.random.Generator) -> np.ndarray:
    """Six dense arcs whose ends nearly touch: representatives from their middles join them badly."""
    arc = np.repeat(np.arange(6), 150)
    angle = arc * 1.0 + rng.uniform(0, 0.97, len(arc))
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def near_copies(rng: np.random.Generator) -> np.ndarray:
    """Piles within float32's rounding of a product, some above the distance floor and some below."""
    centres = rng.standard_normal((5, 32))
    spread = np.array([3e-7, 1e-6, 1e-5, 1e-4, 1e-3])[rng.integers(5, size=700)]
    return centres[rng.integers(5, size=700)] + spread[:, None] * rng.standard_normal((700, 32))


def anisotropic(rng: np.random.Generator, n: int = 700, d: int = 768) -> np.ndarray:
    spectrum = np.arange(1, d + 1) ** -0.6
    return (
        rng.standard_normal((25, d))[rng.integers(25, size=n)] + 0.7 * rng.standard_normal((n, d))
    ) * spectrum


DATA = {
    "blobs": blobs,
    "blobs_two_features": lambda rng: blobs(rng, 400, 2),
    "chain": chain,
    "rings": rings,
    "uniform": lambda rng: rng.standard_normal((700, 10)),
    "uniform_flat_768": lambda rng: rng.standard_normal((300, 768)),
    "anisotropic_768": anisotropic,
    "one_feature": lambda rng: rng.standard_normal((9, 1)),
    "two_points": lambda rng: rng.standard_normal((2, 5)),
    "three_points": lambda rng: rng.standard_normal((3, 64)),
    "touching_arcs": touching_arcs,
    "near_copies": near_copies,
    "lattice_ties": lambda rng: (
        np.array([[a, b, c] for a in range(9) for b in range(9) for c in (3, 5)]) + 1.0
    ),
    "one_far_outlier": lambda rng: np.vstack([blobs(rng, 300, 16), -blobs(rng, 1, 16) * 9]),
}


def fit(
    rows: np.ndarray,
    min_samples: int,
    weights: np.ndarray | None = None,
    floor: float = FLOOR,
    upload: Callable[[np.ndarray], Any] = np.asarray,
    **how: object,
) -> SpanningTree:
    weights = np.ones(len(rows), dtype=np.int64) if weights is None else weights
    backend = TiledBackend(Settings(**how))  # type: ignore[arg-type]
    return backend.fit(upload(rows), weights, FitOptions(min_samples=min_samples, distance_floor=floor))


def assert_exact(
    tree: SpanningTree,
    rows: np.ndarray,
    min_samples: int,
    weights: np.ndarray | None = None,
    floor: float = FLOOR,
) -> None:
    """Compare with the oracle on all rows, copies written out."""
    weights = np.ones(len(rows), dtype=np.int64) if weights is None else weights
    everything = np.repeat(rows, weights, axis=0)
    oracle = reference.spanning_tree(everything, min_samples, floor)
    first = np.cumsum(weights) - weights
    cores = np.maximum(oracle.core_distances[first], floor)
    np.testing.assert_allclose(tree.core_distances, cores, rtol=TOLERANCE)
    # Copies hang on their row as stars.
    stars = np.repeat(cores, weights - 1)
    np.testing.assert_allclose(
        np.sort(np.concatenate([tree.height, stars])), np.sort(oracle.height), rtol=TOLERANCE
    )
    assert_spanning(tree, rows)


def assert_spanning(tree: SpanningTree, rows: np.ndarray) -> None:
    """Every edge has the weight of its own two rows, and together they reach every row."""
    assert len(tree.u) == len(tree.v) == len(tree.height) == len(rows) - 1
    gap = np.linalg.norm(rows[tree.u].astype(np.float64) - rows[tree.v].astype(np.float64), axis=1)
    own = np.maximum(gap, np.maximum(tree.core_distances[tree.u], tree.core_distances[tree.v]))
    np.testing.assert_allclose(tree.height, own, rtol=TOLERANCE)
    leader = list(range(len(rows)))
    for u, v in zip(tree.u.tolist(), tree.v.tolist(), strict=True):
        while leader[u] != u:
            u = leader[u]
        while leader[v] != v:
            v = leader[v]
        assert u != v
        leader[u] = v


@pytest.mark.parametrize("min_samples", [1, 5, 30])
@pytest.mark.parametrize("name", DATA)
def test_weights_and_cores_equal_the_oracle(name: str, min_samples: int) -> None:
    rows = unit(DATA[name](np.random.default_rng(1)))
    min_samples = min(min_samples, len(rows))
    assert_exact(fit(rows, min_samples, tile_rows=100), rows, min_samples)


@pytest.mark.parametrize("tile_rows", [1, 7, 64, 250, 300, 301, 1024])
def test_tile_size_changes_nothing(tile_rows: int) -> None:
    rows = unit(blobs(np.random.default_rng(2), 300, 16))
    assert len(rows) == 300
    assert_exact(fit(rows, 6, tile_rows=tile_rows), rows, 6)


@pytest.mark.parametrize("n_axes", [0, 8])
@pytest.mark.parametrize("prune_rows", [False, True])
@pytest.mark.parametrize("name", ["anisotropic_768", "uniform_flat_768"])
def test_pruning_changes_nothing(name: str, prune_rows: bool, n_axes: int) -> None:
    rows = unit(DATA[name](np.random.default_rng(3)))
    assert_exact(fit(rows, 8, tile_rows=128, n_axes=n_axes, prune_rows=prune_rows), rows, 8)


@pytest.mark.parametrize("pass_", ["neighbours", "verify"])
def test_the_bound_in_one_pass_alone_changes_nothing(pass_: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = unit(anisotropic(np.random.default_rng(3)))
    packed = []
    pack = panels.pack

    def watch(space: Space, *others: Any) -> panels.Panels:
        packed.append((progress.name, space.compared.shape[1]))
        return pack(space, *others)

    class Phases(Silent):
        def phase(self, name: str, total: float | None = None) -> None:
            self.name = name

    monkeypatch.setattr(panels, "pack", watch)
    progress = Phases()
    how = {"bound_neighbours": pass_ == "neighbours", "bound_verify": pass_ == "verify"}
    # The verify pass has no work on so few rows unless it begins with a poor tree.
    backend = TiledBackend(Settings(tile_rows=128, n_axes=8, initial_tree=random_tree, **how))
    options = FitOptions(min_samples=8, distance_floor=FLOOR, progress=progress)
    assert_exact(backend.fit(rows, np.ones(len(rows), dtype=np.int64), options), rows, 8)
    assert {length for _, length in packed} == {9, 768}
    assert [length for name, length in packed if name == "neighbours"] == [
        9 if pass_ == "neighbours" else 768
    ]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_change_nothing(threads: int) -> None:
    rows = unit(anisotropic(np.random.default_rng(4), 600, 200))
    assert_exact(fit(rows, 8, tile_rows=50, threads=threads), rows, 8)


def random_tree(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Every row hangs on a random earlier one."""
    label = rng.permutation(n)
    return label[1:], label[(rng.random(n - 1) * np.arange(1, n)).astype(np.int64)]


def star(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(1, n), np.zeros(n - 1, dtype=np.int64)


@pytest.mark.parametrize(("prune_rows", "initial_tree"), [(True, random_tree), (False, star)])
@pytest.mark.parametrize("name", DATA)
def test_verify_pass_repairs_any_initial_tree(name: str, prune_rows: bool, initial_tree: object) -> None:
    """On small data the first tree is right already; a verify pass that did nothing would go unnoticed."""
    rows = unit(DATA[name](np.random.default_rng(5)))
    min_samples = min(5, len(rows))
    tree = fit(rows, min_samples, tile_rows=60, prune_rows=prune_rows, initial_tree=initial_tree)
    assert_exact(tree, rows, min_samples)


@pytest.mark.parametrize(("min_samples", "n_axes"), [(1, 0), (3, 32), (12, 0), (40, 32)])
def test_copies_count_as_rows(min_samples: int, n_axes: int) -> None:
    rng = np.random.default_rng(6)
    rows = unit(anisotropic(rng, 400, 200))
    weights = np.where(rng.random(len(rows)) < 0.3, rng.integers(2, 30, len(rows)), 1)
    tree = fit(rows, min_samples, weights, tile_rows=90, n_axes=n_axes)
    assert_exact(tree, rows, min_samples, weights)


def test_one_row_may_have_most_of_the_weight() -> None:
    rows = unit(blobs(np.random.default_rng(7), 50, 12))
    weights = np.ones(len(rows), dtype=np.int64)
    weights[17] = 500
    assert_exact(fit(rows, 20, weights, tile_rows=16), rows, 20, weights)


@pytest.mark.parametrize("extra", [0, 7, 40])
def test_min_samples_may_be_as_large_as_the_number_of_rows(extra: int) -> None:
    """With k of n or more distinct rows, only copies make up the count."""
    rows = unit(blobs(np.random.default_rng(8), 40, 12))
    weights = np.full(len(rows), 2)
    assert_exact(fit(rows, len(rows) + extra, weights, tile_rows=16), rows, len(rows) + extra, weights)


def test_more_samples_than_rows_is_refused() -> None:
    rows = unit(blobs(np.random.default_rng(9), 10, 12))
    with pytest.raises(InvalidParameter, match="number of rows, 10; got 11"):
        fit(rows, 11)


def test_one_row_is_a_tree_without_edges() -> None:
    tree = fit(unit(np.ones((3, 4))), 3, np.array([3]))
    assert len(tree.u) == len(tree.height) == 0
    np.testing.assert_array_equal(tree.core_distances, [FLOOR])


@pytest.mark.parametrize("floor", [1e-9, 1e-4, 0.3, 2.0])
def test_distances_below_the_floor_count_as_the_floor(floor: float) -> None:
    """A pile below the floor must not flood the verify pass; a tiny floor must not blur near-copies."""
    rows = unit(near_copies(np.random.default_rng(10)))
    assert_exact(fit(rows, 10, floor=floor, tile_rows=100), rows, 10, floor=floor)


def test_short_lists_are_looked_up_again() -> None:
    """In a pile of near-copies more rows lie within rounding of the k-th than a list holds."""
    rng = np.random.default_rng(11)
    rows = unit(
        np.repeat(rng.standard_normal((3, 768)), 150, axis=0) + 2e-4 * rng.standard_normal((450, 768))
    )
    assert_exact(fit(rows, 40, floor=1e-6, tile_rows=128), rows, 40, floor=1e-6)


@pytest.mark.parametrize("min_samples", [3, 30, 290])
def test_rows_that_are_all_equally_far_are_looked_up_again(min_samples: int) -> None:
    """No product, in whatever precision, says which of them is the k-th."""
    rows, weights = np.eye(300, dtype=np.float32), np.random.default_rng(0).integers(1, 4, 300)
    assert_exact(fit(rows, min_samples, weights, tile_rows=128), rows, min_samples, weights)


def test_a_tree_of_three_thousand_rows_equals_the_reference() -> None:
    rows = unit(anisotropic(np.random.default_rng(12), 3000, 192))
    assert_exact(fit(rows, 12), rows, 12)


@pytest.mark.parametrize("min_samples", [2, 10])
@pytest.mark.parametrize(
    "name", ["blobs", "rings", "touching_arcs", "near_copies", "anisotropic_768", "lattice_ties"]
)
def test_clusterings_equal_those_of_the_reference_backend(name: str, min_samples: int) -> None:
    """From rows with copies to labels and medoids, beside the backend that sees every pair."""
    rng = np.random.default_rng(13)
    rows = unit(DATA[name](rng))
    rows = rows[rng.integers(len(rows), size=len(rows))]
    settings = {
        "min_samples": min_samples,
        "min_cluster_size": 8,
        "epsilon": 0.05,
        "allow_single_cluster": False,
    }
    tiled, dense = (hdbscan(rows, backend=backend, **settings) for backend in ("tiled", "sklearn"))
    np.testing.assert_array_equal(tiled.labels, dense.labels)
    np.testing.assert_allclose(tiled.probabilities, dense.probabilities, rtol=1e-9)
    assert tiled.medoid_indices == dense.medoid_indices
    assert len(np.unique(tiled.labels)) > 1


@pytest.mark.parametrize(("shape", "min_samples"), [(blobs, 5), (anisotropic, 20)])
def test_labels_of_three_thousand_rows_equal_the_reference(
    shape: Callable[..., np.ndarray], min_samples: int
) -> None:
    """Several tiles of the default size, with copies, beside the backend that sees every pair."""
    rng = np.random.default_rng(14)
    rows = shape(rng, 3_000, 192)[rng.integers(3_000, size=3_000)]
    settings = {"min_samples": min_samples, "min_cluster_size": 15, "epsilon": 0.05}
    tiled, dense = (
        hdbscan(rows, backend=backend, allow_single_cluster=False, **settings)
        for backend in ("tiled", "sklearn")
    )
    np.testing.assert_array_equal(tiled.labels, dense.labels)
    assert tiled.medoid_indices == dense.medoid_indices
    assert tiled.n_clusters > 3


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, d = draw(st.integers(2, 90)), draw(st.sampled_from([1, 2, 3, 17, 170]))
    centres = rng.standard_normal((draw(st.integers(1, 6)), d))
    rows = centres[rng.integers(len(centres), size=n)] + draw(
        st.sampled_from([1e-5, 1e-2, 0.3, 3.0])
    ) * rng.standard_normal((n, d))
    if draw(st.booleans()):
        # Few distinct coordinates make many equal distances.
        rows = np.round(rows * 2) + 0.5
    rows = unit(rows)
    weights = rng.integers(1, draw(st.sampled_from([2, 6])), len(rows))
    return rows, weights, draw(st.integers(1, int(weights.sum())))


@settings(deadline=None, max_examples=60)
@given(
    problem=problems(),
    tile_rows=st.integers(1, 40),
    prune_rows=st.booleans(),
    n_axes=st.sampled_from([0, 4]),
    initial_tree=st.sampled_from([None, random_tree]),
)
def test_small_random_problems_equal_the_reference(
    problem: tuple[np.ndarray, np.ndarray, int],
    tile_rows: int,
    prune_rows: bool,
    n_axes: int,
    initial_tree: object,
) -> None:
    rows, weights, min_samples = problem
    tree = fit(
        rows, min_samples, weights,
        tile_rows=tile_rows, prune_rows=prune_rows, n_axes=n_axes, initial_tree=initial_tree,
    )  # fmt: skip
    assert_exact(tree, rows, min_samples, weights)
