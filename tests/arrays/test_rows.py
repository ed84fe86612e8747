"""Test that operations on whole matrices give the same bits in host memory and on a device."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from panic_tda.arrays import rows
from panic_tda.arrays.namespace import namespace, on_device, to_host
from panic_tda.arrays.rows import chunks, has_direction, move_to_front, normalise, permute_rows, slices
from panic_tda.errors import BadVectors
from tests import strict_arrays

Upload = Callable[[Any], Any]
LARGEST, TINY = np.finfo(np.float32).max, np.finfo(np.float32).smallest_subnormal
NORMAL = np.finfo(np.float32).smallest_normal
# Quiet, negative, signalling, and one with every bit set.
NANS = np.array([0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF], dtype="<u4").view("<f4")
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


def extreme_rows() -> np.ndarray:
    """Return rows with a direction and with values at both ends of single precision."""
    return np.array(
        [
            [LARGEST] * 4,
            [-LARGEST, 0, 0, -0.0],
            [TINY] * 4,
            [0, 0, -TINY, 0],
            [1, TINY, -TINY, NORMAL],
            [1000, NORMAL, -3 * NORMAL, 0],  # becomes smaller than the smallest normal number
            [LARGEST, 1, 1e-3, -1e-7],
            [NORMAL, 0, NORMAL, 0],
            [-0.0, 3, 4, -0.0],
        ],
        dtype=np.float32,
    )


def many_rows(n: int, d: int) -> np.ndarray:
    generator = np.random.default_rng(n)
    return (generator.standard_normal((n, d)) * np.exp(3 * generator.standard_normal((n, 1)))).astype("<f4")


def folded(terms: list[float]) -> float:
    """Add values in the documented order."""
    while len(terms) > 1:
        half = len(terms) // 2
        first = [a + b for a, b in zip(terms[:half], terms[len(terms) - half :], strict=True)]
        terms = first + terms[half : len(terms) - half]
    return terms[0]


def expected_units(vectors: np.ndarray) -> np.ndarray:
    """Normalise row by row: the squares added in the written order, then one root and one quotient each."""
    taken = np.empty_like(vectors)
    for i, row in enumerate(vectors.astype(np.float64).tolist()):
        taken[i] = np.array(row) / np.sqrt(folded([value * value for value in row]))
    return taken + np.float32(0)


@pytest.mark.parametrize("d", [1, 2, 3, 5, 64, 769])
def test_norms_are_summed_in_one_order(upload: Upload, d: int) -> None:
    vectors = many_rows(50, d)
    squares = vectors.astype(np.float64) ** 2
    expected = [float(np.sqrt(folded(row))) for row in squares.tolist()]
    for matrix in (vectors, upload(vectors)):
        xp = namespace(matrix)
        _, norms = rows.divide_by_norms(xp, matrix, xp.empty((2, 50, d), dtype=xp.float64))
        assert to_host(norms).tolist() == expected
    # Another order would show.
    assert d < 64 or np.sqrt(squares.sum(axis=1)).tolist() != expected


@pytest.mark.parametrize("d", [1, 2, 3, 5, 64, 100, 769])
def test_unit_rows_are_computed_in_the_documented_order(d: int) -> None:
    vectors = many_rows(50, d)
    expected = expected_units(vectors)
    normalise(vectors)
    assert vectors.tobytes() == expected.tobytes()
    exact = np.linalg.norm(expected.astype(np.longdouble), axis=1)
    np.testing.assert_allclose(exact, 1, atol=1e-7)


@pytest.mark.parametrize("chunk_bytes", [1, 100, 1 << 26])
@pytest.mark.parametrize("d", [1, 3, 64, 769])
def test_unit_rows_are_bitwise_equal_on_a_device(
    upload: Upload, monkeypatch: pytest.MonkeyPatch, d: int, chunk_bytes: int
) -> None:
    monkeypatch.setattr(rows, "DEVICE_CHUNK_BYTES", chunk_bytes)
    vectors = many_rows(200, d)
    there = upload(vectors)
    normalise(there)
    normalise(vectors)
    assert on_device(there)
    assert there.get().tobytes() == vectors.tobytes()


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 9)), elements=finite),
)
def test_finite_rows_are_bitwise_equal_on_the_stand_in(vectors: np.ndarray) -> None:
    vectors = vectors[has_direction(vectors)]
    there = strict_arrays.namespace.asarray(vectors)
    normalise(there)
    normalise(vectors)
    assert there.get().tobytes() == vectors.tobytes()


class Flushing(strict_arrays.StrictArray):
    """A device matrix whose kernels write zero in place of subnormal float32 values."""

    __slots__ = ()

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(index, value)
        self._host[np.abs(self._host) < NORMAL] = 0


def reading_flushed(units: Callable[..., Any]) -> Callable[..., Any]:
    """Make kernels also read subnormal values as zero."""

    def flushed(xp: Any, chunk: Any, work: Any) -> tuple[Any, Any]:
        if xp is np:
            return units(xp, chunk, work)  # type: ignore[no-any-return]
        values = chunk.get()
        values[np.abs(values) < NORMAL] = 0
        return units(xp, xp.asarray(values), work)  # type: ignore[no-any-return]

    return flushed


def test_subnormal_values_are_kept_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "divide_by_norms", reading_flushed(rows.divide_by_norms))
    vectors = np.concatenate([many_rows(30, 4), extreme_rows(), many_rows(20, 4)])
    here = vectors.copy()
    normalise(here)
    assert (np.abs(here[34:36, 1]) > 0).all()
    assert (np.abs(here[34:36, 1]) < NORMAL).all()
    monkeypatch.setattr(rows, "DEVICE_CHUNK_BYTES", 1 << 20)
    there = Flushing(vectors.copy())
    normalise(there)
    assert there.get().tobytes() == here.tobytes()


def test_extreme_rows_are_bitwise_equal_on_a_device(upload: Upload) -> None:
    vectors = extreme_rows()
    there = upload(vectors)
    normalise(there)
    normalise(vectors)
    assert there.get().tobytes() == vectors.tobytes()
    assert not np.signbit(vectors[vectors == 0]).any()


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf], ids=["zero", "nan", "inf"])
def test_rows_without_a_direction_are_named(upload: Upload, bad: float) -> None:
    vectors = np.concatenate([extreme_rows(), many_rows(60, 4)])
    vectors[[7, 40, 41, 42, 43, 60]] = bad
    for matrix in (upload(vectors), vectors.copy()):
        with pytest.raises(BadVectors, match=r"not zero; the first that are not: 7, 40, 41, 42, 43$"):
            normalise(matrix)


def test_rows_with_a_direction_are_recognised(upload: Upload, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = np.ones((7, 4), dtype=np.float32)
    bad[:4, 3] = NANS
    bad[4, 0], bad[5, 1], bad[6] = np.inf, -np.inf, [0, -0.0, 0, 0]
    vectors = np.concatenate([extreme_rows(), bad, many_rows(9, 4), bad, extreme_rows()])
    expected = [True] * 9 + [False] * 7 + [True] * 9 + [False] * 7 + [True] * 9
    for chunk_bytes in (1, 100, 1 << 20):
        monkeypatch.setattr(rows, "HOST_CHUNK_BYTES", chunk_bytes)
        monkeypatch.setattr(rows, "DEVICE_CHUNK_BYTES", chunk_bytes)
        for matrix in (vectors, upload(vectors)):
            usable = has_direction(matrix)
            assert isinstance(usable, np.ndarray)
            assert usable.tolist() == expected
    assert has_direction(vectors[:0]).tolist() == []


@pytest.mark.parametrize("chunk_bytes", [1, 100, 1 << 20])
def test_kept_rows_move_to_the_front(
    upload: Upload, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int
) -> None:
    monkeypatch.setattr(rows, "HOST_CHUNK_BYTES", chunk_bytes)
    monkeypatch.setattr(rows, "DEVICE_CHUNK_BYTES", chunk_bytes)
    vectors = many_rows(90, 5)
    for kept_rows in ([0], [89], [1, 2, 50], range(90), range(1, 90), range(0, 90, 2), []):
        which = np.array(kept_rows, dtype=np.int64)
        here, there = vectors.copy(), upload(vectors)
        assert move_to_front(there, which).get().tobytes() == vectors[which].tobytes()
        moved = move_to_front(here, which)
        assert moved.tobytes() == vectors[which].tobytes()
        assert not len(which) or np.shares_memory(moved, here)


@pytest.mark.parametrize("permute_bytes", [1, 1000, 1 << 20])
def test_rows_are_permuted_in_place(
    upload: Upload, monkeypatch: pytest.MonkeyPatch, permute_bytes: int
) -> None:
    monkeypatch.setattr(rows, "PERMUTE_BYTES", permute_bytes)
    vectors = many_rows(80, 13)
    order = np.random.default_rng(0).permutation(80)
    here, there = vectors.copy(), upload(vectors)
    permute_rows(here, order)
    permute_rows(there, order)
    assert here.tobytes() == there.get().tobytes() == vectors[order].tobytes()


def test_permuting_takes_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "PERMUTE_BYTES", 1 << 20)
    vectors = many_rows(20_000, 300)
    order = np.random.default_rng(0).permutation(20_000)
    tracemalloc.start()
    try:
        permute_rows(vectors, order)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < vectors.nbytes / 8


@given(n=st.integers(0, 60), at_once=st.integers(0, 70))
def test_all_slices_but_the_last_have_the_requested_length(n: int, at_once: int) -> None:
    pieces = [list(range(n))[part] for part in slices(n, at_once)]
    assert [element for piece in pieces for element in piece] == list(range(n))
    assert {len(piece) for piece in pieces[:-1]} <= {max(1, at_once)}
    assert all(0 < len(piece) <= max(1, at_once) for piece in pieces)
    assert all(part.stop <= n for part in slices(n, at_once))


@pytest.mark.parametrize(("n", "d"), [(0, 5), (1, 5), (1000, 0), (100, 3)])
def test_slices_cover_every_row_once(monkeypatch: pytest.MonkeyPatch, n: int, d: int) -> None:
    monkeypatch.setattr(rows, "HOST_CHUNK_BYTES", 7 * 8 * 3)
    vectors = np.zeros((n, d), dtype=np.float32)
    covered = [row for part in chunks(vectors) for row in range(part.start, part.stop)]
    assert covered == list(range(n))
    assert [row for part in chunks(vectors, n // 2) for row in range(part.start, part.stop)] == covered[
        : n // 2
    ]


def test_the_library_of_an_array_is_recognised() -> None:
    assert namespace(np.zeros(1)) is np
    assert namespace(strict_arrays.namespace.zeros(1)) is strict_arrays.namespace


def test_rows_without_a_dimension_have_no_direction() -> None:
    assert has_direction(np.empty((3, 0), dtype=np.float32)).tolist() == [False] * 3
