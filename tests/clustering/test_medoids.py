"""Compare medoids with pairwise cosine distances; test the rules for ties, weights and memory."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panic_tda.arrays import rows
from panic_tda.clustering.hierarchy import extract_clusters
from panic_tda.clustering.medoids import find_medoids
from panic_tda.types import OUTLIER
from tests import reference
from tests.datasets import DATASETS, unit_rows
from tests.trees import PLAIN, neighbour_counts, tree_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from panic_tda.types import Float32Array, FloatArray, IntArray


def random_members(n: int, d: int, n_clusters: int) -> tuple[Float32Array, IntArray, FloatArray]:
    """Unit rows, labels (some of them outliers) and weights."""
    generator = np.random.default_rng(n)
    labels = generator.integers(OUTLIER, n_clusters, n)
    labels[:n_clusters] = np.arange(n_clusters)
    return unit_rows(generator.normal(size=(n, d)) + 0.5), labels, generator.uniform(0, 3, n)


@pytest.mark.parametrize("name", DATASETS)
def test_equal_the_oracle_s_on_every_cluster(name: str) -> None:
    vectors = DATASETS[name]()
    n_checked = 0
    for min_samples in neighbour_counts(name):
        for epsilon, size in ((0.0, 2), (0.0, 5), (0.2, 5), (0.9, 2)):
            parameters = replace(
                PLAIN, min_cluster_size=size, cluster_selection_epsilon=epsilon, allow_single_cluster=True
            )
            flat = extract_clusters(tree_of(name, min_samples), parameters)
            medoids = find_medoids(vectors, flat.labels, flat.probabilities, len(flat.persistence))
            assert medoids == reference.medoids(vectors, flat.labels, flat.probabilities)
            assert list(medoids) == list(range(len(flat.persistence)))
            assert all(flat.labels[row] == label for label, row in medoids.items())
            n_checked += len(medoids)
    assert n_checked > 0


@pytest.mark.parametrize(("n", "d", "n_clusters"), [(7, 3, 7), (500, 1, 2), (500, 5, 40), (900, 100, 3)])
def test_random_clusters_equal_the_oracle_s(n: int, d: int, n_clusters: int) -> None:
    vectors, labels, weights = random_members(n, d, n_clusters)
    assert find_medoids(vectors, labels, weights, n_clusters) == reference.medoids(vectors, labels, weights)


@given(
    numbers=st.lists(
        st.tuples(st.integers(-2, 2), st.integers(-2, 2), st.integers(1, 3)), min_size=1, max_size=30
    ),
    label_seed=st.integers(0, 1000),
    n_clusters=st.integers(1, 4),
)
@settings(max_examples=100, deadline=None)
def test_tied_rows_equal_the_oracle_s(
    numbers: list[tuple[int, int, int]], label_seed: int, n_clusters: int
) -> None:
    # Few directions and few weights: scores tie all the time.
    generator = np.random.default_rng(label_seed)
    labels = generator.integers(OUTLIER, n_clusters, len(numbers))
    labels = np.unique(np.append(labels, OUTLIER), return_inverse=True)[1][:-1] - 1
    weights = generator.integers(0, 3, len(numbers)).astype(np.float64)
    vectors = unit_rows(numbers)
    medoids = find_medoids(vectors, labels, weights, int(labels.max()) + 1)
    assert medoids == reference.medoids(vectors, labels, weights)


@pytest.mark.parametrize("rows_per_chunk", [1, 7, 100])
def test_the_chunk_size_does_not_matter(rows_per_chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, labels, weights = random_members(600, 16, 5)
    vectors[300:] = vectors[:300]  # ties between rows of different chunks
    expected = find_medoids(vectors, labels, weights, 5)
    monkeypatch.setattr(rows, "HOST_CHUNK_BYTES", rows_per_chunk * 16 * 8)
    assert find_medoids(vectors, labels, weights, 5) == expected


def test_the_earliest_of_equal_rows_is_taken() -> None:
    middle, left, right = [1.0, 0.0], [1.0, 1.0], [1.0, -1.0]
    vectors = unit_rows([left, right, middle, left, middle, right, middle])
    assert find_medoids(vectors, np.zeros(7, dtype=np.int64), np.ones(7), 1) == {0: 2}
    # Left and right score the same by symmetry, not by being the same row.
    assert find_medoids(vectors[:2], np.zeros(2, dtype=np.int64), np.ones(2), 1) == {0: 0}


def test_scores_within_the_tolerance_are_equal_and_others_are_not() -> None:
    # Both rows lie beside the direction of the sum, at angles that put their scores this far apart.
    def find_medoid(gap: float) -> int:
        angle = np.sqrt(2 * gap)
        vectors = np.array([[np.cos(angle), np.sin(angle)], [1.0, 0.0], [1.0, 0.0]])
        return find_medoids(vectors, np.zeros(3, dtype=np.int64), np.array([0.0, 1.0, 1.0]), 1)[0]

    assert find_medoid(0.9e-9) == 0
    assert find_medoid(1.1e-9) == 1


def test_weights_move_the_medoid() -> None:
    vectors = unit_rows([[1.0, 0.0], [1.0, 0.5], [0.0, 1.0]])
    labels = np.zeros(3, dtype=np.int64)
    assert find_medoids(vectors, labels, np.array([1.0, 1.0, 1.0]), 1) == {0: 1}
    assert find_medoids(vectors, labels, np.array([1.0, 0.1, 0.1]), 1) == {0: 0}
    assert find_medoids(vectors, labels, np.array([1.0, 1.0, 9.0]), 1) == {0: 2}


def test_clusters_without_weight_take_their_earliest_row() -> None:
    vectors, labels, weights = random_members(50, 4, 3)
    weights[labels == 1] = 0
    assert find_medoids(vectors, labels, weights, 3)[1] == np.flatnonzero(labels == 1)[0]


def test_outliers_have_no_medoid() -> None:
    vectors, _, weights = random_members(20, 4, 1)
    assert find_medoids(vectors, np.full(20, OUTLIER), weights, 0) == {}
    labels = np.full(20, OUTLIER)
    labels[13] = 0
    assert find_medoids(vectors, labels, weights, 1) == {0: 13}


def test_a_cluster_without_rows_is_refused() -> None:
    vectors, labels, weights = random_members(50, 4, 3)
    labels[labels == 1] = 2
    with pytest.raises(ValueError, match="cluster 1 has none"):
        find_medoids(vectors, labels, weights, 3)


@pytest.mark.parametrize("rows_per_chunk", [7, 100, 10_000])
def test_a_device_finds_the_same_medoids(
    upload: Callable[[Any], Any], rows_per_chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, labels, weights = random_members(600, 16, 5)
    vectors[300:] = vectors[:300]
    weights[labels == 3] = 0
    monkeypatch.setattr(rows, "DEVICE_CHUNK_BYTES", rows_per_chunk * 16 * 8)
    medoids = find_medoids(upload(vectors), labels, weights, 5)
    assert medoids == find_medoids(vectors, labels, weights, 5) == reference.medoids(vectors, labels, weights)
    assert {type(row) for row in medoids.values()} == {int}


def test_a_device_s_ties_go_to_the_earliest_row(upload: Callable[[Any], Any]) -> None:
    vectors = upload(unit_rows([[1.0, 1.0], [1.0, -1.0], [1.0, 0.0], [1.0, 1.0], [1.0, 0.0]]))
    assert find_medoids(vectors, np.zeros(5, dtype=np.int64), np.ones(5), 1) == {0: 2}
    assert find_medoids(vectors[:2], np.zeros(2, dtype=np.int64), np.ones(2), 1) == {0: 0}


def test_rows_may_lie_in_a_file(tmp_path: Path) -> None:
    vectors, labels, weights = random_members(300, 8, 4)
    np.save(tmp_path / "rows.npy", vectors)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    assert find_medoids(mapped, labels, weights, 4) == find_medoids(vectors, labels, weights, 4)


def test_many_small_clusters_are_read_in_as_many_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    # A piece for each chunk of the whole matrix, most of them empty, would make time a product of the two.
    n, n_clusters = 900, 300
    vectors, _, weights = random_members(n, 16, 1)
    reads: list[int] = []
    take = np.take

    def counting(matrix: Any, wanted: Any, **options: Any) -> Any:
        reads.append(len(wanted))
        return take(matrix, wanted, **options)

    monkeypatch.setattr(rows, "HOST_CHUNK_BYTES", 100 * 16 * 8)
    monkeypatch.setattr(np, "take", counting)
    find_medoids(vectors, np.arange(n) % n_clusters, weights, n_clusters)
    assert reads == [n // n_clusters] * 2 * n_clusters


def test_one_cluster_of_30_000_rows_takes_little_memory() -> None:
    n, d, planted = 30_000, 768, 12_345
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((n, d), dtype=np.float32) + np.float32(0.3)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    weights = generator.uniform(0, 1, n)
    # The direction of the weighted sum is nearer to it than any other (Cauchy-Schwarz).
    weights[planted] = 0
    total = weights @ vectors
    vectors[planted] = total / np.linalg.norm(total)
    labels = np.zeros(n, dtype=np.int64)

    tracemalloc.start()
    try:
        medoids = find_medoids(vectors, labels, weights, 1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert medoids == {0: planted}
    assert peak < 16 * 2**20  # a pairwise matrix would be 6.7 GiB
