"""Test the memory estimate of each backend, with the reason where it cannot run."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from panic_tda.clustering import backends, placement
from panic_tda.clustering.backends.base import FitOptions
from panic_tda.clustering.tiled.engine import TiledBackend
from panic_tda.clustering.tiled.space import build_space
from panic_tda.clustering.tiled.workers import workers
from panic_tda.devices import cuda
from panic_tda.insight.memory import memory_by_backend
from panic_tda.parameters import ClusteringParameters

GIB = 1 << 30


@pytest.fixture
def available(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 8 GiB of free memory."""
    monkeypatch.setattr(placement, "host_memory", lambda: (16 * GIB, 8 * GIB))


@pytest.mark.usefixtures("available", "no_device")
def test_the_rows_that_fit_a_laptop_are_estimated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "unavailable_reason", lambda: "CuPy is not installed")
    result = memory_by_backend(ClusteringParameters(), 15_000, 768, folder=tmp_path)
    assert set(result) == set(backends.NAMES) - {backends.AUTO}
    # A matrix of 15,000² float64, and the rows.
    assert result["sklearn"].bytes == 8 * 15_000**2 + 4 * 15_000 * 768
    assert (result["sklearn"].fits, result["sklearn"].on_device, result["sklearn"].reason) == (
        True,
        False,
        None,
    )
    assert result["tiled"].fits
    assert result["tiled"].bytes < 0.2 * GIB
    assert (result["cuml"].fits, result["cuml"].reason) == (False, "CuPy is not installed")
    assert result["cuml"].on_device
    more = memory_by_backend(ClusteringParameters(), 3_000_000, 768, folder=tmp_path)
    assert "accepts up to 20,000 rows" in (more["sklearn"].reason or "")
    assert not more["tiled"].fits
    text = more["tiled"].reason or ""
    assert re.search(r"needs 1\d\.\d GiB", text), "the rows alone take 8.6 GiB"
    assert "but 8.0 GiB are available" in text
    assert "--memory-limit" in text
    monkeypatch.setattr(placement, "host_memory", lambda: (16 * GIB, 2 * GIB))
    tight = memory_by_backend(ClusteringParameters(), 19_000, 768, folder=tmp_path)["sklearn"]
    assert tight.reason == (
        "backend sklearn needs 2.7 GiB of memory, but 2.0 GiB are available. Sample with --downsample, or "
        "use --backend tiled"
    )


@pytest.mark.usefixtures("available", "stand_in", "device")
def test_the_rows_that_fit_a_device_are_estimated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # 24 GiB of it are free.
    requested = ClusteringParameters(min_samples=64)
    result = memory_by_backend(requested, 1_000_000, 768, folder=tmp_path)
    assert result["cuml"].bytes == 1_000_000 * (72 + 140 * 64 + 4 * 768)
    assert [result[name].on_device for name in ("cuml", "tiled", "sklearn")] == [True, True, False]
    assert [result[name].fits for name in ("cuml", "tiled", "sklearn")] == [True, True, False]
    more = memory_by_backend(requested, 3_000_000, 768, folder=tmp_path)
    assert "use --backend tiled" in (more["cuml"].reason or "")
    assert more["tiled"].fits
    monkeypatch.setattr(cuda, "allocatable_bytes", lambda: 1000)
    # What auto does: it works in host memory then; who names the backend is told.
    there = memory_by_backend(ClusteringParameters(), 100_000, 768, folder=tmp_path)["tiled"]
    assert (there.on_device, there.fits) == (False, True)
    named = memory_by_backend(ClusteringParameters(backend="tiled"), 100_000, 768, folder=tmp_path)["tiled"]
    assert not named.fits
    assert "--devices none" in (named.reason or "")


def test_unknown_free_memory_counts_as_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "host_memory", lambda: (None, None))
    parameters = ClusteringParameters(backend="tiled")
    with cuda.cuda_disabled():
        assert memory_by_backend(parameters, 10**8, 768, folder=tmp_path)["tiled"].fits


@pytest.mark.parametrize("shape", [(3_000, 192), (1_500, 192), (3_000, 64), (20, 8)])
def test_the_estimate_of_tiled_equals_its_use(shape: tuple[int, int]) -> None:
    """With axes and without: for few rows, and for few dimensions, they do not pay."""
    rows = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    backend, options = TiledBackend(), FitOptions(min_samples=10, distance_floor=1e-3)
    n_axes = backend.settings.n_axes if shape[0] > 2 * 1024 else 0
    with workers() as team:
        at_work = backend.memory(build_space(np, rows, n_axes, np.random.default_rng(0)), options, team)
    before = backend.bytes_needed(*shape, options) - rows.nbytes
    # Before the rows are there, the most that their spectrum may come to counts.
    assert at_work <= before <= 1.3 * at_work
