"""Start a PostgreSQL server for the tests; databases are made from templates and dropped after their test."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path
from typing import Any

import psycopg
import psycopg.types.json
import pytest
from sqlalchemy.engine import URL, make_url

from panic_tda.storage.write.copying import copy_database
from tests.field_files import FieldFacts, FieldSpec, write_field_file

# Nothing of it outlives the tests: it need not reach the disk.
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "max_wal_senders": "0",
    "wal_level": "minimal",
}


class Server:
    """A running server on which databases can be created.

    Parameters
    ----------
    url : str
        Of a database of it, which is left as it is.
    """

    def __init__(self, url: str) -> None:
        self.url: URL = make_url(url).set(drivername="postgresql+psycopg")
        self._numbers = count()
        self._templates: dict[FieldSpec, tuple[str, FieldFacts]] = {}
        self._connection = psycopg.connect(_plain(url), autocommit=True)
        # Else all of it goes through a log that nobody keeps.
        self._copying = " STRATEGY file_copy" if self._connection.info.server_version >= 150000 else ""

    def execute(self, statement: str) -> None:
        """Execute a statement outside of transactions."""
        self._connection.execute(statement)

    def make(self, template: str = "template1") -> str:
        """Create a database from a template, and return its name."""
        name = f"panic_tda_test_{os.getpid()}_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}{self._copying}")
        return name

    def field_database(self, spec: FieldSpec, path: Path) -> tuple[str, FieldFacts]:
        """Return the name and the facts of the template database with the rows of a field file.

        Parameters
        ----------
        spec : FieldSpec
            What the file holds.
        path : Path
            Where the file is written, when it is first asked for.
        """
        if spec not in self._templates:
            name = self.make()
            facts = write_field_file(path, spec)
            copy_database(path, self.url_of(name))
            path.unlink()
            self._templates[spec] = name, facts
        return self._templates[spec]

    @contextmanager
    def database(self, template: str = "template1") -> Iterator[str]:
        """Create a database from a template, yield its URL, and drop it at the end."""
        name = self.make(template)
        try:
            yield self.url_of(name)
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def url_of(self, name: str) -> str:
        """Return the URL of a database."""
        return self.url.set(database=name).render_as_string(hide_password=False)

    def close(self) -> None:
        """Drop all created databases, also on a server that was not started here."""
        for name, _ in self._templates.values():
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")
        self._connection.close()


class _Foreign:
    """A connection of another program that accepts SQLite's placeholders."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def execute(self, statement: str, values: Sequence[Any] = ()) -> psycopg.Cursor[Any]:
        return self._connection.execute(_translated(statement), values)

    def executemany(self, statement: str, values: Sequence[Sequence[Any]]) -> None:
        self._connection.cursor().executemany(_translated(statement), values)


@contextmanager
def opened(url: str) -> Iterator[_Foreign]:
    """Open a database without foreign keys, as other programs do; commit when the block ends."""
    with psycopg.connect(_plain(url)) as connection:
        connection.execute("SET session_replication_role = replica")
        # As it is stored, which is what SQLite gives.
        psycopg.types.json.set_json_loads(bytes.decode, connection)
        yield _Foreign(connection)


def snapshot(url: str) -> dict[str, tuple[str, list[Any]]]:
    """Return each table's rows with the types of their values, by name."""
    with psycopg.connect(_plain(url)) as connection:
        psycopg.types.json.set_json_loads(bytes.decode, connection)
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        return {name: ("", _rows(connection, name)) for (name,) in sorted(tables)}


def _rows(connection: psycopg.Connection[Any], table: str) -> list[Any]:
    rows = connection.execute(f"SELECT * FROM {table}")  # type: ignore[arg-type]
    return sorted((tuple(chain(*((cell, type(cell).__name__) for cell in row))) for row in rows), key=repr)


def _translated(statement: str) -> Any:
    statement = re.sub(r"\bx'([0-9a-f]*)'", r"'\\x\1'::bytea", statement.replace("%", "%%"))
    return statement.replace("?", "%s")


def _plain(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


@contextmanager
def started(temporary: str | None = None) -> Iterator[Server]:
    """Yield the server of PANIC_TDA_POSTGRES, or start one in a temporary folder, or skip."""
    if url := os.environ.get("PANIC_TDA_POSTGRES"):
        server = Server(url)
        yield server
        server.close()
        return
    programs = _programs()
    if programs is None:
        pytest.skip(
            "no PostgreSQL server programs found (apt-get install postgresql), nor PANIC_TDA_POSTGRES set"
        )
    # The server refuses to run as root; its own user is there wherever its package is installed.
    as_owner = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    with tempfile.TemporaryDirectory(dir=temporary) as folder:
        if as_owner:
            shutil.chown(folder, "postgres")
        data = f"{folder}/data"

        def run(program: str, *arguments: str) -> None:
            command = [*as_owner, str(programs / program), "-D", data, *arguments]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder)

        run("initdb", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync")
        for attempt in range(5):
            port = _find_free_port()
            settings = _SETTINGS | {"port": str(port), "unix_socket_directories": folder}
            options = " ".join(f"-c {name}={value}" for name, value in settings.items())
            try:
                run("pg_ctl", "-o", options, "-l", f"{folder}/log", "-w", "-t", "300", "start")
                break
            except subprocess.CalledProcessError:
                # Another process may have taken the port meanwhile.
                if attempt == 4:
                    raise
        try:
            server = Server(f"postgresql://postgres@127.0.0.1:{port}/postgres")
            yield server
            server.close()
        finally:
            run("pg_ctl", "-m", "immediate", "-w", "stop")


def _find_free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _programs() -> Path | None:
    program = shutil.which("initdb")
    folders = [Path(program).parent] if program else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return folders[-1] if folders else None
