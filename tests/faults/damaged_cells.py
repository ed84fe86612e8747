"""A small database of which every value can be replaced by a hostile one, and all commands that read it."""

from __future__ import annotations

import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from panic_tda.clustering_manager import cluster_all_data
from panic_tda.files.importing import import_embeddings
from panic_tda.insight.assigning import assign_all
from panic_tda.main import main
from panic_tda.parameters import ClusteringParameters
from panic_tda.storage.database import open_database
from panic_tda.storage.schema.tables import EMBEDDING_PREDICTION, Base
from panic_tda.storage.schema.upgrade import upgrade
from tests.dump_files import DumpSpec, dump_tables, write_dump
from tests.field_files import FieldSpec, write_field_file
from tests.snapshots import opened

MODEL, OTHER, OF_FILE, OF_DUMP = "Nomic", "STSBMpnet", "OfFile", "OfDump"
SPEC = FieldSpec(runs=4, length=12, dimensions=8, text_models=(MODEL, OTHER), dummy_rows=0, duplicates=0.2)
DUMP = DumpSpec(runs=2, length=4, text_models=(OF_DUMP,), vision_models=())
LONGER_DUMP = DumpSpec(runs=2, length=6, text_models=(OF_DUMP,), vision_models=())
NOT_UTF8 = object()
"""Stands for a text that is not UTF-8, which no parameter can be."""
STORAGE_CLASSES: dict[str, dict[str, Any]] = {
    "null": {"null": None},
    "integer": {
        "large integer": 2**62,
        "2**31": 2**31,
        "least integer": -(2**63),
        "negative": -5,
    },
    "real": {"fraction": 1.5, "infinity": float("inf"), "minus infinity": float("-inf")},
    "text": {
        "text": "garbage \x1b[2J",
        "empty text": "",
        "JSON null": "null",
        "JSON list": "[[null, 1e999], {}]",
        "JSON object": "{}",
        "deep JSON": "[" * 100_000,
        "time BC": "-0044-03-15 00:00:00",
    },
    "bytes": {"bytes": b"\xff\xfe" * 3_000, "no bytes": b""},
    "not UTF-8": {"not UTF-8": NOT_UTF8},
}
"""Hostile values by name, by the storage class that SQLite gives them where no column's type changes it."""
VALUES = {name: value for values in STORAGE_CLASSES.values() for name, value in values.items()}
_LATEST = f"SELECT key FROM clusteringresult WHERE embedding_model = '{MODEL}' ORDER BY key DESC LIMIT 1"


def _rows_above(embedding: str) -> dict[str, str]:
    """Return the conditions for an embedding, which a query names, and for the rows that it belongs to."""
    invocation = f"id = ({embedding.format('invocation_id')})"
    run = f"id = (SELECT run_id FROM invocation WHERE {invocation})"
    return {
        "embedding": f"id = ({embedding.format('id')})",
        "invocation": invocation,
        "run": run,
        "experimentconfig": f"id = (SELECT experiment_id FROM run WHERE {run})",
    }


_EMBEDDING = (
    "SELECT e.{} FROM embeddingcluster a JOIN embedding e ON e.id = a.embedding_id "
    f"WHERE a.result_key = ({_LATEST}) AND a.label = 0 ORDER BY e.id LIMIT 1"
)
_OF_MODEL = "SELECT e.{{}} FROM embedding e WHERE e.embedding_model = '{}' ORDER BY e.id LIMIT 1"
ROWS = {
    "clusteringresult": f"key = ({_LATEST})",
    "cluster": f"result_key = ({_LATEST}) AND label = 0",
    "embeddingcluster": f"result_key = ({_LATEST}) AND embedding_id = ({_EMBEDDING.format('id')})",
    "clusteringtree": f"result_key = ({_LATEST}) AND part = 0",
    "embeddingprediction": (
        f"result_key = ({_LATEST}) AND embedding_id = (SELECT embedding_id FROM embeddingprediction "
        f"WHERE result_key = ({_LATEST}) ORDER BY 1 LIMIT 1)"
    ),
    **_rows_above(_EMBEDDING),
    "panic_tda_version": "1",
}
"""The row of each table in which a value is replaced: one that the latest clustering of `MODEL` needs."""
ROWS_OF_FILE, ROWS_OF_DUMP = (_rows_above(_OF_MODEL.format(model)) for model in (OF_FILE, OF_DUMP))
"""The same for rows that an import finds again."""


