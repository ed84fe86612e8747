#!/usr/bin/env python3
"""Measure an upgrade of a large file of the generation pipeline: growth, memory, bytes read and written.

Writes a file of so many GB, four fifths of it images, as in the field, with old clustering tables; turns its
pages out of memory; upgrades it with the command, and prints what the kernel counted. Exit 1: the file grew
by more than 2 %, the process took more than 1 GiB, a page of a large table was written, or rows changed.

Usage: bench_upgrade.py [GB] [--migrated] [--kill SECONDS] [--folder F]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sqlite3
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
IMAGE_BYTES, VECTOR_BYTES = 60_000, 4 * 768
MODELS = ("Nomic", "STSBMpnet", "STSBRoberta", "JinaClip")
RUN_LENGTH = 1000
LARGE = ("invocation", "embedding", "run", "experimentconfig", "persistencediagram")
MOST_GROWTH, MOST_MEMORY = 0.02, 1 << 30
WAL_HEADER, FRAME_HEADER = 32, 24

INVOCATION = (
    "id CHAR(32) NOT NULL; started_at DATETIME; completed_at DATETIME; model VARCHAR NOT NULL; "
    "type VARCHAR(5) NOT NULL; seed INTEGER NOT NULL; run_id CHAR(32) NOT NULL REFERENCES run (id); "
    "sequence_number INTEGER NOT NULL; input_invocation_id CHAR(32); output_text VARCHAR; "
    "output_image_data BLOB"
)
TABLES = """
CREATE TABLE experimentconfig (id CHAR(32) PRIMARY KEY, networks JSON, seeds JSON, prompts JSON,
    embedding_models JSON, max_length INTEGER, started_at DATETIME, completed_at DATETIME);
CREATE TABLE run (id CHAR(32) PRIMARY KEY, network JSON, seed INTEGER, max_length INTEGER,
    initial_prompt VARCHAR, experiment_id CHAR(32));
CREATE TABLE embedding (id CHAR(32) PRIMARY KEY, started_at DATETIME, completed_at DATETIME,
    invocation_id CHAR(32) NOT NULL, embedding_model VARCHAR NOT NULL, vector BLOB,
    UNIQUE (invocation_id, embedding_model));
CREATE TABLE persistencediagram (id CHAR(32) PRIMARY KEY, run_id CHAR(32), diagram_data BLOB);
CREATE TABLE clusteringresult (id UUID PRIMARY KEY, parameters JSON);
CREATE TABLE cluster (id UUID PRIMARY KEY, clustering_result_id UUID, medoid_embedding_id UUID);
CREATE TABLE embeddingcluster (id UUID PRIMARY KEY, embedding_id UUID, clustering_result_id UUID,
    cluster_id UUID);
