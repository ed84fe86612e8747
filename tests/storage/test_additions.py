"""Test that an import queries by key, whatever the database holds."""

from __future__ import annotations

import re
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from panic_tda.files.importing import import_embeddings
from panic_tda.storage import connections
from panic_tda.storage.write.additions import Additions
from panic_tda.storage.write.batches import RunKey
from tests.conftest import MakeFile
from tests.dump_files import DumpSpec, dump_tables, import_tables, mixed
from tests.field_files import EVERYTHING
from tests.snapshots import opened

pytestmark = pytest.mark.both_engines

TEXTS = [f"a text, number {row}" for row in range(40)]


def write(path: Path, texts: list[str], **more: Any) -> Path:
    vectors = pa.array([[len(text), row + 1.0] for row, text in enumerate(texts)], pa.list_(pa.float32()))
    pq.write_table(pa.table({"text": texts, "vector": vectors} | more), path)
    return path


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All statements of connections opened from now on, with their values."""
    executed: list[str] = []
    connect = connections.connect

    def traced(*arguments: Any) -> sqlite3.Connection:
        connection = connect(*arguments)
        connection.set_trace_callback(executed.append)
        return connection

    monkeypatch.setattr(connections, "connect", traced)
    return executed


@pytest.mark.sqlite_only("its plans")
def test_no_look_up_goes_through_all_rows(tmp_path: Path, upgraded: MakeFile, statements: list[str]) -> None:
    database, facts = upgraded(EVERYTHING)
    statements.clear()
    model = facts.spec.text_models[1]
    width = facts.spec.dimensions
    wide = pa.array([[row + 1.0] * width for row in range(40)], pa.list_(pa.float32()))
    import_embeddings([write(tmp_path / "a.parquet", TEXTS[:30])], database, model="New")
    import_embeddings([write(tmp_path / "b.parquet", TEXTS)], database, model="New")
    import_embeddings([write(tmp_path / "c.parquet", TEXTS, vector=wide)], database, model=model)
    import_embeddings([write(tmp_path / "d.parquet", TEXTS, run=["named"] * 40)], database, model="New")
    numbered = write(tmp_path / "e.parquet", TEXTS, sequence_number=[2 * row + 1 for row in range(40)])
    import_embeddings([numbered], database, model="New")
    require_search(facts.path, statements)
    assert any("run.initial_prompt) IN" in statement for statement in statements)


@pytest.mark.sqlite_only("its plans")
@pytest.mark.parametrize("unique", ["none", "constraint", "index"])
def test_no_look_up_of_a_dump_goes_through_all_rows(
    tmp_path: Path,
    upgraded: MakeFile,
    statements: list[str],
    unique: Any,
) -> None:
    database, facts = upgraded(replace(EVERYTHING, unique=unique))
    tables = dump_tables()
    rng = np.random.default_rng(0)
    statements.clear()
    import_tables(
        tmp_path / "dump",
        {name: mixed(table, rng) for name, table in tables.items()},
        database,
        batch_rows=16,
    )
    longer = dump_tables(DumpSpec(length=30))
    import_tables(
        tmp_path / "dump",
        {name: mixed(table, rng) for name, table in longer.items()},
        database,
        batch_rows=16,
    )
    lines = require_search(facts.path, statements)
    # Of a step both are looked up, not all steps of its run.
    steps = [line for line in lines if re.match(r"SEARCH invocation .*\(run_id=\?", line)]
    assert steps
    assert all("sequence_number=?" in line for line in steps)
    assert any(statement.startswith("UPDATE invocation") for statement in statements)


def require_search(path: Path, statements: list[str]) -> set[str]:
    """Check that no statement scans a table, and return the query plans."""
    selects = {
        statement for statement in statements if re.match(r"SELECT|WITH|UPDATE|INSERT|DELETE", statement)
    }
    with opened(path) as connection:
        plans = {
            statement: [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
            for statement in selects
        }
    lines = {line for plan in plans.values() for line in plan}
    # Of runs there are few: each stands for hundreds of rows of the other tables.
    for table in ("invocation", "embedding", "experimentconfig"):
        assert any(line.startswith(f"SEARCH {table} USING") for line in lines)
        assert not any(line.startswith(f"SCAN {table}") for line in lines)
    return lines


@pytest.mark.sqlite_only("its plans")
def test_the_width_of_a_model_is_read_off_its_index(
    tmp_path: Path, upgraded: MakeFile, statements: list[str]
) -> None:
    database, facts = upgraded()
    import_embeddings([write(tmp_path / "a.parquet", TEXTS)], database, model="New")
    selects = {
        statement for statement in statements if statement.startswith("SELECT") and "length(" in statement
    }
    assert selects
    with opened(facts.path) as connection:
        query = "SELECT rootpage FROM sqlite_master WHERE name = 'ix_embedding_model_length_invocation'"
        ((page,),) = connection.execute(query)
        for statement in selects:
            values = [""] * statement.count("?")
            steps = [row[1:4] for row in connection.execute(f"EXPLAIN {statement}", values)]
            (cursor,) = {step[1] for step in steps if step[0] == "OpenRead" and step[2] == page}
            # Of the table, in which the vectors are, nothing is read.
            assert {step[1] for step in steps if step[0] == "Column"} <= {cursor}


def test_runs_are_found_by_what_they_say(tmp_path: Path, upgraded: MakeFile) -> None:
    database, _ = upgraded()
    import_embeddings([write(tmp_path / "a.parquet", TEXTS, run=["named"] * 40)], database, model="New")
    key = RunKey("named", -1, ("imported",), "")
    with database.reading() as connection:
        additions = Additions(connection)
        assert additions.find_stored_runs([RunKey("other", -1, ("imported",), ""), key]) == [key]
        (run,) = additions.find_runs_with_text(key, 39, TEXTS[39])
        ((stored,),) = connection.exec_driver_sql("SELECT id FROM run WHERE initial_prompt = ''")
        assert run == stored
        assert additions.find_runs_with_text(key, 39, TEXTS[38]) == set()
        assert additions.find_runs_with_text(RunKey("named", 1, ("imported",), ""), 39, TEXTS[39]) == set()
