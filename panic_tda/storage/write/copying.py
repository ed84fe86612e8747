"""Database to database: every row of one, SQLite or PostgreSQL, streamed into a new one and compared with it.

A copy begins with our tables, empty, and a table `panic_tda_copy` that says of each table how far it is. Each
batch of rows is one transaction together with that note, so that a copy that was killed goes on where it was
and no row comes twice. The source is read in one transaction: what others write meanwhile is not in the copy.

At the end both databases are read once more and every table is compared by its number of rows and its
*checksum*: of each row, the BLAKE2b hash (128 bits) of the UTF-8 bytes of a JSON array of its values in the
order of `schemas`, where the bytes of a vector, a diagram or a tree count with their number and follow behind
the array, and those of an image count with their number alone; the hashes are added modulo 2**128. A sum
does not ask for an order, so that each side is read in its own, which is the fast one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from panic_tda.errors import DatabaseError, NeedsUpgrade
from panic_tda.parameters import format_bytes
from panic_tda.progress import Progress, Silent
from panic_tda.storage.bulk import insert_into, stream_rows
from panic_tda.storage.cells import find_damaged
from panic_tda.storage.database import (
    COPY_TABLE,
    Database,
    lock_for_saving,
    open_database,
    schema_version,
)
from panic_tda.storage.write import copied_tables
from panic_tda.storage.write.copied_tables import CopiedTable
from panic_tda.wording import pluralize

BATCH_BYTES = 64 << 20
"""So many bytes of rows are one transaction; they are passed on row by row, not held."""
_FETCH_BYTES = 16 << 20
_DIGEST_BYTES = 16
_MODULUS = 1 << 8 * _DIGEST_BYTES
_OTHER = (
    "if the source has lost or changed rows since the copy was begun, remove the copy, and begin again with "
    "panic-tda copy-database"
)

_log = logging.getLogger(__name__)
_copy = sa.Table(
    COPY_TABLE,
    sa.MetaData(),
    sa.Column("table_name", sa.String, primary_key=True),
    sa.Column("source", sa.String, nullable=False),
    sa.Column("position", sa.String, nullable=False),
    sa.Column("n_rows", sa.BigInteger, nullable=False),
)


@dataclass(frozen=True)
class TableSummary:
    """What both databases hold of one table: how many rows, and their checksum as hexadecimal digits."""

    table: str
    rows: int
    checksum: str


@dataclass(frozen=True)
class CopySummary:
    """What a copy has brought.

    Attributes
    ----------
    source, destination : str
        Paths, or URLs without password.
    tables : tuple of TableSummary
        As both hold them.
    left_out : tuple of str
        Tables, and columns as `table.column`, that no layout known to us has, and the old clustering tables.
    n_before : int
        Rows that an earlier run had brought before it was stopped.
    """

    source: str
    destination: str
    tables: tuple[TableSummary, ...]
    left_out: tuple[str, ...]
    n_before: int


def copy_database(
    source: Database | str | Path, target: Database | str | Path, *, progress: Progress | None = None
) -> CopySummary:
    """Copy all rows of a database into a new one, or go on with a copy that was stopped, and compare the two.

    Parameters
    ----------
    source : Database, str or Path
        A database of the generation pipeline, upgraded or not.
    target : Database, str or Path
        An SQLite file that is not there, a database of a PostgreSQL server without tables, or a copy of the
        same source: one that is unfinished goes on, a complete one is compared.
    progress : Progress, optional
        Told the rows of each table.

    Raises
    ------
    DatabaseError
        The target holds something else, a value has no place in it, or the two differ in the end.
    WrongUsage
        The target is the source, or lies where something belongs to a database.
    """
    progress = progress or Silent()
    source = open_database(source)
    # Older tables, or none of ours, are copied too: what they have has its columns in ours.
    with contextlib.suppress(NeedsUpgrade):
        source.require_current()
    target = open_database(target, create=True, tables=False, source=source)
    with source.reading() as reader:
        tables, left_out = copied_tables.find(
            reader, clusterings=schema_version(reader) is not None, exact=bool(source.path and target.path)
        )
        if left_out:
            _log.warning("not copied: %s", ", ".join(left_out))
        if (whole := _whole(reader, target, tables, progress)) is not None:
            _log.info("%s was copied before: nothing is left to do", target)
            return CopySummary(str(source), str(target), whole, tuple(left_out), sum(t.rows for t in whole))
        states = _states(source, target) or _begin(source, target, reader, tables)
        n_before = sum(n_rows for _, n_rows in states.values())
        try:
            if set(states) != {table.name for table in tables}:
                raise DatabaseError(f"{source} has other tables than when the copy was begun")
            for table in tables:
                _Copying(target, table, progress).run(reader, *states[table.name])
            with target.reading() as copied:
                compared = tuple(_compare(reader, copied, table, progress) for table in tables)
        except DatabaseError as error:
            _require_unfinished(target)
            # What was begun anew has an error of its own.
            raise DatabaseError(f"{error}; {_OTHER}" if n_before else str(error)) from error
    progress.phase("")
    _finish(target)
    return CopySummary(str(source), str(target), compared, tuple(left_out), n_before)


def _whole(
    reader: Connection, target: Database, tables: list[CopiedTable], progress: Progress
) -> tuple[TableSummary, ...] | None:
    """Compare with a copy that is complete; None where there is none yet, or only a part of one.

    A copy that was killed after its last step is one, and who asks for it again is told so.
    """
    with target.reading() as copied:
        present = set(sa.inspect(copied).get_table_names())
        if not present or COPY_TABLE in present:
            return None
        if all(table.name in present and _count(copied, table) == _count(reader, table) for table in tables):
            with contextlib.suppress(DatabaseError):
                return tuple(_compare(reader, copied, table, progress) for table in tables)
        raise DatabaseError(
            f"{target} holds something else already (table {min(present)} and others); a copy goes into a "
            "database without tables, or goes on in an unfinished copy"
        )


def _count(connection: Connection, table: CopiedTable) -> int:
    counted = sa.select(sa.func.count()).select_from(sa.table(table.name))
    return int(connection.execute(counted).scalar_one())


def _states(source: Database, target: Database) -> dict[str, tuple[list[Any], int]]:
    """Return how far a copy that was stopped is, last position and rows by table; empty where none is."""
    with target.reading() as connection:
        present = sa.inspect(connection).get_table_names()
        if not present:
            return {}
        rows = connection.execute(sa.select(_copy)).all()
    if origins := sorted({row.source for row in rows} - {str(source)}):
        raise DatabaseError(f"{target} is an unfinished copy of {origins[0]}, not of {source}")
    return {row.table_name: (json.loads(row.position), row.n_rows) for row in rows}


def _begin(
    source: Database, target: Database, reader: Connection, tables: list[CopiedTable]
) -> dict[str, tuple[list[Any], int]]:
    with target.writing(foreign_keys=False) as connection:
        lock_for_saving(connection)
        if sa.inspect(connection).get_table_names():
            raise DatabaseError(f"another process copies into {target}; wait for it, then run this again")
        copied_tables.create(connection, like=reader, tables=tables)
        _copy.create(connection)
        first = {"source": str(source), "position": "[]", "n_rows": 0}
        connection.execute(sa.insert(_copy), [first | {"table_name": table.name} for table in tables])
    return {table.name: ([], 0) for table in tables}


class _Copying:
    """The rows of one table on their way."""

    def __init__(self, target: Database, table: CopiedTable, progress: Progress) -> None:
        self._target, self._table, self._progress = target, table, progress
        self._position: list[Any] = []
        self._n_rows = self._n_bytes = 0
        self._n_keys = 0

    def run(self, reader: Connection, position: list[Any], n_rows: int) -> None:
        """Bring what lies behind a position; `n_rows` are there already."""
        self._position, self._n_rows, self._reader = position, n_rows, reader
        table, began = self._table, time.monotonic()
        self._progress.phase(f"copy {table.name}", total=_count(reader, table))
        self._progress.advance(n_rows)
        self._n_keys = len(table.place(reader))
        n_bytes = 0
        batches = stream_rows(
            reader, table.behind(reader, position), batch_rows=table.fetch_rows, batch_bytes=_FETCH_BYTES
        )
        with contextlib.closing(batches):
            rows = self._counted(batches)
            for first in rows:
                self._n_bytes = 0
                self._bring(chain([first], rows))
                n_bytes += self._n_bytes
        seconds, n_new = max(1e-9, time.monotonic() - began), self._n_rows - n_rows
        _log.info(
            "%s: %d rows, %s in %.1f s (%.0f rows/s, %s/s)",
            *(table.name, n_new, format_bytes(n_bytes), seconds, n_new / seconds),
            format_bytes(int(n_bytes / seconds)),
        )

    def _bring(self, rows: Iterator[tuple[Any, ...]]) -> None:
        """Write the next rows, and how far that is, in one transaction."""
        table, before = self._table, self._n_rows
        position = self._position
        try:
            self._write(rows, before)
        except DatabaseError as error:
            # A server refuses what SQLite stores, and names the line of a batch, not the row.
            if error.__cause__ is None or self._target.path:
                raise
            damaged = find_damaged(self._reader, table.behind(self._reader, position))
            raise damaged or error from error

    def _write(self, rows: Iterator[tuple[Any, ...]], before: int) -> None:
        table = self._table
        this = _copy.c.table_name == table.name
        with self._target.writing(foreign_keys=False) as connection:
            noted = connection.execute(sa.select(_copy.c.n_rows).where(this).with_for_update()).scalar()
            if noted != before:
                raise DatabaseError(
                    f"another process copies into {self._target}; wait for it, then run this again"
                )
            insert_into(connection, table.name, table.columns, self._batch(rows))
            note = {"position": json.dumps(self._position), "n_rows": self._n_rows}
            connection.execute(sa.update(_copy).where(this).values(note))

    def _batch(self, rows: Iterator[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
        n_keys, check = self._n_keys, self._table.check(strict=self._target.path is None)
        for row in rows:
            values = row[n_keys:]
            check(values)
            self._n_bytes += sum(len(value) if isinstance(value, (bytes, str)) else 8 for value in values)
            self._position = list(row[:n_keys])
            if not all(isinstance(key, (int, str)) for key in self._position):
                raise DatabaseError(
                    f"{self._table.name} has a row whose key is neither a number nor a text: "
                    f"{self._position!r:.80}; delete the row and run it again"
                )
            self._n_rows += 1
            yield values
            if self._n_bytes >= BATCH_BYTES:
                return

    def _counted(self, batches: Iterable[list[tuple[Any, ...]]]) -> Iterator[tuple[Any, ...]]:
        for batch in batches:
            yield from batch
            self._progress.advance(len(batch))


def _compare(reader: Connection, copy: Connection, table: CopiedTable, progress: Progress) -> TableSummary:
    found, copied = (checksum(connection, table, progress) for connection in (reader, copy))
    if found != copied:
        raise DatabaseError(
            f"the copy differs from its source in table {table.name}: {copied.rows} "
            f"{pluralize(copied.rows, 'row')} with checksum "
            f"{copied.checksum}, not {found.rows} with {found.checksum}"
        )
    return found


def checksum(connection: Connection, table: CopiedTable, progress: Progress | None = None) -> TableSummary:
    """Count the rows of a table and sum their hashes, as the head of this file says."""
    progress = progress or Silent()
    progress.phase(f"check {table.name}", total=_count(connection, table))
    encode = json.JSONEncoder(separators=(",", ":"), default=_plain).encode
    n_rows = total = 0
    batches = stream_rows(
        connection, table.summed(connection), batch_rows=table.fetch_rows, batch_bytes=_FETCH_BYTES
    )
    with contextlib.closing(batches):
        for batch in batches:
            total += sum(_hashes(batch, table.n_blobs, encode))
            n_rows += len(batch)
            progress.advance(len(batch))
    return TableSummary(table.name, n_rows, f"{total % _MODULUS:0{2 * _DIGEST_BYTES}x}")


def _hashes(rows: list[tuple[Any, ...]], n_blobs: int, encode: Callable[[list[Any]], str]) -> Iterator[int]:
    for row in rows:
        values = list(row)
        blobs = values[len(values) - n_blobs :]
        # SQLite stores other values in columns of bytes, too.
        values[len(values) - n_blobs :] = [len(blob) if isinstance(blob, bytes) else blob for blob in blobs]
        digest = blake2b(encode(values).encode(), digest_size=_DIGEST_BYTES)
        for blob in blobs:
            digest.update(blob if isinstance(blob, bytes) else b"")
        yield int.from_bytes(digest.digest(), "big")


def _plain(value: Any) -> Any:
    """Return what stands in JSON for bytes, which SQLite stores in columns of any type."""
    if not isinstance(value, bytes):
        raise TypeError(f"{type(value).__name__} is not stored by a database")
    return {"bytes": value.hex()}


def _require_unfinished(target: Database) -> None:
    """Check that no other process has completed the copy meanwhile."""
    with target.reading() as connection:
        if sa.inspect(connection).has_table(COPY_TABLE):
            return
    raise DatabaseError(f"another process has completed the copy {target}; run this again to compare it")


def _finish(target: Database) -> None:
    with target.writing(foreign_keys=False) as connection:
        lock_for_saving(connection)
        if not sa.inspect(connection).has_table(COPY_TABLE):
            return  # Another process has done it.
        copied_tables.constrain(connection)
        _copy.drop(connection)
