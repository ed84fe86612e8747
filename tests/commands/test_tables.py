"""What the commands show is cut to a real terminal's width, and whole where it goes elsewhere."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from click.testing import CliRunner

from panic_tda.cli.text import columns
from panic_tda.main import main
from panic_tda.storage.saving import save_clustering
from tests.cli.processes import on_a_terminal
from tests.conftest import MakeFile, UpgradedFile, ids_of, make_finished
from tests.field_files import FieldSpec
from tests.snapshots import opened

COLUMNS = 60
MODEL = "Nomic-of-a-long-name-that-no-table-has-room-for"
TEXT = "a living room with a couch and " * 40 + "a lamp"
SHOWN: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "list-clusterings": ((), (MODEL,)),
    "show-clustering": ((), (MODEL, TEXT)),
    "compare-clusterings": (("latest", "OLDER"), (MODEL, TEXT)),
    "cluster-embeddings": (("--epsilon", "2"), (MODEL,)),
    "delete-clusterings": (("--all", "--yes"), (MODEL,)),
    "doctor": (("--environment",), ()),
}
"""Commands with tables: more words, and what is whole where it goes into a file."""


@pytest.fixture
def file(upgraded: MakeFile) -> UpgradedFile:
    """A file with two clusterings of a model whose name is long, and whose texts are."""
    file = upgraded(FieldSpec(text_models=(MODEL,)))
    for seed in (0, 1):
        with file.database.writing() as connection:
            save_clustering(connection, make_finished(ids_of(file, MODEL), model=MODEL, seed=seed))
    with opened(file.path) as raw:
        raw.execute("UPDATE invocation SET output_text = ? WHERE type = 'TEXT'", (TEXT,))
    return file


@pytest.fixture
def words(file: UpgradedFile) -> Callable[[str], list[str]]:
    """Make the words of a command on the file."""
    with opened(file.path) as raw:
        (older,) = raw.execute("SELECT id FROM clusteringresult ORDER BY key LIMIT 1").fetchone()

    def of(command: str) -> list[str]:
        more = [older if word == "OLDER" else word for word in SHOWN[command][0]]
        return [command, *more, "-q", "--db", str(file.path)]

    return of


@pytest.mark.parametrize("command", SHOWN)
def test_a_terminal_has_room_for_every_line(
    command: str, words: Callable[[str], list[str]], file: UpgradedFile
) -> None:
    seen = on_a_terminal(*words(command), cwd=file.path.parent, columns=COLUMNS, stdout=True)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.text).replace("\r", "").split("\n")
    assert len(shown) > 2
    assert [line for line in shown if columns(line) > COLUMNS] == []
    assert max(map(columns, shown)) > COLUMNS - 20
    assert not any(TEXT in line for line in shown)


@pytest.mark.parametrize("command", SHOWN)
def test_nothing_is_cut_that_goes_elsewhere(command: str, words: Callable[[str], list[str]]) -> None:
    result = CliRunner().invoke(main, words(command))
    assert result.exit_code == 0, result.output
    assert [part for part in SHOWN[command][1] if part not in result.stdout] == []
    assert not re.search("…(?! and)", result.stdout)
    assert "no room for" not in result.stdout


def test_every_command_that_shows_a_table_is_here() -> None:
    # The others say a sentence, or what a file holds.
    others = {"completion", "import-embeddings", "save-pending", "upgrade"}
    assert set(SHOWN) | others == set(main.commands)
