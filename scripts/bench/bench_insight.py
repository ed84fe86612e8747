#!/usr/bin/env python3
"""Time and peak memory of the commands that look into a clustering, on a database of many embeddings.

Makes the database once (runs of 100 texts as `bench_data` draws them, most of them repeats), imports and
clusters it, then runs each command in a process of its own. The database stays in the folder.

Usage: bench_insight.py FOLDER [--rows N] [--dimensions D] [--only COMMAND]...
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from bench_data import RUN_LENGTH, Shape, trajectories_at_once

MODEL = "Bench"
# Settings under which these data have hundreds of clusters.
SETTINGS = ("--epsilon", "0", "--no-allow-single-cluster", "--min-cluster-size", "200", "--min-samples", "64")
RUNS_OF_A_FILE = 1000
NETWORKS = (["FluxSchnell", "Moondream"], ["SDXLTurbo", "BLIP2"], ["FluxSchnell", "BLIP2"])
MIB = 1 << 20


def make(folder: Path, rows: int, dimensions: int) -> list[Path]:
    """Write the embeddings as Parquet files of whole runs, copies with the same text."""
    vectors = trajectories_at_once(rows, dimensions, shape=Shape(copies=0.6), shuffled=False)
    # Rows that agree in their first eight bytes are copies; two others that do would only share a text.
    codes = np.unique(vectors[:, :2].copy().view(np.uint64).reshape(-1), return_inverse=True)[1]
    paths = []
    for first in range(0, rows, RUNS_OF_A_FILE * RUN_LENGTH):
        part = slice(first, min(rows, first + RUNS_OF_A_FILE * RUN_LENGTH))
        runs = np.arange(part.start, part.stop) // RUN_LENGTH
        table = pa.table(
            {
                "text": [f"a photograph of the place {code}" for code in codes[part].tolist()],
                "vector": pa.FixedSizeListArray.from_arrays(vectors[part].reshape(-1), dimensions),
                "run": [f"run {run}" for run in runs.tolist()],
                "sequence_number": (np.arange(part.start, part.stop) % RUN_LENGTH) * 2 + 1,
                "initial_prompt": [f"prompt {run % 40}" for run in runs.tolist()],
                "network": [NETWORKS[run % len(NETWORKS)] for run in runs.tolist()],
                "seed": runs,
            }
        )
        paths.append(folder / f"runs_{first // (RUNS_OF_A_FILE * RUN_LENGTH):03d}.parquet")
        pq.write_table(table, paths[-1])
    return paths


def run(database: Path, *words: str) -> tuple[str, float, float]:
    """Run a command on the database; return what it printed, its seconds and its peak memory in MiB."""
    command = [sys.executable, "-m", "panic_tda", *words]
    environment = os.environ | {"PANIC_TDA_DB": str(database)}
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - began
    if process.returncode:
        sys.exit(f"{' '.join(words)} failed: {printed[-2000:]}")
    return printed, seconds, usage.ru_maxrss * 1024 / MIB


def commands(folder: Path, clustering: str) -> list[list[str]]:
    """Return what is measured, in this order."""
    epsilons = "0.2:0.58:0.02"
    return [
        ["show-clustering", clustering],
        ["recut-clustering", clustering, "--epsilon", "0.3"],
        ["sweep-clustering", clustering, "--epsilon", epsilons],
        ["compare-clusterings", clustering, "latest"],
        ["show-trajectories", clustering],
        ["show-density", clustering],
        ["plan-clustering", MODEL],
        ["export-clustering", clustering, str(folder / "rows.parquet"), "--force"],
        ["export-clustering", clustering, str(folder / "rows.csv"), "--force"],
        ["export-trajectories", clustering, str(folder / "steps.parquet"), "--force"],
    ]


def main() -> None:
    """Make the database where it is not there yet, and print a line for every command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--only", action="append", default=[], help="measure these commands only")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    database = args.folder / f"{args.rows}x{args.dimensions}.sqlite"
    if not database.exists():
        # In a process of its own: what starts others hands them its own peak.
        with ProcessPoolExecutor(1) as maker:
            paths = maker.submit(make, args.folder, args.rows, args.dimensions).result()
        _, seconds, peak = run(
            database, "import-embeddings", *map(str, paths), "--model", MODEL, "--json", "-q"
        )
        print(f"| import-embeddings | {seconds:.1f} | {peak:,.0f} |", flush=True)
        for path in paths:
            path.unlink()
    stored = json.loads(run(database, "list-clusterings", "--json", "--limit", "0")[0])
    if not stored:
        _, seconds, peak = run(database, "cluster-embeddings", *SETTINGS, "--json", "-q")
        print(f"| cluster-embeddings {' '.join(SETTINGS)} | {seconds:.1f} | {peak:,.0f} |", flush=True)
        stored = json.loads(run(database, "list-clusterings", "--json")[0])
    clustering = max(stored, key=lambda setting: setting["n_clusters"])["id"]
    for words in commands(args.folder, clustering):
        if not args.only or words[0] in args.only:
            _, seconds, peak = run(database, *words, "-q")
            shown_command = " ".join(words).replace(clustering, "ID").replace(f"{args.folder}/", "")
            print(f"| {shown_command} | {seconds:.1f} | {peak:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
