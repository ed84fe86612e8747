#!/usr/bin/env python3
"""Cluster rows by threads of one process and by Dask workers; compare the results, the time and the memory.

With --kill, a worker is ended by SIGKILL once in each pass. Labels, probabilities, medoids, core distances
and the sorted heights of the tree must be identical. Exit 0: identical; 1: not.

Usage: check_workers.py [--rows N] [--dimensions D] [--workers W ...] [--kill]
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from bench_data import trajectories

from panic_tda.clustering import dask_executor
from panic_tda.clustering.placement import choose_placement
from panic_tda.clustering.recipe import cluster_rows
from panic_tda.parameters import ClusteringParameters
from panic_tda.progress import Silent
from panic_tda.types import Clustering

_KILL_AFTER = 3


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

    def prepare(self, folder: Path, task_bytes: int) -> None:
        self._executor.prepare(folder, task_bytes)

    def map(self, work: Callable[[Any], Any], tasks: Iterable[Any]) -> Generator[tuple[Any, Any]]:
        for number, task_and_result in enumerate(self._executor.map(work, tasks), start=1):
            yield task_and_result
            self.n_tasks += 1
            if self._kill and number == _KILL_AFTER:
                os.kill(next(iter(self._executor._client.run(os.getpid).values())), signal.SIGKILL)
                self.n_killed += 1


class Phases(Silent):
    """Records the wall time and the processor time of this process in each phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, tuple[float, float]] = {}
        self._began: tuple[str, float, float] | None = None

    def phase(self, name: str, total: float | None = None) -> None:
        now = time.perf_counter(), time.process_time()
        if self._began is not None:
            last, wall, cpu = self._began
            before = self.seconds.get(last, (0.0, 0.0))
            self.seconds[last] = before[0] + now[0] - wall, before[1] + now[1] - cpu
        self._began = name, *now


def main() -> None:
    """Cluster, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--kill", action="store_true")
    arguments = parser.parse_args()
    rows = trajectories(arguments.rows, arguments.dimensions)
    print(f"{arguments.rows:,} × {arguments.dimensions}, load {os.getloadavg()[0]:.1f}", flush=True)
    alone = _report("threads", rows, None)
    same = True
    for count in arguments.workers:
        with dask_executor.start_workers(count) as executor:
            shared = _report(f"{count} workers", rows, Counted(executor, kill=arguments.kill))
        differing = [name for name, values in _results(alone).items() if values != _results(shared)[name]]
        print(f"  differs in {', '.join(differing)}" if differing else "  identical", flush=True)
        same = same and not differing
    sys.exit(0 if same else 1)


def _report(name: str, rows: np.ndarray, executor: Counted | None) -> Clustering:
    requested, progress = ClusteringParameters(backend="tiled", epsilon=0.0), Phases()
    with tempfile.TemporaryDirectory(prefix="check_workers-") as folder:
        placement = choose_placement(requested, *rows.shape, work_dir=Path(folder) / "work")
        wall, cpu = time.perf_counter(), time.process_time()
        before = _ask_workers(executor)
        clustering = cluster_rows(rows.copy(), requested, progress, placement=placement, executor=executor)
        progress.phase("")
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    after = _ask_workers(executor)
    in_workers = sum(seconds - before.get(pid, (0.0, 0))[0] for pid, (seconds, _) in after.items())
    print(f"{name}: {wall:.1f} s, processor time {cpu + in_workers:.1f} s ({in_workers:.1f} s in workers)")
    print(
        "  " + ", ".join(f"{phase} {wall:.1f}/{cpu:.1f}" for phase, (wall, cpu) in progress.seconds.items())
    )
    if executor is not None:
        peaks = [peak // 2**20 for _, peak in after.values()]
        print(f"  {executor.n_tasks} tasks, {executor.n_killed} workers killed, peak MiB of workers {peaks}")
    return clustering


def _ask_workers(executor: Counted | None) -> dict[int, tuple[float, int]]:
    """Return the processor time and the peak memory of each worker, by process."""
    if executor is None:
        return {}
    return dict(executor._executor._client.run(_measure_process).values())


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
