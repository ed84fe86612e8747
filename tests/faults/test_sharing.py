"""Test other processes and users at the same file: locks, second runs, writers, removal and damage."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from panic_tda import model_fits
from panic_tda.clustering_manager import cluster_all_data
from panic_tda.errors import DatabaseError
from panic_tda.main import main
from panic_tda.storage import connections
from panic_tda.storage.database import open_database
from panic_tda.storage.write import pending
from panic_tda.storage.write.recovery import save_pending
from tests.conftest import MakeFile, UpgradedFile, ids_of
from tests.faults.runs import FIT, find_leftover_files, require_complete, run
from tests.field_files import FieldSpec
from tests.snapshots import opened, snapshot

FILE = FieldSpec(runs=20, length=40, dimensions=16, layout=0)
NOBODY = 65534


def cluster_meanwhile(file: UpgradedFile, *statements: str, remove: bool = False) -> Result:
    """Cluster by the command, and change the file by another connection between the fit and the saving."""
    cluster_rows = model_fits.cluster_rows
    with (
        closing(sqlite3.connect(file.path, isolation_level=None)) as writer,
        pytest.MonkeyPatch.context() as patch,
    ):

        def cluster_and_change(*arguments: Any, **options: Any) -> Any:
            clustered_rows = cluster_rows(*arguments, **options)
            for statement in statements:
                writer.execute(statement)
            if remove:
                writer.close()
                file.path.unlink()
            return clustered_rows

        patch.setattr(model_fits, "cluster_rows", cluster_and_change)
        patch.setattr(connections, "BUSY_TIMEOUT_SECONDS", 0.2)
        return CliRunner().invoke(main, [*FIT, "Nomic", "--db", str(file.path)])


def test_a_lock_that_stays_makes_the_result_a_pending_file(upgraded: MakeFile) -> None:
    file = upgraded(FILE)
    result = cluster_meanwhile(file, "BEGIN IMMEDIATE")
    assert result.exit_code == 1
    (pending_file,) = pending.find_pending(file.database)
    assert re.search(
        r"computed but not saved \(.*locked for 0\.2 s by another process; try again", result.stderr
    )
    assert f"the result is kept in {pending_file}" in result.stderr
    assert require_complete(file.path) == 0
    assert [saved.n_vanished for saved in save_pending(file.database)] == [0]
    assert require_complete(file.path) == 1
    assert find_leftover_files(file.path) == []


def test_embeddings_added_and_deleted_during_a_fit_do_not_lose_the_result(upgraded: MakeFile) -> None:
    file = upgraded(FILE)
    victim = ids_of(file)[5]
    result = cluster_meanwhile(
        file,
        f"DELETE FROM embedding WHERE id = '{victim}'",
        "INSERT INTO embedding (id, invocation_id, embedding_model, vector) "
        "SELECT printf('%032x', rowid), 'new' || rowid, embedding_model, vector FROM embedding "
        "WHERE embedding_model = 'Nomic' LIMIT 7",
    )
    assert result.exit_code == 1
    assert "FOREIGN KEY constraint failed" in result.stderr
    assert "the result is kept in" in result.stderr
    assert require_complete(file.path) == 0
    (saved,) = save_pending(file.database)
    assert saved.n_vanished == 1
    with opened(file.path) as connection:
        clustered_ids = {row[0] for row in connection.execute("SELECT embedding_id FROM embeddingcluster")}
    assert clustered_ids == set(ids_of(file)) - {victim}


def test_a_file_removed_during_a_fit_is_not_created_again(upgraded: MakeFile) -> None:
    file = upgraded(FILE)
    elsewhere = file.path.with_name("elsewhere.sqlite")
    shutil.copy(file.path, elsewhere)
    result = cluster_meanwhile(file, remove=True)
    assert result.exit_code == 1
    assert not file.path.exists()
    (pending_file,) = pending.find_pending(file.database)
    assert f"the result is kept in {pending_file}" in result.stderr
    assert "unexpected" not in result.stderr
    shutil.move(elsewhere, file.path)
    assert [saved.n_vanished for saved in save_pending(file.database)] == [0]
    assert require_complete(file.path) == 1


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_removed_while_it_is_written_is_an_error(upgraded: MakeFile, replaced: bool) -> None:
    """SQLite commits to the unlinked file without an error."""
    file = upgraded(FILE)
    other_path = Path(shutil.copy(file.path, file.path.with_name("other.sqlite")))

    def write() -> None:
        with file.database.writing() as connection:
            connection.exec_driver_sql("DELETE FROM persistencediagram")
            file.path.unlink()
            if replaced:
                other_path.rename(file.path)

    with pytest.raises(DatabaseError, match="removed or replaced while it was written"):
        write()


def test_three_runs_at_once_save_three_complete_clusterings(upgraded: MakeFile) -> None:
    file = upgraded(FILE)
    results = {}
    threads = [
        threading.Thread(target=lambda name=name, words=words: results.update({name: run(file.path, words)}))
        for name, words in (("one model", (*FIT, "Nomic")), ("both models", FIT))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {name: result.code for name, result in results.items()} == {"one model": 0, "both models": 0}, (
        results
    )
    assert require_complete(file.path) == 3
    with opened(file.path) as connection:
        hashes = connection.execute(
            "SELECT embedding_model, json_extract(parameters, '$.input_sha256') FROM clusteringresult"
        ).fetchall()
        labels = connection.execute(
            "SELECT embedding_id, count(DISTINCT label), count(*) FROM embeddingcluster GROUP BY embedding_id"
        ).fetchall()
    assert len(set(hashes)) == 2
    # The two of one model agree on every row.
    assert {count for _, count, _ in labels} == {1}
    assert sorted(n for _, _, n in labels) == [1] * 400 + [2] * 400
    assert find_leftover_files(file.path) == []


# --------------------------------------------------------------------------- damage


@pytest.mark.parametrize(
    ("table", "content"),
    [
        ("embedding", b"\xff"),
        ("ix_embedding_model_length_invocation", b"\x00"),
        ("embeddingcluster", b"\xff"),
    ],
)
def test_an_overwritten_page_is_a_database_error(upgraded: MakeFile, table: str, content: bytes) -> None:
    file = upgraded(FILE)
    cluster_all_data(file.database)
    with closing(sqlite3.connect(file.path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        pages = [
            row[0]
            for row in connection.execute("SELECT pageno FROM dbstat WHERE name = ? ORDER BY path", (table,))
        ]
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    with file.path.open("r+b") as opened_file:
        # The root stays: the first look at the file finds nothing.
        for page in pages[1:]:
            opened_file.seek((page - 1) * size)
            opened_file.write(content * size)
    before = file.path.read_bytes()
    refused = 0
    for words in (
        ["list-clusterings"],
        ["show-clustering"],
        ["show-trajectories", "--model", "Nomic"],
        ["cluster-embeddings"],
        ["export-clustering", "latest", str(file.path.with_name("rows.csv")), "--model", "Nomic"],
        ["delete-clusterings", "--all", "--yes"],
    ):
        # What was refused changed nothing; deleting needs some of the pages only.
        assert file.path.read_bytes() == before
        result = CliRunner().invoke(main, [*words, "--db", str(file.path)])
        assert result.exit_code in (0, 1), (words, result.output)
        assert "Traceback" not in result.stderr
        if result.exit_code:
            assert "unexpected" not in result.output, (words, result.output)
            refused += "malformed; the file is damaged, or its disk is" in result.stderr
    assert refused >= 1


# --------------------------------------------------------------------------- another user


@pytest.fixture
def other_users_file(upgraded: MakeFile) -> Iterator[UpgradedFile]:
    """Return a file in a folder that every user can enter; commands on it run as nobody."""
    if os.geteuid() != 0:
        pytest.skip("only root can run a command as another user")
    field_file = upgraded(FILE)
    cluster_all_data(field_file.database)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        with opened(field_file.path) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copy(field_file.path, folder / "field.sqlite")
        there = UpgradedFile(open_database(folder / "field.sqlite"), field_file.facts)
        for suffix in ("-wal", "-shm"):
            (folder / f"field.sqlite{suffix}").unlink(missing_ok=True)
        yield there
        folder.chmod(0o755)


@contextmanager
def nobody() -> Iterator[None]:
    """Run this process as another user inside the block."""
    groups, ours = os.getgroups(), (os.getgid(), os.getuid())
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, ours[0])
    # Root stays the saved user, to whom the process may go back.
    os.setresuid(NOBODY, NOBODY, ours[1])
    try:
        yield
    finally:
        os.setresuid(ours[1], ours[1], ours[1])
        os.setresgid(ours[0], ours[0], ours[0])
        os.setgroups(groups)


def run_as_nobody(file: UpgradedFile, *words: str) -> tuple[int, str]:
    # As root first: what nobody may not read is imported then.
    CliRunner().invoke(main, [words[0], "--db", str(file.path), "--no-such-option"])
    with nobody():
        result = CliRunner().invoke(main, [*words, "--db", str(file.path)])
    return result.exit_code, result.stderr


def test_another_users_file_in_another_users_folder_is_read_only(other_users_file: UpgradedFile) -> None:
    before = other_users_file.path.read_bytes()
    assert run_as_nobody(other_users_file, "list-clusterings")[0] == 0
    for words in (("cluster-embeddings",), ("delete-clusterings", "--all", "--yes")):
        code, stderr = run_as_nobody(other_users_file, *words)
        assert code == 1
        assert "the -wal and -shm in it writable" in stderr
        assert "unexpected" not in stderr
    assert other_users_file.path.read_bytes() == before
    assert list(other_users_file.path.parent.iterdir()) == [other_users_file.path]


def test_another_users_file_in_a_shared_folder_is_read_only(other_users_file: UpgradedFile) -> None:
    other_users_file.path.parent.chmod(0o777)
    before = snapshot(other_users_file.path)
    assert run_as_nobody(other_users_file, "list-clusterings")[0] == 0
    for words in (("cluster-embeddings",), ("delete-clusterings", "--all", "--yes")):
        code, stderr = run_as_nobody(other_users_file, *words)
        assert code == 1
        assert "readonly" in stderr
        assert "unexpected" not in stderr
    assert snapshot(other_users_file.path) == before
