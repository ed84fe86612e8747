#!/usr/bin/env python3
"""Cluster rows by threads of one process and by Dask workers; compare the results, the time and the memory.

The rows have the spectrum of captions, 384 dimensions. The table at the end has the processor time of all
processes in the passes over all pairs of rows, its ratio to that of threads, and what
`plan-clustering --rows` predicts from a sample. Workers have loaded their libraries and compiled code before.
With --repeats, threads and workers take turns, and the table has medians.
Give it a machine with nothing else to do.

With --kill, a worker is ended by SIGKILL once in each pass. Labels, probabilities, medoids, core distances
and the sorted heights of the tree must be identical. Exit 0: identical; 1: not.

Usage: check_workers.py [--rows N] [--workers W ...] [--repeats R] [--kill]
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from bench import read_parquet
from bench_data import trajectories_at_once
from million import CAPTIONS

from panic_tda.clustering import dask_workers
from panic_tda.clustering.phases import PASSES
from panic_tda.clustering.placement import choose_placement
from panic_tda.clustering.recipe import cluster_rows
from panic_tda.devices.machine import available_cores
from panic_tda.insight import scaling
from panic_tda.parameters import ClusteringParameters
from panic_tda.progress import Progress, Silent
from panic_tda.types import Clustering

_KILL_AFTER = 3
_WARM_ROWS = 6_000
_PARAMETERS = ClusteringParameters(backend="tiled", epsilon=0.0)


class Counted:
    """Runs tasks on another executor; counts them and kills a worker in each pass if told to."""

    def __init__(self, executor: Any, *, kill: bool) -> None:
        self._executor, self._kill = executor, kill
        self.n_tasks = self.n_killed = 0

    @property
    def slots(self) -> int:
        return int(self._executor.slots)

    @property
    def pace(self) -> str:
        return str(self._executor.pace)

    @property
    def on_device(self) -> bool:
        return bool(self._executor.on_device)

    def prepare(self, folder: Path, task_bytes: int, device_bytes: int = 0) -> None:
        self._executor.prepare(folder, task_bytes, device_bytes)

    def map(self, work: Callable[[Any], Any], tasks: Iterable[Any]) -> Generator[tuple[Any, Any]]:
        for number, task_and_result in enumerate(self._executor.map(work, tasks), start=1):
            yield task_and_result
            self.n_tasks += 1
            if self._kill and number == _KILL_AFTER:
                os.kill(next(iter(self._executor.client.run(os.getpid).values())), signal.SIGKILL)
                self.n_killed += 1


class Phases(Silent):
    """Records the wall time and the processor time, of this process and of all workers, in each phase."""

    def __init__(self, executor: Counted | None) -> None:
        self.seconds: dict[str, tuple[float, float]] = {}
        self._executor = executor
        self._began: tuple[str, float, float, dict[int, tuple[float, int]]] | None = None

    def phase(self, name: str, total: float | None = None) -> None:
        now, cpu, workers = time.perf_counter(), time.process_time(), _ask_workers(self._executor)
        if self._began is not None:
            last, last_now, last_cpu, last_workers = self._began
            wall, spent = self.seconds.get(last, (0.0, 0.0))
            # A worker that was started meanwhile has used all its time since.
            in_workers = math.fsum(
                seconds - last_workers.get(pid, (0.0, 0))[0] for pid, (seconds, _) in workers.items()
            )
            self.seconds[last] = wall + now - last_now, spent + cpu - last_cpu + in_workers
        self._began = name, time.perf_counter(), time.process_time(), workers

    @property
    def passes(self) -> tuple[float, float]:
        """Return the wall time and the processor time of the passes over all pairs of rows."""
        wall, cpu = zip(*(self.seconds[phase] for phase in PASSES), strict=True)
        return math.fsum(wall), math.fsum(cpu)

    @property
    def total(self) -> tuple[float, float]:
        """Return the wall time and the processor time of all phases."""
        wall, cpu = zip(*self.seconds.values(), strict=True)
        return math.fsum(wall), math.fsum(cpu)


def main() -> None:
    """Cluster, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--kill", action="store_true")
    arguments = parser.parse_args()
    captions = read_parquet(CAPTIONS, "vector")
    rows = trajectories_at_once(arguments.rows, captions.shape[1], like=captions)
    print(f"{len(rows):,} × {rows.shape[1]}, load {os.getloadavg()[0]:.1f}", flush=True)
    _cluster(rows[:_WARM_ROWS], Silent(), None)
    costs = scaling.measure_sample(*rows.shape, parameters=_PARAMETERS)
    rounds = [_run_round(rows, arguments.workers, kill=arguments.kill) for _ in range(arguments.repeats)]
    print(
        f"\n{'':12}{'wall s':>10}{'CPU s':>10}{'passes: wall s':>16}{'CPU s':>10}{'of threads':>12}", end=""
    )
    print(f"{'predicted: wall s':>19}{'passes: CPU s':>15}")
    for name in rounds[0].times:
        times = [
            (*phases.total, *phases.passes) for phases in (one_round.times[name] for one_round in rounds)
        ]
        ratios = [
            one_round.times[name].passes[1] / one_round.times["threads"].passes[1] for one_round in rounds
        ]
        wall, cpu, passes_wall, passes_cpu = (median(values) for values in zip(*times, strict=True))
        cells = f"{name:12}{wall:10.1f}{cpu:10.1f}{passes_wall:16.1f}{passes_cpu:10.1f}{median(ratios):12.2f}"
        if name != "threads":
            plan = scaling.predict(costs, len(rows), int(name.split()[0]), parameters=_PARAMETERS)
            # These workers have loaded everything before.
            plan = replace(plan, seconds=plan.seconds - plan.start_seconds, start_seconds=math.inf)
            cells += f"{scaling.predict_local(plan, available_cores()):19.1f}"
            cells += f"{plan.pass_seconds * plan.slots:15.1f}"
        print(cells)
    sys.exit(0 if all(one_round.is_same for one_round in rounds) else 1)


