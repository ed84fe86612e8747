#!/usr/bin/env python3
"""Kill a clustering three times at random moments, and compare what it then stores with that of a whole run.

Builds a database, clusters a copy of it in one go and another one with SIGKILLs, as a user would: the same
command again. Assignments, clusters and medoids must be identical. Of the whole run it also compares the time
left that the log told with what it then took. With --workers, Dask workers share the work of the runs that
are killed, and end with them; the whole run is one of threads. Exit 0: identical; 1: not.

Usage: check_resume.py [--rows N] [--dimensions D] [--memory-limit SIZE] [--kills K] [--seed S] [--folder F]
                       [--workers W]
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from bench_data import trajectories
from bench_io import MODEL, fill

from panic_tda.cli.parsing import parse_bytes
from panic_tda.storage.database import open_database

ROOT = Path(__file__).parents[2]
# Settings under which these data have dozens of clusters: with one, few labels could be wrong.
CLUSTERS = ("--epsilon", "0", "--no-allow-single-cluster")
BEATING = """
import sys
from panic_tda.cli import display
display.HEARTBEAT_SECONDS = float(sys.argv.pop(1))
from panic_tda.main import main
main(prog_name="panic-tda")
"""
"""The command, with log lines as often as its first argument says."""
TOLERANCE = 0.3
ATTEMPTS = 5


@dataclass
class Run:
    """A run of the command.

    Attributes
    ----------
    seconds : float
        Until it ended or was killed.
    killed : bool
        Whether it was.
    peak : int
        Most bytes in memory, mapped files counted.
    lines : list of (float, str)
        What it logged, and when.
    """

    seconds: float = 0.0
    killed: bool = False
    peak: int = 0
    lines: list[tuple[float, str]] = field(default_factory=list)


def main() -> None:
    """Build, run, kill, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--dimensions", type=int, default=384)
    # 300,000 × 384 take 439 MiB, the engine's own arrays some 250 above them: both go into files.
    parser.add_argument("--memory-limit", default="200MiB")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--beat", type=float, default=5.0, help="seconds between two lines of the log")
    parser.add_argument("--folder", type=Path, help="where the databases are built")
    parser.add_argument("--workers", type=int, help="Dask workers of the runs that are killed")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        fresh, unkilled = (Path(folder) / f"{name}.sqlite" for name in ("fresh", "whole"))
        open_database(fresh, create=True)
        fill(fresh, trajectories(args.rows, args.dimensions))
        shutil.copy(fresh, unkilled)
        run = cluster(unkilled, args)
        stored_runs = stored(unkilled)
        describe(run, stored_runs, args)
        tell_time_left(run)
        if args.workers is not None:
            shared = shutil.copy(fresh, Path(folder) / "shared.sqlite")
            run = cluster(shared, args, workers=args.workers)
            print(f"{args.workers} workers took {run.seconds:.1f} s")
            if not compare(stored_runs, stored(shared)):
                sys.exit(1)
        moments = np.sort(np.random.default_rng(args.seed).uniform(0, run.seconds, args.kills))
        for attempt in range(ATTEMPTS):
            killed = Path(folder) / f"killed-{attempt}.sqlite"
            shutil.copy(fresh, killed)
            if kill(killed, moments, args):
                sys.exit(0 if compare(stored_runs, stored(killed)) else 1)
            # The whole run was the slower one: it compiled, or the machine was busy.
            moments = moments / 2
        sys.exit("no run lasted long enough to be killed")


def cluster(
    path: Path, args: argparse.Namespace, seconds: float | None = None, *, workers: int | None = None
) -> Run:
    """Run the command; kill it after some seconds."""
    command = [sys.executable, "-c", BEATING, str(args.beat), "cluster-embeddings", "-v", "--db", str(path)]
    command += ["--backend", "tiled", "--memory-limit", args.memory_limit, *CLUSTERS]
    command += [] if workers is None else ["--workers", str(workers)]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    began, run = time.perf_counter(), Run()
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            run.lines.append((time.perf_counter() - began, line.rstrip()))

    reader = threading.Thread(target=read)
    reader.start()
    killer = threading.Timer(seconds, process.send_signal, [signal.SIGKILL]) if seconds is not None else None
    if killer:
        killer.start()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    run.seconds, run.peak = time.perf_counter() - began, usage.ru_maxrss * 1024
    if killer:
        killer.cancel()
    reader.join()
    run.killed = process.returncode == -signal.SIGKILL
    if process.returncode and not run.killed:
        sys.exit("\n".join(line for _, line in run.lines))
    return run


