"""Test every backend with one suite: exact trees, refusals with a reason, and the choice between them."""

from __future__ import annotations

import logging
import types
from typing import Any, NamedTuple

import numpy as np
import pytest

from panic_tda.clustering import backends
from panic_tda.clustering.backends import cuml, select_backend
from panic_tda.clustering.backends import sklearn as sklearn_backend
from panic_tda.clustering.backends.base import FitOptions
from panic_tda.clustering.duplicates import attach_copies, find_distinct
from panic_tda.clustering.placement import choose_placement
from panic_tda.devices import cuda
from panic_tda.errors import InvalidParameter, UnsupportedOnBackend
from panic_tda.parameters import ClusteringParameters
from panic_tda.progress import Silent
from panic_tda.types import SpanningTree
from tests import reference
from tests.clustering.datasets import DATA, unit_rows
from tests.conftest import require_backend

FLOOR = 1e-3


ROWS = {name: unit_rows(vectors) for name, vectors in DATA.items()}


class Placed(NamedTuple):
    """A backend, and the memory in which it gets its rows."""

    name: str
    on_device: bool = False

    def __getattr__(self, name: str) -> Any:
        return getattr(backends.get_backend(self.name), name)

    def fit(self, rows: np.ndarray, weights: np.ndarray, options: FitOptions) -> SpanningTree:
        """Fit rows that lie in host memory."""
        if self.on_device:
            import cupy

            rows = cupy.asarray(rows)
        return backends.get_backend(self.name).fit(rows, weights, options)


PLACED = [
    Placed("sklearn"),
    Placed("tiled"),
    pytest.param(Placed("tiled", on_device=True), marks=pytest.mark.gpu, id="tiled on the device"),
    pytest.param(Placed("cuml", on_device=True), marks=pytest.mark.gpu, id="cuml"),
]


@pytest.fixture(params=PLACED, ids=lambda placed: placed.name)
def backend(request: pytest.FixtureRequest) -> Placed:
    placed: Placed = request.param
    require_backend(placed.name, on_device=placed.on_device)
    return placed


@pytest.fixture(autouse=True)
def clear_logged_refusals() -> None:
    backends.log_once.cache_clear()


def test_every_backend_is_tested() -> None:
    names = {(case.values[0] if hasattr(case, "values") else case).name for case in PLACED}  # type: ignore[union-attr]
    assert names == set(backends.NAMES) - {backends.AUTO}


def options(min_samples: int, **more: object) -> FitOptions:
    return FitOptions(min_samples=min_samples, distance_floor=FLOOR, **more)  # type: ignore[arg-type]


def fit_all_rows(backend: Placed, rows: np.ndarray, options: FitOptions) -> SpanningTree:
    """Fit distinct rows with weights if the backend takes weights, otherwise all rows."""
    if not backend.weighted:
        return backend.fit(rows, np.ones(len(rows), dtype=np.int64), options)
    distinct = find_distinct(rows)
    if len(distinct.first) == 1:
        pytest.skip("one distinct row never reaches a weighted backend")
    return attach_copies(backend.fit(rows[distinct.first], distinct.counts, options), distinct)


def assert_spans(tree: SpanningTree, n: int) -> None:
    assert len(tree.u) == len(tree.v) == len(tree.height) == n - 1
    leader = list(range(n))

    def find(row: int) -> int:
        while leader[row] != row:
            row = leader[row]
        return row

    for first, second in zip(tree.u.tolist(), tree.v.tolist(), strict=True):
        assert find(first) != find(second), "an edge closes a cycle"
        leader[find(first)] = find(second)


def merge_heights(tree: SpanningTree) -> np.ndarray:
    """Return the height at which each pair of rows merges, (n, n), at least the floor."""
    n = len(tree.height) + 1
    heights, members = np.zeros((n, n)), {row: [row] for row in range(n)}
    for edge in np.argsort(tree.height, kind="stable"):
        first, second = members[int(tree.u[edge])], members[int(tree.v[edge])]
        heights[np.ix_(first, second)] = heights[np.ix_(second, first)] = max(tree.height[edge], FLOOR)
        first += second
        members |= dict.fromkeys(second, first)
    return heights


