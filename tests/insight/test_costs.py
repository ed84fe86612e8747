"""Test the extrapolation of times measured on parts of the rows."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panic_tda import hdbscan
from panic_tda.clustering import phases
from panic_tda.clustering.placement import choose_placement
from panic_tda.insight import costs
from panic_tda.insight.costs import DIVISIONS, Costs, extrapolate, measure, rows_to_measure
from panic_tda.parameters import ClusteringParameters
from panic_tda.progress import Silent

SIZES = (4_000, 8_000, 16_000)
positive = st.floats(1e-4, 1e3)


@settings(deadline=None)
@given(a=positive, b=positive, growth=st.sampled_from([1.5, 1.9, 2.0]), n_rows=st.integers(1, 10**7))
def test_the_coefficients_of_a_planted_law_are_recovered(
    a: float, b: float, growth: float, n_rows: int
) -> None:
    def law(n: int) -> float:
        return a * (n / 1e4) + b * (n / 1e4) ** growth

    # Where one part is next to nothing of what was measured, it cannot be told.
    if min(a, b) / max(a, b) > 0.01:
        result = extrapolate({n: law(n) for n in SIZES}, n_rows, (1.0, growth))
        assert result == pytest.approx(law(n_rows), rel=1e-4)


@settings(deadline=None)
@given(st.lists(positive, min_size=1, max_size=3), st.integers(1, 10**6), st.integers(1, 10**6))
def test_more_rows_never_take_less(taken: list[float], first: int, second: int) -> None:
    measured = dict(zip(SIZES, taken, strict=False))
    fewer, more = (extrapolate(measured, n, (1.0, 1.9)) for n in sorted((first, second)))
    assert 0 < fewer <= more * (1 + 1e-9)


def test_a_constant_time_is_extrapolated_as_constant() -> None:
    assert extrapolate(dict.fromkeys(SIZES, 0.3), 10**6, (0.0, 1.0)) == pytest.approx(0.3)
    law = {n: 0.1 + n / 1e6 for n in SIZES}
    assert extrapolate(law, 10**6, (0.0, 1.0)) == pytest.approx(1.1)


def test_a_time_that_falls_with_rows_is_extrapolated_as_growing() -> None:
    # A busy moment in the smallest part.
    assert extrapolate({4_000: 3.0, 8_000: 1.0, 16_000: 2.0}, 160_000, (1.0, 2.0)) > 5


def test_phases_that_were_not_measured_take_no_time() -> None:
    assert extrapolate({}, 1_000, (1.0, 2.0)) == 0
    assert extrapolate({100: 0.0}, 1_000, (1.0, 2.0)) == 0


def test_the_estimate_is_the_sum_of_the_start_and_all_phases() -> None:
    work = {10: {"neighbours": 2.0, "verify": 1.0}, 20: {"neighbours": 4.0}}
    costs = Costs("sklearn", work, {"neighbours": 2.0, "verify": 1.0}, start=0.5)
    # Neighbours take 0.2 s a row on two cores; verify was not there in the larger part, and is linear.
    assert costs.predict(100) == pytest.approx(0.5 + 20 / 2 + 10, rel=0.3)
    assert replace(costs, start=1.5).predict(100) == pytest.approx(costs.predict(100) + 1)


def rows(n: int, d: int = 16) -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((5, d))
    return (centres[rng.integers(5, size=n)] + 0.3 * rng.standard_normal((n, d))).astype(np.float32)


@pytest.mark.parametrize("backend", ["tiled", "sklearn"])
def test_parts_are_fitted_with_the_parameters_of_all_rows(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = ClusteringParameters(backend=backend, min_samples=7, min_cluster_size=900)
    seen_values = []
    fit = costs.cluster_rows

    def noted(part, options, *arguments, **named):
        seen_values.append((len(part), options.min_samples))
        return fit(part, options, *arguments, **named)

    monkeypatch.setattr(costs, "cluster_rows", noted)
    outcome = rows(400)
    before = outcome.copy()
    result = measure(outcome, parameters, choose_placement(parameters, 10_000, 16), progress=Silent())
    np.testing.assert_array_equal(outcome, before)
    # The first part once more, for what only the first fit of a process does.
    sizes = [400 // count for count in DIVISIONS for _ in range(count)]
    assert seen_values == [(n, 7) for n in (sizes[0], *sizes)]
    assert sorted(result.work) == [100, 200, 400]
    assert result.backend == backend
    assert result.start >= 0
    assert set(result.work[400]) == set(result.cores) >= phases.LINEAR - {phases.CORE_DISTANCES}
    assert (phases.CORE_DISTANCES in result.cores) == (backend == "tiled")
    assert all(cores >= 1 for cores in result.cores.values())
    assert 0 < result.predict(1_000) < result.predict(10_000) < result.predict(1_000_000)


def test_all_rows_are_fitted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven fits of some rows of each of many small models took most of the time of a plan."""
    parameters = ClusteringParameters(min_samples=3)
    n_rows = []
    fit = costs.cluster_rows
    monkeypatch.setattr(
        costs,
        "cluster_rows",
        lambda part, *rest, **named: (n_rows.append(len(part)), fit(part, *rest, **named))[1],
    )
    placement = choose_placement(parameters, 50, 16)
    costs_of_rows = measure(rows(50), parameters, placement, are_all=True, start=0.25, progress=Silent())
    assert n_rows == [50]
    spent = sum(seconds / costs_of_rows.cores[phase] for phase, seconds in costs_of_rows.work[50].items())
    assert costs_of_rows.predict(50) == pytest.approx(0.25 + spent)


def test_a_known_start_time_is_not_measured_again() -> None:
    parameters = ClusteringParameters()
    result = measure(
        rows(50), parameters, choose_placement(parameters, 50, 16), start=0.25, progress=Silent()
    )
    assert result.start == 0.25


@pytest.mark.parametrize("n", [0, 1, 2, 3, 9])
def test_few_rows_are_measured_up_to_their_number(n: int) -> None:
    parameters = ClusteringParameters(min_samples=5)
    result = measure(rows(9)[:n], parameters, choose_placement(parameters, 100, 16), progress=Silent())
    assert all(1 < size <= n for size in result.work)
    assert bool(result.work) == (n > 1)
    assert result.predict(100) >= result.start


def test_copies_of_one_row_are_measured() -> None:
    parameters = ClusteringParameters(backend="tiled")
    result = measure(
        np.ones((64, 8), np.float32), parameters, choose_placement(parameters, 64, 8), progress=Silent()
    )
    assert result.predict(64) > 0


def test_measured_fits_log_no_warning_about_rows(caplog: pytest.LogCaptureFixture) -> None:
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
