"""A small database of which every value can be replaced by a hostile one, and all commands that read it."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
from click.testing import CliRunner, Result

from panic_tda.clustering_manager import cluster_all_data
from panic_tda.main import main
from panic_tda.parameters import ClusteringParameters
from panic_tda.storage.database import open_database
from panic_tda.storage.schema.tables import Base
from panic_tda.storage.schema.upgrade import upgrade
from tests.field_files import FieldSpec, write_field_file
from tests.snapshots import opened

MODEL, OTHER = "Nomic", "STSBMpnet"
SPEC = FieldSpec(runs=4, length=12, dimensions=8, text_models=(MODEL, OTHER), dummy_rows=0, duplicates=0.2)
NOT_UTF8 = object()
"""Stands for a text that is not UTF-8, which no parameter can be."""
VALUES: dict[str, Any] = {
    "null": None,
    "no bytes": b"",
    "bytes": b"\xff\xfe" * 3_000,
    "empty text": "",
    "text": "garbage \x1b[2J",
    "not UTF-8": NOT_UTF8,
    "large integer": 2**62,
    "2**31": 2**31,
    "least integer": -(2**63),
    "negative": -5,
    "fraction": 1.5,
    "infinity": float("inf"),
    "minus infinity": float("-inf"),
    "JSON null": "null",
    "JSON list": "[[null, 1e999], {}]",
    "JSON object": "{}",
    "deep JSON": "[" * 100_000,
}
"""One of every storage class at least, by name."""
_LATEST = f"SELECT key FROM clusteringresult WHERE embedding_model = '{MODEL}' ORDER BY key DESC LIMIT 1"
_EMBEDDING = (
    "SELECT e.{} FROM embeddingcluster a JOIN embedding e ON e.id = a.embedding_id "
    f"WHERE a.result_key = ({_LATEST}) AND a.label = 0 ORDER BY e.id LIMIT 1"
)
_INVOCATION = f"id = ({_EMBEDDING.format('invocation_id')})"
_RUN = f"id = (SELECT run_id FROM invocation WHERE {_INVOCATION})"
ROWS = {
    "clusteringresult": f"key = ({_LATEST})",
    "cluster": f"result_key = ({_LATEST}) AND label = 0",
    "embeddingcluster": f"result_key = ({_LATEST}) AND embedding_id = ({_EMBEDDING.format('id')})",
    "clusteringtree": f"result_key = ({_LATEST}) AND part = 0",
    "embedding": f"id = ({_EMBEDDING.format('id')})",
    "invocation": _INVOCATION,
    "run": _RUN,
    "experimentconfig": f"id = (SELECT experiment_id FROM run WHERE {_RUN})",
    "panic_tda_version": "1",
}
"""The row of each table in which a value is replaced: one that the latest clustering of `MODEL` needs."""


_NOT_READ = {"output_image_data"}
COLUMNS = {
    **{
        table: [name for name in list(Base.metadata.tables[table].c.keys()) if name not in _NOT_READ]
        for table in ROWS
        if table in Base.metadata.tables
    },
    "panic_tda_version": ["version_num"],
}
"""The columns of each table whose values are read."""


@dataclass(frozen=True)
class SmallDatabase:
    """A database with two clusterings of `MODEL` and one of `OTHER`, and what commands need beside it."""

    path: Path
    earlier: str
    """Id of the first clustering of `MODEL`, whose row is never damaged."""


def make(folder: Path) -> SmallDatabase:
    """Write the database, and a file to import."""
    path = folder / "field.sqlite"
    write_field_file(path, SPEC)
    database = open_database(path)
    upgrade(database)
    parameters = ClusteringParameters(min_cluster_size=3, epsilon=0.0, backend="sklearn")
    cluster_all_data(database, [MODEL, OTHER], parameters=parameters)
    cluster_all_data(database, [MODEL], parameters=parameters)
    vectors = pa.array([[1.0] * 8], pa.list_(pa.float32(), 8))
    pq.write_table(pa.table({"text": ["new"], "vector": vectors}), folder / "new.parquet")
    with opened(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        query = f"SELECT id FROM clusteringresult WHERE embedding_model = '{MODEL}' ORDER BY key"
        return SmallDatabase(path, connection.execute(query).fetchone()[0])


def columns_of(path: Path) -> dict[str, set[str]]:
    """Return the columns that the tables of a database have."""
    with opened(path) as connection:
        return {
            table: {row[1] for row in connection.execute(f"PRAGMA table_info({table})")} - _NOT_READ
            for table in ROWS
        }


def with_dashes(identity: str) -> str:
    """Return an id as messages show it."""
    return str(UUID(identity))


def damage(path: Path, table: str, column: str, value: Any) -> bool:
    """Replace one value, and return whether SQLite takes and stores it."""
    mark = "CAST(x'ff41' AS TEXT)" if value is NOT_UTF8 else "?"
    values = () if value is NOT_UTF8 else (value,)
    try:
        with opened(path) as connection:
            statement = f"UPDATE {table} SET {column} = {mark} WHERE {ROWS[table]}"
            n_rows = connection.execute(statement, values).rowcount
            connection.commit()
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.IntegrityError:
        return False
    assert n_rows == 1, (table, column)
    return True


def command_lines(small: SmallDatabase) -> dict[str, list[str]]:
    """Return words of every command that reads a database, by name; each on a copy of its own.

    The report is not among them: its layout takes minutes to compile, and reads nothing.
    """
    earlier = small.earlier
    cluster = ["--min-cluster-size", "3", "--backend", "sklearn", "--no-checkpoint"]
    return {
        "list": ["list-clusterings"],
        "list --json": ["list-clusterings", "--json"],
        "list --model": ["list-clusterings", "--model", MODEL],
        "show": ["show-clustering"],
        "show --json": ["show-clustering", "--json"],
        "show earlier": ["show-clustering", earlier],
        "trajectories": ["show-trajectories", "--model", MODEL, "--by", "model", "--runs"],
        "compare": ["compare-clusterings", "latest", earlier, "--model", MODEL],
        "density": ["show-density", "--model", MODEL],
        "sweep": ["sweep-clustering", "--model", MODEL],
        "recut": ["recut-clustering", "--model", MODEL, "--epsilon", "0.1"],
        "delete earlier": ["delete-clusterings", earlier, "--yes"],
        "delete model": ["delete-clusterings", "--model", MODEL, "--yes"],
        "delete all": ["delete-clusterings", "--all", "--yes"],
        "export": ["export-clustering", "latest", "rows.parquet", "--model", MODEL, "--with-vectors"],
        "export earlier": ["export-clustering", earlier, "rows.csv"],
        "steps": ["export-trajectories", "latest", "steps.csv", "--model", MODEL, "--with-drift"],
        "plan": ["plan-clustering", "--downsample", "2"],
        "cluster": ["cluster-embeddings", MODEL, *cluster],
        "cluster --downsample": [
            "cluster-embeddings",
            MODEL,
            "--skip-invalid",
            "--downsample",
            "2",
            *cluster,
        ],
        "import": ["import-embeddings", "new.parquet", "--model", MODEL],
        "copy": ["copy-database", "field.sqlite", "copy.sqlite"],
        "save-pending": ["save-pending"],
        "upgrade": ["upgrade", "--yes"],
        "doctor": ["doctor"],
        "doctor --json": ["doctor", "--json"],
        "doctor --fix": ["doctor", "--fix", "--yes"],
    }


def run(database: Path, folder: Path, words: list[str]) -> Result:
    """Run a command in a folder of its own, on a copy of a database."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copyfile(database, folder / "field.sqlite")
    shutil.copyfile(database.with_name("new.parquet"), folder / "new.parquet")
    before = os.getcwd()
    os.chdir(folder)
    try:
        return CliRunner().invoke(main, words, env={"PANIC_TDA_DB": "field.sqlite"})
    finally:
        os.chdir(before)


def faults(result: Result) -> Iterator[str]:
    """Yield what is wrong with how a command ended."""
    if result.exit_code not in (0, 1, 2):
        yield f"exit code {result.exit_code}"
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        yield f"raised {result.exception!r}"
    for words in ("unexpected", "Traceback"):
        if words in result.output:
            yield words
