"""Test Dask workers that compute on a CUDA device each; their devices are stand-ins (`stand_in_worker`)."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from panic_tda.clustering import dask_executor, dask_workers, worker_checks
from panic_tda.clustering.tiled.device_blocks import KEPT_SHARE, open_cache
from panic_tda.clustering.worker_checks import WorkerDevice
from panic_tda.errors import WorkersFailed
from tests.clustering.test_dask_executor import assert_same, fit, make_rows, patience  # noqa: F401
from tests.stand_in_worker import DEVICE_BYTES

pytest.importorskip("distributed", reason="the extra dask is not installed")
dask = pytest.importorskip("dask")
pytestmark = pytest.mark.xdist_group("dask")
WITH_DEVICE, WITHOUT = WorkerDevice(1, None, 1 << 30, "3"), WorkerDevice(1, "CuPy is not installed")


@pytest.fixture(scope="module")
def workers() -> Iterator[Any]:
    environments = [{"CUDA_VISIBLE_DEVICES": str(number)} for number in (3, 5)]
    with (
        dask.config.set({"distributed.worker.preload": ["tests.stand_in_worker"]}),
        dask_workers.start_workers(2, environments) as executor,
    ):
        yield executor


def read_visible_devices() -> str:
    return os.environ["CUDA_VISIBLE_DEVICES"]


def see_device(number: str) -> None:
    os.environ["CUDA_VISIBLE_DEVICES"] = number


def count_kept_bytes() -> int:
    return int(KEPT_SHARE * DEVICE_BYTES) - open_cache().free_bytes


def test_each_worker_computes_on_a_device_of_its_own(workers: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert workers.on_device
    with caplog.at_level(logging.WARNING):
        assert dask_executor.DaskExecutor(workers.client, "workers", use_devices=True).on_device
    assert caplog.text == ""
    assert sorted(workers.client.run(read_visible_devices).values()) == ["3", "5"]
    rows = make_rows(600)
    assert_same(fit(rows, executor=workers), fit(rows))
    kept_bytes = workers.client.run(count_kept_bytes).values()
    assert 0 < max(kept_bytes) <= KEPT_SHARE * DEVICE_BYTES


def test_workers_that_see_the_same_device_are_named(workers: Any, caplog: pytest.LogCaptureFixture) -> None:
    before = workers.client.run(read_visible_devices)
    workers.client.run(see_device, "3")
    with caplog.at_level(logging.WARNING):
        dask_executor.DaskExecutor(workers.client, "workers", use_devices=True)
    for worker, device in before.items():
        workers.client.run(see_device, device, workers=[worker])
    assert "use the same CUDA device (UUID 3)" in caplog.text
    assert all(worker in caplog.text for worker in before)


def test_workers_with_too_little_device_memory_are_refused(workers: Any, tmp_path: Path) -> None:
    with pytest.raises(
        WorkersFailed, match=r"worker \S+ has 51\d MiB of device memory for a task, but 1,024"
    ):
        workers.prepare(tmp_path, 1, 1 << 40)


@pytest.mark.parametrize(
    ("second_answer", "reason"),
    [
        (WITHOUT, "CuPy is not installed"),
        (WorkerDevice(16, None, 1 << 30), "it has 16 threads, and a device serves one"),
        (ImportError("no panic_tda"), "no panic_tda"),
    ],
)
def test_devices_are_used_if_every_worker_has_one_alone(
    second_answer: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert worker_checks.have_devices({"a": WITH_DEVICE, "b": WITH_DEVICE._replace(uuid="5")})
    assert not worker_checks.have_devices({"a": WITHOUT, "b": WITHOUT})
    assert caplog.text == ""
    with caplog.at_level(logging.WARNING):
        assert not worker_checks.have_devices({"a": WITH_DEVICE, "b": second_answer})
    assert "no CUDA device is used: 1 of 2 workers cannot compute on one (worker b: " in caplog.text
    assert reason in caplog.text
    with pytest.raises(WorkersFailed, match=reason):
        worker_checks.require_devices({"a": WITH_DEVICE, "b": second_answer}, 1)
