#!/usr/bin/env python3
"""Measure the database: loading against a bare scan, importing against a bare insert, saving, deleting.

Ratios are medians over alternating runs in this process, so that whatever else the machine does hits both
sides. CPU seconds are those of all threads, in Python and in the system.

Usage: bench_io.py [--rows N] [--dimensions D] [--repeats R]
"""

from __future__ import annotations

import argparse
import platform
import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from panic_tda.files.column_choice import Columns
from panic_tda.files.importing import import_embeddings
from panic_tda.parameters import ClusteringParameters
from panic_tda.records import ClusteringRecord
from panic_tda.storage.connections import connect
from panic_tda.storage.database import Database, open_database
from panic_tda.storage.read.census import take_census
from panic_tda.storage.read.loading import load_embeddings
from panic_tda.storage.schema.tables import utc_now, uuid7
from panic_tda.storage.write.saving import save_clustering
from panic_tda.types import EmbeddingMatrix, FinishedClustering

MODEL = "Bench"
RUN_LENGTH = 1000


def main() -> None:
    """Build a database, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--dimensions", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    print(f"{platform.machine()}, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}")
    print(f"{args.rows} rows of {args.dimensions} dimensions")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.sqlite"
        database = open_database(path, create=True)
        fill(path, np.random.default_rng(0).standard_normal((args.rows, args.dimensions)))
        census = take_census(database)[MODEL]
        bare, loaded = [], []
        for _ in range(args.repeats):
            bare.append(timed(lambda: scan(path)))
            loaded.append(timed(lambda: load_embeddings(database, census)))
        for name in Seconds._fields:
            scans, loads = ([getattr(run, name) for run in runs] for runs in (bare, loaded))
            ratio = median(scanned / load for scanned, load in zip(scans, loads, strict=True))
            print(
                f"loading, {name}: {median(loads):.3f} s, bare scan {median(scans):.3f} s, "
                f"{ratio:.0%} of its speed"
            )
        matrix = load_embeddings(database, census)
        for turn in ("first", "second"):
            before = size(path)
            seconds = timed(lambda: save(database, matrix))
            growth = (size(path) - before) / args.rows
            print(f"saving the {turn}: {seconds.rates(args.rows)} (assignments), {growth:.1f} bytes each")
        print(f"deleting 100 embeddings: {1000 * timed(lambda: delete(database, matrix)).clock:.1f} ms")
        for file, columns in write_files(Path(folder), matrix):
            imported = Path(folder) / f"{file.suffix[1:]}.sqlite"
            seconds = timed(import_file, open_database(imported, create=True), file, columns)
            print(f"importing {file.suffix[1:]}: {seconds.rates(args.rows)} (embeddings)")
        print(f"bare insert of the same: {insert_bare(imported, Path(folder)).rates(args.rows)}")


def fill(path: Path, vectors: np.ndarray, model: str = MODEL) -> None:
    """Write runs of texts with these vectors."""
    n_rows = len(vectors)
    vectors = vectors.astype("<f4", copy=False)
    # Ascending, as the time-ordered ids of the pipeline are.
    invocations = sorted(uuid7().hex for _ in range(n_rows))
    embeddings = sorted(uuid7().hex for _ in range(n_rows))
    runs = [uuid7().hex for _ in range(0, n_rows, RUN_LENGTH)]
    with sqlite3.connect(path) as connection:
        connection.executemany(
            "INSERT INTO run (id, network, seed, max_length, initial_prompt) VALUES (?, '[\"a\"]', 0, ?, '')",
            ((run, RUN_LENGTH) for run in runs),
        )
        connection.executemany(
            "INSERT INTO invocation (id, model, type, seed, run_id, sequence_number, output_text) "
            "VALUES (?, 'a', 'TEXT', 0, ?, ?, ?)",
            (
                (invocation, runs[row // RUN_LENGTH], row % RUN_LENGTH, f"text {row}")
                for row, invocation in enumerate(invocations)
            ),
        )
        connection.executemany(
            "INSERT INTO embedding (id, invocation_id, embedding_model, vector) VALUES (?, ?, ?, ?)",
            (
                (embedding, invocation, model, vector.tobytes())
                for embedding, invocation, vector in zip(embeddings, invocations, vectors, strict=True)
            ),
        )
    connection.close()


def scan(path: Path) -> None:
    """Read the same rows with nothing but the driver."""
    connection = sqlite3.connect(path)
    cursor = connection.execute("SELECT id, vector FROM embedding WHERE embedding_model = ?", (MODEL,))
    while cursor.fetchmany(2000):
        pass
    connection.close()


def save(database: Database, matrix: EmbeddingMatrix) -> None:
    """Save a made-up clustering into a hundred clusters."""
    n_rows = len(matrix.ids)
    labels = np.arange(n_rows) % 101 - 1
    finished = FinishedClustering(
        id=uuid7(),
        embedding_model=MODEL,
        started_at=utc_now(),
        completed_at=utc_now(),
        record=ClusteringRecord(
            **asdict(ClusteringParameters().resolve(n_rows)),
            backend="none",
            exact=True,
            n_embeddings=n_rows,
            n_unique=n_rows,
            n_clusters=100,
            n_outliers=int(np.count_nonzero(labels < 0)),
            versions={},
        ),
        ids=matrix.ids,
        labels=labels,
        probabilities=np.random.default_rng(1).random(n_rows),
        medoids={label: label + 1 for label in range(100)},
        persistence=dict.fromkeys(range(100), 0.5),
    )
    with database.writing() as connection:
        save_clustering(connection, finished)


def delete(database: Database, matrix: EmbeddingMatrix) -> None:
    """Delete embeddings; their assignments go with them."""
    ids = [(embedding_id.decode(),) for embedding_id in matrix.ids[200:300]]
    with database.writing() as connection:
        for identity in ids:
            connection.exec_driver_sql("DELETE FROM embedding WHERE id = ?", identity)


def size(path: Path) -> int:
    """Bytes of the file once everything written is in it."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    return path.stat().st_size