@pytest.mark.parametrize("min_samples", [1, 2, 5, "all"])
@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_tree_weights_equal_prims(backend: Placed, rows: np.ndarray, min_samples: int | str) -> None:
    k = len(rows) if min_samples == "all" else min(int(min_samples), len(rows))
    if not backend.exact:
        assert_is_nearly_prims(backend, rows, k)
        return
    tree = fit_all_rows(backend, rows, options(k))
    assert_spans(tree, len(rows))
    weights = reference.mutual_reachability(reference.chord_distances(rows), k, FLOOR)
    heights = np.maximum(tree.height, FLOOR)
    np.testing.assert_allclose(np.sort(heights), reference.prim_weights(weights), rtol=1e-12)
    np.testing.assert_allclose(heights, weights[tree.u, tree.v], rtol=1e-12)
    # Among equal edges the choice is free, as long as everything merges at the same heights.
    np.testing.assert_allclose(merge_heights(tree), merge_heights(reference.prim_tree(weights)), rtol=1e-11)
    if tree.core_distances is not None:
        cores = reference.core_distances(reference.chord_distances(rows), k)
        np.testing.assert_allclose(
            np.maximum(tree.core_distances, FLOOR), np.maximum(cores, FLOOR), rtol=1e-12
        )


def assert_is_nearly_prims(backend: Placed, rows: np.ndarray, k: int) -> None:
    """Assert a spanning tree with true weights, not lighter than Prim's, and equal on the complete graph."""
    if k < cuml.MIN_SAMPLES[0]:
        with pytest.raises(UnsupportedOnBackend, match="accepts min_samples from 2"):
            backend.check(*rows.shape, options(k))
        return
    tree = fit_all_rows(backend, rows, options(k))
    assert_spans(tree, len(rows))
    distances = reference.chord_distances(rows)
    weights = reference.mutual_reachability(distances, k, FLOOR)
    # Squares, because float32 products are off by an absolute error there.
    rounding = {"rtol": 0, "atol": 8 * 1.01 * rows.shape[1] * 2.0**-24 + FLOOR**2}
    np.testing.assert_allclose(tree.height**2, weights[tree.u, tree.v] ** 2, **rounding)
    assert tree.core_distances is not None
    np.testing.assert_allclose(
        tree.core_distances**2, reference.core_distances(distances, k) ** 2, **rounding
    )
    excess = np.sort(tree.height) ** 2 - reference.prim_weights(weights) ** 2
    assert excess.min() > -rounding["atol"]
    if k == len(rows):
        assert excess.max() < rounding["atol"]
    assert tree.improving_edges is not None
    assert tree.improving_edges.sample == len(rows)
    assert tree.improving_edges.share == 0 or excess.max() > 0


def test_rows_and_weights_are_not_changed(backend: Placed) -> None:
    rows = ROWS["blobs"].copy()
    weights = np.ones(len(rows), dtype=np.int64)
    backend.fit(rows, weights, options(3))
    assert np.array_equal(rows, ROWS["blobs"])
    assert np.array_equal(weights, np.ones(len(rows)))


class Recorder(Silent):
    def __init__(self) -> None:
        self.phases: list[tuple[str, float | None, list[float]]] = []

    def phase(self, name: str, total: float | None = None) -> None:
        self.phases.append((name, total, []))

    def advance(self, amount: float) -> None:
        self.phases[-1][2].append(amount)


def test_phases_with_a_total_end_exactly_at_it(backend: Placed) -> None:
    recorder = Recorder()
    fit_all_rows(backend, ROWS["blobs"], options(3, progress=recorder))
    assert recorder.phases
    counted = [(name, total, steps) for name, total, steps in recorder.phases if total]
    assert counted, "no phase can say how much is left"
    for name, total, steps in counted:
        assert sum(steps) == pytest.approx(total), name
        assert min(steps) > 0


def test_a_backend_is_called_by_its_own_name(backend: Placed) -> None:
    assert backends.get_backend(backend.name).name == backend.name
    assert backend.name in backends.NAMES


@pytest.mark.parametrize("tile_rows", [7, 40, 1000])
def test_the_tile_size_of_the_sklearn_matrix_does_not_matter(
    monkeypatch: pytest.MonkeyPatch, tile_rows: int
) -> None:
    monkeypatch.setattr(sklearn_backend, "TILE_ROWS", tile_rows)
    for rows in ROWS.values():
        distances = sklearn_backend.chord_distance_matrix(rows, options(1))
        expected = np.maximum(reference.chord_distances(rows), FLOOR)
        np.fill_diagonal(expected, 0)
        np.testing.assert_allclose(distances, expected, rtol=1e-12)
        assert np.array_equal(distances, distances.T)


def test_sklearn_refuses_more_than_20_000_rows() -> None:
    backend = backends.get_backend("sklearn")
    backend.check(20_000, 768, options(10))
    with pytest.raises(UnsupportedOnBackend) as refusal:
        backend.check(20_001, 768, options(10))
    for part in ("backend sklearn", "up to 20,000 rows", "got 20,001", "use --backend"):
        assert part in str(refusal.value)


