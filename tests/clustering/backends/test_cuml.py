"""Test the backend `cuml`: its arguments to cuML, its refusals, and its results on a device."""

from __future__ import annotations

import json
import logging
import math
import re
import sys
import types
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from sklearn.metrics import adjusted_rand_score

import panic_tda
from panic_tda import hdbscan
from panic_tda.clustering import backends
from panic_tda.clustering.backends import cuml
from panic_tda.clustering.backends.cuml import CumlBackend, cuml_arguments, estimate_bytes
from panic_tda.clustering.backends.sklearn import SklearnBackend
from panic_tda.clustering.backends.tree_check import sample_improving_edges
from panic_tda.devices import cuda
from panic_tda.errors import BackendFailure, DeviceOutOfMemory, InvalidParameter, UnsupportedOnBackend
from panic_tda.parameters import ClusteringParameters
from panic_tda.types import CLUSTERED, FAILED, ImprovingEdgeSample, SpanningTree
from tests import reference
from tests.clustering.datasets import unit_rows
from tests.clustering.test_backends import FLOOR, ROWS, FitOptions, assert_spans, options
from tests.conftest import FREE_BYTES, MakeFile, require_backend
from tests.field_files import FieldSpec
from tests.snapshots import run_python, snapshot
from tests.stand_ins import StandIn
from tests.strict_arrays import StrictArray

# Translation.


def test_brute_force_is_the_default_graph() -> None:
    arguments = cuml_arguments(1_000, options(12))
    assert arguments["build_algo"] == "brute_force"
    assert (arguments["metric"], arguments["alpha"]) == ("euclidean", 1.0)
    assert arguments["gen_min_span_tree"] is True


def test_cuml_does_not_count_the_row_itself() -> None:
    assert [cuml_arguments(5_000, options(k))["min_samples"] for k in (2, 12, 1_024)] == [1, 11, 1_023]


def test_labels_of_cuml_are_not_computed() -> None:
    arguments = cuml_arguments(1_000, options(12))
    assert arguments["min_cluster_size"] == 1_000
    assert arguments["allow_single_cluster"] is False
    assert arguments["cluster_selection_epsilon"] == 0


def test_the_installed_cuml_has_every_argument_and_attribute_used() -> None:
    pytest.importorskip("cuml", reason="needs cuML: pip install '.[cuda13]'")
    from cuml.cluster.hdbscan import hdbscan as installed

    arguments = cuml_arguments(1_000, options(12))
    estimator = installed.HDBSCAN(**arguments)
    assert {name: value for name, value in estimator.get_params().items() if name in arguments} == arguments
    assert estimator._min_spanning_tree is None
    assert callable(installed._HDBSCANState.to_dict)


# Refusals.


def refusal(n_rows: int, d: int, options: FitOptions) -> str:
    with pytest.raises(UnsupportedOnBackend) as caught:
        CumlBackend().check(n_rows, d, options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.usefixtures("device")
def test_what_fits_is_accepted() -> None:
    for k in (2, 64, 100):
        CumlBackend().check(1_000_000, 768, options(k))
    CumlBackend().check(2, 768, options(1_024))


@pytest.mark.usefixtures("no_device")
def test_without_a_device_the_reason_comes_first() -> None:
    assert refusal(10**9, 768, options(5_000)) == "backend cuml cannot run here: CuPy is not installed"


def test_cuml_is_looked_for_without_being_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuml.cuda, "unavailable_reason", lambda: None)
    monkeypatch.setattr(cuml.importlib.util, "find_spec", lambda _: None)
    assert re.match(r"cuML is not installed; pip install '\.\[cuda1", cuml.unavailable_reason() or "")
    monkeypatch.setattr(cuml.cuda, "unavailable_reason", lambda: "no driver")
    assert cuml.unavailable_reason() == "no driver"


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("k", [1, 1_025])
def test_min_samples_above_the_limit_of_cuml_is_refused(k: int) -> None:
    message = refusal(10_000, 8, options(k))
    for part in ("backend cuml", "from 2 to 1,024", f"got {k:,}", "--backend tiled", "--min-samples"):
        assert part in message


