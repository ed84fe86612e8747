"""Test where rows are loaded for each backend, and that a model's failure affects no other."""

from __future__ import annotations

import logging
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import panic_tda
from panic_tda.arrays import device as device_memory
from panic_tda.arrays.namespace import on_device
from panic_tda.clustering import backends
from panic_tda.clustering.backends.base import FitOptions
from panic_tda.clustering.backends.sklearn import SklearnBackend
from panic_tda.clustering.placement import choose_placement
from panic_tda.clustering.recipe import hdbscan
from panic_tda.clustering.tiled.engine import TiledBackend
from panic_tda.devices import cuda
from panic_tda.errors import UnsupportedOnBackend
from panic_tda.parameters import ClusteringParameters
from panic_tda.types import CLUSTERED, FAILED, ModelOutcome, SpanningTree
from tests.conftest import MakeFile, UpgradedFile
from tests.field_files import FieldSpec
from tests.snapshots import opened
from tests.stand_ins import StandIn, StandInOutOfMemory, require_device
from tests.strict_arrays import StrictArray

SPEC = FieldSpec(runs=6, duplicates=0.4, text_models=("First", "Second", "Third"))


class OnDevice:
    """Backend that takes rows on a device only and builds the tree on the host."""

    name, exact = "on-device", True
    during: Callable[[Any], None] | None = None

    def __init__(self, *, weighted: bool = False) -> None:
        self.weighted = weighted
        self.inner = TiledBackend() if weighted else SklearnBackend()

    def check(self, n_rows: int, _n_features: int, _options: FitOptions) -> None:
        if n_rows > 1000:
            raise UnsupportedOnBackend(f"backend on-device accepts 1,000 rows, got {n_rows}")

    def rows_on_device(self, _n_rows: int, _n_features: int, options: FitOptions) -> bool:
        return options.on_device

    def fit(self, vectors: Any, weights: Any, options: FitOptions) -> SpanningTree:
        assert isinstance(vectors, StrictArray) or cuda.devices()
        assert on_device(vectors)
        if OnDevice.during is not None:
            OnDevice.during(vectors)
        return self.inner.fit(vectors.get(), weights, replace(options, on_device=False))


@pytest.fixture
def on_device_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("backends_on_devices")
    module.All = OnDevice  # type: ignore[attr-defined]
    module.Distinct = lambda: OnDevice(weighted=True)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    homes = {"all": (module.__name__, "All"), "distinct": (module.__name__, "Distinct")}
    monkeypatch.setattr(backends, "MODULES", backends.MODULES | homes)


@pytest.fixture
def during(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Any], None]], None]:
    """Call a function with the rows of every fit."""
    return lambda function: monkeypatch.setattr(OnDevice, "during", staticmethod(function))


def assignments(file: UpgradedFile, outcome: ModelOutcome) -> list[tuple[Any, ...]]:
    assert outcome.id is not None
    with opened(file.path) as connection:
        return connection.execute(
            "SELECT embedding_id, embeddingcluster.label, probability, medoid_embedding_id "
            "FROM embeddingcluster JOIN clusteringresult ON key = embeddingcluster.result_key "
            "LEFT JOIN cluster ON cluster.result_key = key AND cluster.label = embeddingcluster.label "
            "WHERE clusteringresult.id = ? ORDER BY embedding_id",
            (outcome.id.hex,),
        ).fetchall()


def run(file: UpgradedFile, backend: str, **options: Any) -> list[ModelOutcome]:
    parameters = ClusteringParameters(backend=backend, epsilon=0.1, min_cluster_size=3, min_samples=2)
    return panic_tda.cluster_all_data(file.database, parameters=parameters, **options)


@pytest.mark.usefixtures("on_device_backends", "any_device")
@pytest.mark.parametrize("backend", ["all", "distinct"])
def test_stored_results_of_a_device_equal_those_of_the_host(upgraded: MakeFile, backend: str) -> None:
    file = upgraded(SPEC)
    outcomes, expected = run(file, backend), run(file, "sklearn")
    for there, here in zip(outcomes, expected, strict=True):
        assert (there.status, there.backend) == (CLUSTERED, "on-device"), there
        assert there.n_clusters == here.n_clusters > 0
        assert [row[:2] + row[3:] for row in assignments(file, there)] == [
            row[:2] + row[3:] for row in assignments(file, here)
        ]
        np.testing.assert_allclose(
            [row[2] for row in assignments(file, there)],
            [row[2] for row in assignments(file, here)],
            rtol=1e-9,
        )


