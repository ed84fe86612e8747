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
from panic_tda.insight import costs
from panic_tda.insight.costs import Costs, PhaseTime, extrapolate, measure, rows_to_measure
from panic_tda.parameters import ClusteringParameters
from panic_tda.progress import Silent


def make_costs(backend: str, measured: dict[str, PhaseTime], start: float = 0.0) -> Costs:
    parameters = ClusteringParameters(backend=backend)
    return Costs(choose_placement(parameters, 16_000, 384), 16_000, 384, 4_000, measured, start)


def test_the_estimate_is_the_sum_of_the_start_and_all_phases() -> None:
    measured = {
        "distances": PhaseTime(1.0, 2.0, work_of_part=2.0 / 16),
        phases.HIERARCHY: PhaseTime(0.5, 0.4),
    }
    costs_of_rows = make_costs("sklearn", measured, start=0.5)
    # Distances of pairs on two cores, and a phase that waited more than it worked.
    assert costs_of_rows.predict(160_000) == pytest.approx(0.5 + 100 * 2.0 / 2 + 10 * 0.4)
    assert costs_of_rows.predict_work(16_000) == {"distances": 2.0, phases.HIERARCHY: 0.4}


@pytest.mark.parametrize(
    ("n_rows", "measured"), [(16_384, (0.46, 0.08)), (32_768, (1.18, 0.19)), (65_536, (3.39, 0.46))]
)
def test_the_passes_of_200_000_rows_are_predicted_from_few(
    n_rows: int, measured: tuple[float, float]
) -> None:
    """Processor seconds of both passes over rows like captions × 384, and over a quarter of them."""
    assert extrapolate(*measured, 1 / 4, 200_000 / n_rows) == pytest.approx(18.5, rel=0.3)


@given(st.floats(1e-3, 1e3), st.floats(0.01, 0.99), st.integers(1, 2), st.floats(0.01, 1e4))
def test_rows_and_pairs_of_rows_are_extrapolated_exactly(
    work: float, part: float, power: int, growth: float
) -> None:
    predicted = extrapolate(work, work * part**power, part, growth)
    assert predicted == pytest.approx(work * growth**power, rel=1e-6)


@given(st.floats(0, 1e3), st.floats(0, 1e3), st.floats(0.01, 1), st.floats(1, 1e6), st.floats(1, 1e6))
def test_more_rows_never_take_less(
    work: float, work_of_part: float, part: float, first: float, second: float
) -> None:
    fewer, more = (extrapolate(work, work_of_part, part, growth) for growth in sorted((first, second)))
    assert work <= fewer * (1 + 1e-9)
    assert fewer <= more * (1 + 1e-9)
    assert more <= work * max(first, second) ** 2 * (1 + 1e-9)


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
    # A part twice, for what only the first fit of a process does.
    assert fits == [(100, 7), (100, 7), (400, 7)]
    assert result.start >= 0
    assert set(result.measured) >= {phases.NORMALISE, phases.HIERARCHY, phases.MEDOIDS}
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


def test_more_cores_and_more_rows_measure_more_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = ClusteringParameters(backend="tiled")
    placement = choose_placement(parameters, 100, 16)
    host, on_device = (
        replace(placement, options=replace(placement.options, on_device=where)) for where in (False, True)
    )
    measured = []
    for cores in (1, 2, 8, 1_000):
        monkeypatch.setattr(costs, "available_cores", lambda cores=cores: cores)
        measured.append(rows_to_measure(host, 10**9))
    assert measured == [65_536] * 4
    for cores, n_rows in ((1, 10_000), (1, 10**5), (1, 2 * 10**5), (8, 10**5)):
        monkeypatch.setattr(costs, "available_cores", lambda cores=cores: cores)
        measured.append(rows_to_measure(host, n_rows))
    assert measured[4:] == [10_000, 25_000, 50_000, pytest.approx(32_767, abs=2)]
    assert rows_to_measure(on_device, 10**9) == 65_536
    sklearn = choose_placement(ClusteringParameters(backend="sklearn"), 100, 16)
    assert rows_to_measure(sklearn, 10**9) == 4_096
