"""Test URLs of databases: messages show no password; test who may write to a database."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from panic_tda.errors import DatabaseError, WrongUsage
from panic_tda.storage.database import SCHEMA_VERSION, Database, open_database, schema_version
from panic_tda.storage.schema.upgrade import upgrade
from tests.conftest import MakeFile

SECRET = "sesame/open"


@pytest.mark.parametrize(
    "url", ["postgresql://me:sesame%2Fopen@127.0.0.1:9/none", "postgresql://me@127.0.0.1:9/none?password={}"]
)
def test_a_suggested_command_works_and_shows_no_password(url: str) -> None:
    database = Database(make_url(url.format(SECRET)))
    assert SECRET not in str(database)
    command = database.command("save-pending", "/a b.arrow")
    assert command == "panic-tda save-pending '/a b.arrow' (with PANIC_TDA_DB set to the URL of the database)"


def test_a_suggested_command_names_a_database_without_a_password() -> None:
    database = Database(make_url("postgresql://me@/none?host=/run/my+server"))
    option, url = shlex.split(database.command("upgrade"))[2:]
    assert (option, make_url(url)) == ("--db", database.url)


def test_an_invalid_url_that_may_contain_a_password_is_not_shown() -> None:
    with pytest.raises(WrongUsage, match=r"the database URL .* is invalid") as refusal:
        open_database(f"postgresql://me:{SECRET}@127.0.0.1:port/none")
    assert not any(part in str(refusal.value) for part in SECRET.split("/"))


def test_a_read_only_file_is_not_written_by_root_either(tmp_path: Path) -> None:
    database = open_database(tmp_path / "new.sqlite", create=True)
    assert database.path is not None
    database.path.chmod(0o444)
    with pytest.raises(DatabaseError, match="is read-only"), database.writing() as connection:
        connection.exec_driver_sql("DELETE FROM panic_tda_version")
    with database.reading() as connection:
        assert schema_version(connection) == SCHEMA_VERSION


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql:/me:{SECRET}@host/x",
        f"postgres:me:{SECRET}@host/x",
        f"postgresql+psycopg:/me:{SECRET}@host/x",
        f"mysql:/me:{SECRET}@host/x",
        "sqlite:/x",
        "SQLite:x",
    ],
)
def test_a_url_without_its_two_slashes_is_refused_and_makes_no_folder(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WrongUsage, match="has :// after its scheme") as refusal:
        open_database(url, create=True)
    assert not any(part in str(refusal.value) for part in SECRET.split("/"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///x?mode=ro",
        "sqlite:///x?password=sesame",
        "sqlite+pysqlcipher://:sesame@/x",
        "sqlite+aiosqlite:///x",
        "sqlite://me:sesame@host/x",
        "postgresql+psycopg2://me:sesame@host/x",
        "mysql://me:sesame@host/x?password=sesame",
    ],
)
def test_settings_in_a_url_are_applied_or_refused(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WrongUsage) as refusal:
        open_database(url, create=True)
    assert "sesame" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_a_path_may_look_like_a_url_where_it_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    open_database(tmp_path / "disk:" / "x.sqlite", create=True)
    assert open_database("disk:/x.sqlite").path == tmp_path / "disk:" / "x.sqlite"


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("DROP TABLE panic_tda_version", "is missing or empty"),
        ("DELETE FROM panic_tda_version", "is missing or empty"),
        ("UPDATE panic_tda_version SET version_num = 'garbage'", "has the unknown version 'garbage'"),
        ("UPDATE panic_tda_version SET version_num = ''", "has the unknown version ''"),
        ("UPDATE panic_tda_version SET version_num = '0000'", "has the unknown version"),
        ("UPDATE panic_tda_version SET version_num = '9999'", "newer panic_tda"),
    ],
)
def test_a_missing_or_unknown_version_is_reported_and_nothing_is_dropped(
    upgraded: MakeFile, statement: str, words: str
) -> None:
    file = upgraded()
    with file.opened() as connection:
        connection.execute(statement)
    before = file.snapshot()
    with pytest.raises(DatabaseError, match=words):
        upgrade(file.database)
    with pytest.raises(DatabaseError, match=words):
        file.database.require_current()
    assert file.snapshot() == before
