"""The estimate of a fit that workers share, against the tasks and files of such a fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from panic_tda.clustering.backends.base import FitOptions
from panic_tda.clustering.executor import ThreadExecutor
from panic_tda.clustering.placement import choose_placement
from panic_tda.clustering.tiled.engine import Settings, TiledBackend
from panic_tda.devices import cuda
from panic_tda.insight import scaling
from panic_tda.insight.costs import Costs, PhaseTime
from panic_tda.parameters import KEEP_NEIGHBOURS, ClusteringParameters
from tests.command_line import invoke

PARTS = ("start_seconds", "pass_seconds", "task_seconds", "read_seconds", "client_seconds")


class CountingExecutor(ThreadExecutor):
    """Counts the tasks of pairs of tiles and the bytes that they read."""

    n_tasks = n_bytes = task_bytes = 0

    def prepare(self, folder: Path, task_bytes: int, device_bytes: int = 0) -> None:
        self.task_bytes = task_bytes

    def map(self, work: Any, tasks: Any) -> Any:
        for task, result in super().map(work, tasks):
            self.n_tasks += 1
            widths = task.files.vectors.width + task.files.coordinates.width * task.files.bounded
            self.n_bytes += 4 * widths * len(task.part.positions)
            yield task, result


@pytest.fixture(scope="module")
def costs() -> Costs:
    measured = {
        "neighbours": PhaseTime(3.0, 6.0, 1.0),
        "verify": PhaseTime(2.0, 4.0, 0.5),
        "hierarchy": PhaseTime(1.0, 1.0),
    }
    placement = choose_placement(ClusteringParameters(backend="tiled"), 16_384, 200)
    return Costs(placement, 16_384, 200, 4_096, measured, start=0.5)


def test_tasks_bytes_and_memory_are_those_of_a_fit(costs: Costs) -> None:
    n, d = 5_000, 200
    executor = CountingExecutor(2)
    options = FitOptions(min_samples=KEEP_NEIGHBOURS, distance_floor=1e-3, executor=executor)
    settings = Settings(threads=1, prune_rows=False)
    TiledBackend(settings).fit(scaling.draw_rows(n, d), np.ones(n, dtype=np.int64), options)
    plan = scaling.predict(costs, n, 2, parameters=ClusteringParameters(min_samples=5))
    assert plan.n_tasks == executor.n_tasks
    assert plan.bytes_read == pytest.approx(executor.n_bytes, rel=0.1)
    assert plan.task_bytes == executor.task_bytes


def test_the_parts_follow_the_formula(costs: Costs) -> None:
    plan = scaling.predict(costs, 3_000_000, 16)
    assert plan.seconds == pytest.approx(sum(getattr(plan, part) for part in PARTS))
    assert plan.task_seconds == pytest.approx(0.01 * plan.n_tasks)
    assert plan.read_seconds == pytest.approx(plan.bytes_read / (16 * 200e6))
    work = costs.predict_work(3_000_000)
    in_tasks = 0.025 * plan.n_tasks + plan.bytes_read / 1e9
    assert plan.pass_seconds == pytest.approx((work["neighbours"] + work["verify"] + in_tasks) / 16)
    # The process of the command alone has the hierarchy, and merging.
    assert plan.client_seconds > work["hierarchy"]
    assert scaling.predict(costs, 3_000_000, 32).pass_seconds == pytest.approx(
        plan.pass_seconds / 2, rel=0.02
    )


@pytest.mark.parametrize(
    ("n_rows", "slots", "measured"), [(27_000, 1, 0.6), (27_000, 2, 1.3), (54_000, 1, 0.4), (54_000, 2, 1.2)]
)
def test_the_time_that_tasks_add_is_that_of_measured_fits(
    costs: Costs, n_rows: int, slots: int, measured: float
) -> None:
    costs = replace(costs, n_features=384)
    passes = sum(costs.predict_work(n_rows)[name] for name in ("neighbours", "verify"))
    plan = scaling.predict(costs, n_rows, slots)
    assert plan.pass_seconds * slots - passes == pytest.approx(measured, abs=0.5)


def test_workers_of_one_machine_share_its_cores(costs: Costs) -> None:
    plan = scaling.predict(costs, 64_000, 4)
    # Their files are in memory, so that nothing waits for a disk.
    assert scaling.predict_local(plan, 4) == plan.seconds - plan.read_seconds
    # Start and passes take twice as long; the other parts are those of this process.
    twice = 2 * (plan.start_seconds + plan.pass_seconds)
    alone = plan.task_seconds + plan.client_seconds
    assert scaling.predict_local(plan, 2) == pytest.approx(twice + alone)


def test_the_command_names_the_devices_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "count", lambda: 2)
    arguments = ["plan-clustering", "--rows", "1500", "--features", "16", "--workers", "3"]
    text = " ".join(invoke(*arguments).stdout.split())
    assert "This machine has 2 CUDA devices" in text
    assert "one worker a device" in text
    assert "--devices none" in text


def test_the_command_prints_the_estimate() -> None:
    arguments = ["plan-clustering", "--rows", "2500", "--features", "16", "--workers", "3"]
    result = invoke(*arguments, "--json")
    plan = json.loads(result.stdout)
    assert (plan["n_rows"], plan["n_features"], plan["slots"], plan["measured_rows"]) == (2500, 16, 3, 2500)
    assert plan["seconds"] == pytest.approx(sum(plan[part] for part in PARTS))
    text = invoke(*arguments).stdout
    assert "2,500 × 16 with 3 workers" in text
    assert "reading" in text


SHAPE = "--rows 10 --features 4 --workers 1 "


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--rows 10", "go together"),
        ("--workers 2", "go together"),
        ("--rows 10 --features 4", "go together"),
        (SHAPE + "--scheduler tcp://host:1", "go together"),
        (SHAPE + "--within 8h", "drop MODEL, --downsample, --within, --devices"),
        (SHAPE + "MiniLM", "drop MODEL"),
        (SHAPE + "--backend sklearn", "drop --backend"),
        ("--rows 1000000000000000 --features 4 --workers 1", "not in the range"),
    ],
)
def test_options_that_do_not_go_together_are_named(arguments: str, message: str) -> None:
    result = invoke("plan-clustering", *arguments.split())
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