def kill(path: Path, moments: np.ndarray, args: argparse.Namespace) -> bool:
    """Cluster with kills when the runs so far have taken as long as each moment says, and then to the end.

    Returns whether all the kills came before the end.
    """
    spent = 0.0
    for moment in moments:
        # Workers start again with each run.
        seconds = moment - (spent if args.workers is None else 0)
        run = cluster(path, args, seconds, workers=args.workers)
        # A run that is killed while it exits has saved its result.
        if not run.killed or stored(path):
            print(f"ended before it could be killed at {moment:.1f} s; once more, with earlier moments")
            return False
        print(f"killed at {moment:.1f} s, {seconds:.1f} s after the start, {where(run)}", flush=True)
        spent = moment
    run = cluster(path, args, workers=args.workers)
    print(f"the last run took {run.seconds:.1f} s to the end, {resumed(run)}")
    return True


def where(run: Run) -> str:
    """Say in which phase a run ended."""
    phases = [line for _, line in run.lines if line.endswith("…")]
    return f"in {phases[-1].split('DEBUG')[-1].strip(' …')}" if phases else "before the first phase"


def resumed(run: Run) -> str:
    """Say which passes a run still had to do."""
    lines = [line for _, line in run.lines if "done in" in line]
    passes = [name for name in ("neighbours", "core distances", "forest", "verify") if _any(lines, name)]
    return f"with the passes: {', '.join(passes) or 'none'}"


def _any(lines: list[str], phase: str) -> bool:
    return any(f"{MODEL}: {phase}: done" in line for line in lines)


def stored(path: Path) -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]] | None:
    """Read the assignments and the clusters with their medoids, if there is a result."""
    connection = sqlite3.connect(path)
    try:
        if not connection.execute("SELECT count(*) FROM clusteringresult").fetchone()[0]:
            return None
        return (
            connection.execute(
                "SELECT embedding_id, label, probability FROM embeddingcluster ORDER BY 1"
            ).fetchall(),
            connection.execute(
                "SELECT label, medoid_embedding_id, size, persistence FROM cluster ORDER BY 1"
            ).fetchall(),
        )
    finally:
        connection.close()


def describe(run: Run, clusterings: object, args: argparse.Namespace) -> None:
    """Print what the whole run found and took."""
    assert isinstance(clusterings, tuple)
    assignments, clusters = clusterings
    outliers = sum(row[1] < 0 for row in assignments) / len(assignments)
    print(
        f"{args.rows:,} × {args.dimensions}, --memory-limit {args.memory_limit}: {run.seconds:.1f} s, ",
        end="",
    )
    print(f"peak {run.peak / 2**20:,.0f} MiB with {4 * args.rows * args.dimensions / 2**20:,.0f} of vectors")
    files = ["vectors"] if 4 * args.rows * args.dimensions > parse_bytes(args.memory_limit) else []
    files += ["neighbour lists"] if any("go into a file" in line for _, line in run.lines) else []
    print(f"in files: {', '.join(files) or 'nothing'}")
    print(f"{len(clusters)} clusters, {100 * outliers:.1f} % outliers", flush=True)


def tell_time_left(run: Run) -> None:
    """Compare the log's time left with the time that it then took, phase by phase."""
    ends = {
        match[1]: at
        for at, line in run.lines
        if (match := re.search(r"(\S.*): done in [\d.]+ s", _text(line)))
    }
    for at, line in run.lines:
        match = re.search(r"(\S.*): (\d+) %, about ([\d.]+) (s|min|h) left", _text(line))
        if not match or int(match[2]) < 10:
            continue
        predicted_seconds = float(match[3]) * {"s": 1, "min": 60, "h": 3600}[match[4]]
        was = ends[match[1]] - at
        # A line gives whole seconds.
        good = abs(predicted_seconds - was) <= TOLERANCE * was + 1
        print(f"{_text(line)}; it was {was:.1f} s{'' if good else '  <- more than 30 % off'}")


def _text(line: str) -> str:
    return re.sub(r"^\S+ \S+ [A-Z]+ +", "", line)


def compare(unkilled: object, killed: object) -> bool:
    """Print whether two stored results are the same."""
    assert isinstance(unkilled, tuple)
    assert isinstance(killed, tuple)
    same = [first == two for first, two in zip(unkilled, killed, strict=True)]
    for name, rows, equal in zip(("assignments", "clusters with medoids"), unkilled, same, strict=True):
        print(f"{len(rows):,} {name}: {'identical' if equal else 'DIFFERENT'}")
    return all(same)


if __name__ == "__main__":
    main()
