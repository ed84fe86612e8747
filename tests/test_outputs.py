"""Test that no output replaces a database or an input, or is more readable than its database."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from panic_tda import outputs
from panic_tda.main import main
from panic_tda.outputs import require_safe_output
from panic_tda.storage.write import pending
from tests.command_line import invoke, succeed
from tests.conftest import MakeFile, UpgradedFile, ids_of, make_finished
from tests.exported import clustered
from tests.field_files import FieldSpec, write_field_file

SAMPLE = Path(outputs.__file__).parent / "sample" / "captions_minilm.parquet"
# Each writes a file, whose name ends in what the command asks for.
COMMANDS = {
    "report-clustering": ("report-clustering", "latest", "--force", "-o"),
    "plot-clustering": ("plot-clustering", "latest", "--force", "-o"),
    "export-clustering": ("export-clustering", "latest", "--force"),
    "export-trajectories": ("export-trajectories", "latest", "--force"),
    "--log-file": ("list-clusterings", "--log-file"),
}
ENDS = {"plot-clustering": ".png", "export-clustering": ".parquet", "export-trajectories": ".csv"}


@pytest.fixture
def file(upgraded: MakeFile) -> UpgradedFile:
    file = upgraded(FieldSpec())
    clustered(file.database)
    return file


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize(
    "kind", ["database", "link", "hard link", "relative", "other database", "states", "kept result"]
)
def test_no_output_replaces_a_database_or_its_files(
    file: UpgradedFile, tmp_path: Path, name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = ENDS.get(name, "")
    path = file.path.rename(tmp_path / f"d{end}") if kind in ("database", "relative") else file.path
    target = tmp_path / f"other{end}"
    if kind in ("database", "relative"):
        target = path
    elif kind == "link":
        target.symlink_to(path)
    elif kind == "hard link":
        target.hardlink_to(path)
    elif kind == "other database":
        shutil.copy(path, target)
    elif kind == "states":
        target = tmp_path / f"{path.name}.panic-tda" / "model" / f"x{end}"
        target.parent.mkdir(parents=True)
    else:
        target = pending.write_pending(file.database, make_finished(ids_of(file)))
    if kind == "relative":
        (tmp_path / "below").mkdir()
        monkeypatch.chdir(tmp_path / "below")
        target = Path("..") / path.name
    before = contents(tmp_path)
    result = invoke(*COMMANDS[name], target, db=path)
    assert result.exit_code == 2, result.output
    assert kind == "kept result" or str(target) in result.stderr
    assert contents(tmp_path) == before


@pytest.mark.parametrize("end", ["-wal", "-shm", "-journal"])
@pytest.mark.parametrize("name", ["report-clustering", "--log-file"])
def test_no_output_has_the_name_of_a_file_that_sqlite_writes(
    file: UpgradedFile, tmp_path: Path, name: str, end: str
) -> None:
    writer = sqlite3.connect(file.path)
    writer.execute("PRAGMA journal_mode = wal")
    writer.execute("CREATE TABLE committed (number INTEGER)")
    writer.commit()
    before = contents(tmp_path)
    link = tmp_path / "link"
    link.symlink_to(f"{file.path}{end}")
    for target in (f"{file.path}{end}", str(link)):
        result = invoke(*COMMANDS[name], target, db=file.path)
        assert result.exit_code == 2, result.output
        assert f"belongs to the database {file.path}" in result.stderr
    link.unlink()
    assert contents(tmp_path) == before
    assert writer.execute("SELECT count(*) FROM committed").fetchone() == (0,)
    writer.close()


@pytest.fixture
def spellings(file: UpgradedFile, tmp_path: Path) -> Callable[[Path], list[str]]:
    """Other names of a path that may not exist: absolute, relative, through links, and of a folder in it."""

    def spell(path: Path) -> list[str]:
        (tmp_path / "link").symlink_to(path)
        (tmp_path / "folder").symlink_to(path.parent)
        linked = tmp_path / "folder" / path.name
        return [*map(str, (path, tmp_path / "link", linked)), os.path.relpath(path)]

    return spell


@pytest.mark.parametrize("end", ["-wal", "-shm", "-journal"])
def test_no_folder_takes_a_name_that_sqlite_needs(
    file: UpgradedFile, spellings: Callable[[Path], list[str]], end: str
) -> None:
    for name in spellings(Path(f"{file.path}{end}")):
        inside = f"{name}/new"
        for words in (
            ("cluster-embeddings", "--work-dir", name),
            ("cluster-embeddings", "--work-dir", inside),
            ("list-clusterings", "--log-file", f"{inside}.log"),
            ("import-embeddings", SAMPLE, "--db", f"{inside}.sqlite"),
            ("copy-database", file.path, f"{inside}.sqlite"),
        ):
            result = CliRunner().invoke(main, [*map(str, words)], env={"PANIC_TDA_DB": str(file.path)})
            assert result.exit_code == 2, (words, result.output)
            # Where SQLite has made its file, it is no folder.
            assert re.search(f"belongs to the database {file.path}|must be a folder", result.stderr)
        assert not os.path.isdir(f"{file.path}{end}")


def test_the_folder_beside_a_database_may_be_named(file: UpgradedFile) -> None:
    folder = f"{file.path}.panic-tda"
    succeed("cluster-embeddings", "--backend", "sklearn", "--work-dir", folder, db=file.path)


@pytest.mark.parametrize("name", ["report-clustering", "export-clustering", "export-trajectories"])
def test_a_log_file_is_not_the_output_file(
    file: UpgradedFile, tmp_path: Path, spellings: Callable[[Path], list[str]], name: str
) -> None:
    output = tmp_path / f"output{ENDS.get(name, '.html')}"
    before = contents(tmp_path)
    for log in spellings(output):
        result = invoke(*COMMANDS[name], output, "--log-file", log, db=file.path)
        assert result.exit_code == 2, result.output
        assert f"{log} is the output of this command" in result.stderr
        assert contents(tmp_path) == before


@pytest.mark.parametrize("kind", ["same", "link", "hard link", "-wal", "states"])
def test_a_copy_is_not_made_in_its_source_or_beside_it(file: UpgradedFile, tmp_path: Path, kind: str) -> None:
    target = file.path
    if kind == "link":
        target = tmp_path / "link.sqlite"
        target.symlink_to(file.path)
    elif kind == "hard link":
        target = tmp_path / "link.sqlite"
        target.hardlink_to(file.path)
    elif kind == "-wal":
        target = Path(f"{file.path}-wal")
    elif kind == "states":
        target = Path(f"{file.path}.panic-tda") / "copy.sqlite"
    before = contents(tmp_path)
    result = invoke("copy-database", file.path, target, db=file.path)
    assert result.exit_code == 2, result.output
    assert contents(tmp_path) == before


def test_an_import_makes_no_database_beside_another(file: UpgradedFile, tmp_path: Path) -> None:
    before = contents(tmp_path)
    result = invoke("import-embeddings", SAMPLE, db=f"{file.path}-journal")
    assert result.exit_code == 2, result.output
    assert contents(tmp_path) == before


def test_the_log_of_an_import_is_not_one_of_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "dump"
    folder.mkdir()
    copies = [tmp_path / "rows.parquet", folder / "runs.parquet"]
    for copy in copies:
        shutil.copy(SAMPLE, copy)
    before = contents(tmp_path)
    for named, log in zip((copies[0], folder), copies, strict=True):
        words = ["import-embeddings", str(named), "--db", str(tmp_path / "d.sqlite"), "--log-file", str(log)]
        result = invoke(*words)
        assert result.exit_code == 2, result.output
        assert f"{log} is read by this command" in result.stderr
        assert contents(tmp_path) == before


def test_the_log_of_a_copy_is_neither_of_its_databases(file: UpgradedFile, tmp_path: Path) -> None:
    for log in (file.path, tmp_path / "copy.sqlite", tmp_path / "copy.sqlite-wal"):
        words = ["copy-database", str(file.path), str(tmp_path / "copy.sqlite"), "--log-file", str(log)]
        result = invoke(*words)
        assert result.exit_code == 2, result.output
        assert not (tmp_path / "copy.sqlite").exists()


@pytest.mark.parametrize(
    ("mode", "names"),
    [(0o640, tuple(COMMANDS)), *((mode, ("export-clustering",)) for mode in (0o600, 0o644, 0o444, 0o660))],
)
@pytest.mark.usefixtures("umask", "no_umap")
def test_outputs_are_readable_by_no_more_users_than_the_database(
    file: UpgradedFile, tmp_path: Path, mode: int, names: tuple[str, ...]
) -> None:
    file.path.chmod(mode)
    outputs = {name: tmp_path / f"new{ENDS.get(name, '.html')}" for name in names}
    for name, target in outputs.items():
        succeed(*COMMANDS[name], target, db=file.path)
    copy = tmp_path / "copy.sqlite"
    succeed("copy-database", file.path, copy, db=file.path)
    for path in (*outputs.values(), copy):
        assert path.stat().st_mode & 0o777 == 0o600 | (mode & 0o644), path


@pytest.mark.usefixtures("umask")
def test_a_replaced_file_is_readable_by_no_more_users_than_before(file: UpgradedFile, tmp_path: Path) -> None:
    for before, of_database, after in ((0o600, 0o644, 0o600), (0o644, 0o600, 0o600), (0o666, 0o666, 0o644)):
        file.path.chmod(of_database)
        target = tmp_path / "rows.csv"
        target.write_text("old")
        target.chmod(before)
        succeed("export-clustering", "latest", target, "--force", db=file.path)
        assert target.stat().st_mode & 0o777 == after


@pytest.mark.usefixtures("umask")
def test_pending_results_are_readable_by_their_owner_only(file: UpgradedFile) -> None:
    assert pending.write_pending(file.database, make_finished(ids_of(file))).stat().st_mode & 0o777 == 0o600


def test_similar_file_names_are_allowed_as_outputs(tmp_path: Path) -> None:
    for name in ("report-wal", "x.panic-tda", "notes.pending-1.arrow", "d.sqlite-walk"):
        require_safe_output(tmp_path / name)
    write_field_file(tmp_path / "d.sqlite")
    require_safe_output(tmp_path / "d.sqlite-walk", tmp_path / "d.sqlite")
    require_safe_output(tmp_path / "d.sqlite.html", tmp_path / "d.sqlite")
    require_safe_output(tmp_path / "d.sqlite.log", None)
