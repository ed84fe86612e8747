"""Test the extrapolation of times measured on a sample of the rows."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from panic_tda import hdbscan
from panic_tda.clustering import phases
from panic_tda.clustering.placement import choose_placement
from panic_tda.clustering.tiled import host, pass_work
from panic_tda.clustering.tiled.layout import Layout, estimate_work
from panic_tda.insight import costs
from panic_tda.insight.costs import Costs, PhaseTime, measure, rows_to_measure
from panic_tda.parameters import ClusteringParameters
from panic_tda.progress import Silent


def test_the_work_of_a_pass_is_that_which_its_progress_counts() -> None:
    """The closed formula, against the list of all pairs of tiles."""
    for name, (near_costs, decline) in pass_work.PASSES.items():
        ratios = []
        for n_tiles in (1, 2, 5, 16, 61):
            n_rows = n_tiles * host.TILE_ROWS
            starts = np.arange(n_tiles + 1) * host.TILE_ROWS
            pairs = np.stack(np.triu_indices(n_tiles), axis=1).astype(np.int32)
            layout = Layout(np.empty(n_rows, dtype=np.int32), starts)
            listed = estimate_work(layout, pairs, near_costs, decline).sum() / host.TILE_ROWS**2
            ratios.append(pass_work.count(name, n_rows, 384) / listed)
        assert ratios == pytest.approx([1] * 5, rel=0.01)


def make_costs(backend: str, measured: dict[str, PhaseTime], start: float = 0.0) -> Costs:
    parameters = ClusteringParameters(backend=backend)
    return Costs(choose_placement(parameters, 16_000, 384), 16_000, 384, measured, start)


def test_the_estimate_is_the_sum_of_the_start_and_all_phases() -> None:
    measured = {"distances": PhaseTime(1.0, 2.0), phases.HIERARCHY: PhaseTime(0.5, 0.4)}
    costs_of_rows = make_costs("sklearn", measured, start=0.5)
    # Distances of pairs on two cores, and a phase that waited more than it worked.
    assert costs_of_rows.predict(160_000) == pytest.approx(0.5 + 100 * 2.0 / 2 + 10 * 0.4)
    assert costs_of_rows.predict_work(16_000) == {"distances": 2.0, phases.HIERARCHY: 0.4}


def test_passes_that_were_measured_at_64_000_rows_are_predicted_from_16_000() -> None:
    """Processor seconds of both passes, of 16,000 and of 64,000 rows of 384 dimensions."""
    seconds = {"neighbours": 0.62, "verify": 0.44, "join components": 0.15}
    costs_of_rows = make_costs("tiled", {name: PhaseTime(value, value) for name, value in seconds.items()})
    predicted = costs_of_rows.predict_work(64_000)
    for name, value in (("neighbours", 4.6), ("verify", 5.5), ("join components", 0.4)):
        assert predicted[name] == pytest.approx(value, rel=0.5 if name == "join components" else 0.3)


@given(st.integers(2, 10**8), st.integers(2, 10**8), st.sampled_from([100, 384]))
def test_more_rows_never_take_less(first: int, second: int, n_features: int) -> None:
    for phase in (*pass_work.PASSES, "join components"):
        fewer, more = (pass_work.count(phase, n, n_features) for n in sorted((first, second)))
        assert 0 < fewer <= more


def rows(n: int, d: int = 16) -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((5, d))
    return (centres[rng.integers(5, size=n)] + 0.3 * rng.standard_normal((n, d))).astype(np.float32)


@pytest.mark.parametrize("backend", ["tiled", "sklearn"])
def test_a_sample_is_fitted_as_all_rows_will_be(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = ClusteringParameters(backend=backend, min_samples=7, min_cluster_size=900)
    fits = []
    fit = costs.cluster_rows

    def record_fit(sample, options, *arguments, **named):
        fits.append((len(sample), options.min_samples))
        return fit(sample, options, *arguments, **named)

    monkeypatch.setattr(costs, "cluster_rows", record_fit)
    sample = rows(400)
    before = sample.copy()
    placement = choose_placement(parameters, 10_000, 16)
    result = measure(sample, parameters, placement, progress=Silent())
    np.testing.assert_array_equal(sample, before)
    # Once more, for what only the first fit of a process does.
    assert fits == [(400, 7), (400, 7)]
    assert result.start >= 0
    assert set(result.measured) >= phases.LINEAR - {phases.CORE_DISTANCES}
    assert (phases.CORE_DISTANCES in result.measured) == (backend == "tiled")
    assert all(time.cores >= 1 for time in result.measured.values())
    assert 0 < result.predict(1_000) < result.predict(10_000) < result.predict(1_000_000)
    spent = sum(time.work / time.cores for time in result.measured.values())
    assert result.predict(400) == pytest.approx(result.start + spent)


def test_a_known_start_time_is_not_measured_again() -> None:
    parameters = ClusteringParameters()
    placement = choose_placement(parameters, 50, 16)
    result = measure(rows(50), parameters, placement, start=0.25, progress=Silent())
    assert result.start == 0.25


@pytest.mark.parametrize("n", [0, 1, 2, 3, 9])
def test_few_rows_are_measured_from_two_on(n: int) -> None:
    parameters = ClusteringParameters(min_samples=5)
    result = measure(rows(9)[:n], parameters, choose_placement(parameters, 100, 16), progress=Silent())
    assert result.n_rows == (n if n > 1 else 0)
    assert bool(result.measured) == (n > 1)
    assert result.predict(100) >= result.start


def test_copies_of_one_row_are_measured() -> None:
    parameters = ClusteringParameters(backend="tiled")
    result = measure(
        np.ones((64, 8), np.float32), parameters, choose_placement(parameters, 64, 8), progress=Silent()
    )
    assert result.predict(64) > 0


def test_a_sample_warns_of_no_clusters(caplog: pytest.LogCaptureFixture) -> None:
    parameters = ClusteringParameters(min_samples=40)
    with caplog.at_level(logging.INFO, "panic_tda"):
        measure(rows(200), parameters, choose_placement(parameters, 200, 16), progress=Silent())
        assert not [record for record in caplog.records if "rows" in record.message]
        hdbscan(rows(50), min_samples=60)
    assert "all 50 rows are outliers" in caplog.text


def test_more_cores_measure_more_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = ClusteringParameters(backend="tiled")
    placement = choose_placement(parameters, 100, 16)
    host, on_device = (
        replace(placement, options=replace(placement.options, on_device=where)) for where in (False, True)
    )
    measured = []
    for cores in (1, 2, 8, 1_000):
        monkeypatch.setattr(costs, "available_cores", lambda cores=cores: cores)
        measured.append(rows_to_measure(host))
    device_rows = rows_to_measure(on_device)
    assert measured == sorted(set(measured))
    assert measured[1] == pytest.approx(16_384, abs=2)
    assert measured[-1] == device_rows
    sklearn = choose_placement(ClusteringParameters(backend="sklearn"), 100, 16)
    assert rows_to_measure(sklearn) < measured[0]