def test_the_memory_estimate_matches_the_documented_formula() -> None:
    n, d, k = 1_100_000, 768, 64
    assert estimate_bytes(n, d, k) == 72 * n + 140 * n * k + 4 * n * d


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("n", [2_200_000, 3_300_000, 12_000_000])
def test_too_much_for_the_device_says_what_would_fit(n: int) -> None:
    d, k = 768, 64
    fit_options = options(k)
    message = refusal(n, d, fit_options)
    needed = estimate_bytes(n, d, k)
    for part in (f"{needed / 2**30:.1f} GiB", "24.0 GiB are free", f"{n:,} × 768", "min_samples 64"):
        assert part in message
    assert "--backend tiled" in message
    assert "--memory-limit" in message
    fewer = [int(word) for word in re.findall(r"--min-samples (\d+)", message)]
    # 12 million rows alone are more than the device has.
    assert len(fewer) == (0 if n == 12_000_000 else 1)
    for samples in fewer:
        CumlBackend().check(n, d, replace(fit_options, min_samples=samples))
        assert f"min_samples {samples + 1}," in refusal(n, d, replace(fit_options, min_samples=samples + 1))
    (factor,) = (int(word) for word in re.findall(r"--downsample (\d+)", message))
    assert estimate_bytes(math.ceil(n / factor), d, k) <= FREE_BYTES
    assert factor == 2 or estimate_bytes(n // (factor - 1), d, k) > FREE_BYTES


@pytest.mark.usefixtures("device")
def test_no_min_samples_is_suggested_if_none_fits() -> None:
    message = refusal(30_000_000, 768, options(2))
    assert "--min-samples" not in message
    assert "--downsample 4" in message


def test_rows_in_host_memory_never_reach_cuml() -> None:
    rows = unit_rows(np.random.default_rng(0).standard_normal((20, 4)))
    with pytest.raises(UnsupportedOnBackend, match="device memory only, got a NumPy array"):
        CumlBackend().fit(rows, np.ones(20, dtype=np.int64), options(3))
    assert "cuml" not in sys.modules or "cupy" in sys.modules


# The commands.


def run(file: Any, *words: str) -> Result:
    from panic_tda.main import main

    return CliRunner().invoke(main, ["cluster-embeddings", *words, "--db", str(file.path)])


@pytest.mark.usefixtures("no_device")
def test_a_command_that_cannot_run_here_fails_with_one_line(upgraded: MakeFile) -> None:
    file = upgraded()
    before = snapshot(file.path)
    result = run(file, "--backend", "cuml")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == "Error: backend cuml cannot run here: CuPy is not installed\n"
    assert snapshot(file.path) == before


@pytest.mark.usefixtures("no_device")
def test_auto_runs_another_backend_and_logs_one_reason(upgraded: MakeFile) -> None:
    backends.log_once.cache_clear()
    result = run(upgraded(), "--json")
    assert result.exit_code == 0
    assert {outcome["backend"] for outcome in json.loads(result.stdout)["results"]} == {"tiled"}
    assert len(re.findall("no CUDA device is used: CuPy is not installed", result.stderr)) == 1


def test_contradicting_options_are_wrong_usage(upgraded: MakeFile) -> None:
    result = run(upgraded(), "--exact", "--backend", "cuml")
    assert result.exit_code == 2
    assert "backend cuml is not exact" in result.stderr


def test_exact_uses_tiled_at_any_size(upgraded: MakeFile) -> None:
    result = run(upgraded(), "--exact", "--json")
    assert result.exit_code == 0
    assert {outcome["backend"] for outcome in json.loads(result.stdout)["results"]} == {"tiled"}


# What is stored of an approximate tree, and what an exhausted device costs.


class Rough(SklearnBackend):
    """Backend whose tree has one edge that is too heavy, with its check."""

    name, exact = "rough", False

    def fit(self, vectors: np.ndarray, weights: np.ndarray, options: FitOptions) -> SpanningTree:
        tree = super().fit(vectors, weights, replace(options, keep_neighbours=0))
        height = tree.height.copy()
        height[np.argmax(height)] *= 1.5
        tree = replace(tree, height=height, core_distances=np.zeros(len(vectors)), tie_tolerance=1e-6)
        return replace(
            tree, improving_edges=sample_improving_edges(vectors, tree, distance_floor=options.distance_floor)
        )


class Exhausted(SklearnBackend):
    """Backend that runs out of memory in its first fit."""

    name = "exhausted"
    failed: list[int]

    def fit(self, vectors: np.ndarray, weights: np.ndarray, options: FitOptions) -> SpanningTree:
        if not self.failed:
            self.failed.append(len(vectors))
            raise cuml.build_memory_error(
                MemoryError("std::bad_alloc: out_of_memory"), (len(vectors), vectors.shape[1]), options
            )
        return super().fit(vectors, weights, options)


@pytest.fixture
def more_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("more_backends")
    module.Rough = Rough  # type: ignore[attr-defined]
    module.Exhausted = Exhausted  # type: ignore[attr-defined]
    monkeypatch.setattr(Exhausted, "failed", [], raising=False)
    monkeypatch.setitem(sys.modules, "more_backends", module)
    monkeypatch.setitem(backends.MODULES, "rough", ("more_backends", "Rough"))
    monkeypatch.setitem(backends.MODULES, "exhausted", ("more_backends", "Exhausted"))


@pytest.mark.usefixtures("more_backends")
def test_the_share_of_improving_edges_is_stored_and_shown(upgraded: MakeFile) -> None:
    from panic_tda.cli.rendering import clusterings as rendering

    file = upgraded(FieldSpec(text_models=("Nomic",)))
    (outcome,) = panic_tda.cluster_all_data(file.database, parameters=ClusteringParameters(backend="rough"))
    assert (outcome.status, outcome.exact) == (CLUSTERED, False)
    with file.database.session() as session:
        (summary,) = panic_tda.list_clusterings(session)
        details = panic_tda.get_cluster_details(summary.id, session)
    record = summary.record.to_json()
    assert record["exact"] is False
    assert 0 < record["lighter_edge_share"] <= 1
    assert record["lighter_edge_sample"] == outcome.n_embeddings
    shown = rendering.details_text(summary, details, 100)
    percent = f"{100 * record['lighter_edge_share']:.2f} %"
    assert f"{percent} of {outcome.n_embeddings} sampled rows have an improving edge" in shown
    assert "(approximate)" in shown
    as_json = rendering.details_json(summary, details)["parameters"]
    assert as_json["lighter_edge_share"] == record["lighter_edge_share"]


def test_exact_clusterings_have_no_share() -> None:
    rows = np.random.default_rng(0).standard_normal((50, 4))
    stored = hdbscan(rows, backend="tiled").record.to_json()
    assert not {"lighter_edge_share", "lighter_edge_sample"} & set(stored)


@pytest.mark.usefixtures("more_backends", "device")
def test_a_device_out_of_memory_fails_its_model_only(upgraded: MakeFile) -> None:
    file = upgraded(FieldSpec(text_models=("A", "B", "C")))
    outcomes = panic_tda.cluster_all_data(file.database, parameters=ClusteringParameters(backend="exhausted"))
    assert [outcome.status for outcome in outcomes] == [FAILED, CLUSTERED, CLUSTERED]
    reason = outcomes[0].reason or ""
    assert reason.startswith("backend cuml ran out of device memory")
    for part in (
        "ran out of device memory (std::bad_alloc: out_of_memory)",
        f"on {Exhausted.failed[0]} × 8 rows",
        "the estimate is 0 MiB",
        "24.0 GiB are free now, in addition to the rows",
        "--backend tiled",
        "--memory-limit",
        "--min-samples",
        "--downsample 2",
    ):
        assert part in reason, part
    with file.database.session() as session:
        assert {clustering.embedding_model for clustering in panic_tda.list_clusterings(session)} == {
            "B",
            "C",
        }


@pytest.mark.usefixtures("more_backends", "device")
def test_a_device_out_of_memory_leaves_the_database_unchanged(upgraded: MakeFile) -> None:
    file = upgraded(FieldSpec(text_models=("A",)))
    before = snapshot(file.path)
    (outcome,) = panic_tda.cluster_all_data(
        file.database, parameters=ClusteringParameters(backend="exhausted")
    )
    assert outcome.status == FAILED
    assert snapshot(file.path) == before


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (MemoryError("std::bad_alloc: out_of_memory: CUDA error"), True),
        (RuntimeError("CUDA error encountered at: cudaErrorMemoryAllocation out of memory"), True),
        (RuntimeError("Exception occurred! bad_alloc"), True),
        (RuntimeError("Multiple components found in MST or MST is invalid."), False),
    ],
)
def test_errors_that_mean_out_of_memory_are_recognised(error: Exception, is_one: bool) -> None:
    assert cuml.is_out_of_memory(error) is is_one


