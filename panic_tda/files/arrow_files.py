"""Parquet files, Arrow files (Feather) and Arrow streams: their schemas, and their columns by batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from panic_tda.disk import require_regular_file
from panic_tda.errors import BadInput, MissingPath
from panic_tda.storage.batches import refuse_row

MAX_VALUES, MAX_VALUE_BYTES = 65_536, 1 << 28
"""Of a row in a column: dimensions of a vector, and bytes of a text or an image."""
BATCH_VALUES = 1 << 27
"""In a column of a batch: wide vectors come by fewer rows."""


@dataclass(frozen=True)
class ArrowFile:
    """A file that is there and of a known format. It is opened anew for each reading.

    Attributes
    ----------
    path : Path
        Whatever its name ends in: the format is told by its first bytes.
    schema : pyarrow.Schema
        Its columns.
    n_rows : int or None
        None where only reading it all would tell.
    """

    path: Path
    schema: pa.Schema
    n_rows: int | None
    _read: Callable[[Path, list[str], int], Iterator[pa.RecordBatch]]

    def batches(self, columns: list[str], *, batch_rows: int) -> Iterator[pa.RecordBatch]:
        """Read the named columns in the order of the file, at most `batch_rows` rows at a time.

        Raises
        ------
        BadInput
            The file is damaged.
        """
        with readable(self.path):
            n_rows = 0
            for batch in self._read(self.path, columns, batch_rows):
                _require_valid(batch, self.path, n_rows)
                n_rows += batch.num_rows
                # The one batch of an Arrow file may be the whole file.
                for start in range(0, batch.num_rows, batch_rows):
                    yield batch.slice(start, batch_rows)


def open_arrow_file(path: Path) -> ArrowFile:
    """Recognise a file by its first bytes, and read its schema.

    Raises
    ------
    MissingPath
        There is no such file.
    BadInput
        It is of another format, or damaged.
    """
    require_regular_file(path)
    with readable(path):
        with path.open("rb") as file:
            magic = file.read(6)
        if magic.startswith(b"PAR1"):
            with pq.ParquetFile(path) as parquet:
                return ArrowFile(path, _named(parquet.schema_arrow), parquet.metadata.num_rows, _read_parquet)
        if magic == b"ARROW1":
            with pa.memory_map(str(path)) as source:
                return ArrowFile(path, _named(pa.ipc.open_file(source).schema), None, _read_file)
        with pa.memory_map(str(path)) as source:
            return ArrowFile(path, _named(pa.ipc.open_stream(source).schema), None, _read_stream)


def _named(schema: pa.Schema) -> pa.Schema:
    # Names are decoded when they are asked for, and fail only then.
    _ = schema.names
    return schema


def first_failing(n_rows: int, check: Callable[[int], object]) -> int | None:
    """Find the row without which what `check` does to the first rows, so many of them, does not fail.

    Parameters
    ----------
    n_rows : int
        With so many rows `check` raises `pyarrow.ArrowInvalid`.
    check : callable
        Takes a number of rows.

    Returns
    -------
    int or None
        Counted from 0; None where it fails without any row.
    """
    passing, failing = -1, n_rows
    while failing - passing > 1:
        middle = (passing + failing) // 2
        try:
            check(middle)
            passing = middle
        except pa.ArrowInvalid:
            failing = middle
    return failing - 1 if failing else None


def _require_valid(batch: pa.RecordBatch, path: Path, first: int) -> None:
    # What reads a batch believes its offsets and indices: wrong ones end the process.
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            row = first_failing(len(column), partial(_validate_rows, column))
            if row is None:
                raise BadInput(f"{path}: column {name} is damaged: {error}; nothing was imported") from error
            refuse_row(path, first + row, f"{name} is damaged: {error}")


def _validate_rows(column: pa.Array, n_rows: int) -> None:
    column.slice(0, n_rows).validate(full=True)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what goes wrong with a file's bytes into errors that name the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise MissingPath(f"no file {path}") from error
    except IsADirectoryError as error:
        raise MissingPath(f"{path} is a folder; name the files in it") from error
    except (pa.ArrowException, UnicodeError, OSError, RuntimeError) as error:
        # RuntimeError is what is left of an exception of Arrow's own language.
        raise BadInput(f"{path} cannot be read as Parquet or Arrow: {error}") from error


def _read_parquet(path: Path, columns: list[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
    # With its default settings the reader keeps every row group that it has read until the end.
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as parquet:
        widest = _widest(parquet, path, columns)
        yield from parquet.iter_batches(min(batch_rows, BATCH_VALUES // widest), columns=columns)


def _widest(parquet: pq.ParquetFile, path: Path, columns: list[str]) -> int:
    """Return the most values a row has on average in a column of a row group, before any of them is read.

    A few bytes can stand for any number of equal values, and the reader makes all of a batch.

    Raises
    ------
    BadInput
        They are more than any vector has, or bytes than any text.
    """
    metadata = parquet.metadata
    paths = [metadata.schema.column(at).path for at in range(metadata.num_columns)]
    wanted = {at: path.split(".")[0] for at, path in enumerate(paths) if path.split(".")[0] in columns}
    widest = 1
    for number in range(parquet.num_row_groups):
        # What says how long a damaged column is ends the process; readers of it, of no row, only refuse.
        next(parquet.reader.iter_batches(0, row_groups=[number], column_indices=list(wanted)), None)
        group = metadata.row_group(number)
        for at, name in wanted.items():
            column = group.column(at)
            width = -(-column.num_values // max(1, group.num_rows))
            n_bytes = column.total_uncompressed_size // max(1, column.num_values)
            for claimed, allowed, what in (
                (width, MAX_VALUES, "values"),
                (n_bytes, MAX_VALUE_BYTES, "bytes a value"),
            ):
                if claimed > allowed:
                    raise BadInput(
                        f"{path}: column {name} claims {claimed:,} {what} in a row on average; at most "
                        f"{allowed:,} are read"
                    )
            widest = max(widest, width)
    return widest


def _read_file(path: Path, columns: list[str], _batch_rows: int) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(str(path)) as source:
        # Columns that are not wanted are not even decompressed.
        fields = sorted(pa.ipc.open_file(source).schema.get_field_index(name) for name in columns)
        reader = pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(included_fields=fields))
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)


def _read_stream(path: Path, columns: list[str], _batch_rows: int) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(str(path)) as source:
        for batch in pa.ipc.open_stream(source):
            yield batch.select(columns)
