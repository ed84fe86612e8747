#!/usr/bin/env python3
"""Measure the time and memory of the tiled engine, one command for each question.

prunings  every pruning switched off in turn: seconds of each pass, and the same tree
memory    peak above the rows beside the bounds that are stated for it
time-left how far the time left that the log tells is from what it then took
threads   one thread beside two, in turns

Comparisons are ratios within one run. Usage: bench_tiled.py COMMAND --help
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from bench import ROOT, WARM_UP_ROWS, machine, read_parquet, resident
from bench_data import FLAT, Float32Array, FloatArray, trajectories
from bench_watch import Phase, Watch

from panic_tda.clustering import recipe as clustering
from panic_tda.clustering.backends.base import FitOptions
from panic_tda.clustering.duplicates import attach_copies, find_distinct, keep_distinct
from panic_tda.clustering.placement import choose_placement
from panic_tda.clustering.tiled import axes
from panic_tda.clustering.tiled.engine import Settings, TiledBackend
from panic_tda.parameters import ClusteringParameters
from panic_tda.progress import Silent, TimeLeft

EVERYTHING = Settings()
WITHOUT = {
    "nothing": EVERYTHING,
    "pruned rows": replace(EVERYTHING, prune_rows=False),
    "bound, neighbours": replace(EVERYTHING, bound_neighbours=False),
    "bound, verify": replace(EVERYTHING, bound_verify=False),
    "bound, verify, pruned rows": replace(EVERYTHING, bound_verify=False, prune_rows=False),
    "axes": replace(EVERYTHING, n_axes=0),
    "everything": Settings(n_axes=0, prune_rows=False),
}
"""What is left out, and the settings for it."""
_PHASES = ("before", "neighbours", "core distances", "forest", "join components", "verify")
FLOOR = 1e-9
_TURNS = 3


class Fit(NamedTuple):
    """A tree with what it took."""

    heights: FloatArray
    n_distinct: int
    phases: dict[str, Phase]


def main() -> None:
    """Run one of the commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, command, rows in (
        ("prunings", prunings, [50_000]),
        ("memory", memory, [50_000, 100_000, 300_000]),
        ("time-left", time_left, [100_000]),
        ("threads", threads, [100_000, 200_000]),
    ):
        sub = commands.add_parser(name, help=command.__doc__)
        sub.set_defaults(command=command)
        sub.add_argument("--rows", type=int, nargs="*", default=rows)
        sub.add_argument("--dimensions", type=int, default=768)
        sub.add_argument("--min-samples", type=int, help="default: 0.1 %% of the rows, 10 to 64")
        sub.add_argument("--flat", action="store_true", help="also rows with a flat spectrum")
        sub.add_argument("--parquet", type=Path, nargs="*", default=[], help="also rows from files")
        sub.add_argument("--column", default="vector")
        sub.add_argument("--tile-rows", type=int, help="smaller tiles, so that few rows make many")
        sub.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        _memory_worker(args)
        return
    args.command(args)
    print(json.dumps(machine(), indent=1))


def data(args: argparse.Namespace) -> Iterator[tuple[str, Float32Array]]:
    """Yield the data sets with their names."""
    for n in args.rows:
        yield f"trajectories {n:,} × {args.dimensions}", trajectories(n, args.dimensions)
        if args.flat:
            yield f"flat {n:,} × {args.dimensions}", trajectories(n, args.dimensions, shape=FLAT)
    for path in args.parquet:
        rows = read_parquet(path, args.column)
        yield f"{path.stem} {len(rows):,} × {rows.shape[1]}", rows


