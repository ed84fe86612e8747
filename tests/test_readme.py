"""What the README says of the commands is what they say of themselves, and its SQL runs."""

from __future__ import annotations

import re
import runpy
import sqlite3
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from panic_tda.files.importing import sample_files
from panic_tda.main import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
QUERIES = re.findall(r"```sql\n(.*?)```", README, flags=re.DOTALL)


def test_command_reference_is_what_help_says() -> None:
    replaced = runpy.run_path(str(ROOT / "scripts" / "command_reference.py"))["replaced"]
    assert replaced(README) == README, "run scripts/command_reference.py"


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_and_option_is_documented(name: str) -> None:
    command = main.commands[name]
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.opts}"


@pytest.fixture(scope="module")
def clustered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("readme") / "sample.sqlite"
    files = [str(file) for file in sample_files()]
    for command in (["import-embeddings", *files], ["cluster-embeddings"]):
        result = CliRunner().invoke(main, [*command, "--db", str(path)])
        assert result.exit_code == 0, result.stderr
    return path


def _run(path: Path, query: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(path) as connection:
        rows = connection.execute(query).fetchall()
    connection.close()
    return rows


def test_sql_of_the_readme_finds_what_it_says(clustered: Path) -> None:
    sizes, medoids, walk = (query.replace("'Nomic'", "'MiniLM'") for query in QUERIES)
    size_rows, medoid_rows = _run(clustered, sizes), _run(clustered, medoids)
    assert [row[:2] for row in size_rows] == [row[:2] for row in medoid_rows]
    assert all(isinstance(row[2], str) for row in medoid_rows)
    ((result_id, run_id),) = _run(
        clustered,
        "SELECT r.id, run.id FROM clusteringresult r, run WHERE r.embedding_model = 'MiniLM' LIMIT 1",
    )
    given = walk.replace("'…'", f"'{result_id}'").replace("067ffc18c1dd745b9042276ad5ab2da7", str(run_id))
    (steps,) = _run(clustered, f"SELECT count(*) FROM invocation WHERE run_id = '{run_id}'")
    assert len(_run(clustered, given)) == steps[0]


def test_python_of_the_readme_runs(clustered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    monkeypatch.chdir(clustered.parent)
    exec(code.replace("trajectory_data.sqlite", clustered.name), names := {})
    assert names["invocation"].output_text
    assert len(names["outcomes"]) == 2
