"""What is measured on parts of the rows is carried on to all of them."""

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
def test_a_law_of_this_kind_is_found_again(a: float, b: float, growth: float, n_rows: int) -> None:
    def law(n: int) -> float:
        return a * (n / 1e4) + b * (n / 1e4) ** growth

    # Where one part is next to nothing of what was measured, it cannot be told.
    if min(a, b) / max(a, b) > 0.01:
        found = extrapolate({n: law(n) for n in SIZES}, n_rows, (1.0, growth))
        assert found == pytest.approx(law(n_rows), rel=1e-4)


@settings(deadline=None)
@given(st.lists(positive, min_size=1, max_size=3), st.integers(1, 10**6), st.integers(1, 10**6))
def test_more_rows_never_take_less(taken: list[float], one: int, other: int) -> None:
    measured = dict(zip(SIZES, taken, strict=False))
    fewer, more = (extrapolate(measured, n, (1.0, 1.9)) for n in sorted((one, other)))
    assert 0 < fewer <= more * (1 + 1e-9)


def test_what_takes_the_same_for_all_numbers_of_rows_goes_on_to() -> None:
    assert extrapolate(dict.fromkeys(SIZES, 0.3), 10**6, (0.0, 1.0)) == pytest.approx(0.3)
    law = {n: 0.1 + n / 1e6 for n in SIZES}
    assert extrapolate(law, 10**6, (0.0, 1.0)) == pytest.approx(1.1)


def test_what_takes_longer_for_fewer_rows_still_grows_with_them() -> None:
    # A busy moment in the smallest part.
    assert extrapolate({4_000: 3.0, 8_000: 1.0, 16_000: 2.0}, 160_000, (1.0, 2.0)) > 5


def test_what_was_not_measured_takes_nothing() -> None:
    assert extrapolate({}, 1_000, (1.0, 2.0)) == 0
    assert extrapolate({100: 0.0}, 1_000, (1.0, 2.0)) == 0


def test_all_phases_and_the_start_make_the_time() -> None:
    work = {10: {"neighbours": 2.0, "verify": 1.0}, 20: {"neighbours": 4.0}}
    found = Costs("sklearn", work, {"neighbours": 2.0, "verify": 1.0}, start=0.5)
    # Neighbours take 0.2 s a row on two cores; verify was not there in the larger part, and is linear.
    assert found.predict(100) == pytest.approx(0.5 + 20 / 2 + 10, rel=0.3)
    assert replace(found, start=1.5).predict(100) == pytest.approx(found.predict(100) + 1)


def rows(n: int, d: int = 16) -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((5, d))
    return (centres[rng.integers(5, size=n)] + 0.3 * rng.standard_normal((n, d))).astype(np.float32)


@pytest.mark.parametrize("backend", ["tiled", "sklearn"])
def test_parts_of_real_rows_are_fitted_as_all_will_be(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ClusteringParameters(backend=backend, min_samples=7, min_cluster_size=900)
    seen = []
    fit = costs.cluster_rows

    def noted(part, asked, *arguments, **named):
        seen.append((len(part), asked.min_samples))
        return fit(part, asked, *arguments, **named)

    monkeypatch.setattr(costs, "cluster_rows", noted)
    some = rows(400)
    before = some.copy()
    found = measure(some, asked, choose_placement(asked, 10_000, 16), progress=Silent())
    np.testing.assert_array_equal(some, before)
    # The first part once more, for what only the first fit of a process does.
    sizes = [400 // count for count in DIVISIONS for _ in range(count)]
    assert seen == [(n, 7) for n in (sizes[0], *sizes)]
    assert sorted(found.work) == [100, 200, 400]
    assert found.backend == backend
    assert found.start >= 0
    assert set(found.work[400]) == set(found.cores) >= phases.LINEAR - {phases.CORE_DISTANCES}
    assert (phases.CORE_DISTANCES in found.cores) == (backend == "tiled")
    assert all(cores >= 1 for cores in found.cores.values())
    assert 0 < found.predict(1_000) < found.predict(10_000) < found.predict(1_000_000)


def test_a_start_that_is_known_is_not_measured_again() -> None:
    asked = ClusteringParameters()
    found = measure(rows(50), asked, choose_placement(asked, 50, 16), start=0.25, progress=Silent())
    assert found.start == 0.25


@pytest.mark.parametrize("n", [0, 1, 2, 3, 9])
def test_few_rows_are_measured_as_far_as_they_go(n: int) -> None:
    asked = ClusteringParameters(min_samples=5)
    found = measure(rows(9)[:n], asked, choose_placement(asked, 100, 16), progress=Silent())
    assert all(1 < size <= n for size in found.work)
    assert bool(found.work) == (n > 1)
    assert found.predict(100) >= found.start


def test_copies_of_one_row_are_measured() -> None:
    asked = ClusteringParameters(backend="tiled")
    found = measure(np.ones((64, 8), np.float32), asked, choose_placement(asked, 64, 8), progress=Silent())
    assert found.predict(64) > 0


def test_nothing_is_said_of_clusters_in_parts(caplog: pytest.LogCaptureFixture) -> None:
    asked = ClusteringParameters(min_samples=40)
    with caplog.at_level(logging.INFO, "panic_tda"):
        measure(rows(200), asked, choose_placement(asked, 200, 16), progress=Silent())
        assert not [record for record in caplog.records if "rows" in record.message]
        hdbscan(rows(50), min_samples=60)
    assert "all 50 rows are outliers" in caplog.text


def test_more_is_measured_where_more_works(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ClusteringParameters(backend="tiled")
    placement = choose_placement(asked, 100, 16)
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
