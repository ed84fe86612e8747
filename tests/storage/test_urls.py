"""How a database is named: in hints, which show no password, and by whom it may be written."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from panic_tda.errors import DatabaseError, WrongUsage
from panic_tda.storage.database import SCHEMA_VERSION, Database, open_database, schema_version

SECRET = "sesame/open"


@pytest.mark.parametrize(
    "url", ["postgresql://me:sesame%2Fopen@127.0.0.1:9/none", "postgresql://me@127.0.0.1:9/none?password={}"]
)
def test_a_hint_shows_no_password_and_is_a_command_that_works(url: str) -> None:
    database = Database(make_url(url.format(SECRET)))
    assert SECRET not in str(database)
    said = database.command("save-pending", "/a b.arrow")
    assert said == "panic-tda save-pending '/a b.arrow' (with PANIC_TDA_DB set to the URL of the database)"


def test_a_hint_names_the_database_where_it_holds_no_password() -> None:
    database = Database(make_url("postgresql://me@/none?host=/run/my+server"))
    option, url = shlex.split(database.command("upgrade"))[2:]
    assert (option, make_url(url)) == ("--db", database.url)


def test_a_url_that_is_none_is_not_shown_where_it_may_hold_a_password() -> None:
    with pytest.raises(WrongUsage, match=r"the database URL .* is none") as refusal:
        open_database(f"postgresql://me:{SECRET}@127.0.0.1:port/none")
    assert not any(part in str(refusal.value) for part in SECRET.split("/"))


def test_what_is_marked_read_only_is_not_written_by_root_either(tmp_path: Path) -> None:
    database = open_database(tmp_path / "new.sqlite", create=True)
    assert database.path is not None
    database.path.chmod(0o444)
    with pytest.raises(DatabaseError, match="is read-only"), database.writing() as connection:
        connection.exec_driver_sql("DELETE FROM panic_tda_version")
    with database.reading() as connection:
        assert schema_version(connection) == SCHEMA_VERSION