CREATE INDEX ix_embeddingcluster_embedding_id ON embeddingcluster (embedding_id);
CREATE INDEX ix_run_experiment_id ON run (experiment_id);
CREATE INDEX ix_invocation_run_id ON invocation (run_id);
CREATE INDEX ix_invocation_input_invocation_id ON invocation (input_invocation_id);
CREATE INDEX ix_embedding_invocation_id ON embedding (invocation_id);
"""


def main() -> None:
    """Write, upgrade, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("gigabytes", type=float, nargs="?", default=1.0)
    parser.add_argument("--migrated", action="store_true", help="images stand first in their rows")
    parser.add_argument("--kill", type=float, metavar="SECONDS", help="SIGKILL a first upgrade after so long")
    parser.add_argument("--folder", type=Path, help="where the file is written")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder) / "field.sqlite"
        began = time.perf_counter()
        n_images = write(path, args.gigabytes * 1e9, migrated=args.migrated)
        before, size = counts(path), path.stat().st_size
        large = large_pages(path)
        print(
            f"{size / 1e9:.2f} GB, {n_images:,} images, {before['embedding']:,} embeddings, written in "
            f"{time.perf_counter() - began:.0f} s",
            flush=True,
        )
        if args.kill is not None:
            forget(path)
            print(f"killed after {args.kill:g} s: exit {upgrade(path, args.kill)['exit']}", flush=True)
        forget(path)
        # A reader keeps the log from being emptied: in it stands which pages were written.
        with closing(sqlite3.connect(path)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM run").fetchone()
            result = upgrade(path)
            written = written_pages(path)
        growth = path.stat().st_size / size - 1 if not written else grown(written, size)
        after = counts(path)
        print(
            f"upgraded in {result['seconds']:.0f} s (exit {result['exit']}): the file grows by "
            f"{100 * growth:.2f} %, peak memory {result['peak'] / 2**20:.0f} MiB, read "
            f"{result['read_bytes'] / 1e9:.2f} GB, wrote {result['write_bytes'] / 1e9:.2f} GB; "
            f"{len(written):,} pages written, of them {len(written & large):,} of the large tables"
        )
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            (checked,) = connection.execute("PRAGMA quick_check").fetchone()
        final = path.stat().st_size / size - 1
        print(f"after the log went into the file: {100 * final:.2f} % larger, quick_check {checked}")
        same = before == after
        fine = max(growth, final) <= MOST_GROWTH and result["peak"] <= MOST_MEMORY
        sys.exit(0 if fine and same and not written & large and checked == "ok" and not result["exit"] else 1)


def write(path: Path, n_bytes: float, *, migrated: bool) -> int:
    """Write a file of about so many bytes, and return how many images are in it."""
    rng = np.random.default_rng(0)
    noise = rng.bytes(64 << 20)
    columns = INVOCATION.split("; ")
    if migrated:
        columns = columns[::-1]
    # A step in two is an image, and every text has a vector of four models.
    n_steps = int(n_bytes / (IMAGE_BYTES + len(MODELS) * (VECTOR_BYTES + 350) + 700))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA journal_mode = WAL" if not migrated else "PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA cache_size = -500000")
        connection.execute(f"CREATE TABLE invocation ({', '.join(columns)}, PRIMARY KEY (id))")
        connection.executescript(TABLES)
        names = ", ".join(column.split()[0] for column in INVOCATION.split("; "))
        for first in range(0, n_steps, 2000):
            steps = range(first, min(n_steps, first + 2000))
            connection.execute("BEGIN")
            connection.executemany(
                f"INSERT INTO invocation ({names}) VALUES (?, ?, ?, ?, ?, -1, ?, ?, ?, ?, ?)",
                invocations(steps, noise, rng),
            )
            connection.executemany(
                "INSERT INTO embedding (id, invocation_id, embedding_model, vector) VALUES (?, ?, ?, ?)",
                embeddings(steps, noise, rng),
            )
            connection.execute("COMMIT")
        connection.execute("BEGIN")
        runs = ((f"{run:032x}", json.dumps(["SDXLTurbo", "BLIP2"]), -1, RUN_LENGTH, "a prompt", None)
                for run in range(2 * n_steps // RUN_LENGTH + 1))  # fmt: skip
        connection.executemany("INSERT INTO run VALUES (?, ?, ?, ?, ?, ?)", runs)
        old = ((f"06a{row:029x}", f"e{row:031x}", "r", "c") for row in range(n_steps))
        connection.executemany("INSERT INTO embeddingcluster VALUES (?, ?, ?, ?)", old)
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return n_steps


def invocations(steps: range, noise: bytes, rng: np.random.Generator) -> Iterator[tuple[object, ...]]:
    """Yield an image and a text a step."""
    when = "2025-04-16 14:41:18.495375"
    for step in steps:
        run, number = divmod(2 * step, RUN_LENGTH)
        size = int(IMAGE_BYTES * rng.uniform(0.5, 1.5))
        start = int(rng.integers(len(noise) - size))
        image, text = identity("a", step), identity("b", step)
        yield (
            image,
            when,
            when,
            "SDXLTurbo",
            "IMAGE",
            f"{run:032x}",
            number,
            None,
            None,
            noise[start : start + size],
        )
        yield text, when, when, "BLIP2", "TEXT", f"{run:032x}", number + 1, image, f"a text {step}" * 4, None


def embeddings(steps: range, noise: bytes, rng: np.random.Generator) -> Iterator[tuple[object, ...]]:
    """Yield a vector of each model for the text of each step."""
    for step in steps:
        for number, model in enumerate(MODELS):
            start = int(rng.integers(len(noise) - VECTOR_BYTES))
            vector = None if step % 1000 == 7 else noise[start : start + VECTOR_BYTES]
            yield identity(f"e{number}", step), identity("b", step), model, vector


def identity(kind: str, step: int) -> str:
    """Make an id that is ordered by time, and of another kind than its neighbours."""
    return f"068{step:08x}{kind:0>4}".ljust(32, "7")


def counts(path: Path) -> dict[str, int]:
    """Count the rows of the tables that stay."""
    with closing(sqlite3.connect(path)) as connection:
        return {
            table: int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]) for table in LARGE
        }


def large_pages(path: Path) -> set[int]:
    """Return the pages of the tables that stay, and of their indexes."""
    marks = ", ".join("?" * len(LARGE))
    query = (
        "SELECT pageno FROM dbstat WHERE name IN (SELECT name FROM sqlite_master "
        f"WHERE tbl_name IN ({marks}))"
    )
    with closing(sqlite3.connect(path)) as connection:
        return {row[0] for row in connection.execute(query, LARGE)}


def written_pages(path: Path) -> set[int]:
    """Return the numbers of the pages in the log."""
    pages = set()
    with path.with_name(f"{path.name}-wal").open("rb") as log:
        header = log.read(WAL_HEADER)
        page_size, salts = struct.unpack(">I", header[8:12])[0], header[16:24]
        while len(frame := log.read(FRAME_HEADER)) == FRAME_HEADER and frame[8:16] == salts:
            pages.add(struct.unpack(">I", frame[:4])[0])
            log.seek(page_size, os.SEEK_CUR)
    return pages


def grown(written: set[int], size: int) -> float:
    """Return by how much the last page that was written is beyond the end, as a share of the file."""
    return max(0.0, max(written) * 4096 / size - 1)


def forget(path: Path) -> None:
    """Turn the file out of memory: the upgrade reads it from the disk, as it would a larger one."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def upgrade(path: Path, kill_after: float | None = None) -> dict[str, float]:
    """Run the command; return its exit code, seconds, most memory, and the bytes that the kernel counted."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "panic_tda", "upgrade", "--yes", "--db", str(path)],
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    n_bytes = {"read_bytes": 0.0, "write_bytes": 0.0}

    def watch() -> None:
        while process.returncode is None:
            try:
                lines = Path(f"/proc/{process.pid}/io").read_text().splitlines()
            except OSError:
                return
            for name, count in (line.split(": ") for line in lines):
                if name in n_bytes:
                    n_bytes[name] = float(count)
            time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    if kill_after is not None:
        threading.Timer(kill_after, process.send_signal, [signal.SIGKILL]).start()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    watcher.join()
    seconds = time.perf_counter() - began
    return n_bytes | {"exit": process.returncode, "seconds": seconds, "peak": usage.ru_maxrss * 1024}


if __name__ == "__main__":
    main()
