#!/usr/bin/env python3
"""The backends on a CUDA device, on the same rows: time, peak memory, how far from exact, and how fast.

Every row of the table is a process of its own, which compiles on a few rows first. What would not fit into
the time that is left is skipped by name, and so is what cannot run here.

Usage: bench_gpu.py [--rows N ...] [--dimensions D] [--peers NAME ...] [--min-samples K] [--host]
                    [--budget SECONDS] [--row-seconds SECONDS] [--out FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from bench import machine, resident
from bench_data import trajectories_at_once

ROOT = Path(__file__).parents[2]
PEERS = ("tiled", "cuml")
"""Backends by name. The exact one comes first: the other is measured against it."""
WARM_UP_ROWS = 20_000
"""Three tiles of a device, so that no kernel is left to be compiled while the fit is timed."""
SAMPLE_SECONDS = 0.01
RATE_SECONDS = 0.5
SIDE = {"device": 8_192, "host": 1_024}
"""Of the square matrices whose product is timed."""
FORMULA = (
    "TFLOP/s is n²·d / seconds, n being the rows that the backend was given (distinct ones for tiled): a "
    "product of every pair of rows once, n²/2 pairs of 2·d operations. What a backend rules out without "
    "multiplying counts as done, so the share of the card's own products may exceed 100 %."
)


def main() -> None:
    """Measure the rates, then row after row; print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 300_000, 1_100_000])
    parser.add_argument("--dimensions", type=int, default=768)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS)
    parser.add_argument("--min-samples", type=int, help="default: 0.1 %% of the rows, 10 to 64")
    parser.add_argument("--host", action="store_true", help="on the processor: a trial of this script")
    parser.add_argument("--budget", type=float, default=400, help="seconds in all")
    parser.add_argument("--row-seconds", type=float, default=150, help="seconds for a row of the table")
    parser.add_argument("--out", type=Path, help="folder for bench_gpu.md and bench_gpu.json")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(*args.worker)
        return
    place = "host" if args.host else "device"
    if place == "device" and (reason := cuda_unusable_because()):
        sys.exit(f"bench_gpu.py needs a CUDA device: {reason}; --host tries it out on the processor")
    clock = Clock(args.budget, args.row_seconds)
    report: dict[str, Any] = {"machine": machine() | environment(), "command": " ".join(sys.argv)}
    report |= {"formula": FORMULA, "rates": rates(place, clock), "results": []}
    with tempfile.TemporaryDirectory() as folder:
        for n in sorted(args.rows):
            for row in measure_size(n, args, place, Path(folder), clock):
                report["results"].append(row)
                print(row_text(row), file=sys.stderr, flush=True)
    text = table(report)
    print(text)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "bench_gpu.json").write_text(json.dumps(report, indent=1))
        (args.out / "bench_gpu.md").write_text(text)


class Clock:
    """The time that is left, and what each peer needed so far."""

    def __init__(self, budget: float, row_seconds: float) -> None:
        self._end = time.monotonic() + budget
        self._row_seconds = row_seconds
        self._known: dict[str, tuple[int, float, float]] = {}

    def left(self) -> float:
        """Seconds for the next row."""
        return max(0.0, min(self._row_seconds, self._end - time.monotonic()))

    def learn(self, peer: str, n: int, seconds: float, full_seconds: float) -> None:
        """Remember a row: seconds of the fit, and of the whole process."""
        self._known[peer] = n, seconds, full_seconds

    def refusal(self, peer: str, n: int) -> str | None:
        """Say why a row is not begun; fits grow with the square of the rows, all else with the rows."""
        before, seconds, full_seconds = self._known.get(peer, (n, 0.0, 0.0))
        predicted = seconds * (n / before) ** 2 + (full_seconds - seconds) * n / before
        if self.left() > predicted:
            return None
        return f"skipped: {predicted:.0f} s predicted, {self.left():.0f} s left for it"


