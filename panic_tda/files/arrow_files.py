"""Parquet files, Arrow files (Feather) and Arrow streams: their schemas, and their columns by batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from panic_tda.disk import require_regular_file
from panic_tda.errors import BadInput, MissingPath
from panic_tda.files import formats
from panic_tda.files.casting import (
    BATCH_VALUES,
    MAX_VALUES,
    plain_type,
    to_plain,
    widest,
    with_plain_dictionary,
)
from panic_tda.storage.write.batches import refuse_row

MAX_VALUE_BYTES = 1 << 28
"""Of a text or an image in a row."""
PARQUET_OR_ARROW, CSV, NDJSON, NUMPY = "Parquet or Arrow", "CSV", "NDJSON", "NumPy"
"""Formats, as messages call them."""


@dataclass(frozen=True)
class ArrowFile:
    """A file of a known format, whose rows are read as Arrow batches. It is opened anew for each reading.

    Attributes
    ----------
    path : Path
        Whatever its name ends in: the format is told by its first bytes.
    schema : pyarrow.Schema
        Its columns, of the types that `casting.plain_type` makes of theirs.
    n_rows : int or None
        None where only reading it all would tell.
    format : str
        As messages call it.
    names : mapping of str to str
        What the file calls a column, by the name under which it is read; None where that name is not read.
        Columns that are not in it are read under their own names.
    """

    path: Path
    schema: pa.Schema
    n_rows: int | None
    _read: Callable[[Path, list[str], int], Iterator[pa.RecordBatch]]
    format: str = PARQUET_OR_ARROW
    names: Mapping[str, str | None] = field(default_factory=dict)

    def with_names(self, names: Mapping[str, str | None]) -> ArrowFile:
        """Return the same file with other names for its columns."""
        return replace(self, names=names)

    def stored_name(self, name: str) -> str | None:
        """Return what the file calls the column that is read under a name; None where it has none."""
        stored = self.names.get(name, name)
        return stored if stored in self.schema.names else None

    def batches(self, columns: list[str], *, batch_rows: int) -> Iterator[pa.RecordBatch]:
        """Read the named columns in the order of the file, at most `batch_rows` rows at a time.

        Raises
        ------
        BadInput
            The file is damaged.
        """
        stored = [self.names.get(name, name) or name for name in columns]
        with readable(self.path, self.format):
            n_rows = 0
            for batch in self._read(self.path, stored, batch_rows):
                _require_valid(batch, self.path, n_rows)
                arrays = [with_plain_dictionary(batch.column(name)) for name in stored]
                for start, stop in _parts(arrays, stored, batch_rows):
                    plain = [to_plain(array.slice(start, stop - start)) for array in arrays]
                    yield pa.RecordBatch.from_arrays(plain, names=columns)
                n_rows += batch.num_rows


def _parts(arrays: list[pa.Array], names: list[str], batch_rows: int) -> Iterator[tuple[int, int]]:
    """Divide the rows of a batch; the one batch of an Arrow file may be the whole file."""
    most = 1
    for array, name in zip(arrays, names, strict=True):
        n_values = widest(array)
        if n_values > MAX_VALUES:
            raise pa.ArrowInvalid(
                f"column {name} claims {n_values:,} values in a row; at most {MAX_VALUES:,} are read"
            )
        most = max(most, n_values)
    step, n_rows = min(batch_rows, BATCH_VALUES // most), len(arrays[0])
    return ((start, min(start + step, n_rows)) for start in range(0, n_rows, step))


def open_arrow_file(path: Path) -> ArrowFile:
    """Recognise a file of Parquet or Arrow by its first bytes, and read its schema.

    Raises
    ------
    MissingPath
        There is no such file.
    BadInput
        It is of another format, which the message names, or damaged.
    """
    require_regular_file(path)
    with readable(path):
        form = formats.recognise(path)
        if form is formats.PARQUET:
            with pq.ParquetFile(path) as parquet:
                return ArrowFile(
                    path, _plain_schema(parquet.schema_arrow), parquet.metadata.num_rows, _read_parquet
                )
        if form is formats.ARROW_FILE:
            with pa.memory_map(str(path)) as source:
                return ArrowFile(path, _plain_schema(pa.ipc.open_file(source).schema), None, _read_file)
        if form is formats.ARROW_STREAM or _is_old_stream(path, form):
            with pa.memory_map(str(path)) as source:
                return ArrowFile(path, _plain_schema(pa.ipc.open_stream(source).schema), None, _read_stream)
    raise BadInput(f"{path} is {form.name}; {form.advice}")


def _is_old_stream(path: Path, form: formats.Format) -> bool:
    """Tell streams as Arrow wrote them before version 0.15, which begin with no mark."""
    if form is not formats.UNKNOWN:
        return False
    try:
        with pa.memory_map(str(path)) as source:
            _ = pa.ipc.open_stream(source).schema
    except (pa.ArrowException, OSError, RuntimeError):
        return False
    return True


def _plain_schema(schema: pa.Schema) -> pa.Schema:
    # Names are decoded when they are asked for, and fail only then.
    return pa.schema([(column.name, plain_type(column.type)) for column in schema])


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
def readable(path: Path, form: str = PARQUET_OR_ARROW) -> Iterator[None]:
    """Turn what goes wrong with a file's bytes into errors that name the file and its format."""
    try:
        yield
    except FileNotFoundError as error:
        raise MissingPath(f"no file {path}") from error
    except IsADirectoryError as error:
        raise MissingPath(f"{path} is a folder; name the files in it") from error
    except (pa.ArrowException, UnicodeError, OSError, RuntimeError) as error:
        # RuntimeError is what is left of an exception of Arrow's own language.
        raise BadInput(f"{path} cannot be read as {form}: {error}") from error


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
    # The name of a column may hold dots, as paths to the values of lists do.
    wanted = {
        at: name for at, path in enumerate(paths) for name in columns if f"{path}.".startswith(f"{name}.")
    }
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