@pytest.mark.usefixtures("on_device_backends", "any_device")
def test_rows_of_a_database_never_lie_in_host_memory(
    upgraded: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "panic_tda.storage.read.loading.HostRows", lambda *_, **__: pytest.fail("loaded into host memory")
    )
    assert {outcome.status for outcome in run(upgraded(SPEC), "all")} == {CLUSTERED}


@pytest.mark.usefixtures("on_device_backends", "any_device")
@pytest.mark.parametrize("backend", ["all", "distinct"])
def test_host_arrays_are_moved_to_the_device(backend: str) -> None:
    rng = np.random.default_rng(0)
    vectors = np.repeat(rng.standard_normal((4, 12)), 20, axis=0) + 0.05 * rng.standard_normal((80, 12))
    vectors[10:30] = vectors[50:70]
    clustering = hdbscan(vectors, backend=backend, epsilon=0.0)
    expected = hdbscan(vectors, backend="sklearn", epsilon=0.0)
    assert clustering.record.backend == "on-device"
    assert clustering.record.n_unique == 60
    assert clustering.labels.tolist() == expected.labels.tolist()
    assert clustering.medoid_indices == expected.medoid_indices


@pytest.mark.usefixtures("on_device_backends")
def test_a_backend_without_weights_gets_all_rows(
    stand_in: StandIn, during: Callable[[Callable[[Any], None]], None]
) -> None:
    calls: list[Any] = []
    during(lambda rows: calls.append(rows.get()))
    vectors = np.eye(5, dtype=np.float32)[[0, 1, 0, 2, 3, 1, 4, 0]]
    hdbscan(vectors, backend="all", min_cluster_size=2, min_samples=1)
    assert calls[0].tolist() == vectors.tolist()
    hdbscan(vectors, backend="distinct", min_cluster_size=2, min_samples=1)
    assert calls[1].tolist() == np.eye(5).tolist()
    # The rows, and no second matrix of them for the copies.
    assert len(stand_in.matrices) == 2


@pytest.mark.usefixtures("on_device_backends")
def test_a_model_that_does_not_fit_fails_alone(stand_in: StandIn, upgraded: MakeFile) -> None:
    file = upgraded(SPEC)
    calls = iter(range(10))
    stand_in.refuses = lambda _n_rows, _n_features: next(calls) == 1
    outcomes = run(file, "all")
    assert [outcome.status for outcome in outcomes] == [CLUSTERED, FAILED, CLUSTERED]
    reason = str(outcomes[1].reason)
    assert "out of device memory (the stand-in is full)" in reason
    assert "60 × 8 rows" in reason
    assert "80.0 GiB were free" in reason
    for option in ("--backend tiled", "--memory-limit", "--min-samples", "--downsample"):
        assert option in reason
    with opened(file.path) as connection:
        stored = connection.execute("SELECT embedding_model FROM clusteringresult ORDER BY 1").fetchall()
    assert stored == [("First",), ("Third",)]


