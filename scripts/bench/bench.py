#!/usr/bin/env python3
"""The tiled engine beside its peers on the same rows: time, peak memory, and how far from exact.

Every peer runs in a process of its own that compiles on a small sample first and then works on all rows;
memory is the peak above what the process held when the rows were loaded. Peers that are not installed are
named and left out.

Usage: bench.py [--rows N ...] [--dimensions D] [--peers NAME ...] [--flat] [--parquet FILE --column NAME]
                [--min-samples K] [--timeout SECONDS] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from bench_data import FLAT, TRAJECTORIES, Float32Array, trajectories
from bench_peers import PEERS, Outcome

ROOT = Path(__file__).parents[2]
WARM_UP_ROWS = 3_000
SHORTEST = 1e-6
PACKAGES = ("numpy", "numba", "scikit-learn", "faiss-cpu", "fast_hdbscan", "hdbscan", "evoc", "quitefastmst")


def main() -> None:
    """Run the peers and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 50_000, 100_000])
    parser.add_argument("--dimensions", type=int, default=768)
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--flat", action="store_true", help="a flat spectrum: the worst case of the bound")
    parser.add_argument("--parquet", type=Path, help="rows from a file instead")
    parser.add_argument("--column", default="vector")
    parser.add_argument("--min-samples", type=int, help="default: 0.1 %% of the rows, 10 to 64")
    parser.add_argument("--timeout", type=float, default=1_800)
    parser.add_argument("--out", type=Path, help="folder for bench.md and bench.json")
    parser.add_argument("--worker", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(*args.worker)
        return
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for rows in load(args):
            path = Path(folder) / "rows.npy"
            np.save(path, rows)
            samples = args.min_samples or min(64, max(10, -(-len(rows) // 1_000)))
            size = max(10, -(-len(rows) // 1_000))
            qualities = {peer: measure(peer, path, samples, size, args.timeout) for peer in args.peers}
            results += compare(qualities, rows.shape, samples, size)
            print(table(results[-len(qualities) :]), flush=True)
    report = {"machine": machine(), "command": " ".join(sys.argv), "results": results}
    print(json.dumps(report["machine"], indent=1))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "bench.json").write_text(json.dumps(report, indent=1))
        (args.out / "bench.md").write_text(table(results))


def load(args: argparse.Namespace) -> Iterator[Float32Array]:
    """Yield the data sets, as unit rows."""
    if args.parquet is not None:
        yield read_parquet(args.parquet, args.column)
        return
    for n in args.rows:
        yield trajectories(n, args.dimensions, shape=FLAT if args.flat else TRAJECTORIES)


def read_parquet(path: Path, column: str) -> Float32Array:
    """Read the vectors of a file, as unit rows."""
    from pyarrow import parquet

    vectors = parquet.read_table(path, columns=[column])[column]
    rows = np.stack(vectors.to_numpy(zero_copy_only=False)).astype(np.float64)
    return np.asarray(rows / np.linalg.norm(rows, axis=1)[:, None], dtype=np.float32)


def measure(peer: str, path: Path, samples: int, size: int, timeout: float) -> dict[str, Any]:
    """Run a peer in a process of its own."""
    if importlib.util.find_spec(PEERS[peer][0]) is None:
        return {"status": "not installed"}
    out = path.with_suffix(".npz")
    out.unlink(missing_ok=True)
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, __file__, "--worker", peer, str(path), str(out), str(samples), str(size)]
    try:
        process = subprocess.run(command, env=environment, timeout=timeout, capture_output=True, text=True)
    except subprocess.TimeoutExpired:
        return {"status": f"over {timeout:g} s"}
    if process.returncode:
        last = (process.stderr.strip().splitlines() or ["no message"])[-1]
        return {"status": f"failed ({process.returncode}): {last[:80]}"}
    with np.load(out) as matrix:
        return {"status": "done"} | {name: matrix[name] for name in matrix.files}


def work(peer: str, path: str, out: str, samples: str, size: str) -> None:
    """Be the process of one peer."""
    run = PEERS[peer][1]
    rows = np.load(path)
    run(rows[:WARM_UP_ROWS].copy(), min(int(samples), 64), 10)
    base = resident()
    with Peak() as peak:
        began, cpu = time.perf_counter(), time.process_time()
        outcome: Outcome = run(rows, int(samples), int(size))
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    result: dict[str, Any] = {"seconds": seconds, "cpu_seconds": cpu, "peak_bytes": peak.bytes - base}
    if outcome.labels is not None:
        result["labels"] = outcome.labels
    if outcome.heights is not None:
        result["heights"] = outcome.heights
    np.savez(out, **result)


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Peak:
    """Watches this process's memory from a thread."""

    def __enter__(self) -> Peak:
        self.bytes = resident()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.01):
            self.bytes = max(self.bytes, resident())

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def compare(
    qualities: dict[str, dict[str, Any]], shape: tuple[int, int], samples: int, size: int
) -> list[dict[str, Any]]:
    """Put the quality of every peer beside its time, measured against the lightest spanning tree.

    No spanning tree can be lighter than the minimum, so the reference is the engine that reached it.
    """
    from sklearn.metrics import adjusted_rand_score

    weights = {peer: float(run["heights"].sum()) for peer, run in qualities.items() if "heights" in run}
    best = min(weights.values(), default=None)
    exact, edges = (qualities.get("tiled", {}).get(name) for name in ("labels", "heights"))
    rows = []
    for peer, run in qualities.items():
        row = {"peer": peer, "rows": shape[0], "dimensions": shape[1], "min_samples": samples}
        row |= {"min_cluster_size": size, "status": run["status"]}
        if run["status"] == "done":
            row |= {name: float(run[name]) for name in ("seconds", "cpu_seconds", "peak_bytes")}
        if peer in weights and best is not None:
            row["tree_excess"] = weights[peer] / best - 1
            if edges is not None and peer != "tiled":
                # Copies lie at 0 for some peers and at their rounding for others; here they are at a floor of
                # 1e-9. Between distinct rows nothing is that short.
                far = edges > SHORTEST
                apart = np.abs(run["heights"][far] - edges[far]) / edges[far]
                row["edge_difference"] = float(apart.max(initial=0.0))
        if exact is not None and "labels" in run:
            row["clusters"] = int(run["labels"].max()) + 1
            row["ari"] = float(adjusted_rand_score(exact, run["labels"]))
            either = (exact < 0) | (run["labels"] < 0)
            both = (exact < 0) & (run["labels"] < 0)
            row["noise_overlap"] = float(both.sum() / either.sum()) if either.any() else 1.0
        rows.append(row)
    return rows


def table(results: list[dict[str, Any]]) -> str:
    """Write results as a Markdown table."""
    head = ["rows", "peer", "seconds", "CPU s", "peak MiB", "tree excess", "edge by edge", "clusters"]
    head += ["ARI", "noise overlap"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in results:
        cells = [f"{row['rows']:,} × {row['dimensions']}", row["peer"]]
        if row["status"] == "done":
            cells += [
                f"{row['seconds']:.2f}",
                f"{row['cpu_seconds']:.1f}",
                f"{row['peak_bytes'] / 2**20:,.0f}",
            ]
        else:
            cells += [row["status"], "", ""]
        cells += [f"{row[name]:.1e}" if name in row else "" for name in ("tree_excess", "edge_difference")]
        cells += [str(row.get("clusters", ""))]
        cells += [f"{row[name]:.4f}" if name in row else "" for name in ("ari", "noise_overlap")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def machine() -> dict[str, Any]:
    """Describe where the figures come from."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    cpu = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "cpu": cpu[0] if cpu else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "commit": commit.stdout.strip(),
        "versions": versions,
        "load_before": os.getloadavg()[0],
    }


if __name__ == "__main__":
    main()