def samples(args: argparse.Namespace, n: int) -> int:
    """Neighbours that make a row dense, as `bench.py` chooses them."""
    return int(args.min_samples or min(64, max(10, -(-n // 1_000))))


def fit(rows: Float32Array, min_samples: int, settings: Settings) -> Fit:
    """Build the tree of all rows, which are left as they are."""
    own = rows.copy()
    distinct = find_distinct(own)
    own = keep_distinct(own, distinct)
    with Watch() as watch:
        options = FitOptions(min_samples=min_samples, distance_floor=FLOOR, progress=watch)
        tree = attach_copies(TiledBackend(settings).fit(own, distinct.counts, options), distinct)
    return Fit(np.sort(tree.height), len(own), watch.phases)


def prunings(args: argparse.Namespace) -> None:
    """Leave out every pruning in turn."""
    fit(trajectories(WARM_UP_ROWS, args.dimensions), 10, EVERYTHING)
    fit(trajectories(WARM_UP_ROWS, args.dimensions), 10, WITHOUT["everything"])
    for name, rows in data(args):
        exact: FloatArray | None = None
        lines = []
        for left_out, settings in WITHOUT.items():
            measured = fit(rows, samples(args, len(rows)), replace(settings, tile_rows=args.tile_rows))
            exact = measured.heights if exact is None else exact
            same = "same" if np.array_equal(exact, measured.heights) else "DIFFERENT"
            lines.append([*_pruning_row(left_out, measured), same])
        print(f"\n{name}, {measured.n_distinct:,} distinct, min_samples {samples(args, len(rows))}\n")
        head = ["without", "seconds", "CPU s", *(f"{phase}, CPU s" for phase in _PHASES), "tree"]
        print(markdown(head, lines), flush=True)


def _pruning_row(name: str, fit: Fit) -> list[str]:
    phases = fit.phases.values()
    row = [name, f"{sum(phase.seconds for phase in phases):.2f}"]
    row.append(f"{sum(phase.cpu_seconds for phase in phases):.2f}")
    # Where the neighbour graph holds together, nothing is left to join.
    return row + [f"{fit.phases.get(name, Phase()).cpu_seconds:.2f}" for name in _PHASES]


def memory(args: argparse.Namespace) -> None:
    """Print the peak above the rows beside the stated bounds, each size in a process of its own."""
    head = ["rows", "distinct", "min_samples", "engine's bound", "stated bound", "peak of the tree", "peak"]
    lines = []
    for _, rows in data(args):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.npy"
            np.save(path, rows)
            command = [sys.executable, __file__, "memory", "--worker", str(path)]
            command += ["--min-samples", str(samples(args, len(rows)))]
            environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
            process = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        measured = json.loads(process.stdout)
        lines.append(
            [f"{rows.shape[0]:,} × {rows.shape[1]}", f"{measured['distinct']:,}", str(measured["k"])]
        )
        lines[-1] += [f"{measured[name] / 2**20:,.0f} MiB" for name in ("engine", "stated", "tree", "all")]
        print(json.dumps(measured["phases"]), file=sys.stderr)
    print(markdown(head, lines))


def _memory_worker(args: argparse.Namespace) -> None:
    rows = np.load(args.worker)
    parameters = ClusteringParameters(
        epsilon=0.0, min_samples=args.min_samples, min_cluster_size=args.min_samples,
        allow_single_cluster=False, distance_floor=FLOOR, backend="tiled",
    )  # fmt: skip
    bound, k = {}, args.min_samples
    inner = TiledBackend.memory

    def asked_for(self: TiledBackend, *arguments: object) -> int:
        bound["engine"] = inner(self, *arguments)  # type: ignore[arg-type]
        return bound["engine"]

    TiledBackend.memory = asked_for  # type: ignore[method-assign]
    clustering.cluster_rows(rows[:WARM_UP_ROWS].copy(), parameters, Silent())
    base = resident()
    with Watch() as watch:
        # No limit at all, and the engine would not ask itself.
        unlimited = choose_placement(parameters, *rows.shape, memory_limit=1 << 62)
        clustered = clustering.cluster_rows(rows, parameters, watch, placement=unlimited)
    m = clustered.record.n_unique
    peaks = {name: phase.peak - base for name, phase in watch.phases.items()}
    tree = max(peaks[name] for name in ("neighbours", "core distances", "forest", "verify"))
    stated = m * (8 * (max(k, 16) + 8) + 160 + 8 * (max(axes.N_AXES_CHOICES) + 1)) + (256 << 20)
    report = {"k": k, "distinct": m, **bound, "stated": stated, "tree": tree, "all": max(peaks.values())}
    print(json.dumps(report | {"phases": {name: round(peak / 2**20) for name, peak in peaks.items()}}))


def threads(args: argparse.Namespace) -> None:
    """Compare one thread with two: medians of turns."""
    fit(trajectories(WARM_UP_ROWS, args.dimensions), 10, EVERYTHING)
    for name, rows in data(args):
        seconds: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
        for _ in range(_TURNS):
            for n_threads, measured in seconds.items():
                phases = fit(rows, samples(args, len(rows)), replace(EVERYTHING, threads=n_threads)).phases
                wall = sum(phase.seconds for phase in phases.values())
                measured.append((wall, sum(phase.cpu_seconds for phase in phases.values())))
        medians = {n_threads: np.median(measured, axis=0) for n_threads, measured in seconds.items()}
        lines = [
            [str(n_threads), f"{wall:.2f}", f"{cpu:.2f}", f"{medians[1][0] / wall:.2f}"]
            for n_threads, (wall, cpu) in medians.items()
        ]
        print(f"\n{name}, medians of {_TURNS}\n")
        print(markdown(["threads", "seconds", "CPU s", "times as fast as one"], lines), flush=True)


def time_left(args: argparse.Namespace) -> None:
    """Compare the time left that would have been told with what it then took."""
    fit(trajectories(WARM_UP_ROWS, args.dimensions), 10, EVERYTHING)
    for name, rows in data(args):
        print(f"\n{name}: seconds left, as told and as they were\n")
        began = time.perf_counter()
        measured = fit(rows, samples(args, len(rows)), EVERYTHING)
        print(f"(the fit took {time.perf_counter() - began:.1f} s)")
        for phase in ("neighbours", "verify"):
            print(phase)
            print(
                markdown(
                    ["time", "share done", "told", "was", "error"], _predict_left(measured.phases[phase])
                )
            )


def _predict_left(phase: Phase) -> list[list[str]]:
    lines, left, marks = [], TimeLeft(), [share / 100 for share in (5, 10, 20, 30, 40, 50, 60, 70, 80, 90)]
    end = phase.trace[-1][0]
    for seconds, share_done in phase.trace:
        left.note(seconds, share_done)
        if marks and share_done >= marks[0]:
            predicted, was = left.seconds(seconds, share_done), end - seconds
            known = predicted is not None and was > 0
            line = (
                [f"{predicted:.1f}", f"{was:.1f}", f"{100 * (predicted / was - 1):+.0f} %"]
                if known
                else ["", "", ""]
            )
            lines.append([f"{seconds:.1f}", f"{100 * share_done:.0f} %", *line])
            while marks and share_done >= marks[0]:
                marks.pop(0)
    return lines


def markdown(head: list[str], lines: list[list[str]]) -> str:
    """Write a Markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *lines]) + "\n"


if __name__ == "__main__":
    main()
