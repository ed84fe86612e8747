#!/usr/bin/env python3
"""The whole way from a database to a saved clustering: seconds on the clock and of the processor, memory.

Every data set is written to a SQLite file first, which is not measured. One process loads, clusters and
saves it. One FAISS pass (the 32 nearest rows of each) and EVoC work on the same rows in processes of their
own, where they are installed.

Usage: million.py [--real N ...] [--flat N ...] [--peers NAME ...] [--timeout SECONDS]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
from bench import ROOT, WARM_UP_ROWS, machine, measure, read_parquet, resident
from bench_data import FLAT, Float32Array, trajectories_at_once
from bench_io import MODEL, fill
from bench_watch import BEFORE, Phase, Watch

CAPTIONS = ROOT / "panic_tda" / "sample" / "captions_minilm.parquet"
"""Rows whose spectrum the real-like ones have, 384 dimensions."""
FLAT_DIMENSIONS = 768
PEERS = ("faiss", "evoc")
MOST_SAMPLES = 64
"""min_samples is min_cluster_size, up to this; the published figures were measured so."""


def main() -> None:
    """Measure every data set, and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--real", type=int, nargs="*", default=[100_000, 300_000, 1_100_000])
    parser.add_argument("--flat", type=int, nargs="*", default=[50_000, 100_000])
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=PEERS)
    parser.add_argument("--timeout", type=float, default=7_200, help="seconds of a process")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        _work(args.worker)
        return
    for name, rows in _make_rows(args):
        with tempfile.TemporaryDirectory() as folder:
            report = _run_whole_way(Path(folder), rows, args.timeout)
            np.save(Path(folder) / "rows.npy", rows)
            for peer in args.peers:
                size = max(10, -(-len(rows) // 1_000))
                samples = min(MOST_SAMPLES, size)
                report[peer] = measure(peer, Path(folder) / "rows.npy", samples, size, args.timeout)
        print(
            f"\n{name} {rows.shape[0]:,} × {rows.shape[1]}\n\n{_format_table(report, args.peers)}", flush=True
        )
    print(json.dumps(machine(), indent=1))


def _make_rows(args: argparse.Namespace) -> Iterator[tuple[str, Float32Array]]:
    for n in args.real:
        captions = read_parquet(CAPTIONS, "vector")
        yield "real spectrum", trajectories_at_once(n, captions.shape[1], like=captions)
    for n in args.flat:
        yield "flat spectrum", trajectories_at_once(n, FLAT_DIMENSIONS, shape=FLAT)


def _run_whole_way(folder: Path, rows: Float32Array, timeout: float) -> dict[str, dict[str, object]]:
    """Load, cluster and save in a process of its own; return its stages."""
    from panic_tda.storage.database import open_database

    path = folder / "bench.sqlite"
    open_database(path, create=True)
    fill(path, rows)
    command = [sys.executable, __file__, "--worker", str(path)]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    process = subprocess.run(
        command, env=environment, timeout=timeout, stdout=subprocess.PIPE, text=True, check=True
    )
    report: dict[str, dict[str, object]] = json.loads(process.stdout.splitlines()[-1])
    return report


def _work(path: Path) -> None:
    """Be the process that is measured; print its stages as JSON."""
    from panic_tda.clustering.recipe import cluster_rows
    from panic_tda.parameters import ClusteringParameters
    from panic_tda.progress import Silent
    from panic_tda.storage.database import open_database
    from panic_tda.storage.read.census import take_census
    from panic_tda.storage.read.loading import load_embeddings
    from panic_tda.storage.schema.tables import utc_now
    from panic_tda.storage.write.saving import build_result, save_clustering

    database = open_database(path)
    census = take_census(database)[MODEL]
    size = ClusteringParameters().resolve(census.n_usable).min_cluster_size
    parameters = ClusteringParameters(backend="tiled", min_samples=min(MOST_SAMPLES, size))
    warm_up = trajectories_at_once(WARM_UP_ROWS, census.width // np.dtype(np.float32).itemsize)
    cluster_rows(warm_up, parameters, Silent())
    base, began = resident(), utc_now()
    with Watch() as watch:
        watch.phase("load")
        matrix = load_embeddings(database, census)
        clustering = cluster_rows(matrix.vectors, parameters, watch)
        watch.phase("save")
        finished = build_result(matrix, clustering, began)
        with database.writing() as connection:
            save_clustering(connection, finished)
    stages = {name: phase for name, phase in watch.phases.items() if name != BEFORE}
    print(json.dumps({name: _summarise(phase, base) for name, phase in stages.items()}))


def _summarise(phase: Phase, base: int) -> dict[str, object]:
    summary = asdict(phase)
    del summary["trace"]
    return {**summary, "peak": phase.peak - base}


def _format_table(report: dict[str, dict[str, object]], peers: tuple[str, ...]) -> str:
    """Format stages, their sum and the peers as a Markdown table."""
    stages = {name: stage for name, stage in report.items() if name not in peers}
    total = {key: sum(float(stage[key]) for stage in stages.values()) for key in ("seconds", "cpu_seconds")}
    lines = ["| stage | s | CPU s | share of CPU | peak MiB |", "|---|---|---|---|---|"]
    sums = {**total, "peak": max(int(stage["peak"]) for stage in stages.values())}
    for name, stage in {**stages, "sum": sums}.items():
        share = float(stage["cpu_seconds"]) / total["cpu_seconds"]
        lines.append(
            f"| {name} | {stage['seconds']:.1f} | {stage['cpu_seconds']:.1f} | {share:.1%} | "
            f"{int(stage['peak']) / 2**20:,.0f} |"
        )
    for peer in peers:
        if report[peer]["status"] == "done":
            seconds, cpu = (float(report[peer][key]) for key in ("seconds", "cpu_seconds"))
            peak = float(report[peer]["peak_bytes"]) / 2**20
            lines.append(f"| {peer} | {seconds:.1f} | {cpu:.1f} | | {peak:,.0f} |")
        else:
            lines.append(f"| {peer} | {report[peer]['status']} | | | |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
