"""Reading of Parquet files, Arrow files (Feather) and Arrow streams: schemas, and columns in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from panic_tda.arrays.rows import slices
from panic_tda.disk import require_regular_file
from panic_tda.errors import BadInput, MissingPath
from panic_tda.files import formats
from panic_tda.files.casting import (
    BATCH_VALUES,
    MAX_VALUES,
    get_plain_type,
    to_plain,
    widest,
    with_plain_dictionary,
)
from panic_tda.storage.write.batches import refuse_row

MAX_VALUE_BYTES = 1 << 28
"""Largest size of a text or an image in a row."""
PARQUET_OR_ARROW, CSV, NDJSON, NUMPY = "Parquet or Arrow", "CSV", "NDJSON", "NumPy"
"""Names of formats in messages."""


@dataclass(frozen=True)
class ArrowFile:
    """A file of a known format, whose rows are read as Arrow batches; every reading opens it again.

    Attributes
    ----------
    path : Path
        The file.
    schema : pyarrow.Schema
        Its columns, with the types that `casting.get_plain_type` returns for theirs.
    n_rows : int or None
        Number of rows; None if it is unknown before reading the file.
    format : str
        Name of the format in messages.
    names : mapping of str to str
        The name of a column in the file, by the name under which it is read; None if that name is not read.
        Other columns are read under their own names.
    """

    path: Path
    schema: pa.Schema
    n_rows: int | None
    _read: Callable[[Path, list[str], int], Iterator[pa.RecordBatch]]
    format: str = PARQUET_OR_ARROW
    names: Mapping[str, str | None] = field(default_factory=dict)

    def stored_name(self, name: str) -> str | None:
        """Return the name in the file of the column that is read under a name, or None if there is none."""
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
        with translate_read_errors(self.path, self.format):
            n_rows = 0
            for batch in self._read(self.path, stored, batch_rows):
                _require_valid(batch, self.path, n_rows)
                arrays = [with_plain_dictionary(batch.column(name)) for name in stored]
                for rows in _divide_rows(arrays, stored, batch_rows):
                    plain = [to_plain(array[rows]) for array in arrays]
                    yield pa.RecordBatch.from_arrays(plain, names=columns)
                n_rows += batch.num_rows


def _divide_rows(arrays: list[pa.Array], names: list[str], batch_rows: int) -> Iterator[slice]:
    """Divide the rows of a batch, because the single batch of an Arrow file may be very large."""
    most = 1
    for array, name in zip(arrays, names, strict=True):
        n_values = widest(array)
        if n_values > MAX_VALUES:
            raise pa.ArrowInvalid(
                f"column {name} claims {n_values:,} values in a row; at most {MAX_VALUES:,} are read"
            )
        most = max(most, n_values)
    return slices(len(arrays[0]), min(batch_rows, BATCH_VALUES // most))


def open_arrow_file(path: Path) -> ArrowFile:
    """Recognise a file of Parquet or Arrow by its first bytes, and read its schema.

    Raises
    ------
    MissingPath
        There is no such file.
    BadInput
        It has another format, which the message names, or is damaged.
    """
    require_regular_file(path)
    with translate_read_errors(path):
        form = formats.recognise(path)
        if form is formats.PARQUET:
            with pq.ParquetFile(path) as parquet:
                return ArrowFile(
                    path, _convert_schema(parquet.schema_arrow), parquet.metadata.num_rows, _read_parquet
                )
        if form is formats.ARROW_FILE:
            with pa.memory_map(str(path)) as source:
                return ArrowFile(path, _convert_schema(pa.ipc.open_file(source).schema), None, _read_file)
        if form is formats.ARROW_STREAM or _is_old_stream(path, form):
            with pa.memory_map(str(path)) as source:
                return ArrowFile(path, _convert_schema(pa.ipc.open_stream(source).schema), None, _read_stream)
    raise BadInput(f"{path} is {form.name}; {form.advice}")


def _is_old_stream(path: Path, form: formats.Format) -> bool:
    """Return whether a file is a stream of Arrow before version 0.15, which begins without a mark."""
    if form is not formats.UNKNOWN:
        return False
    try:
        with pa.memory_map(str(path)) as source:
            _ = pa.ipc.open_stream(source).schema
    except (pa.ArrowException, OSError, RuntimeError):
        return False
    return True


def _convert_schema(schema: pa.Schema) -> pa.Schema:
    # Arrow decodes names at their first use; invalid names raise an error here.
    return pa.schema([(column.name, get_plain_type(column.type)) for column in schema])


def find_first_failing(n_rows: int, check: Callable[[int], object]) -> int | None:
    """Find the first row with which `check` fails, by bisection.

    Parameters
    ----------
    n_rows : int
        A number of rows for which `check` raises `pyarrow.ArrowInvalid`.
    check : callable
        Called with a number of rows; checks so many first rows.

    Returns
    -------
    int or None
        Index of the row from 0; None if `check` fails even without rows.
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
    # Arrow does not check offsets and indices when it reads values: wrong ones crash the process.
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            row = find_first_failing(len(column), partial(_validate_rows, column))
            if row is None:
                raise BadInput(f"{path}: column {name} is damaged: {error}; nothing was imported") from error
            refuse_row(path, first + row, f"{name} is damaged: {error}")


def _validate_rows(column: pa.Array, n_rows: int) -> None:
    column.slice(0, n_rows).validate(full=True)


@contextmanager
def translate_read_errors(path: Path, form: str = PARQUET_OR_ARROW) -> Iterator[None]:
    """Turn errors in reading a file into errors of this package that name the file and its format."""
    try:
        yield
    except FileNotFoundError as error:
        raise MissingPath(f"no file {path}") from error
    except IsADirectoryError as error:
        raise MissingPath(f"{path} is a folder; name the files in it") from error
    except (pa.ArrowException, UnicodeError, OSError, RuntimeError) as error:
        # Exceptions of C++ in Arrow become RuntimeError.
        raise BadInput(f"{path} cannot be read as {form}: {error}") from error


def _read_parquet(path: Path, columns: list[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
    # With the default settings, the reader keeps all row groups in memory until the end.
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as parquet:
        n_values = _check_sizes(parquet, path, columns)
        yield from parquet.iter_batches(min(batch_rows, BATCH_VALUES // n_values), columns=columns)


def _check_sizes(parquet: pq.ParquetFile, path: Path, columns: list[str]) -> int:
    """Return the largest average number of values per row of a column in a row group, from the metadata.

    In compressed columns a few bytes can represent any number of equal values, and the reader allocates all
    values of a batch.

    Raises
    ------
    BadInput
        The number of values is larger than that of any vector, or the number of bytes than that of any text.
    """
    metadata = parquet.metadata
    paths = [metadata.schema.column(at).path for at in range(metadata.num_columns)]
    # Names of columns may contain dots, and paths to the values of lists do.
    wanted = {
        at: name for at, path in enumerate(paths) for name in columns if f"{path}.".startswith(f"{name}.")
    }
    widest = 1
    for number in range(parquet.num_row_groups):
        # Reading the size of a damaged column from the metadata crashes the process. Reading zero rows of it
        # raises an error instead.
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
        # Other columns are not decompressed.
        fields = sorted(pa.ipc.open_file(source).schema.get_field_index(name) for name in columns)
        reader = pa.ipc.open_file(source, options=pa.ipc.IpcReadOptions(included_fields=fields))
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)


def _read_stream(path: Path, columns: list[str], _batch_rows: int) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(str(path)) as source:
        for batch in pa.ipc.open_stream(source):
            yield batch.select(columns)
