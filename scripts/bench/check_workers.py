#!/usr/bin/env python3
"""Cluster rows by threads of one process and by Dask workers; compare the results, the time and the memory.

The table at the end has the processor time of the passes over all pairs of rows: of the workers, and of this
process while they run. Workers have loaded their libraries and compiled code before. Give it a machine with
nothing else to do.

With --kill, a worker is ended by SIGKILL once in each pass. Labels, probabilities, medoids, core distances
and the sorted heights of the tree must be identical. Exit 0: identical; 1: not.

Usage: check_workers.py [--rows N] [--dimensions D] [--workers W ...] [--kill]
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
from pathlib import Path
from typing import Any

import numpy as np
from bench_data import trajectories

from panic_tda.clustering import dask_executor
from panic_tda.clustering.placement import choose_placement
from panic_tda.clustering.recipe import cluster_rows
from panic_tda.parameters import ClusteringParameters
from panic_tda.progress import Progress, Silent
from panic_tda.types import Clustering

_KILL_AFTER = 3
_WARM_ROWS = 6_000
_PASSES = ("neighbours", "verify")


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
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--kill", action="store_true")
    arguments = parser.parse_args()
    rows = trajectories(arguments.rows, arguments.dimensions)
    print(f"{arguments.rows:,} × {arguments.dimensions}, load {os.getloadavg()[0]:.1f}", flush=True)
    _cluster(rows[:_WARM_ROWS], Silent(), None)
    alone, first = _report("threads", rows, None)
    same, lines = True, [first]
    for count in arguments.workers:
        with dask_executor.start_workers(count) as executor:
            _cluster(rows[:_WARM_ROWS], Silent(), executor)
            shared, line = _report(f"{count} workers", rows, Counted(executor, kill=arguments.kill))
        differing = [name for name, values in _results(alone).items() if values != _results(shared)[name]]
        print(f"  differs in {', '.join(differing)}" if differing else "  identical", flush=True)
        same = same and not differing
        lines.append(line)
    print(f"\n{'':12}{'wall s':>10}{'CPU s':>10}{'passes: wall s':>16}{'CPU s':>10}{'of threads':>12}")
    for name, *values in lines:
        wall, cpu, passes_wall, passes_cpu = values
        ratio = passes_cpu / first[4]
        print(f"{name:12}{wall:10.1f}{cpu:10.1f}{passes_wall:16.1f}{passes_cpu:10.1f}{ratio:12.2f}")
    sys.exit(0 if same else 1)


def _cluster(rows: np.ndarray, progress: Progress, executor: Any) -> Clustering:
    requested = ClusteringParameters(backend="tiled", epsilon=0.0)
    with tempfile.TemporaryDirectory(prefix="check_workers-") as folder:
        placement = choose_placement(requested, *rows.shape, work_dir=Path(folder) / "work")
        return cluster_rows(rows.copy(), requested, progress, placement=placement, executor=executor)


def _report(
    name: str, rows: np.ndarray, executor: Counted | None
) -> tuple[Clustering, tuple[str, float, float, float, float]]:
    """Cluster and print; return the clustering, and a line of the table."""
    progress = Phases()
    before = _ask_workers(executor)
    wall, cpu = time.perf_counter(), time.process_time()
    clustering = _cluster(rows, progress, executor)
    progress.phase("")
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    after = _ask_workers(executor)
    in_workers = math.fsum(seconds - before.get(pid, (0.0, 0))[0] for pid, (seconds, _) in after.items())
    print(f"{name}: {wall:.1f} s, processor time {cpu + in_workers:.1f} s ({in_workers:.1f} s in workers)")
    print(
        "  " + ", ".join(f"{phase} {wall:.1f}/{cpu:.1f}" for phase, (wall, cpu) in progress.seconds.items())
    )
    if executor is not None:
        peaks = [peak // 2**20 for _, peak in after.values()]
        print(f"  {executor.n_tasks} tasks, {executor.n_killed} workers killed, peak MiB of workers {peaks}")
    passes = [progress.seconds[phase] for phase in _PASSES]
    passes_wall, passes_cpu = (math.fsum(values) for values in zip(*passes, strict=True))
    return clustering, (name, wall, cpu + in_workers, passes_wall, passes_cpu + in_workers)


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