def test_a_named_backend_never_falls_back() -> None:
    with pytest.raises(UnsupportedOnBackend, match="up to 20,000 rows"):
        select_backend("sklearn", (30_000, 8), options(10))


@pytest.mark.parametrize("name", ["", "SKLEARN", "nonsense"])
def test_unknown_names_are_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(InvalidParameter, match="backend must be one of auto, cuml, sklearn, tiled"):
        select_backend(name, (10, 2), options(2))


@pytest.mark.usefixtures("no_device")
@pytest.mark.parametrize("n_rows", [2, 2_000, 3_000_000])
def test_auto_uses_tiled_at_any_size(n_rows: int) -> None:
    assert select_backend("auto", (n_rows, 8), options(5)).name == "tiled"


class _Limited:
    """A backend for up to `limit` rows that never has to fit any."""

    exact = True

    def __init__(self, name: str, limit: int, *, weighted: bool) -> None:
        self.name, self.limit, self.weighted = name, limit, weighted

    def check(self, n_rows: int, _n_features: int, _options: FitOptions) -> None:
        if n_rows > self.limit:
            raise UnsupportedOnBackend(f"backend {self.name} accepts {self.limit}, got {n_rows}")


@pytest.fixture
def two_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    module = types.ModuleType("limited_backends")
    module.Small = lambda: _Limited("small", 10, weighted=True)  # type: ignore[attr-defined]
    module.Large = lambda: _Limited("large", 100, weighted=False)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "limited_backends", module)
    homes = {"small": ("limited_backends", "Small"), "large": ("limited_backends", "Large")}
    monkeypatch.setattr(backends, "MODULES", homes)
    monkeypatch.setattr(backends, "AUTO_ORDER", ("small", "large"))


@pytest.mark.usefixtures("two_limited")
@pytest.mark.parametrize(("shape", "name"), [((10, 2), "small"), ((50, 2), "large")])
def test_auto_uses_the_first_backend_that_does_not_refuse(shape: tuple[int, int], name: str) -> None:
    assert select_backend("auto", shape, options(2)).name == name


@pytest.mark.usefixtures("two_limited")
def test_auto_logs_why_a_backend_was_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "panic_tda"):
        select_backend("auto", (50, 2), options(2))
    assert [record.getMessage() for record in caplog.records] == ["backend small accepts 10, got 50"]


@pytest.mark.usefixtures("two_limited")
def test_when_all_refuse_every_reason_is_named() -> None:
    with pytest.raises(
        UnsupportedOnBackend, match=r"small accepts 10, got 500; .*large accepts 100, got 500"
    ):
        select_backend("auto", (500, 2), options(2))


@pytest.mark.usefixtures("no_device")
def test_without_a_device_auto_logs_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "panic_tda"):
        chosen = [choose_placement(ClusteringParameters(), n, 8).backend.name for n in (100, 5_000, 200)]
    assert chosen == ["tiled"] * 3
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert record.getMessage() == "no CUDA device is used: CuPy is not installed"


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("n_rows", [100, 1_100_000])
def test_on_a_device_auto_takes_tiled(n_rows: int, exact: bool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "panic_tda"):
        fit_options = options(64, on_device=True, exact=exact)
        assert select_backend("auto", (n_rows, 768), fit_options).name == "tiled"
    assert caplog.records == []


@pytest.mark.usefixtures("device")
def test_on_a_device_auto_takes_cuml_with_one_line_where_tiled_does_not_fit(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Too little for the products of a tile, and enough for some neighbours of a hundred rows.
    monkeypatch.setattr(cuda, "allocatable_bytes", lambda: 1 << 20)
    with caplog.at_level(logging.INFO, "panic_tda"):
        assert select_backend("auto", (100, 8), options(5, on_device=True)).name == "cuml"
    (record,) = caplog.records
    assert "backend tiled" in record.getMessage()
    with pytest.raises(UnsupportedOnBackend, match="backend tiled"):
        select_backend("auto", (100, 8), options(5, on_device=True, exact=True))
    with pytest.raises(UnsupportedOnBackend, match=r"backend tiled .*; backend cuml accepts min_samples"):
        select_backend("auto", (100, 8), options(1, on_device=True))


@pytest.mark.usefixtures("no_device")
def test_a_backend_that_cannot_run_is_refused_before_loading() -> None:
    with pytest.raises(UnsupportedOnBackend, match="backend cuml cannot run here: CuPy is not installed"):
        backends.require_available(ClusteringParameters(backend="cuml"))
    for name in ("auto", "sklearn", "tiled"):
        backends.require_available(ClusteringParameters(backend=name))
    with pytest.raises(InvalidParameter, match="backend must be one of"):
        backends.require_available(ClusteringParameters(backend="nonsense"))