@pytest.mark.usefixtures("on_device_backends")
@pytest.mark.parametrize(
    "error", [None, StandInOutOfMemory("while fitting"), RuntimeError("a broken kernel"), MemoryError("host")]
)
def test_the_matrix_of_a_model_is_freed_before_the_next_model(
    stand_in: StandIn,
    upgraded: MakeFile,
    during: Callable[[Callable[[Any], None]], None],
    error: Exception | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # At level DEBUG the capture keeps the traceback, and with it the frames that held the matrix.
    caplog.set_level(logging.INFO, "panic_tda")

    def fail(_rows: Any) -> None:
        if error is not None:
            # A fresh one: an exception that is raised again holds the frames of the first time.
            raise type(error)(*error.args)

    during(fail)
    outcomes = run(upgraded(SPEC), "all")
    assert {outcome.status for outcome in outcomes} == {CLUSTERED if error is None else FAILED}
    assert stand_in.alive == [0, 0, 0]
    if error is not None:
        assert [str(error) in str(outcome.reason) for outcome in outcomes] == [True] * 3
        of_device = isinstance(error, StandInOutOfMemory)
        assert ["out of device memory" in str(outcome.reason) for outcome in outcomes] == [of_device] * 3


@pytest.mark.usefixtures("on_device_backends", "stand_in")
def test_a_broken_device_does_not_lose_finished_results(
    upgraded: MakeFile, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise RuntimeError("cudaErrorIllegalAddress")

    monkeypatch.setitem(sys.modules, "cupy", types.ModuleType("cupy"))
    monkeypatch.setattr(device_memory, "free_pools", broken)
    outcomes = run(upgraded(SPEC), "all")
    assert [outcome.status for outcome in outcomes] == [CLUSTERED] * 3
    assert sum("cudaErrorIllegalAddress" in record.getMessage() for record in caplog.records) == 3


@pytest.mark.usefixtures("on_device_backends", "stand_in")
def test_a_backend_refuses_before_anything_is_loaded(upgraded: MakeFile, stand_in: StandIn) -> None:
    outcomes = run(upgraded(FieldSpec(runs=101, text_models=("First",))), "all")
    assert outcomes[0].status == FAILED
    assert outcomes[0].reason == "backend on-device accepts 1,000 rows, got 1010"
    assert stand_in.matrices == []


@pytest.mark.usefixtures("on_device_backends")
def test_auto_chooses_once(
    upgraded: MakeFile, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(backends, "AUTO_ORDER", ("all", "sklearn"))
    monkeypatch.setattr(backends, "AUTO_DEVICE_ORDER", ("all", "sklearn"))
    with caplog.at_level(logging.INFO, "panic_tda"):
        outcomes = run(upgraded(FieldSpec(runs=101, text_models=("First",))), "auto")
    assert outcomes[0].backend == "sklearn"
    refusals = [record for record in caplog.records if "on-device accepts" in record.getMessage()]
    assert len(refusals) == 1


@pytest.mark.usefixtures("no_device", "stand_in")
def test_auto_works_in_host_memory_where_the_device_is_too_small_even_for_lists(
    upgraded: MakeFile, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cuda, "allocatable_bytes", lambda: 1_000)
    parameters = ClusteringParameters(exact=True, epsilon=0.1, min_cluster_size=3, min_samples=2)
    with caplog.at_level(logging.INFO, "panic_tda"):
        placement = choose_placement(parameters, 5_000, 8)
        outcomes = panic_tda.cluster_all_data(upgraded(SPEC).database, parameters=parameters)
    assert (placement.backend.name, placement.rows_on_device, placement.on_device) == ("tiled", False, False)
    assert "trying in host memory" in caplog.text
    assert [(outcome.status, outcome.backend) for outcome in outcomes] == [(CLUSTERED, "tiled")] * 3
    with pytest.raises(UnsupportedOnBackend, match="--devices none"):
        choose_placement(replace(parameters, backend="tiled"), 5_000, 8)


def test_warnings_name_their_model(upgraded: MakeFile, caplog: pytest.LogCaptureFixture) -> None:
    parameters = ClusteringParameters(min_cluster_size=1_000)
    panic_tda.cluster_all_data(upgraded(SPEC).database, parameters=parameters)
    texts = [record.getMessage() for record in caplog.records if "rows are outliers" in record.getMessage()]
    assert [message.partition(":")[0] for message in texts] == ["First", "Second", "Third"]


@pytest.mark.usefixtures("on_device_backends")
def test_without_a_device_rows_stay_in_host_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "unavailable_reason", lambda: "there is none")
    placement = choose_placement(ClusteringParameters(backend="all"), 100, 8)
    assert (placement.rows_on_device, placement.on_device) == (False, False)


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("free_gib", [2, 80])
def test_tiled_has_its_rows_where_they_fit(monkeypatch: pytest.MonkeyPatch, free_gib: int) -> None:
    monkeypatch.setattr(cuda, "allocatable_bytes", lambda: free_gib << 30)
    placement = choose_placement(ClusteringParameters(backend="tiled", min_samples=2), 800_000, 768)
    assert placement.on_device
    assert placement.rows_on_device == (free_gib == 80)


def test_a_backend_without_device_support_requests_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "unavailable_reason", lambda: pytest.fail("CuPy would be imported"))
    placement = choose_placement(ClusteringParameters(backend="sklearn"), 100, 8)
    assert not placement.on_device


@pytest.mark.gpu
def test_tiled_on_a_device_gives_the_host_s_clusters(upgraded: MakeFile) -> None:
    require_device()
    file = upgraded(SPEC)
    for there, here in zip(run(file, "tiled"), run(file, "sklearn"), strict=True):
        assert [row[:2] + row[3:] for row in assignments(file, there)] == [
            row[:2] + row[3:] for row in assignments(file, here)
        ]
