"""Test that tables are cut to the width of a real terminal, and complete in files and pipes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from panic_tda.cli.text import columns
from panic_tda.clustering_manager import cluster_all_data
from panic_tda.main import main
from panic_tda.parameters import ClusteringParameters
from panic_tda.storage.database import open_database
from panic_tda.storage.schema.upgrade import upgrade
from tests.cli.processes import on_a_terminal
from tests.field_files import FieldSpec, write_field_file
from tests.snapshots import opened

COLUMNS = 60
MODEL = "Nomic-of-a-long-name-that-no-table-has-room-for"
TEXT = "a living room with a couch and " * 40 + "a lamp"
SHOWN: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "info": ((), (MODEL,)),
    "list-clusterings": ((), (MODEL,)),
    "show-clustering": ((), (MODEL, TEXT)),
    "show-trajectories": ((), (MODEL,)),
    "show-density": ((), (MODEL,)),
    "stability-clustering": (("--resamples", "2"), (MODEL,)),
    "show-merges": ((), (MODEL,)),
    "show-divergence": ((), (MODEL,)),
    "compare-clusterings": (("latest", "OLDER"), (MODEL, TEXT)),
    "cluster-embeddings": (("--epsilon", "2"), (MODEL,)),
    "assign-embeddings": ((), (MODEL,)),
    "recut-clustering": (("--epsilon", "1"), (MODEL,)),
    "plan-clustering": (("--downsample", "1"), (MODEL,)),
    "sweep-clustering": ((), (MODEL,)),
    "delete-clusterings": (("--all", "--yes"), (MODEL,)),
    "doctor": (("--environment",), ()),
}
"""Commands with tables: more words, and what is whole where it goes into a file."""
OTHERS = {
    *(
        "completion",
        "export-clustering",
        "export-trajectories",
        "help",
        "import-embeddings",
        "save-pending",
        "upgrade",
    ),
    "copy-database",
    "plot-clustering",
    "report-clustering",
}
"""Commands that say a sentence, or print what a file holds."""


@pytest.fixture(scope="module")
def clustered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with two clusterings of a model with a long name and long texts."""
    path = tmp_path_factory.mktemp("tables") / "field.sqlite"
    write_field_file(path, FieldSpec(text_models=(MODEL,)))
    database = open_database(path)
    upgrade(database)
    for epsilon in (0.0, 2.0):
        cluster_all_data(database, parameters=ClusteringParameters(epsilon=epsilon, min_cluster_size=2))
    with opened(path) as raw:
        raw.execute("UPDATE invocation SET output_text = ? || rowid WHERE type = 'TEXT'", (TEXT,))
    return path


def words_of(command: str, path: Path) -> list[str]:
    """Return the words of a command on a copy of the file."""
    with opened(path) as raw:
        (older,) = raw.execute("SELECT id FROM clusteringresult ORDER BY key LIMIT 1").fetchone()
    more = [older if word == "OLDER" else word for word in SHOWN[command][0]]
    return [command, *more, "-q", "--db", path.name]


# One process for all commands: most of the time of each would go into its imports.
COMMANDS = """
import json, sys
from panic_tda.main import main
for words in json.loads(sys.argv[1]):
    print("COMMAND", words[0], flush=True)
    main(words, standalone_mode=False)
"""


@pytest.fixture(scope="module")
def shown_by_command(clustered: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Return the lines that each command shows on a terminal."""
    folder = tmp_path_factory.mktemp("terminal")
    words = [
        words_of(command, Path(shutil.copyfile(clustered, folder / f"{command}.sqlite"))) for command in SHOWN
    ]
    terminal = on_a_terminal(json.dumps(words), cwd=folder, code=COMMANDS, columns=COLUMNS, stdout=True)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.text).replace("\r", "")
    _, *parts = re.split(r"^COMMAND (\S+)\n", text, flags=re.MULTILINE)
    return {command: lines.split("\n") for command, lines in zip(parts[::2], parts[1::2], strict=True)}


@pytest.mark.parametrize("command", SHOWN)
def test_every_line_fits_the_terminal(command: str, shown_by_command: dict[str, list[str]]) -> None:
    shown = shown_by_command[command]
    assert len(shown) > 2
    assert [line for line in shown if columns(line) > COLUMNS] == []
    assert max(map(columns, shown)) > COLUMNS - 20
    assert not any(TEXT in line for line in shown)


@pytest.mark.parametrize("command", SHOWN)
def test_nothing_is_cut_outside_a_terminal(
    command: str, clustered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(shutil.copyfile(clustered, tmp_path / "field.sqlite"))
    result = CliRunner().invoke(main, words_of(command, path))
    assert result.exit_code == 0, result.output
    assert [part for part in SHOWN[command][1] if part not in result.stdout] == []
    assert not re.search("…(?! and)", result.stdout)
    assert "no room for" not in result.stdout


def test_every_command_with_a_table_is_tested() -> None:
    assert set(SHOWN) | OTHERS == set(main.commands)