_NOT_READ = {"output_image_data"}
TABLES = {**Base.metadata.tables, EMBEDDING_PREDICTION.name: EMBEDDING_PREDICTION}
COLUMNS = {
    **{
        table: [name for name in list(TABLES[table].c.keys()) if name not in _NOT_READ]
        for table in ROWS
        if table in TABLES
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
    """Write the database, and files to import."""
    path = folder / "field.sqlite"
    write_field_file(path, SPEC)
    database = open_database(path)
    upgrade(database)
    inputs = folder / "inputs"
    inputs.mkdir()
    _write_embeddings(inputs / "new.parquet", ["new"])
    _write_embeddings(inputs / "file.parquet", ["one", "two"])
    import_embeddings([inputs / "file.parquet"], database, model=OF_FILE)
    _write_embeddings(inputs / "file.parquet", ["one", "two", "three"])
    import_embeddings([write_dump(inputs / "dump", dump_tables(DUMP))], database)
    write_dump(inputs / "dump", dump_tables(LONGER_DUMP))
    parameters = ClusteringParameters(min_cluster_size=3, epsilon=0.0, backend="sklearn")
    cluster_all_data(database, [MODEL, OTHER], parameters=parameters)
    cluster_all_data(database, [MODEL], parameters=parameters)
    _write_embeddings(inputs / "later.parquet", ["later", "still later"])
    import_embeddings([inputs / "later.parquet"], database, model=MODEL)
    assign_all(database, ["latest"], model=MODEL)
    _write_embeddings(inputs / "later.parquet", ["latest of all"])
    import_embeddings([inputs / "later.parquet"], database, model=MODEL)
    with opened(path) as connection:
        # A dump comes without its images.
        connection.execute("UPDATE invocation SET output_image_data = x'00' WHERE type = 'IMAGE'")
        connection.commit()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        query = f"SELECT id FROM clusteringresult WHERE embedding_model = '{MODEL}' ORDER BY key"
        return SmallDatabase(path, connection.execute(query).fetchone()[0])


def _write_embeddings(path: Path, texts: list[str]) -> None:
    vectors = pa.array([[1.0 + len(text)] * 8 for text in texts], pa.list_(pa.float32(), 8))
    pq.write_table(pa.table({"text": texts, "vector": vectors}), path)


def columns_of(path: Path) -> dict[str, set[str]]:
    """Return the columns that the tables of a database have."""
    with opened(path) as connection:
        return {
            table: {row[1] for row in connection.execute(f"PRAGMA table_info({table})")} - _NOT_READ
            for table in ROWS
        }


def count_predictions(path: Path) -> int:
    """Count the predicted assignments of the latest clustering of `MODEL`."""
    with opened(path) as connection:
        query = f"SELECT count(*) FROM embeddingprediction WHERE result_key = ({_LATEST})"
        return int(connection.execute(query).fetchone()[0])


def with_dashes(identity: str) -> str:
    """Return an id as messages show it."""
    return str(UUID(identity))


def damage(path: Path, table: str, column: str, value: Any, *, rows: dict[str, str] | None = None) -> bool:
    """Replace one value, and return whether SQLite takes and stores it."""
    try:
        with opened(path) as connection:
            replace_value(connection, table, column, value, rows=rows or ROWS)
            connection.commit()
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.IntegrityError:
        return False
    return True


def replace_value(
    connection: sqlite3.Connection, table: str, column: str, value: Any, *, rows: dict[str, str]
) -> None:
    """Replace one value within a transaction; raises sqlite3.IntegrityError where SQLite refuses it."""
    mark = "CAST(x'ff41' AS TEXT)" if value is NOT_UTF8 else "?"
    values = () if value is NOT_UTF8 else (value,)
    statement = f"UPDATE {table} SET {column} = {mark} WHERE {rows[table]}"
    assert connection.execute(statement, values).rowcount == 1, (table, column)


@dataclass(frozen=True)
class Command:
    """A command that reads a database.

    Attributes
    ----------
    words : tuple of str
        Its arguments; `field.sqlite` is the database, and `inputs` has the files to import.
    rows : dict
        Conditions for the rows that it reads, by table; for columns of other tables it is not run.
    """

    words: tuple[str, ...]
    rows: dict[str, str]


def commands(small: SmallDatabase) -> dict[str, Command]:
    """Return every command that reads a database, by name."""
    earlier, cluster = small.earlier, ("--min-cluster-size", "3", "--backend", "sklearn", "--no-checkpoint")
    of_model = ("--model", MODEL)
    lines: dict[str, tuple[str, ...]] = {
        "info": ("info",),
        "list": ("list-clusterings", *of_model),
        "list --json": ("list-clusterings", "--json"),
        "show": ("show-clustering",),
        "show earlier --json": ("show-clustering", earlier, "--json"),
        "trajectories": ("show-trajectories", *of_model, "--by", "model", "--runs"),
        "compare": ("compare-clusterings", "latest", earlier, *of_model),
        "density": ("show-density", *of_model),
        "assign": ("assign-embeddings", "latest", *of_model),
        "merges": ("show-merges", *of_model),
        "divergence": ("show-divergence", *of_model),
        "stability": ("stability-clustering", *of_model, "--resamples", "2"),
        "sweep": ("sweep-clustering", *of_model),
        "recut": ("recut-clustering", *of_model, "--epsilon", "0.1"),
        "delete earlier": ("delete-clusterings", earlier, "--yes"),
        "delete model": ("delete-clusterings", *of_model, "--yes"),
        "delete all": ("delete-clusterings", "--all", "--yes"),
        "export": ("export-clustering", "latest", "rows.parquet", *of_model, "--with-vectors"),
        "export earlier": ("export-clustering", earlier, "rows.csv"),
        "steps": ("export-trajectories", "latest", "steps.csv", *of_model, "--with-drift"),
        "report": ("report-clustering", "latest", *of_model, "-o", "page.html"),
        "plan": ("plan-clustering", "--downsample", "2"),
        "cluster": ("cluster-embeddings", MODEL, *cluster),
        "cluster --downsample": (
            *("cluster-embeddings", MODEL, "--skip-invalid"),
            *("--downsample", "2", *cluster),
        ),
        "import": ("import-embeddings", "inputs/new.parquet", *of_model),
        "copy": ("copy-database", "field.sqlite", "copy.sqlite"),
        "save-pending": ("save-pending",),
        "upgrade": ("upgrade", "--yes"),
        "doctor --json": ("doctor", "--json"),
        "doctor --fix": ("doctor", "--fix", "--yes"),
    }
    if find_spec("datamapplot"):
        lines["plot"] = ("plot-clustering", "latest", *of_model, "-o", "figure.png")
    commands_by_name = {name: Command(words, ROWS) for name, words in lines.items()}
    again = ("import-embeddings", "inputs/file.parquet", "--model", OF_FILE)
    commands_by_name["import file again"] = Command(again, ROWS_OF_FILE)
    commands_by_name["import dump again"] = Command(("import-embeddings", "inputs/dump"), ROWS_OF_DUMP)
    return commands_by_name


def run(database: Path, folder: Path, words: list[str] | tuple[str, ...]) -> Result:
    """Run a command in a folder of its own, on a copy of a database."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copyfile(database, folder / "field.sqlite")
    (folder / "inputs").symlink_to(database.with_name("inputs"))
    with pytest.MonkeyPatch.context() as patch:
        # To import and compile umap-learn takes longer than a page without it.
        patch.setitem(sys.modules, "umap", None)
        patch.chdir(folder)
        return CliRunner().invoke(main, words, env={"PANIC_TDA_DB": "field.sqlite"})


@contextmanager
def recording_reads() -> Iterator[set[tuple[str, str]]]:
    """Yield the columns that SQLite's own parser sees read by all connections opened meanwhile."""
    columns: set[tuple[str, str]] = set()
    connect = sqlite3.connect

    def note(action: int, table: str | None, column: str | None, *_: str | None) -> int:
        if action == sqlite3.SQLITE_READ and table is not None and column is not None:
            columns.add((table, column))
        return sqlite3.SQLITE_OK

    def connect_and_note(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.set_authorizer(note)
        return connection

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3, "connect", connect_and_note)
        yield columns


def columns_read(small: SmallDatabase, folder: Path, command: Command) -> list[tuple[str, str]]:
    """Run a command on the undamaged database, and return the columns that it reads, in order."""
    with recording_reads() as reads:
        result = run(small.path, folder, command.words)
    assert result.exit_code == 0, result.output
    return [
        (table, column)
        for table, columns in COLUMNS.items()
        for column in columns
        if (table, column) in reads and table in command.rows
    ]


def faults(result: Result) -> Iterator[str]:
    """Yield what is wrong with how a command ended."""
    if result.exit_code not in (0, 1, 2):
        yield f"exit code {result.exit_code}"
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        yield f"raised {result.exception!r}"
    for words in ("unexpected", "Traceback"):
        if words in result.output:
            yield words
