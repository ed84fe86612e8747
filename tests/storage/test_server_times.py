"""Test times that PostgreSQL stores and Python cannot represent: named, listed with a reason, and copied."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from panic_tda.main import main
from panic_tda.storage.write.copying import copy_database
from tests.conftest import MakeFile
from tests.exported import clustered
from tests.field_files import FieldSpec
from tests.snapshots import opened

pytestmark = pytest.mark.xdist_group("postgres")
TIMES = ["infinity", "-infinity", "0044-03-15 12:00:00 BC", "12026-03-15 12:00:00"]


@pytest.fixture
def filled(url: str, upgraded: MakeFile) -> str:
    """The URL of a database with one clustering."""
    file = upgraded(FieldSpec())
    clustered(file.database)
    copy_database(file.database, url)
    return url


def invoke(url: str, *words: str) -> Result:
    result = CliRunner().invoke(main, [*words, "--db", url])
    assert "unexpected" not in result.output
    assert "Traceback" not in result.output
    return result


def replace_time(url: str, table: str, column: str, time: str) -> None:
    with opened(url) as connection:
        connection.execute(f"UPDATE {table} SET {column} = '{time}'")


@pytest.mark.parametrize("time", TIMES)
def test_a_clustering_with_an_invalid_time_is_listed_and_can_be_deleted(filled: str, time: str) -> None:
    replace_time(filled, "clusteringresult", "created_at", time)
    listed: list[dict[str, Any]] = json.loads(invoke(filled, "list-clusterings", "--json").stdout)
    (unreadable,) = listed
    assert "created_at" in unreadable["unreadable"]
    shown = invoke(filled, "show-clustering", unreadable["id"])
    assert shown.exit_code == 1
    assert "column created_at" in shown.output
    assert invoke(filled, "delete-clusterings", unreadable["id"], "--yes").exit_code == 0
    assert json.loads(invoke(filled, "list-clusterings", "--json").stdout) == []


@pytest.mark.parametrize("time", TIMES)
def test_the_doctor_names_an_experiment_with_an_invalid_time(filled: str, time: str) -> None:
    replace_time(filled, "experimentconfig", "started_at", time)
    examined = invoke(filled, "doctor", "unreadable_value", "--json")
    assert examined.exit_code == 1
    (finding,) = json.loads(examined.stdout)["findings"]
    assert finding["ids"][0].startswith("table experimentconfig, column started_at, row ")


def test_a_copy_keeps_times_that_python_has_no_value_for(filled: str, tmp_path: Path) -> None:
    with opened(filled) as connection:
        ids = [row[0] for row in connection.execute("SELECT id FROM invocation ORDER BY id LIMIT 4")]
        for identity, time in zip(ids, TIMES, strict=True):
            connection.execute(f"UPDATE invocation SET started_at = '{time}' WHERE id = '{identity}'")
    copy_database(filled, tmp_path / "copy.sqlite")
    with opened(tmp_path / "copy.sqlite") as connection:
        rows = connection.execute("SELECT started_at FROM invocation ORDER BY id LIMIT 4").fetchall()
    assert [time for (time,) in rows] == [*TIMES[:3], "12026-03-15 12:00:00.000000"]
