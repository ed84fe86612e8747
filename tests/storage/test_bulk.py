"""Test look-ups of many rows by their keys, and that no memory stays in use."""

from __future__ import annotations

import gc
from functools import partial
from pathlib import Path

import pytest

from panic_tda.storage.bulk import select_by_keys
from panic_tda.storage.database import Database, open_database
from panic_tda.storage.write.insertion import insert_new_rows

RUNS = [f"{number:032x}" for number in range(50)]


@pytest.fixture
def database(tmp_path: Path) -> Database:
    """Runs with a step of every third number each."""
    database = open_database(tmp_path / "new.sqlite", create=True)
    columns = ("id", "model", "type", "seed", "run_id", "sequence_number")
    with database.writing(foreign_keys=False) as connection:
        rows = [
            (f"{run}{number:02x}"[-32:], "m", "TEXT", 0, run, number)
            for run in RUNS
            for number in range(0, 90, 3)
        ]
        insert_new_rows(connection, "invocation", columns, rows)
    return database


@pytest.mark.parametrize("at_once", [1, 7, 8192])
def test_rows_are_found_by_keys_of_one_column_or_two(database: Database, at_once: int) -> None:
    wanted = [(run, number) for run in RUNS[10:20] for number in (1, 3, 88, 87)]
    keys = {"run_id": [run for run, _ in wanted], "sequence_number": [number for _, number in wanted]}
    with database.reading() as connection:
        select = partial(select_by_keys, connection, "invocation", keys_at_once=at_once)
        result = list(select(("sequence_number", "run_id"), keys))
        assert sorted(result) == sorted((number, run) for run, number in wanted if number % 3 == 0)
        none = select(("id",), keys, also="invocation.type = 'IMAGE'")
        assert list(none) == []
        of_run = select(("id",), {"run_id": [RUNS[3], "nothing"]})
        assert len(list(of_run)) == 30
        assert list(select(("id",), {"id": []})) == []


def test_look_ups_leave_no_reference_cycles(database: Database) -> None:
    with database.reading() as connection:
        gc.collect()
        gc.disable()
        try:
            for _ in range(20):
                list(select_by_keys(connection, "invocation", ("id",), {"run_id": RUNS}))
            assert gc.collect() == 0
        finally:
            gc.enable()