# A fit on stand-ins for device arrays and for cuML's estimator, which keeps its results where cuML does.


class Estimator:
    """Estimator that finds the exact tree by the slow reference and counts neighbours as cuML does."""

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments

    def fit(self, rows: StrictArray) -> Estimator:
        distances = reference.chord_distances(rows.get())
        k = self.arguments["min_samples"] + 1
        tree = reference.prim_tree(reference.mutual_reachability(distances, k, 0.0))
        weights = tree.height.astype(np.float32)
        self._min_spanning_tree = np.column_stack([tree.u, tree.v, weights]).astype(np.float64)
        cores = StrictArray(reference.core_distances(distances, k).astype(np.float32))
        self._state = types.SimpleNamespace(to_dict=lambda: {"core_dists": cores})
        return self


class Full(Estimator):
    """Estimator that raises one of cuML's out-of-memory errors."""

    error: Exception

    def fit(self, rows: StrictArray) -> Estimator:
        raise self.error


def fit_stand_in(
    monkeypatch: pytest.MonkeyPatch, estimator: type[Estimator], rows: np.ndarray, options: FitOptions
) -> SpanningTree:
    monkeypatch.setattr(cuml, "import_hdbscan", lambda: estimator)
    monkeypatch.setattr(cuml, "empty_pool", lambda: None)
    return CumlBackend().fit(StrictArray(rows), np.ones(len(rows), dtype=np.int64), options)