def measure_size(n: int, args: argparse.Namespace, place: str, folder: Path, clock: Clock) -> Any:
    """Yield the rows of the table for one number of rows."""
    samples = args.min_samples or min(64, max(10, -(-n // 1_000)))
    task = {"place": place, "n": n, "d": args.dimensions, "folder": str(folder), "min_samples": samples}
    common = {"rows": n, "dimensions": args.dimensions, "min_samples": samples}
    reason = clock.refusal("data", n)
    outcome = {"status": reason} if reason else run("make_rows", task, clock.left())
    if outcome["status"] == "done":
        clock.learn("data", n, 0.0, outcome["whole"])
    reference = None
    for peer in args.peers:
        row = common | {"peer": peer}
        reason = None if outcome["status"] == "done" else f"no rows ({outcome['status']})"
        reason = reason or clock.refusal(peer, n)
        fit_outcome = {"status": reason} if reason else run("fit", task | {"peer": peer}, clock.left())
        if fit_outcome["status"] == "done":
            clock.learn(peer, n, fit_outcome["seconds"], fit_outcome["whole"])
            with np.load(folder / "found.npz") as stored:
                labels = stored["labels"]
            if peer == "tiled":
                reference = labels, fit_outcome["tree_weight"]
            fit_outcome |= quality(labels, fit_outcome["tree_weight"], reference)
        yield row | fit_outcome


def quality(labels: Any, weight: float, reference: tuple[Any, float] | None) -> dict[str, float | int]:
    """Compare a clustering and the weight of its tree with the exact ones."""
    from sklearn.metrics import adjusted_rand_score

    quality: dict[str, float | int] = {"clusters": int(labels.max()) + 1}
    if reference is not None:
        quality["tree_excess"] = weight / reference[1] - 1
        quality["ari"] = float(adjusted_rand_score(reference[0], labels))
    return quality


def rates(place: str, clock: Clock) -> dict[str, Any]:
    """Measure how fast this card multiplies matrices, in float32 and in TF32."""
    outcomes = {}
    for name, variables in {"float32": {"CUPY_TF32": "0"}, "tf32": {"CUPY_TF32": "1"}}.items():
        if place == "host" and name == "tf32":
            outcomes[name] = {"status": "skipped: processors have no TF32"}
        else:
            outcomes[name] = run("product_rate", {"place": place}, clock.left(), **variables)
    return outcomes


# ---------------------------------------------------------------------------- processes


def run(step: str, task: dict[str, Any], seconds: float, **variables: str) -> dict[str, Any]:
    """Do a step in a process of its own, and return what it found, with the seconds of the whole process."""
    path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    began = time.monotonic()
    try:
        process = subprocess.run(
            [sys.executable, __file__, "--worker", step, json.dumps(task)],
            env=os.environ | {"PYTHONPATH": path} | variables,
            timeout=seconds,
            capture_output=True,
            text=True,
        )
    except subprocess.TimeoutExpired:
        return {"status": f"stopped after {seconds:.0f} s"}
    if process.returncode:
        last = (process.stderr.strip().splitlines() or ["no message"])[-1]
        return {"status": f"failed ({process.returncode}): {last[:300]}"}
    outcome = json.loads(process.stdout.splitlines()[-1])
    return {"status": "done"} | outcome | {"whole": time.monotonic() - began}


def work(step: str, task: str) -> None:
    """Be the process of one step; the last line of its output is what it found."""
    sys.path.insert(0, str(ROOT))
    outcome = {"make_rows": make_rows, "fit": fit, "product_rate": product_rate}[step](**json.loads(task))
    print(json.dumps(outcome))


def library(place: str) -> Any:
    """Return numpy, or cupy for the device."""
    if place == "host":
        return np
    import cupy

    return cupy


def make_rows(place: str, n: int, d: int, folder: str, min_samples: int) -> dict[str, Any]:
    """Draw the rows, find the distinct ones, and leave both as files."""
    from panic_tda.arrays.namespace import to_host
    from panic_tda.clustering.duplicates import find_distinct

    rows = to_host(trajectories_at_once(n, d, xp=library(place)))
    np.save(Path(folder, "rows.npy"), rows)
    np.savez(Path(folder, "distinct.npz"), **asdict(find_distinct(rows)))
    return {}


def fit(place: str, n: int, d: int, folder: str, min_samples: int, peer: str) -> dict[str, Any]:
    """Time one backend from rows in its memory to the spanning tree; then label, untimed."""
    from panic_tda.clustering import backends, hierarchy
    from panic_tda.clustering.duplicates import DistinctRows, attach_copies
    from panic_tda.errors import UnsupportedOnBackend
    from panic_tda.parameters import ClusteringParameters

    if (reason := missing(peer, place)) is not None:
        return {"status": f"skipped: {reason}"}
    backend = backends.get_backend(peer)
    with np.load(Path(folder, "distinct.npz")) as stored:
        distinct = DistinctRows(**stored)
    rows = np.load(Path(folder, "rows.npy"), mmap_mode="r")
    if backend.weighted:
        rows, weights = rows[distinct.first], distinct.counts
    else:
        weights = np.ones(n, dtype=np.int64)
    xp = library(place)
    rows = xp.ascontiguousarray(xp.asarray(rows))
    try:
        backend.check(*rows.shape, fit_options(min_samples, place))
    except UnsupportedOnBackend as refusal:
        return {"status": f"skipped: {refusal}"}
    warm_up_row = min(WARM_UP_ROWS, len(rows))
    backend.fit(
        rows[:warm_up_row].copy(),
        np.ones(warm_up_row, dtype=np.int64),
        fit_options(min(min_samples, warm_up_row), place),
    )
    base = settled(place)
    with Peak(lambda: used_bytes(place)) as peak:
        began = time.perf_counter()
        tree = backend.fit(rows, weights, fit_options(min_samples, place))
        synchronise(place)
        seconds = time.perf_counter() - began
    if backend.weighted:
        tree = attach_copies(tree, distinct)
    parameters = ClusteringParameters(epsilon=0.0, min_samples=min_samples, allow_single_cluster=False)
    np.savez(Path(folder, "found.npz"), labels=hierarchy.extract_clusters(tree, parameters.resolve(n)).labels)
    return {
        "seconds": seconds,
        "peak_bytes": max(0, peak.bytes - base),
        "tree_weight": float(tree.height.sum()),
        "flops": len(rows) ** 2 * d / seconds,
    }


def fit_options(min_samples: int, place: str) -> Any:
    """Make the options of a fit."""
    from panic_tda import parameters
    from panic_tda.clustering.backends.base import FitOptions

    return FitOptions(
        min_samples=min_samples,
        distance_floor=parameters.DISTANCE_FLOOR,
        on_device=place == "device",
    )


def missing(name: str, place: str) -> str | None:
    """Say why a backend cannot be measured here."""
    from panic_tda.clustering import backends

    if name not in backends.NAMES:
        return f"there is no backend {name}"
    if (reason := backends.unavailable_reason(name)) is not None:
        return reason
    if place == "host" and name == "cuml":
        return "works on a device only"
    return None


def product_rate(place: str) -> dict[str, Any]:
    """Time a product of two square matrices."""
    xp, side = library(place), SIDE[place]
    rng = np.random.default_rng(0)
    first, two = (xp.asarray(rng.random((side, side), dtype=np.float32)) for _ in range(2))
    out = xp.matmul(first, two)
    synchronise(place)
    began, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - began) < RATE_SECONDS:
        xp.matmul(first, two, out=out)
        synchronise(place)
        count += 1
    return {"flops": count * 2 * side**3 / elapsed, "side": side}


class Peak:
    """The most bytes that were in use inside the block, looked at all the time."""

    def __init__(self, used: Callable[[], int]) -> None:
        self._used = used
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.bytes = used()

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop.set()
        self._thread.join()
        self.bytes = max(self.bytes, self._used())

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self.bytes = max(self.bytes, self._used())


def used_bytes(place: str) -> int:
    """Bytes in use: of the device by everybody, of host memory by this process."""
    if place == "host":
        return resident()
    import cupy

    free, total = cupy.cuda.runtime.memGetInfo()
    return int(total - free)


def settled(place: str) -> int:
    """Give back what the warm-up left in pools, and return what is in use."""
    if place == "device":
        import cupy

        synchronise(place)
        cupy.get_default_memory_pool().free_all_blocks()
    return used_bytes(place)


def synchronise(place: str) -> None:
    """Wait until the device has done what it was told."""
    if place == "device":
        import cupy

        cupy.cuda.Device().synchronize()


# ---------------------------------------------------------------------------- what is written


def cuda_unusable_because() -> str | None:
    """Say why there is no device to work on."""
    sys.path.insert(0, str(ROOT))
    from panic_tda.devices import cuda

    return cuda.unavailable_reason()


def environment() -> dict[str, Any]:
    """Describe card, driver and libraries."""
    sys.path.insert(0, str(ROOT))
    from panic_tda.clustering import backends
    from panic_tda.clustering.tiled.microkernels import describe_kernel
    from panic_tda.devices.doctor import examine_environment

    examined = examine_environment(
        backends=backends.unavailable_reasons(), sqlite=sqlite3.sqlite_version, kernel=describe_kernel()
    )
    return asdict(examined)


def row_text(row: dict[str, Any]) -> str:
    """Say what became of a row, while the others run."""
    seconds = f"{row['seconds']:.2f} s" if "seconds" in row else row["status"]
    return f"{row['rows']:,} × {row['dimensions']}, {row['peer']}: {seconds}"


def table(report: dict[str, Any]) -> str:
    """Write the report as Markdown."""
    about, speeds = report["machine"], report["rates"]
    cards = [f"{device['name']} ({device['total_bytes'] / 2**30:.0f} GiB)" for device in about["devices"]]
    versions = about["versions"]
    lines = [
        f"{', '.join(cards) or about['cpu']}; driver {about.get('driver')}, CUDA runtime "
        f"{about.get('cuda_runtime')}, CuPy {versions.get('CuPy')}, cuML {versions.get('cuML')}; "
        f"commit {about['commit'][:12] or 'unknown'}",
        "",
    ]
    for name, rate in speeds.items():
        rate_text = f"{rate['flops'] / 1e12:.2f} TFLOP/s" if "flops" in rate else rate["status"]
        lines.append(f"- product of square matrices in {name}: {rate_text}")
    lines += [
        "",
        "| rows | backend | seconds | peak MiB above the rows | tree excess | clusters | ARI | TFLOP/s "
        "| of float32 | of TF32 |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [_table_row(row, speeds) for row in report["results"]]
    return "\n".join([*lines, "", report["formula"], ""])


def _table_row(row: dict[str, Any], speeds: dict[str, Any]) -> str:
    cells = [f"{row['rows']:,} × {row['dimensions']}", row["peer"]]
    if row["status"] != "done":
        return f"| {' | '.join([*cells, row['status']])} | | | | | | | |"
    cells += [f"{row['seconds']:.2f}", f"{row['peak_bytes'] / 2**20:,.0f}"]
    cells.append(f"{row['tree_excess']:.1e}" if "tree_excess" in row else "")
    cells.append(str(row["clusters"]))
    cells.append(f"{row['ari']:.4f}" if "ari" in row else "")
    cells.append(f"{row['flops'] / 1e12:.2f}")
    for rate in speeds.values():
        cells.append(f"{100 * row['flops'] / rate['flops']:.0f} %" if "flops" in rate else "")
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