def write_files(folder: Path, matrix: EmbeddingMatrix) -> list[tuple[Path, Columns]]:
    """Write the vectors as Parquet with texts, and as an array without."""
    parquet, array = folder / "vectors.parquet", folder / "vectors.npy"
    n_rows, n_features = matrix.vectors.shape
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(matrix.vectors.ravel()), n_features)
    texts = [f"a picture of something, number {row}" for row in range(n_rows)]
    pq.write_table(pa.table({"text": texts, "vector": vectors}), parquet)
    np.save(array, matrix.vectors)
    return [(parquet, Columns()), (array, Columns(no_text=True))]


def import_file(database: Database, file: Path, columns: Columns) -> None:
    """Import a file into an empty database."""
    import_embeddings([file], database, model=MODEL, columns=columns)


def insert_bare(imported: Path, folder: Path) -> Seconds:
    """Insert the rows of an imported database into an empty one with nothing but the driver."""
    tables = ("experimentconfig", "run", "invocation", "embedding")
    target = folder / "bare.sqlite"
    open_database(target, create=True)
    with closing(sqlite3.connect(imported)) as source:
        rows = {table: source.execute(f"SELECT * FROM {table} ORDER BY rowid").fetchall() for table in tables}
    with closing(connect(target, "rw", foreign_keys=True)) as connection:

        def insert_all() -> None:
            connection.execute("BEGIN IMMEDIATE")
            for table, values in rows.items():
                marks = ", ".join("?" * len(values[0]))
                connection.executemany(f"INSERT INTO {table} VALUES ({marks})", values)
            connection.execute("COMMIT")

        return timed(insert_all)


class Seconds(NamedTuple):
    """Seconds on the clock, and of the processor."""

    clock: float
    cpu: float

    def rates(self, n_rows: int) -> str:
        """Format how many rows these are a second."""
        return f"{n_rows / self.clock:,.0f} rows/s, {n_rows / self.cpu:,.0f} rows per CPU second"


def timed(work: Callable[..., object], *arguments: object) -> Seconds:
    """Seconds that `work` takes."""
    began = time.perf_counter(), time.process_time()
    work(*arguments)
    return Seconds(time.perf_counter() - began[0], time.process_time() - began[1])


if __name__ == "__main__":
    main()
