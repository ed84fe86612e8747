"""Compare packed rows and micro-kernels with exact arithmetic: no candidate pair is rejected."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panic_tda.clustering.backends.base import FitOptions
from panic_tda.clustering.tiled import candidates, microkernels, pair_kernels, panels
from panic_tda.clustering.tiled.coarse import CoarseLevel, begin_level, pack_coarse_thresholds
from panic_tda.clustering.tiled.engine import Settings, TiledBackend
from panic_tda.clustering.tiled.layout import Layout, tile_starts
from panic_tda.clustering.tiled.microkernels import COLUMNS, PANEL, ROWS
from panic_tda.clustering.tiled.space import build_space
from panic_tda.clustering.tiled.workers import workers
from tests.clustering.tiled.test_tiled import unit

FORMS = [pytest.param(True, id="int16"), pytest.param(False, id="float32")]
RNG = np.random.default_rng
NO_LEVEL = begin_level(
    panels.no_coarse_panels(), np.zeros((2, 0), dtype=np.int32), np.zeros(3, dtype=np.int64)
)


def constant_coordinate(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.c_[np.full(n, 3.0), rng.standard_normal((n, 9))]


def huge_coordinate(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.c_[np.full(n, 1e6), rng.standard_normal((n, 4))]


def antipodes(rng: np.random.Generator, n: int) -> np.ndarray:
    half = rng.standard_normal((-(-n // 2), 6))
    return np.vstack([half, -half])[:n]


def subnormals(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.c_[np.ones(n), 1e-40 * rng.standard_normal((n, 3)), rng.standard_normal((n, 1))]


def near_copies(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.ones(8) + 1e-6 * rng.standard_normal((n, 8))


def near_copies_in_many_dimensions(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.ones(200) + 1e-6 * rng.standard_normal((n, 200))


def axis_rows(rng: np.random.Generator, n: int) -> np.ndarray:
    """Every product is 0 or 1, and every coordinate as large as can be."""
    return np.eye(7)[rng.integers(7, size=n)] * rng.choice([-1.0, 1.0], size=(n, 1)) + 1e-5 * rng.random(
        (n, 7)
    )


def spectrum(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.standard_normal((n, 200)) * np.arange(1, 201) ** -0.7


SHAPES = [constant_coordinate, huge_coordinate, antipodes, subnormals, near_copies, axis_rows, spectrum]


def all_live(tile_slots: int) -> tuple[np.ndarray, np.ndarray]:
    return np.ones(tile_slots // ROWS, dtype=bool), np.ones(tile_slots // COLUMNS, dtype=bool)


def candidates_of(
    find: object,
    packed: panels.Panels,
    pair: tuple[int, int],
    lower: np.ndarray,
    live: tuple,
    level: CoarseLevel | None = None,
) -> set[tuple[int, int]]:
    out = np.full((2, packed.tile_slots**2), -7, dtype=np.int32)
    hits = np.zeros(ROWS, dtype=np.uint32)
    edges = find(  # type: ignore[operator]
        packed.values,
        packed.packing.words,
        packed.tile_panels,
        pair,
        (0, packed.tile_panels),
        (lower[0], lower[1]),
        live,
        level or NO_LEVEL,
        hits,
        out.shape[1],
        (out[0], out[1]),
    )
    assert (out[:, edges:] == -7).all()
    pairs = set(zip(out[0, :edges].tolist(), out[1, :edges].tolist(), strict=True))
    assert len(pairs) == edges
    return pairs


def coarse_level(packed: panels.Panels, lower: list[np.ndarray]) -> CoarseLevel | None:
    """Return the coarse level of the first two tiles, in use if these rows have one."""
    if not packed.coarse.words:
        return None
    packed_lower, slots = np.empty((2, packed.tile_slots), dtype=np.int32), packed.tile_slots
    for side, group_rows in ((0, ROWS), (1, 1)):
        pack_coarse_thresholds(lower[side], side * slots, packed.coarse, packed_lower[side], group_rows)
    return begin_level(packed.coarse, packed_lower, np.zeros(3, dtype=np.int64))


def packed_rows(rows: np.ndarray, use_integers: bool, tile_rows: int, n_axes: int = 0) -> tuple:
    space = build_space(np, rows, n_axes, RNG(0))
    layout = Layout(RNG(1).permutation(len(rows)).astype(np.int32), tile_starts(len(rows), tile_rows))
    with workers(2) as team:
        return space, layout, panels.pack(space, layout, team, use_integers)


def integers_of(packed: panels.Panels) -> np.ndarray:
    """Packed values, a row for each slot."""
    words = packed.packing.words
    values = packed.values.reshape(-1, words, PANEL).transpose(0, 2, 1).reshape(-1, words)
    return np.ascontiguousarray(values).view(np.int16).astype(np.int64)


@pytest.mark.skipif(not microkernels.INTEGERS, reason="the processor lacks the instruction of the int16 form")
def test_this_processor_packs_integers() -> None:
    assert panels.choose_packing(5, 1 + 1e-6, 1e-6).is_integer


@pytest.mark.parametrize("use_integers", FORMS)
@pytest.mark.parametrize("shape", SHAPES)
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), n=st.sampled_from([2, 63, 64, 65, 127, 129, 200]))
def test_no_pair_that_reaches_a_threshold_is_rejected(
    shape: object, use_integers: bool, seed: int, n: int
) -> None:
    """Thresholds lie at products of the rows themselves, computed in exact fractions where it matters."""
    if use_integers and not microkernels.INTEGERS:
        pytest.skip("the processor lacks the instruction of the int16 form")
    rng = RNG(seed)
    rows = unit(shape(rng, n))  # type: ignore[operator]
    if len(rows) < 2:
        return
    tile_rows = -(-len(rows) // 2)
    n_axes = 8 if rows.shape[1] >= 160 else 0
    space, layout, packed = packed_rows(rows, use_integers, tile_rows, n_axes)
    first, second = layout.rows(0), layout.rows(1)
    # A float32 product may lie as far above the exact one as the margin says.
    products = rows[first].astype(np.float64) @ rows[second].astype(np.float64).T + 0.9 * space.margin
    products = products.astype(np.float32)
    lower = [
        np.full(packed.tile_slots, np.inf, dtype=np.float32),
        np.full(packed.tile_slots, np.inf, dtype=np.float32),
    ]
    lower[0][: len(first)] = products[np.arange(len(first)), rng.integers(len(second), size=len(first))]
    lower[1][: len(second)] = products[rng.integers(len(first), size=len(second)), np.arange(len(second))]
    packed_lower = np.empty((2, packed.tile_slots), dtype=packed.values.dtype)
    for side in range(2):
        panels.pack_thresholds(lower[side], packed.packing, packed_lower[side])
    live, level = all_live(packed.tile_slots), coarse_level(packed, lower)
    pairs = candidates_of(candidates.find_candidates, packed, (0, 1), packed_lower, live)
    assert candidates_of(candidates.find_candidates, packed, (0, 1), packed_lower, live, level) == pairs
    reach = products >= np.minimum(lower[0][: len(first), None], lower[1][None, : len(second)])
    assert set(zip(*(side.tolist() for side in np.nonzero(reach)), strict=True)) <= pairs


@pytest.mark.skipif(not microkernels.INTEGERS, reason="the processor lacks the instruction of the int16 form")
@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(2, 150),
    d=st.sampled_from([1, 2, 3, 64, 65, 768]),
    skip_groups=st.booleans(),
)
def test_integer_sums_are_exact(seed: int, n: int, d: int, skip_groups: bool) -> None:
    """Thresholds are sums of the pairs themselves, and one more: a sum off by one is seen."""
    rng = RNG(seed)
    rows = unit(rng.standard_normal((n, d)))
    if len(rows) < 2:
        return
    _, _, packed = packed_rows(rows, True, -(-len(rows) // 2))
    exact = integers_of(packed)
    slots = packed.tile_slots
    sums = exact[:slots] @ exact[slots : 2 * slots].T
    assert np.abs(sums).max() < 2**31 - 1
    lower = np.empty((2, slots), dtype=np.int32)
    lower[0] = sums[np.arange(slots), rng.integers(slots, size=slots)] + rng.integers(2, size=slots)
    lower[1] = sums[rng.integers(slots, size=slots), np.arange(slots)] + rng.integers(2, size=slots)
    live = all_live(slots)
    if skip_groups:
        for groups in live:
            groups[rng.random(len(groups)) < 0.5] = False
    reach = sums >= np.minimum(lower[0][:, None], lower[1][None, :])
    reach &= np.repeat(live[0], ROWS)[:, None] & np.repeat(live[1], COLUMNS)[None, :]
    expected = set(zip(*(side.tolist() for side in np.nonzero(reach)), strict=True))
    finds = [candidates.find_candidates, candidates.find_candidates_in_numpy]
    for find in finds:
        assert candidates_of(find, packed, (0, 1), lower, live) == expected


@pytest.mark.skipif(not microkernels.INTEGERS, reason="the processor lacks the instruction of the int16 form")
@pytest.mark.parametrize("shape", SHAPES)
def test_the_error_of_packed_products_is_bounded(shape: object) -> None:
    """|q·q' - S²·(p·p')| ≤ 2NE + E², checked in exact fractions for the pairs of largest error."""
    rows = unit(shape(RNG(5), 40))  # type: ignore[operator]
    space, _, packed = packed_rows(rows, True, len(rows))
    packing, integers = packed.packing, integers_of(packed)[packed.slots]
    points = space.compared[packed.rows[packed.slots]]
    square = Fraction(packing.scale) ** 2
    exact = points.astype(np.float64) @ points.astype(np.float64).T
    sums = integers @ integers.T
    worst = np.unravel_index(np.argsort(np.abs(sums - float(square) * exact), axis=None)[-5:], sums.shape)
    for i, j in zip(*worst, strict=True):
        product = sum(
            Fraction(float(x)) * Fraction(float(y)) for x, y in zip(points[i], points[j], strict=True)
        )
        assert abs(int(sums[i, j]) - square * product) <= Fraction(packing.error)


@pytest.mark.parametrize("use_integers", FORMS)
def test_thresholds_that_no_pair_or_every_pair_reaches_are_handled(use_integers: bool) -> None:
    if use_integers and not microkernels.INTEGERS:
        pytest.skip("the processor lacks the instruction of the int16 form")
    rows = unit(RNG(2).standard_normal((30, 5)))
    _, _, packed = packed_rows(rows, use_integers, 15)
    for value, expected in ((np.inf, 0), (-np.inf, packed.tile_slots**2)):
        lower = np.empty((2, packed.tile_slots), dtype=packed.values.dtype)
        for side in range(2):
            panels.pack_thresholds(
                np.full(packed.tile_slots, value, dtype=np.float32), packed.packing, lower[side]
            )
        live = all_live(packed.tile_slots)
        assert len(candidates_of(candidates.find_candidates, packed, (0, 1), lower, live)) == expected


def mixture(rng: np.random.Generator, n: int) -> np.ndarray:
    """Groups whose spectrum is flat: a few axes say little about any product."""
    return rng.standard_normal((9, 200))[rng.integers(9, size=n)] + 0.5 * rng.standard_normal((n, 200))


@pytest.mark.parametrize("shape", [mixture, near_copies_in_many_dimensions, spectrum])
@pytest.mark.parametrize("n", [255, 256, 257, 600])
def test_full_rows_are_used_if_axes_reject_few_pairs(
    shape: object, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = unit(shape(RNG(3), n))  # type: ignore[operator]
    buffers, make_buffers = list[pair_kernels.Buffers](), pair_kernels.make_buffers

    def keep_buffers(packed: panels.Panels, *, with_sims: bool) -> pair_kernels.Buffers:
        buffers.append(make_buffers(packed, with_sims=with_sims))
        return buffers[-1]

    monkeypatch.setattr(pair_kernels, "make_buffers", keep_buffers)
    options = FitOptions(min_samples=5, distance_floor=1e-6)
    heights = [
        np.sort(
            TiledBackend(Settings(tile_rows=64, n_axes=n_axes, threads=2))
            .fit(rows, np.ones(len(rows), dtype=np.int64), options)
            .height
        )
        for n_axes in (3, 0)
    ]
    np.testing.assert_array_equal(*heights)
    # No tile is packed whole where whole rows are what is packed anyway.
    assert any((own.packed_tiles >= 0).any() for own in buffers if len(own.tiles))
    assert not any((own.packed_tiles >= 0).any() for own in buffers if not len(own.tiles))


def flat_spectrum(rng: np.random.Generator, n: int) -> np.ndarray:
    """Groups in so many dimensions that no number of axes that is chosen says much about a product."""
    return rng.standard_normal((9, 600))[rng.integers(9, size=n)] + 0.5 * rng.standard_normal((n, 600))


@pytest.mark.parametrize(
    ("shape", "memory_limit", "rows_are_packed"),
    [(flat_spectrum, None, True), (flat_spectrum, 1, False), (spectrum, None, False)],
)
def test_the_verify_pass_packs_whole_rows_if_axes_reject_few_pairs(
    shape: object, memory_limit: int | None, rows_are_packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, ones = unit(shape(RNG(3), 300)), np.ones(300, dtype=np.int64)  # type: ignore[operator]
    packed_by_verify, make_buffers = set[bool](), pair_kernels.make_buffers

    def note_bound(packed: panels.Panels, *, with_sims: bool) -> pair_kernels.Buffers:
        if not with_sims:
            packed_by_verify.add(not packed.bounded)
        return make_buffers(packed, with_sims=with_sims)

    monkeypatch.setattr(pair_kernels, "make_buffers", note_bound)
    options = FitOptions(min_samples=5, distance_floor=1e-6, memory_limit=memory_limit)
    heights = TiledBackend(Settings(tile_rows=64, threads=2)).fit(rows, ones, options).height
    assert packed_by_verify == {rows_are_packed}
    expected = TiledBackend(Settings(tile_rows=64, threads=2, n_axes=0)).fit(rows, ones, options).height
    np.testing.assert_array_equal(np.sort(heights), np.sort(expected))
