"""Read the clusterings and models of a database quickly, for shell completion.

An SQLite file is read with Python's sqlite3 alone, without SQLAlchemy (0.1 s instead of 0.5 s), and no file
is created next to it. Errors are not reported: a database that cannot be read has no completions.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from panic_tda.paths import find_database_file, sqlite_uri

if TYPE_CHECKING:
    from panic_tda.storage.database import Database

_LOCK_SECONDS = 0.2
_SERVER_SECONDS = 2
# INDEXED BY: without this index, every embedding would be read. Bytes sort behind all texts.
NEXT_MODEL = (
    "SELECT min(embedding_model) FROM embedding INDEXED BY ix_embedding_model_length_invocation "
    "WHERE embedding_model > CAST(? AS TEXT) AND embedding_model < x''"
)
_CLUSTERINGS = (
    "SELECT id, embedding_model, created_at FROM clusteringresult ORDER BY created_at DESC, key DESC"
)


class CompletionEntry(NamedTuple):
    """A stored clustering, as shell completion shows it."""

    id: str
    embedding_model: str
    created_at: str


def read_clustering_entries(target: str) -> list[CompletionEntry]:
    """Return the clusterings of a database, the latest first; an empty list if it cannot be read at once."""
    try:
        path = find_database_file(target)
        if path is None:
            return _read_server_clusterings(target)
        with _open_sqlite(path) as connection:
            # A text that is not UTF-8 must not hide the others.
            connection.text_factory = bytes
            rows = connection.execute(_CLUSTERINGS).fetchall()
        return list(_parse_rows(rows))
    except Exception:
        return []


def read_model_names(target: str) -> list[str]:
    """Return the embedding models of a database; an empty list if it cannot be read at once."""
    try:
        path = find_database_file(target)
        if path is None:
            return _read_server_models(target)
        with _open_sqlite(path) as connection:
            connection.text_factory = bytes
            return list(_read_models(connection))
    except Exception:
        return []


def _parse_rows(rows: list[tuple[bytes, ...]]) -> Iterator[CompletionEntry]:
    """Yield the clusterings of rows; skip a row with a value that cannot be read."""
    for row in rows:
        with suppress(ValueError, TypeError, AttributeError):
            identity, model, created = (value.decode() for value in row)
            yield CompletionEntry(str(UUID(identity)), model, created[:16])


@contextmanager
def _open_sqlite(path: Path) -> Iterator[sqlite3.Connection]:
    # While a process has the file open, its -wal and -shm files exist. If they do not, opening the file would
    # create them, unless it is opened as immutable.
    in_use = all(path.with_name(path.name + suffix).exists() for suffix in ("-wal", "-shm"))
    uri = sqlite_uri(path, "ro", immutable=not in_use)
    with closing(sqlite3.connect(uri, uri=True, timeout=_LOCK_SECONDS)) as connection:
        yield connection


def _read_models(connection: sqlite3.Connection) -> Iterator[str]:
    name = b""
    while name is not None:
        (name,) = connection.execute(NEXT_MODEL, (name,)).fetchone()
        with suppress(UnicodeDecodeError):
            if name is not None:
                yield name.decode()


def _read_server_clusterings(target: str) -> list[CompletionEntry]:
    from panic_tda.storage.read.results import list_clusterings

    with _open_server(target).session() as session:
        return [
            CompletionEntry(str(summary.id), summary.embedding_model, f"{summary.created_at:%Y-%m-%d %H:%M}")
            for summary in list_clusterings(session)
        ]


def _read_server_models(target: str) -> list[str]:
    from panic_tda.storage.read import census

    with _open_server(target).reading() as connection:
        return census.list_models(connection)


def _open_server(target: str) -> Database:
    from sqlalchemy.engine import make_url

    from panic_tda.storage.database import open_database

    url = make_url(target).update_query_dict({"connect_timeout": str(_SERVER_SECONDS)})
    return open_database(url.render_as_string(hide_password=False))