@pytest.mark.parametrize("k", [2, 5, 80])
@pytest.mark.parametrize("name", ["blobs", "near copies", "copies", "lattice"])
def test_the_tree_of_cuml_is_returned_unchanged(monkeypatch: pytest.MonkeyPatch, name: str, k: int) -> None:
    rows = ROWS[name]
    k = min(k, len(rows))
    tree = fit_stand_in(monkeypatch, Estimator, rows, options(k))
    assert_spans(tree, len(rows))
    distances = reference.chord_distances(rows)
    weights = reference.prim_weights(reference.mutual_reachability(distances, k, 0.0))
    heights = np.sort(tree.height)
    assert tree.height.dtype == np.float64
    np.testing.assert_array_equal(heights, np.maximum(weights.astype(np.float32).astype(np.float64), FLOOR))
    assert tree.core_distances is not None
    cores = reference.core_distances(distances, k).astype(np.float32).astype(np.float64)
    np.testing.assert_array_equal(tree.core_distances, np.maximum(cores, FLOOR))
    assert tree.tie_tolerance == 1e-6
    assert tree.improving_edges == ImprovingEdgeSample(share=0.0, sample=len(rows))


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("error", [MemoryError("std::bad_alloc"), RuntimeError("out_of_memory: RMM failure")])
def test_an_out_of_memory_error_of_fit_has_the_sizes(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(Full, "error", error, raising=False)
    with pytest.raises(DeviceOutOfMemory) as caught:
        fit_stand_in(monkeypatch, Full, ROWS["blobs"], options(20))
    for part in (str(error), "90 × 12 rows at min_samples 20", "--min-samples 10", "--downsample 2"):
        assert part in str(caught.value)


@pytest.mark.usefixtures("device")
def test_other_errors_of_cuml_are_not_translated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Full, "error", RuntimeError("cudaErrorIllegalAddress"), raising=False)
    with pytest.raises(RuntimeError, match="cudaErrorIllegalAddress"):
        fit_stand_in(monkeypatch, Full, ROWS["blobs"], options(20))


