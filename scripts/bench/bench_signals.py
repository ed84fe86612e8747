#!/usr/bin/env python3
"""Measure for each stage the longest time without a signal handler, and without any Python thread.

A timer's signal comes every 20 ms while a stage runs in the main thread, and another thread looks at the
clock as often. The longest gap between two of the first is how long Ctrl-C may wait for its handler; that
between two of the second is how long nobody at all can answer, because native code keeps the interpreter's
lock. Exit 1: a gap of the second kind is above 2 s, which with the 3 s of grace is above the promised 5.

Usage: bench_signals.py [--rows N] [--dimensions D] [--fit-rows N] [--folder F]
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TypeVar

import numpy as np
from bench_io import MODEL, fill

from panic_tda.clustering.recipe import cluster_rows, recut_rows
from panic_tda.clustering_manager import Silent, delete_clusterings
from panic_tda.parameters import ClusteringParameters
from panic_tda.storage.database import open_database
from panic_tda.storage.read.census import take_census
from panic_tda.storage.read.loading import input_sha256, load_embeddings
from panic_tda.storage.schema.tables import utc_now
from panic_tda.storage.write.saving import build_result, save_or_write_pending
from panic_tda.types import SpanningTree

BEAT = 0.02
MOST_UNANSWERED = 2.0
Result = TypeVar("Result")


class Ear:
    """Measures the longest silences while something runs."""

    def __init__(self) -> None:
        self.unanswered = 0.0

    def listen(self, name: str, work: Callable[[], Result]) -> Result:
        """Run a stage and print how long it took and how deaf it was."""
        main, second_times, event = [time.perf_counter()], [time.perf_counter()], threading.Event()

        def heard(_number: int, _frame: FrameType | None) -> None:
            main.append(time.perf_counter())

        def look() -> None:
            while not event.wait(BEAT):
                second_times.append(time.perf_counter())

        before = signal.signal(signal.SIGALRM, heard)
        signal.setitimer(signal.ITIMER_REAL, BEAT, BEAT)
        looking = threading.Thread(target=look)
        looking.start()
        began = time.perf_counter()
        try:
            return work()
        finally:
            seconds = time.perf_counter() - began
            event.set()
            looking.join()
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            gaps = [max(np.diff([*times, time.perf_counter()])) for times in (main, second_times)]
            self.unanswered = max(self.unanswered, gaps[1])
            silent = f"handler waits {gaps[0]:6.2f} s, nobody answers {gaps[1]:6.2f} s"
            print(f"{name:24} {seconds:8.1f} s, {silent}", flush=True)


def main() -> None:
    """Go through the stages of a run, and of others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dimensions", type=int, default=64)
    parser.add_argument(
        "--fit-rows", type=int, default=30_000, help="tiles are as large as those of more rows"
    )
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    ear = Ear()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder) / "signals.sqlite"
        database = open_database(path, create=True)
        ear.listen("fill", lambda: fill(path, random_rows(args.rows, args.dimensions)))
        census = ear.listen("count", lambda: take_census(database))[MODEL]
        matrix = ear.listen("load", lambda: load_embeddings(database, census))
        sha256 = ear.listen("fingerprint", lambda: input_sha256(matrix))
        parameters = ClusteringParameters(backend="tiled", epsilon=0.0, allow_single_cluster=False)
        fewer = matrix.vectors[: args.fit_rows].copy()
        fitted = ear.listen(f"fit of {len(fewer):,} rows", lambda: cluster_rows(fewer, parameters, Silent()))
        tree = random_tree(len(matrix.ids))
        clustering = ear.listen(
            "hierarchy, medoids",
            lambda: recut_rows(
                matrix.vectors,
                tree,
                parameters.resolve(len(matrix.ids)),
                source=fitted.record,
                progress=Silent(),
            ),
        )
        record = replace(clustering.record, n_embeddings=len(matrix.ids), input_sha256=sha256)
        finished = build_result(matrix, replace(clustering, record=record), utc_now())
        ear.listen("save", lambda: save_or_write_pending(database, finished))
        ear.listen("delete", lambda: delete_clusterings(database, [finished.id]))
    sys.exit(1 if ear.unanswered > MOST_UNANSWERED else 0)


def random_rows(n_rows: int, n_features: int) -> np.ndarray:
    """Scatter rows about a hundred places."""
    rng = np.random.default_rng(0)
    places = rng.standard_normal((100, n_features), dtype=np.float32)
    return places[rng.integers(100, size=n_rows)] + 0.3 * rng.standard_normal(
        (n_rows, n_features), dtype=np.float32
    )


def random_tree(n_rows: int) -> SpanningTree:
    """Join every row to one before it, at a height that a neighbour search could have found."""
    rng = np.random.default_rng(0)
    v = np.arange(1, n_rows)
    u = np.maximum(0, v - rng.integers(1, 50, n_rows - 1))
    height = rng.uniform(0.3, 1.0, n_rows - 1)
    return SpanningTree(u, v, height, rng.uniform(0.3, 0.5, n_rows))


if __name__ == "__main__":
    main()
