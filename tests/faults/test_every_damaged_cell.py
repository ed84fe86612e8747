"""Every command meets a hostile value of every storage class in every column that it reads, one at a time."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from click.testing import Result

from panic_tda.storage.read.completions import read_clustering_entries, read_model_names
from tests.faults import damaged_cells
from tests.faults.damaged_cells import (
    COLUMNS,
    OTHER,
    ROWS,
    STORAGE_CLASSES,
    TABLES,
    VALUES,
    Command,
    SmallDatabase,
)
from tests.snapshots import opened

# All of it shares one database.
pytestmark = pytest.mark.xdist_group("damaged cells")
Column = tuple[str, str]
FULL = bool(os.environ.get("PANIC_TDA_FULL_GRID"))
STRIDE = 6
"""Unless all values are wanted, a command meets every so manieth of the columns that it reads."""
SLOW_STRIDES = {"copy": 12, "doctor --json": 12, "report": 12}
LEFT_OUT = frozenset({"plot"})
"""Its libraries take seconds to load: `report/test_figure.py` has one damaged value of it."""
LIGHT = ("list", "delete all", "density", "merges", "compare", "import", "trajectories", "recut", "show")
"""Commands that take little time: they meet the values that no other one has met."""
FOUND_BEFORE = {"doctor --json": [(("run", "max_length"), "text"), (("embedding", "vector"), "not UTF-8")]}
"""Cases that only the full grid had, and that once ended a command."""
NAMES = list(damaged_cells.commands(SmallDatabase(Path(), "")))
N_ROWS = 24
"""Embeddings of a clustering."""
DESCRIBED = {table: TABLES[table].c for table in COLUMNS if table in TABLES}


@dataclass(frozen=True)
class Grid:
    """The small database, all commands on it, and the columns that each of them reads."""

    small: SmallDatabase
    commands: Mapping[str, Command]
    columns: Mapping[str, list[Column]]


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Grid:
    small = damaged_cells.make(tmp_path_factory.mktemp("cells"))
    commands = damaged_cells.commands(small)
    folder = tmp_path_factory.mktemp("run")
    columns = {
        name: damaged_cells.columns_read(small, folder, command)
        for name, command in commands.items()
        if FULL or name not in LEFT_OUT
    }
    return Grid(small, commands, columns)


@pytest.fixture(scope="module")
def taken(grid: Grid, tmp_path_factory: pytest.TempPathFactory) -> dict[Column, list[list[str]]]:
    """The names of the values that each column stores, by storage class; classes without one are left out."""
    copy = tmp_path_factory.mktemp("taken") / "field.sqlite"
    shutil.copyfile(grid.small.path, copy)
    with opened(copy) as connection:
        of_columns = {
            column: [
                [name for name in values if _is_taken(connection, column, name)]
                for values in STORAGE_CLASSES.values()
            ]
            for column in sorted({column for columns in grid.columns.values() for column in columns})
        }
    return {column: [names for names in classes if names] for column, classes in of_columns.items()}


def _is_taken(connection: sqlite3.Connection, column: Column, value: str) -> bool:
    connection.execute("BEGIN")
    try:
        damaged_cells.replace_value(connection, *column, VALUES[value], rows=ROWS)
    except sqlite3.IntegrityError:
        return False
    finally:
        connection.rollback()
    return True


@pytest.fixture(scope="module")
def few_values(grid: Grid, taken: Mapping[Column, list[list[str]]]) -> dict[str, list[tuple[Column, str]]]:
    """Of each command some columns with the names of values; every column meets every class that it takes."""
    turns: Counter[Column] = Counter()
    cases = defaultdict(list)
    for number, (command, columns) in enumerate(grid.columns.items()):
        stride = min(len(columns), SLOW_STRIDES.get(command, STRIDE))
        # Beginning elsewhere with every command, so that no column is left to one command alone.
        for column in columns[number % stride :: stride]:
            cases[command].append((column, _value_of_turn(taken[column], turns[column])))
            turns[column] += 1
    for column, classes in taken.items():
        readers = [name for name in (*LIGHT, *grid.columns) if column in grid.columns.get(name, ())]
        while turns[column] < len(classes):
            cases[readers[0]].append((column, _value_of_turn(classes, turns[column])))
            turns[column] += 1
    return cases


def _value_of_turn(taken: list[list[str]], turn: int) -> str:
    names = taken[turn % len(taken)]
    return names[turn // len(taken) % len(names)]


@pytest.mark.parametrize("name", [name for name in NAMES if FULL or name not in LEFT_OUT])
def test_a_command_meets_every_value_with_words_of_its_own(
    grid: Grid, few_values: Mapping[str, list[tuple[Column, str]]], tmp_path: Path, name: str
) -> None:
    _require_words(grid, name, [*few_values[name], *FOUND_BEFORE.get(name, [])], tmp_path)


@pytest.mark.skipif(
    not FULL,
    reason="takes 20 minutes; PANIC_TDA_FULL_GRID=1 runs every value in every column with every command",
)
@pytest.mark.parametrize("name", NAMES)
def test_a_command_meets_all_values_in_all_columns(grid: Grid, tmp_path: Path, name: str) -> None:
    cases = [(column, value) for column in grid.columns[name] for value in VALUES]
    _require_words(grid, name, cases, tmp_path)


def test_every_column_meets_every_storage_class_that_it_takes(
    taken: Mapping[Column, list[list[str]]], few_values: Mapping[str, list[tuple[Column, str]]]
) -> None:
    class_of = {name: key for key, values in STORAGE_CLASSES.items() for name in values}
    met: defaultdict[Column, set[str]] = defaultdict(set)
    for column, value in (case for cases in few_values.values() for case in cases):
        met[column].add(class_of[value])
    assert met == {column: {class_of[names[0]] for names in classes} for column, classes in taken.items()}
    # Every column that commands could read is read by one.
    assert set(met) == {(table, column) for table, columns in COLUMNS.items() for column in columns}


@pytest.mark.parametrize("value", VALUES)
def test_a_shell_completes_what_can_be_read(grid: Grid, tmp_path: Path, value: str) -> None:
    path = tmp_path / "damaged.sqlite"
    damaged_columns = [("clusteringresult", column) for column in COLUMNS["clusteringresult"]]
    for table, column in (*damaged_columns, ("embedding", "embedding_model")):
        shutil.copyfile(grid.small.path, path)
        if damaged_cells.damage(path, table, column, VALUES[value]):
            assert len(read_clustering_entries(str(path))) >= 2
            assert OTHER in read_model_names(str(path))


def _require_words(grid: Grid, name: str, cases: list[tuple[Column, str]], folder: Path) -> None:
    """Run a command at each of some values, and check how it ends and that it drops no row in silence."""
    command, path = grid.commands[name], folder / "damaged.sqlite"
    (folder / "inputs").symlink_to(grid.small.path.with_name("inputs"))
    wrong, n_runs = [], 0
    for (table, column), value in cases:
        shutil.copyfile(grid.small.path, path)
        if not damaged_cells.damage(path, table, column, VALUES[value], rows=command.rows):
            continue
        n_runs += 1
        result = damaged_cells.run(path, folder / "run", command.words)
        problems = [*damaged_cells.faults(result), *_dropped(grid, name, result, folder / "run")]
        if name == "doctor --json" and result.exit_code == 0 and not _can_hold(path, table, column):
            problems.append("the doctor finds nothing")
        wrong += [(table, column, value, problem, result.output) for problem in problems]
    assert n_runs
    assert not wrong


def _dropped(grid: Grid, name: str, result: Result, folder: Path) -> Iterator[str]:
    """Yield what a command that succeeded has left out without a word."""
    if result.exit_code or "WARNING" in result.output:
        return
    if name == "list --json":
        listed = json.loads(result.stdout)
        if len(listed) != 3 or grid.small.earlier not in {row["id"].replace("-", "") for row in listed}:
            yield "a clustering is not listed"
    elif name == "copy" and _undecoded_rows(folder / "copy.sqlite") != _undecoded_rows(
        folder / "field.sqlite"
    ):
        yield "the copy differs"
    elif name == "export":
        # A prediction with another key belongs to no clustering, and is made again by assign-embeddings.
        n_rows = N_ROWS + damaged_cells.count_predictions(folder / "field.sqlite")
        if pq.read_metadata(folder / "rows.parquet").num_rows != n_rows:
            yield "rows are left out"
    elif name == "export earlier":
        lines = (folder / "rows.csv").read_text().splitlines(keepends=True)
        if len(list(csv.reader(lines))) != 1 + N_ROWS:
            yield "rows are left out"


def _undecoded_rows(path: Path) -> dict[str, list[Any]]:
    """Return the rows of all tables that are read, texts as bytes."""
    with opened(path) as connection:
        connection.text_factory = bytes
        return {
            table: sorted(connection.execute(f"SELECT {', '.join(columns)} FROM {table}"), key=repr)
            for table, columns in COLUMNS.items()
        }


def _can_hold(path: Path, table: str, column: str) -> bool:
    """Tell whether all values of a column are of a storage class that the column may hold."""
    if table not in DESCRIBED:
        return True
    described = DESCRIBED[table][column]
    plain = getattr(described.type, "impl", described.type)
    classes = {"text"}
    if isinstance(plain, sa.LargeBinary):
        classes = {"blob"}
    elif isinstance(plain, sa.Integer):
        classes = {"integer"}
    elif isinstance(plain, sa.Numeric):
        classes = {"real", "integer"}
    if described.nullable:
        classes.add("null")
    with opened(path) as connection:
        rows = connection.execute(f"SELECT DISTINCT typeof({column}) FROM {table}").fetchall()
    return {storage_class for (storage_class,) in rows} <= classes