class Round(NamedTuple):
    """Times of threads and of workers, and whether all results were identical."""

    times: dict[str, Phases]
    is_same: bool


def _run_round(rows: np.ndarray, counts: list[int], *, kill: bool) -> Round:
    """Cluster by threads and by each number of workers."""
    alone, phases = _report("threads", rows, None)
    times, is_same = {"threads": phases}, True
    for count in counts:
        name = f"{count} {'worker' if count == 1 else 'workers'}"
        with dask_workers.start_workers(count) as executor:
            # Twice, so that no worker is left out by chance.
            for _ in range(2):
                _cluster(rows[:_WARM_ROWS], Silent(), executor)
            shared, times[name] = _report(name, rows, Counted(executor, kill=kill))
        differing = [key for key, values in _results(alone).items() if values != _results(shared)[key]]
        print(f"  differs in {', '.join(differing)}" if differing else "  identical", flush=True)
        is_same = is_same and not differing
    return Round(times, is_same)


def _cluster(rows: np.ndarray, progress: Progress, executor: Any) -> Clustering:
    with tempfile.TemporaryDirectory(prefix="check_workers-") as folder:
        placement = choose_placement(_PARAMETERS, *rows.shape, work_dir=Path(folder) / "work")
        return cluster_rows(rows.copy(), _PARAMETERS, progress, placement=placement, executor=executor)


def _report(name: str, rows: np.ndarray, executor: Counted | None) -> tuple[Clustering, Phases]:
    """Cluster, and print the time of each phase and the memory of the workers."""
    phases = Phases(executor)
    clustering = _cluster(rows, phases, executor)
    phases.phase("")
    print("{}: {:.1f} s, CPU {:.1f} s".format(name, *phases.total))
    print("  " + ", ".join(f"{phase} {wall:.1f}/{cpu:.1f}" for phase, (wall, cpu) in phases.seconds.items()))
    if executor is not None:
        peaks = [peak // 2**20 for _, peak in _ask_workers(executor).values()]
        print(f"  {executor.n_tasks} tasks, {executor.n_killed} workers killed, peak MiB of workers {peaks}")
    return clustering, phases


def _ask_workers(executor: Counted | None) -> dict[int, tuple[float, int]]:
    """Return the processor time and the peak memory of each worker, by process."""
    if executor is None:
        return {}
    # A worker that has just been killed may not answer.
    answers = executor._executor.client.run(_measure_process, on_error="ignore")
    return dict(answers.values())


def _measure_process() -> tuple[int, tuple[float, int]]:
    import os
    import resource
    import time

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    return os.getpid(), (time.process_time(), peak)


def _results(clustering: Clustering) -> dict[str, Any]:
    assert clustering.tree is not None
    return {
        "labels": clustering.labels.tolist(),
        "probabilities": clustering.probabilities.tolist(),
        "medoids": clustering.medoid_indices,
        "core distances": clustering.tree.core_distances.tolist(),
        "heights": np.sort(clustering.tree.height).tolist(),
    }


if __name__ == "__main__":
    main()
