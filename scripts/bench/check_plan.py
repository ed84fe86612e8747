#!/usr/bin/env python3
"""Compare what `plan-clustering` predicts with what `cluster-embeddings` then takes.

Builds databases of runs like real ones (`bench_data`), plans, and clusters in a process of its own. A ratio
is predicted / taken; the total's must be from 1/1.5 to 1.5. Exit 0: it always was; 1: not.

Usage: check_plan.py [--rows N...] [--dimensions D] [--run-length L] [--downsample F...] [--repeats R]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import bench_data
import bench_io

from panic_tda.storage.database import open_database

ROOT = Path(__file__).parents[2]
STAGES = {"load": ("load",), "fit": ("fit", "medoids"), "save": ("save",)}
"""Which of the times that a clustering stores belong to a predicted one."""
WITHIN = 1.5


def main() -> None:
    """Build, plan, cluster, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 50_000, 100_000])
    parser.add_argument("--dimensions", type=int, default=768)
    parser.add_argument("--run-length", type=int, default=100)
    parser.add_argument("--downsample", type=int, nargs="+", default=[1])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where the databases are built")
    args = parser.parse_args()
    bench_data.RUN_LENGTH = bench_io.RUN_LENGTH = args.run_length
    print("| rows | factor | stage | predicted s | taken s | ratio | load average |")
    print("|---|---|---|---|---|---|---|")
    ratios = []
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        for n_rows in args.rows:
            path = Path(folder) / f"{n_rows}.sqlite"
            open_database(path, create=True)
            rows = bench_data.trajectories_at_once(n_rows, args.dimensions, shuffled=False)
            bench_io.fill(path, rows)
            del rows
            for _ in range(args.repeats):
                ratios += check(path, args.downsample)
    print(f"total: {min(ratios):.2f} to {max(ratios):.2f} times what was taken")
    sys.exit(0 if all(1 / WITHIN <= ratio <= WITHIN for ratio in ratios) else 1)


def check(path: Path, factors: list[int]) -> list[float]:
    """Plan and cluster at some factors; return the ratios of the totals."""
    words = [word for factor in factors for word in ("--downsample", str(factor))]
    plan = run("plan-clustering", "--db", str(path), *words)
    ratios = []
    for model_plan in plan["models"][0]["plans"]:
        factor = model_plan["downsample"]
        (result,) = run("cluster-embeddings", "--db", str(path), "--downsample", str(factor))["results"]
        assert result["n_embeddings"] == model_plan["n_rows"]
        assert result["backend"] == model_plan["backend"]
        load = f"{os.getloadavg()[0]:.1f}"
        taken = {
            stage: sum(result["seconds"].get(name, 0.0) for name in names) for stage, names in STAGES.items()
        }
        taken["total"] = sum(taken.values())
        for stage, seconds in taken.items():
            ratio = model_plan["seconds"][stage] / seconds
            cells = (
                f"{model_plan['n_rows']:,}",
                factor,
                stage,
                f"{model_plan['seconds'][stage]:.2f}",
                f"{seconds:.2f}",
            )
            print("|", *(f"{cell} |" for cell in (*cells, f"{ratio:.2f}", load)), flush=True)
        ratios.append(model_plan["seconds"]["total"] / taken["total"])
    print(f"planned in {plan['seconds']:.1f} s", flush=True)
    return ratios


def run(*words: str) -> dict[str, Any]:
    """Run a command in a process of its own; return what it printed."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-m", "panic_tda", *words, "--json", "--quiet"]
    process = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    printed: dict[str, Any] = json.loads(process.stdout)
    return printed


if __name__ == "__main__":
    main()
