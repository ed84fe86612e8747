"""Compare the coarse level with exact arithmetic: no pair that may matter is ruled out by it."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panic_tda.clustering.backends.base import FitOptions
from panic_tda.clustering.tiled import candidates, coarse, microkernels
from panic_tda.clustering.tiled.engine import Settings, TiledBackend
from panic_tda.clustering.tiled.microkernels import COLUMNS, PANEL, ROWS
from panic_tda.clustering.tiled.panels import Panels
from tests.clustering.tiled.test_panels import (
    RNG,
    SHAPES,
    all_live,
    candidates_of,
    coarse_level,
    packed_rows,
    spectrum,
)
from tests.clustering.tiled.test_tiled import anisotropic, unit

pytestmark = pytest.mark.skipif(not microkernels.COARSE, reason="this processor has no use for int8")


@pytest.fixture(scope="module", autouse=True)
def every_point_is_packed() -> Iterator[None]:
    """Pack points of several segments however few they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coarse, "ROWS_PER_COORDINATE", 0)
        yield


def rotation_of(m: int) -> np.ndarray:
    """Return the rotation as a matrix, by which rows are multiplied from the right."""
    columns = np.zeros((m, -(-m // PANEL) * PANEL))
    columns[:, :m] = np.eye(m)
    rotation, parts = coarse.choose_rotation(m), []
    for part in np.split(columns, columns.shape[1] // PANEL, axis=1):
        parts.append(part.copy())
        coarse.turn(parts[-1], rotation)
    return np.hstack(parts)[:, :m].T


def rows_along_one_turned_axis(rng: np.random.Generator, n: int) -> np.ndarray:
    """Rows that the rotation turns into one large coordinate, which no byte holds."""
    return rotation_of(64).T[rng.integers(2, size=n)] + 1e-4 * rng.standard_normal((n, 64))


def long_rows(rng: np.random.Generator, n: int) -> np.ndarray:
    """Rows of several segments, the last of which is not full."""
    return rng.standard_normal((n, 166))


def rows_with_one_long_segment(rng: np.random.Generator, n: int) -> np.ndarray:
    """Rows that the rotation turns into one segment, whose sums exceed 16 bits; every second one is long."""
    rows = np.r_[rng.standard_normal((n, 40)).T, np.zeros((128, n))].T @ rotation_of(168).T
    rows[::2] = rng.standard_normal((len(rows[::2]), 168))
    return rows


def coordinates_of_one_sign(rng: np.random.Generator, n: int) -> np.ndarray:
    """Rows that differ little, so that every product is nearly as large as can be."""
    return 1 + 0.1 * rng.random((n, 300))


COARSE_SHAPES = [
    *SHAPES,
    rows_along_one_turned_axis,
    long_rows,
    rows_with_one_long_segment,
    coordinates_of_one_sign,
]


def both_forms(packed: Panels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the row form without its offset, the column form, and the initial sums of 16 bits.

    By slot, segment, and value; by slot, segment and half.
    """
    segments, words = packed.coarse.segments, packed.coarse.words

    def by_slot(values: np.ndarray, n_words: int) -> np.ndarray:
        by_row = values.reshape(-1, segments, n_words, PANEL).transpose(0, 3, 1, 2)
        return np.ascontiguousarray(by_row.reshape(-1, segments, n_words))

    left = by_slot(packed.coarse.left, words).view(np.uint8).astype(np.int64) - 128
    right = by_slot(packed.coarse.right, words + 1)
    initial = np.ascontiguousarray(right[:, :, :1]).view(np.int16).astype(np.int64)
    return left, np.ascontiguousarray(right[:, :, 1:]).view(np.int8).astype(np.int64), initial


def sums_of(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the exact products of both forms."""
    return np.tensordot(left, right, axes=((1, 2), (1, 2)))


@pytest.mark.parametrize("shape", COARSE_SHAPES)
@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 2**32 - 1), n=st.sampled_from([2, 15, 33, 100]))
def test_a_block_is_left_where_an_exact_sum_reaches_its_threshold(shape: object, seed: int, n: int) -> None:
    """Thresholds are sums of the pairs themselves, and one more: a sum off by one is seen."""
    rng = RNG(seed)
    rows = unit(shape(rng, n))  # type: ignore[operator]
    if len(rows) < 2:
        return
    _, _, packed = packed_rows(rows, True, -(-len(rows) // 2), 8 if shape is spectrum else 0)
    left, right, _ = both_forms(packed)
    slots, is_rough = packed.tile_slots, packed.coarse.is_rough
    sums = sums_of(left[:slots], right[slots : 2 * slots])
    # Sums of rough rows may be any; their columns are looked at in any case, and so are their groups.
    sums[is_rough[:slots]], sums[:, is_rough[slots:]] = 0, 0
    groups = np.zeros(slots, dtype=np.int32)
    n_groups = slots // ROWS
    by_group = sums.reshape(n_groups, ROWS, slots).max(axis=1)
    groups[:n_groups] = by_group[np.arange(n_groups), rng.integers(slots, size=n_groups)]
    groups[:n_groups] += rng.integers(2, size=n_groups)
    groups[:n_groups][is_rough[:slots].reshape(-1, ROWS).any(axis=1)] = -(2**31) + 1
    columns = by_group.max(axis=0).astype(np.int32) + rng.integers(2, size=slots, dtype=np.int32)
    columns[is_rough[slots:]] = -(2**31) + 1
    level = coarse.begin_level(packed.coarse, np.stack([groups, columns]), np.zeros(3, dtype=np.int64))
    # Every pair of a block that is left is a candidate of the next level.
    everything = np.full((2, slots), -(2**31) + 1, dtype=np.int32)
    find = candidates.find_candidates
    pairs = candidates_of(find, packed, (0, 1), everything, all_live(slots), level)
    reach = by_group >= np.minimum(groups[:n_groups, None], columns[None, :])
    left_over = reach.reshape(n_groups, -1, COLUMNS).any(axis=2)
    expected = np.repeat(np.repeat(left_over, ROWS, axis=0), COLUMNS, axis=1)
    assert pairs == set(zip(*(side.tolist() for side in np.nonzero(expected)), strict=True))
    assert level.counts.tolist()[:2] == [left_over.size, left_over.sum()]


@pytest.mark.parametrize("shape", COARSE_SHAPES)
def test_the_error_of_coarse_products_is_bounded(shape: object) -> None:
    """|l·r' - S·S'·(p·p')| ≤ N·(S + S')·E + E² for rows that are not rough."""
    rows = unit(shape(RNG(5), 60))  # type: ignore[operator]
    space, _, packed = packed_rows(rows, True, len(rows), 8 if shape is spectrum else 0)
    left, right, initial = both_forms(packed)
    smooth = packed.slots[~packed.coarse.is_rough[packed.slots]]
    points = space.compared[packed.rows[smooth]].astype(np.float64)
    exact = packed.coarse.square * (points @ points.T)
    sums = sums_of(left[smooth], right[smooth])
    assert np.abs(sums - exact).max(initial=0) <= packed.coarse.error
    for i in range(min(3, len(smooth))):
        product = sum(Fraction(float(x)) ** 2 for x in points[i])
        exact_error = abs(int(sums[i, i]) - Fraction(packed.coarse.square) * product)
        assert exact_error <= Fraction(packed.coarse.error)
    # No sum of two products saturates, and the initial sums are what the offset adds, in 16 bits.
    assert (255 * np.abs(right).reshape(len(right), -1, 2).sum(axis=2) < 2**15).all()
    left, right = (form.reshape(*form.shape[:2], -1, 2, 2) for form in (left, right))
    assert ((initial + 128 * right.sum(axis=(2, 4))) % 2**16 == 0).all()
    # No sum of any of the products of a half of a segment exceeds 16 bits.
    largest = [np.linalg.norm(form[smooth], axis=(2, 4)).max(initial=0) for form in (left, right)]
    assert largest[0] * largest[1] < 2**15


def test_the_rotation_changes_no_product() -> None:
    for m in (1, 2, 3, 65, 768):
        rotation = rotation_of(m)
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(m), atol=1e-14)


def test_rows_with_a_long_segment_are_rough() -> None:
    rows = unit(rows_with_one_long_segment(RNG(9), 60))
    _, _, packed = packed_rows(rows, True, 30)
    is_long = np.arange(60) % 2 == 1
    np.testing.assert_array_equal(packed.coarse.is_rough[packed.slots], is_long[packed.rows[packed.slots]])


def test_pairs_of_rough_rows_are_never_ruled_out() -> None:
    rows = unit(rows_along_one_turned_axis(RNG(6), 80))
    _, _, packed = packed_rows(rows, True, 40)
    assert packed.coarse.is_rough[packed.slots].all()
    level = coarse_level(packed, [np.full(packed.tile_slots, 0.999, dtype=np.float32)] * 2)
    everything = np.full((2, packed.tile_slots), -(2**31) + 1, dtype=np.int32)
    live = all_live(packed.tile_slots)
    pairs = candidates_of(candidates.find_candidates, packed, (0, 1), everything, live, level)
    assert {(i, j) for i in range(40) for j in range(40)} <= pairs


@pytest.mark.parametrize(("n_left", "expected"), [(50, [True] * 3), (51, [False] * 16 + [True])])
def test_the_level_rests_after_a_strip_of_which_it_left_more_than_half(
    n_left: int, expected: list[bool]
) -> None:
    _, _, packed = packed_rows(unit(RNG(7).standard_normal((40, 8))), True, 20)
    counts = np.array([100, n_left, 0])
    lower = np.zeros((2, packed.tile_slots), dtype=np.int32)
    assert [bool(coarse.begin_level(packed.coarse, lower, counts).in_use) for _ in expected] == expected


def test_the_tree_is_the_same_without_the_level(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, weights = unit(anisotropic(RNG(8), 500, 192)), np.ones(500, dtype=np.int64)
    options, heights = FitOptions(min_samples=5, distance_floor=1e-3), []
    for is_used in (True, False):
        monkeypatch.setattr(microkernels, "COARSE", is_used)
        tree = TiledBackend(Settings(tile_rows=64, n_axes=16)).fit(rows, weights, options)
        heights.append(np.sort(tree.height))
    np.testing.assert_array_equal(*heights)
