"""Test that identical rows are found for any hashes, and attached to their row again."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from panic_tda.arrays import rows
from panic_tda.clustering import duplicates
from panic_tda.clustering.duplicates import DistinctRows, attach_copies, find_distinct, keep_distinct
from panic_tda.types import SpanningTree

HASHES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "all collide": lambda vectors: np.zeros(len(vectors), dtype=np.uint64),
    "half collide": lambda vectors: (vectors[:, 0] > 0).astype(np.uint64),
    "few bits": lambda vectors: np.abs(vectors.view(np.int32)).sum(axis=1).astype(np.uint64) % np.uint64(3),
}
# Few values, so that rows repeat; the float's neighbours differ in the last bit only.
VALUES = np.array([0.0, 1.0, -1.0, np.nextafter(np.float32(1), np.float32(2)), 1e-45], dtype=np.float32)
rows_with_copies = hnp.arrays(
    np.float32,
    st.tuples(st.integers(0, 40), st.integers(1, 3)),
    elements=st.sampled_from(VALUES.tolist()),
)


def assert_groups_identical_rows(vectors: np.ndarray, distinct: DistinctRows) -> None:
    first_of: dict[bytes, int] = {}
    for number, row in enumerate(vectors):
        first_of.setdefault(row.tobytes(), number)
    assert distinct.first.tolist() == list(first_of.values())
    expected = [list(first_of).index(row.tobytes()) for row in vectors]
    assert distinct.inverse.tolist() == expected
    assert distinct.counts.tolist() == np.bincount(expected, minlength=0).tolist()
    assert {array.dtype for array in (distinct.first, distinct.inverse, distinct.counts)} == {np.dtype("i8")}


@given(rows_with_copies)
def test_distinct_rows_come_in_order_of_first_occurrence(vectors: np.ndarray) -> None:
    assert_groups_identical_rows(vectors, find_distinct(vectors))


@pytest.mark.parametrize("hash_rows", HASHES.values(), ids=HASHES)
def test_hash_collisions_do_not_change_the_result(
    monkeypatch: pytest.MonkeyPatch, hash_rows: Callable[[np.ndarray], np.ndarray]
) -> None:
    monkeypatch.setattr(duplicates, "hash_rows", hash_rows)
    rng = np.random.default_rng(0)
    for n, d in [(1, 1), (2, 1), (50, 1), (200, 3), (300, 2)]:
        vectors = rng.choice(VALUES, (n, d))
        assert_groups_identical_rows(vectors, find_distinct(vectors))


@settings(max_examples=30)
@given(rows_with_copies)
def test_equal_hashes_of_all_rows_do_not_change_the_result(vectors: np.ndarray) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "hash_rows", HASHES["all collide"])
        assert_groups_identical_rows(vectors, find_distinct(vectors))


def test_a_collision_in_the_last_chunk_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "hash_rows", HASHES["all collide"])
    monkeypatch.setattr(rows, "HOST_CHUNK_BYTES", 64)
    vectors = np.ones((1000, 4), dtype=np.float32)
    vectors[999, 3] = 2
    assert find_distinct(vectors).counts.tolist() == [999, 1]


@pytest.mark.parametrize("chunk_bytes", [1, 24, 100, 1 << 20])
def test_the_chunk_size_does_not_matter(monkeypatch: pytest.MonkeyPatch, chunk_bytes: int) -> None:
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((60, 5)).astype(np.float32)[rng.integers(0, 60, 200)]
    monkeypatch.setattr(rows, "HOST_CHUNK_BYTES", chunk_bytes)
    distinct = find_distinct(vectors)
    assert_groups_identical_rows(vectors, distinct)
    expected = vectors[distinct.first]
    np.testing.assert_array_equal(keep_distinct(vectors, distinct), expected)


def test_real_rows_have_different_hashes() -> None:
    rng = np.random.default_rng(2)
    vectors = rng.standard_normal((50_000, 8)).astype(np.float32)
    vectors[:, 1:] = vectors[0, 1:]
    hashes = duplicates.hash_rows(vectors)
    assert len(np.unique(hashes)) == len(np.unique(vectors[:, 0]))


def test_permuted_and_shifted_rows_differ() -> None:
    row = np.arange(8, dtype=np.float32)
    vectors = np.array([np.roll(row, shift) for shift in range(8)] + [row[::-1], row])
    assert find_distinct(vectors).counts.tolist() == [2] + [1] * 8


@given(rows_with_copies)
def test_distinct_rows_move_to_the_front_of_the_same_memory(vectors: np.ndarray) -> None:
    distinct = find_distinct(vectors)
    expected = vectors[distinct.first]
    distinct_rows = keep_distinct(vectors, distinct)
    assert distinct_rows.tobytes() == expected.tobytes()
    assert not distinct_rows.size or np.shares_memory(distinct_rows, vectors)


@pytest.mark.parametrize("chunk_bytes", [1, 100, 1 << 26])
@pytest.mark.parametrize("hash_rows", [None, "all collide"])
def test_rows_on_a_device_are_grouped_the_same(
    upload: Callable[[Any], Any],
    monkeypatch: pytest.MonkeyPatch,
    chunk_bytes: int,
    hash_rows: str | None,
) -> None:
    monkeypatch.setattr(rows, "DEVICE_CHUNK_BYTES", chunk_bytes)
    vectors = np.random.default_rng(4).choice(VALUES, (300, 3))
    there = upload(vectors)
    assert duplicates.hash_rows(there).tolist() == duplicates.hash_rows(vectors).tolist()
    if hash_rows is not None:
        monkeypatch.setattr(duplicates, "hash_rows", HASHES[hash_rows])
    distinct = find_distinct(there)
    assert_groups_identical_rows(vectors, distinct)
    assert 1 < len(distinct.first) < 300
    expected = vectors[distinct.first]
    assert keep_distinct(there, distinct).get().tobytes() == expected.tobytes()


@pytest.mark.parametrize("value", [-0.0, 1e-45])
def test_rows_of_one_hash_are_compared_bit_by_bit(
    upload: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    # As floats they are equal: the first everywhere, the second where a device takes it for zero.
    vectors = np.array([[0.0, 1.0], [value, 1.0], [0.0, 1.0]], dtype=np.float32)
    monkeypatch.setattr(duplicates, "hash_rows", HASHES["all collide"])
    for matrix in (vectors, upload(vectors)):
        assert find_distinct(matrix).inverse.tolist() == [0, 1, 0]


def test_finding_duplicates_takes_little_memory() -> None:
    # 65,536 rows at once made half a gigabyte of 64-bit words at 768 dimensions, several times over.
    vectors = np.random.default_rng(3).standard_normal((40_000, 768), dtype=np.float32)
    vectors[20_000:] = vectors[:20_000]
    tracemalloc.start()
    try:
        distinct = find_distinct(vectors)
        keep_distinct(vectors, distinct)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(distinct.first) == 20_000
    assert peak < 40e6


def test_copies_are_attached_to_their_row_at_its_core_distance() -> None:
    distinct = find_distinct(np.array([[3], [1], [3], [2], [1], [3]], dtype=np.float32))
    tree = SpanningTree(
        u=np.array([0, 2]),
        v=np.array([1, 1]),
        height=np.array([0.5, 0.25]),
        core_distances=np.array([0.125, 0.25, 0.375]),
        tie_tolerance=1e-7,
    )
    full_tree = attach_copies(tree, distinct)
    edges = set(zip(full_tree.u.tolist(), full_tree.v.tolist(), full_tree.height.tolist(), strict=True))
    assert edges == {(0, 1, 0.5), (3, 1, 0.25), (0, 2, 0.125), (0, 5, 0.125), (1, 4, 0.25)}
    assert full_tree.core_distances is not None
    assert full_tree.core_distances.tolist() == [0.125, 0.25, 0.125, 0.375, 0.25, 0.125]
    assert full_tree.tie_tolerance == 1e-7


def test_a_tree_without_copies_is_not_changed() -> None:
    tree = SpanningTree(np.array([0]), np.array([1]), np.array([0.5]))
    assert attach_copies(tree, find_distinct(np.array([[1], [2]], dtype=np.float32))) is tree


def test_copies_need_core_distances() -> None:
    tree = SpanningTree(np.array([0]), np.array([1]), np.array([0.5]))
    with pytest.raises(ValueError, match="core distances"):
        attach_copies(tree, find_distinct(np.array([[1], [2], [1]], dtype=np.float32)))
