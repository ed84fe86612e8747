"""Which clusterings and models a database has, for a shell that waits for the answer to a key.

An SQLite file is read by Python's own driver alone, without SQLAlchemy (0.1 s, not 0.5), and nothing is made
beside it. Whatever is wrong with a database, there is nothing in it: nobody has asked yet.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote
from uuid import UUID

from panic_tda.paths import expand_home

if TYPE_CHECKING:
    from panic_tda.storage.database import Database

_LOCK_SECONDS = 0.2
_SERVER_SECONDS = 2
# By this index or not at all: without it, every embedding would be read.
_NEXT_MODEL = (
    "SELECT min(embedding_model) FROM embedding INDEXED BY ix_embedding_model_length_invocation "
    "WHERE embedding_model > ?"
)
_CLUSTERINGS = (
    "SELECT id, embedding_model, created_at FROM clusteringresult ORDER BY created_at DESC, key DESC"
)


class Glance(NamedTuple):
    """A stored clustering."""

    id: str
    embedding_model: str
    created_at: str


def stored_clusterings(target: str) -> list[Glance]:
    """Return the clusterings of a database, the latest first; none where it cannot be read at once."""
    try:
        path = _sqlite_path(target)
        if path is None:
            return _clusterings_of_server(target)
        with _opened(path) as connection:
            # A text that is not UTF-8 is not to hide the others.
            connection.text_factory = bytes
            rows = connection.execute(_CLUSTERINGS).fetchall()
        return list(_readable(rows))
    except Exception:
        return []


def stored_models(target: str) -> list[str]:
    """Return the names of a database's embedding models; none where it cannot be read at once."""
    try:
        path = _sqlite_path(target)
        if path is None:
            return _models_of_server(target)
        with _opened(path) as connection:
            return list(_models(connection))
    except Exception:
        return []


def _readable(rows: list[tuple[bytes, ...]]) -> Iterator[Glance]:
    """Yield the clusterings of some rows, those left out of which a value cannot be read."""
    for row in rows:
        with suppress(ValueError, TypeError, AttributeError):
            identity, model, created = (value.decode() for value in row)
            yield Glance(str(UUID(identity)), model, created[:16])


def _sqlite_path(target: str) -> Path | None:
    if "://" not in target:
        return expand_home(target)
    kind, _, rest = target.partition(":///")
    return expand_home(rest.partition("?")[0]) if kind.partition("+")[0] == "sqlite" else None


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    # Where others have the file open, its log and the index of that are there. Where they are not, opening it
    # would make them, but for a file of which it is said that nobody writes it.
    in_use = all(path.with_name(path.name + suffix).exists() for suffix in ("-wal", "-shm"))
    uri = f"file:{quote(str(path))}?mode=ro{'' if in_use else '&immutable=1'}"
    with closing(sqlite3.connect(uri, uri=True, timeout=_LOCK_SECONDS)) as connection:
        yield connection


def _models(connection: sqlite3.Connection) -> Iterator[str]:
    name = ""
    while name is not None:
        (name,) = connection.execute(_NEXT_MODEL, (name,)).fetchone()
        if name is not None:
            yield name


def _clusterings_of_server(target: str) -> list[Glance]:
    from panic_tda.storage.read.results import list_clusterings

    with _server(target).session() as session:
        return [
            Glance(str(found.id), found.embedding_model, f"{found.created_at:%Y-%m-%d %H:%M}")
            for found in list_clusterings(session)
        ]


def _models_of_server(target: str) -> list[str]:
    from panic_tda.storage.read import census

    with _server(target).reading() as connection:
        return census.stored_models(connection)


def _server(target: str) -> Database:
    from sqlalchemy.engine import make_url

    from panic_tda.storage.database import open_database

    url = make_url(target).update_query_dict({"connect_timeout": str(_SERVER_SECONDS)})
    return open_database(url.render_as_string(hide_password=False))