# What cuML cannot connect.

NOT_CONNECTED = (
    "RAFT failure at file=mst.cuh line=190: KNN graph could not be connected in 10 iterations. Please verify "
    "that the input knn graph is generated from X, or increase 'max_iter'\nObtained 12 stack frames"
)


class Unconnected(Estimator):
    """Estimator that permutes its rows and then fails, as cuVS does."""

    error = NOT_CONNECTED

    def fit(self, rows: StrictArray) -> Estimator:
        values = rows.get()
        rows[...] = StrictArray(np.ascontiguousarray(values[::-1]))
        raise RuntimeError(self.error)


@pytest.fixture
def unconnected(monkeypatch: pytest.MonkeyPatch, stand_in: StandIn) -> StandIn:
    """Provide a device on which the tiles do not fit, so that `auto` uses cuML, and cuML fails."""
    monkeypatch.setattr(cuml, "unavailable_reason", lambda: None)
    monkeypatch.setattr(cuml, "import_hdbscan", lambda: Unconnected)
    monkeypatch.setattr(cuml, "empty_pool", lambda: None)
    monkeypatch.setattr(cuda, "allocatable_bytes", lambda: 1 << 20)
    return stand_in


@pytest.mark.parametrize("error", [NOT_CONNECTED, "Multiple components found in MST or MST is invalid."])
def test_auto_falls_back_to_tiled_where_cuml_fails(
    unconnected: StandIn, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: str
) -> None:
    monkeypatch.setattr(Unconnected, "error", error)
    rows = ROWS["blobs"].astype(np.float64)
    with caplog.at_level(logging.INFO, "panic_tda"):
        clustering = hdbscan(rows, min_cluster_size=5)
    expected = hdbscan(rows, min_cluster_size=5, backend="sklearn")
    assert (clustering.record.backend, clustering.record.exact) == ("tiled", True)
    assert clustering.n_clusters > 1
    np.testing.assert_array_equal(clustering.labels, expected.labels)
    assert clustering.medoid_indices == expected.medoid_indices
    assert len(unconnected.matrices) == 1
    (line,) = [record.getMessage() for record in caplog.records if "falling back" in record.getMessage()]
    assert line.startswith("backend cuml could not connect its neighbour graph (")
    assert line.endswith("; falling back to backend tiled")


def test_a_model_falls_back_with_rows_that_are_loaded_again(
    unconnected: StandIn, upgraded: MakeFile, caplog: pytest.LogCaptureFixture
) -> None:
    from panic_tda.storage.read.assignments import read_assignments

    file = upgraded(FieldSpec(text_models=("A", "B"), duplicates=3))
    with caplog.at_level(logging.INFO, "panic_tda"):
        outcomes = panic_tda.cluster_all_data(file.database)
    expected = panic_tda.cluster_all_data(file.database, parameters=ClusteringParameters(backend="sklearn"))
    assert [(outcome.status, outcome.backend) for outcome in outcomes] == [(CLUSTERED, "tiled")] * 2
    # The rows of the first model are given up before the second one comes.
    assert unconnected.alive == [0, 0]
    with file.database.session() as session:
        records = {clustering.id: clustering.record for clustering in panic_tda.list_clusterings(session)}
    with file.database.reading() as connection:
        for there, here in zip(outcomes, expected, strict=True):
            assert there.id is not None
            assert here.id is not None
            assert records[there.id].input_sha256 == records[here.id].input_sha256
            labels = [
                read_assignments(connection, clustering_id).labels.tolist()
                for clustering_id in (there.id, here.id)
            ]
            assert labels[0] == labels[1]
    lines = [record.getMessage() for record in caplog.records if "falling back" in record.getMessage()]
    assert [line.split(":")[0] for line in lines] == ["A", "B"]


