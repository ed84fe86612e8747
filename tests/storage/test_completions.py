"""Test that completions list what a database contains, and nothing when anything is wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from panic_tda.storage.database import open_database
from panic_tda.storage.read import completions
from panic_tda.storage.read.completions import read_clustering_entries, read_model_names
from panic_tda.storage.read.results import list_clusterings
from panic_tda.storage.write.saving import save_clustering
from tests.conftest import MakeFile, UpgradedFile, ids_of, make_finished
from tests.field_files import FieldSpec, write_field_file
from tests.snapshots import opened


@pytest.fixture
def clustered(upgraded: MakeFile) -> tuple[UpgradedFile, list[str]]:
    """A file with a clustering of each of two models, and their ids, the latest first."""
    file = upgraded(FieldSpec(dummy_rows=1))
    finished = [make_finished(ids_of(file, model), model=model) for model in ("Nomic", "STSBMpnet")]
    for summary in finished:
        with file.database.writing() as connection:
            save_clustering(connection, summary)
    with opened(file.path) as raw:
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return file, [str(summary.id) for summary in reversed(finished)]


@pytest.mark.parametrize("form", ["{}", "sqlite:///{}", "sqlite+pysqlite:///{}?timeout=1"])
def test_clusterings_and_models_are_listed(clustered: tuple[UpgradedFile, list[str]], form: str) -> None:
    file, ids = clustered
    target = form.format(file.path)
    clustering_entries = read_clustering_entries(target)
    assert [summary.id for summary in clustering_entries] == ids
    assert [summary.embedding_model for summary in clustering_entries] == ["STSBMpnet", "Nomic"]
    with opened(file.path) as raw:
        times = [row[0] for row in raw.execute("SELECT created_at FROM clusteringresult ORDER BY key DESC")]
    assert [summary.created_at for summary in clustering_entries] == [time[:16] for time in times]
    assert read_model_names(target) == ["Dummy", "Nomic", "STSBMpnet"]


def spoil(kind: str, path: Path) -> None:
    if kind == "a folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("no database at all\n" * 500)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "not upgraded":
        write_field_file(path, FieldSpec(layout=2, wal=True))


@pytest.mark.parametrize("kind", ["missing", "a folder", "text", "empty", "not upgraded"])
def test_a_file_that_is_no_database_has_no_completions(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.sqlite"
    spoil(kind, path)
    before = sorted(tmp_path.iterdir())
    for target in (str(path), f"sqlite:///{path}"):
        assert read_clustering_entries(target) == read_model_names(target) == []
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "target", ["", "://", "nonsense://host/db", "sqlite://", ":memory:", "postgresql://me@127.0.0.1:9/x"]
)
def test_an_invalid_database_name_has_no_completions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_clustering_entries(target) == read_model_names(target) == []
    assert list(tmp_path.iterdir()) == []


def test_no_file_is_created_beside_the_database(clustered: tuple[UpgradedFile, list[str]]) -> None:
    file, ids = clustered
    before = sorted(file.path.parent.iterdir())
    assert [file.name for file in before] == [file.path.name]
    file.path.chmod(0o444)
    assert [clustering_entry.id for clustering_entry in read_clustering_entries(str(file.path))] == ids
    assert read_model_names(str(file.path))
    assert sorted(file.path.parent.iterdir()) == before


def test_rows_committed_by_other_processes_are_read(clustered: tuple[UpgradedFile, list[str]]) -> None:
    file, ids = clustered
    with opened(file.path) as writing:
        writing.execute("DELETE FROM clusteringresult WHERE embedding_model = 'Nomic'")
        writing.commit()
        writing.execute("BEGIN EXCLUSIVE")
        assert [clustering_entry.id for clustering_entry in read_clustering_entries(str(file.path))] == ids[
            :1
        ]


@pytest.mark.parametrize("name", ["50% #1?.sqlite", os.fsdecode(b"caf\xe9.sqlite")])
def test_a_file_of_any_name_is_read(clustered: tuple[UpgradedFile, list[str]], name: str) -> None:
    file, ids = clustered
    path = file.path.rename(file.path.with_name(name))
    assert [clustering_entry.id for clustering_entry in read_clustering_entries(str(path))] == ids
    with open_database(path).session() as session:
        assert [str(clustering.id) for clustering in list_clusterings(session)] == ids


def test_a_tilde_is_the_home_folder(
    clustered: tuple[UpgradedFile, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, ids = clustered
    monkeypatch.setenv("HOME", str(file.path.parent))
    assert [clustering_entry.id for clustering_entry in read_clustering_entries(f"~/{file.path.name}")] == ids


def test_models_are_looked_up_in_the_index(upgraded: MakeFile) -> None:
    file = upgraded()
    with opened(file.path) as raw:
        (step,) = [row[3] for row in raw.execute(f"EXPLAIN QUERY PLAN {completions.NEXT_MODEL}", ("",))]
        index = "INDEX ix_embedding_model_length_invocation (embedding_model>? AND embedding_model<?)"
        assert step == f"SEARCH embedding USING COVERING {index}"
        raw.execute("DROP INDEX ix_embedding_model_length_invocation")
    # Without it, all rows would have to be read.
    assert read_model_names(str(file.path)) == []
