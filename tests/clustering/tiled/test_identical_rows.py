"""Test groups of identical rows: exact results, bounded memory, few distances computed."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

from panic_tda.clustering.backends.base import FitOptions
from panic_tda.clustering.tiled import device_lists, engine, host
from panic_tda.clustering.tiled.contract import CandidatePairs, Space
from panic_tda.clustering.tiled.cores import CoreDistances, NearestRows
from panic_tda.clustering.tiled.engine import Settings, TiledBackend
from panic_tda.clustering.tiled.layout import Layout, tile_starts
from panic_tda.clustering.tiled.space import build_space
from panic_tda.clustering.tiled.workers import workers
from tests import strict_arrays
from tests.clustering.tiled.test_tiled import assert_exact, fit, unit


def pile(n: int, d: int = 64) -> np.ndarray:
    """Rows that all lie within 2η of each other's k-th product, above the distance floor."""
    rng = np.random.default_rng(13)
    return unit(rng.standard_normal(d) + 1e-3 * rng.standard_normal((n, d)))


@pytest.mark.slow
@pytest.mark.parametrize("n", [2000, 6000])
def test_identical_rows_take_no_more_memory_than_estimated(n: int) -> None:
    """Listing every pair within 2η took 48 kB a row: 383 MB at 8,000 rows, under a limit of 50 MB."""
    rows, ones = pile(n), np.ones(n, dtype=np.int64)
    # How much two threads hold at the same time would depend on their order.
    backend = TiledBackend(Settings(threads=1, n_axes=0))
    options = FitOptions(min_samples=10, distance_floor=1e-5)
    with workers(1) as team:
        n_bytes = backend.memory(build_space(np, rows, 0, np.random.default_rng(0)), options, team)
    backend.fit(rows[:100], ones[:100], options)  # compiles
    tracemalloc.start()
    try:
        backend.fit(rows, ones, options)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < n_bytes < 60e6


def test_few_pairs_of_identical_rows_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each float32 product leaves all of them in doubt; measuring them all took most of the time of a fit."""
    measured, counts = list[int](), list[tuple[int, int]]()
    distances, core_distances = host.distances, engine.measure_core_distances

    def counted(space: Space, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        measured.append(len(u))
        return distances(space, u, v)

    def noted(*arguments: Any, **named: Any) -> CoreDistances:
        core_distances_result = core_distances(*arguments, **named)
        counts.append((core_distances_result.n_searched, sum(measured)))
        return core_distances_result

    monkeypatch.setattr(host, "distances", counted)
    monkeypatch.setattr(engine, "measure_core_distances", noted)
    rows = pile(2000)
    assert_exact(fit(rows, 10, floor=1e-5), rows, 10, floor=1e-5)
    ((n_searched, n_measured),) = counts
    assert n_searched == 2000
    assert n_measured < 2000 * 2000 / 8


def test_at_most_the_missing_number_of_rows_is_kept() -> None:
    """If every tile is nearer than the one before, all rows were once among the nearest."""
    missing, weights = np.array([3, 9]), np.random.default_rng(0).integers(1, 4, 400)
    nearest = NearestRows(np.full(2, 500.0), missing)
    for value in range(400, 0, -1):
        owners = np.arange(2)
        nearest.add(owners, np.full(2, value), np.full(2, float(value)), np.full(2, weights[value - 1]))
        assert len(nearest.distances) <= missing.sum()
        assert np.array_equal(nearest.rows, nearest.distances)
    assert nearest.bounds.tolist() == (np.searchsorted(np.cumsum(weights), missing) + 1).tolist()


def test_the_number_of_candidates_pushed_at_once_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pair of alike tiles of a device has 67 million pairs, of which sorting takes 4 GB."""
    entered = []
    keys = device_lists.sort_keys

    def counted(xp: Any, owners: Any, sims: Any) -> Any:
        entered.append(len(sims))
        return keys(xp, owners, sims)

    monkeypatch.setattr(device_lists, "sort_keys", counted)
    monkeypatch.setattr(device_lists, "OFFERED", 500)
    xp, width = strict_arrays.namespace, 60
    rows = xp.asarray(np.arange(2 * width, dtype=np.int32))
    lists = device_lists.Lists(xp, Layout(rows, tile_starts(2 * width, width)), 5)
    sims = np.random.default_rng(0).random((width, width)).astype(np.float32)
    everything = CandidatePairs(
        xp.asarray(np.arange(width * width, dtype=np.int32)), xp.asarray(sims.ravel())
    )
    lists.push(everything, (0, 1), rows[:width], rows[width:])
    lists.flush()
    assert max(entered) <= 500 + width * 5 + 5 * width
    best = np.concatenate([np.argsort(-sims, axis=1)[:, :5] + width, np.argsort(-sims.T, axis=1)[:, :5]])
    assert lists.rows.get().tolist() == best.tolist()