@pytest.mark.usefixtures("unconnected")
def test_cuml_by_name_does_not_fall_back(upgraded: MakeFile) -> None:
    with pytest.raises(BackendFailure, match=r"could not connect .*10 iterations.*; use --backend tiled"):
        hdbscan(ROWS["blobs"], backend="cuml")
    file = upgraded(FieldSpec(text_models=("A",)))
    before = snapshot(file.path)
    (outcome,) = panic_tda.cluster_all_data(file.database, parameters=ClusteringParameters(backend="cuml"))
    assert outcome.status == FAILED
    assert (outcome.reason or "").startswith("backend cuml could not connect its neighbour graph")
    assert snapshot(file.path) == before


# On a device.


@pytest.fixture
def real_device() -> None:
    require_backend("cuml", on_device=True)


def on_device(rows: np.ndarray) -> Any:
    import cupy

    return cupy.asarray(rows)


def separated(n: int = 20_000, d: int = 64) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    of = rng.integers(12, size=n)
    rows = rng.standard_normal((12, d))[of] + 0.15 * rng.standard_normal((n, d))
    return rows.astype(np.float32), of


@pytest.mark.gpu
@pytest.mark.usefixtures("real_device")
def test_separated_data_give_the_exact_partition() -> None:
    rows, _ = separated()
    parameters: dict[str, Any] = {"min_cluster_size": 50, "min_samples": 15, "epsilon": 0.0}
    clustering = hdbscan(rows, backend="cuml", **parameters)
    exact = hdbscan(rows, backend="tiled", **parameters)
    assert clustering.n_clusters == exact.n_clusters == 12
    assert adjusted_rand_score(clustering.labels, exact.labels) >= 0.99
    assert clustering.record.backend == "cuml"
    assert clustering.record.exact is False
    assert clustering.record.lighter_edge_sample == 2_048
    assert {"cupy", "cuml"} <= set(clustering.record.versions)


@pytest.mark.gpu
@pytest.mark.usefixtures("real_device")
def test_auto_uses_tiled_on_a_device() -> None:
    rows, _ = separated(3_000)
    assert hdbscan(rows).record.backend == "tiled"
    assert hdbscan(rows, exact=True).record.backend == "tiled"


def test_the_memory_pool_of_cupy_is_kept() -> None:
    pytest.importorskip("cuml", reason="needs cuML: pip install '.[cuda13]'")
    # In a process of its own: cuML takes the pool away at its first import.
    process = run_python(
        "import sys, cupy\n"
        "from panic_tda.clustering.backends import cuml\n"
        "before = cupy.cuda.get_allocator()\n"
        "cuml.import_hdbscan()\n"
        "assert 'cuml' in sys.modules\n"
        "print(cupy.cuda.get_allocator() == before)"
    )
    assert process.stdout.split() == ["True"], process.stderr


@pytest.mark.gpu
@pytest.mark.usefixtures("real_device")
def test_a_full_device_is_an_error_with_the_sizes() -> None:
    import rmm.mr

    rows, _ = separated(50_000)
    usual = rmm.mr.get_current_device_resource()
    rmm.mr.set_current_device_resource(rmm.mr.LimitingResourceAdaptor(usual, allocation_limit=1 << 20))
    try:
        with pytest.raises(
            DeviceOutOfMemory, match=r"ran out of device memory .* 50,000 × 64 .*--downsample"
        ):
            CumlBackend().fit(on_device(unit_rows(rows)), np.ones(len(rows), dtype=np.int64), options(15))
    finally:
        rmm.mr.set_current_device_resource(usual)
    tree = CumlBackend().fit(on_device(unit_rows(rows)), np.ones(len(rows), dtype=np.int64), options(15))
    assert len(tree.height) == len(rows) - 1
    assert tree.height.min() >= FLOOR


def test_contradicting_parameters_are_refused() -> None:
    with pytest.raises(InvalidParameter, match="backend cuml is not exact"):
        ClusteringParameters(backend="cuml", exact=True)
