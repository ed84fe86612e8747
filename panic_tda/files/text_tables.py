"""Reading of CSV and NDJSON with a vector in a cell or list, as columns in batches of bounded size.

A vector in CSV is written `[1.0, 0.5]`, `1.0 0.5` or `1.0,0.5`, in brackets of any kind or none. The
separator is the tab, the comma or the semicolon, whichever the first line has.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, json

from panic_tda.errors import BadInput
from panic_tda.files.arrow_files import (
    CSV,
    MAX_VALUE_BYTES,
    NDJSON,
    ArrowFile,
    find_first_failing,
    translate_read_errors,
)
from panic_tda.files.casting import is_list
from panic_tda.storage.write.batches import refuse_row

BLOCK_BYTES = 1 << 22
"""Bytes that are read at a time, and largest size of a row of CSV. The reader is up to 32 blocks ahead."""
_SHOWN = 60
_VECTOR = pa.large_list(pa.float64())
_NUMBERS = ("sequence_number", "seed")
_MISSING_WHERE_EMPTY = ("vector", "network", "run", "run_id", "embedding_model", "output_type", *_NUMBERS)
"""Columns in which an empty cell is a missing value; elsewhere it is an empty text."""


def open_csv(path: Path, names: Mapping[str, str | None]) -> ArrowFile:
    """Open a CSV file, and read its header.

    Parameters
    ----------
    path : Path
        The file.
    names : mapping of str to str
        As for `ArrowFile.names`; the column that is read as `vector` contains vectors, and so on.

    Raises
    ------
    MissingPath
        There is no such file.
    BadInput
        It is damaged.
    """
    with translate_read_errors(path, CSV):
        delimiter = _detect_delimiter(path)
        header = _open_csv(path, delimiter, None).schema.names
    roles = _get_roles(header, names)
    types = {"vector": _VECTOR, **dict.fromkeys(_NUMBERS, pa.int64())}
    schema = pa.schema([(name, types.get(roles.get(name, ""), pa.large_string())) for name in header])
    read = partial(_read_csv, roles, delimiter)
    return ArrowFile(path, schema, None, read, format=CSV, names=names)


def open_ndjson(path: Path, names: Mapping[str, str | None]) -> ArrowFile:
    """Open a file with one JSON object per line; the first lines determine the columns. See `open_csv`."""
    with translate_read_errors(path, NDJSON):
        first = next(_read_blocks(path, 1 << 20), [])
        options = json.ReadOptions(use_threads=False, block_size=BLOCK_BYTES)
        inferred = _parse_lines(path, 0, first, lambda lines: _read_json(lines, None, options)).schema
    roles = _get_roles(inferred.names, names)
    schema = pa.schema(
        [(field.name, _get_json_type(field.type, roles.get(field.name))) for field in inferred]
    )
    return ArrowFile(path, schema, None, partial(_read_ndjson, schema), format=NDJSON, names=names)


def parse_vectors(cells: pa.Array) -> pa.Array:
    """Parse cells of numbers as lists of float64.

    Raises
    ------
    pyarrow.ArrowInvalid
        A cell contains something else.

    Examples
    --------
    >>> parse_vectors(pa.array(["[1, 2.5]", "1e3 -2", "[null, 1]", "[]", None])).to_pylist()
    [[1.0, 2.5], [1000.0, -2.0], [nan, 1.0], [], None]
    """
    inner = pc.replace_substring_regex(cells, r"^\s*[\[({]?\s*|\s*[\])}]?\s*$", "")
    # Of two successive commas one remains, so that the missing number between them is an error.
    spaced = pc.replace_substring_regex(inner, r"\s*[,;]\s*|\s+", " ")
    numbers = pc.replace_substring_regex(spaced, r"(?i)\b(null|none)\b", "nan")
    parts = pc.split_pattern(numbers, " ")
    return pc.if_else(pc.equal(numbers, ""), pa.scalar([], parts.type), parts).cast(_VECTOR)


def _get_roles(stored: list[str], names: Mapping[str, str | None]) -> dict[str, str]:
    """Return the name under which each column is read."""
    chosen = {own: name for name, own in names.items() if own is not None}
    return {name: chosen.get(name, name) for name in stored if name in chosen or name not in names}


def _detect_delimiter(path: Path) -> str:
    with path.open("rb") as file:
        header = file.readline(BLOCK_BYTES)
    return next((mark for mark in "\t,;" if mark.encode() in header), ",")


def _open_csv(path: Path, delimiter: str, columns: list[str] | None) -> csv.CSVStreamingReader:
    # As bytes, so that invalid texts and numbers are reported with their rows.
    types = dict.fromkeys(columns or (), pa.binary())
    return csv.open_csv(
        path,
        read_options=csv.ReadOptions(block_size=BLOCK_BYTES, use_threads=False),
        parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=csv.ConvertOptions(include_columns=columns, column_types=types),
    )


def _read_csv(
    roles: Mapping[str, str], delimiter: str, path: Path, columns: list[str], _batch_rows: int
) -> Iterator[pa.RecordBatch]:
    first = 0
    with _open_csv(path, delimiter, columns) as reader:
        for batch in reader:
            arrays = [
                _convert(path, first, batch.column(index), name, roles.get(name, ""))
                for index, name in enumerate(columns)
            ]
            yield pa.RecordBatch.from_arrays(arrays, names=columns)
            first += batch.num_rows


def _convert(path: Path, first: int, cells: pa.Array, name: str, role: str) -> pa.Array:
    texts = _convert_each(
        path, first, cells, lambda part: part.cast(pa.large_string()), f"{name} is not UTF-8"
    )
    if role in _MISSING_WHERE_EMPTY:
        texts = pc.if_else(pc.equal(pc.utf8_trim_whitespace(texts), ""), None, texts)
    if role == "vector":
        problem = f"{name} must be a list of numbers, such as [0.1, 0.2]"
        return _convert_each(path, first, texts, parse_vectors, problem)
    if role not in _NUMBERS:
        return texts
    try:
        return texts.cast(pa.int64())
    except pa.ArrowInvalid:
        # If rows lack a value, some programs write all numbers as floats, such as 3.0.
        problem = f"{name} must be a whole number"
        return _convert_each(path, first, texts, lambda part: part.cast(pa.float64()), problem)


def _convert_each(
    path: Path, first: int, cells: pa.Array, convert: Callable[[pa.Array], pa.Array], problem: str
) -> pa.Array:
    try:
        return convert(cells)
    except pa.ArrowInvalid:
        row = find_first_failing(len(cells), lambda n_rows: convert(cells.slice(0, n_rows))) or 0
        shown = repr(cells[row].as_py())
        shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"
        refuse_row(path, first + row, f"{problem}; got {shown}")


def _get_json_type(inferred: pa.DataType, role: str | None) -> pa.DataType:
    """Return the type of a JSON column, for which the first lines may not be representative."""
    if role == "vector" and (is_list(inferred) or pa.types.is_null(inferred)):
        return pa.list_(pa.float64())
    if role in _NUMBERS:
        return inferred if pa.types.is_floating(inferred) else pa.int64()
    if role == "network" and is_list(inferred):
        return pa.list_(pa.string())
    if role in ("run", "run_id") and pa.types.is_integer(inferred):
        return inferred
    # Arrow infers times from strings that look like times.
    is_text = pa.types.is_timestamp(inferred) or pa.types.is_null(inferred)
    return pa.string() if is_text else inferred


def _read_ndjson(
    schema: pa.Schema, path: Path, columns: list[str], _batch_rows: int
) -> Iterator[pa.RecordBatch]:
    wanted = pa.schema([schema.field(name) for name in columns])
    options = json.ReadOptions(use_threads=False, block_size=2 * BLOCK_BYTES)
    first = 0
    for lines in _read_blocks(path, BLOCK_BYTES):
        table = _parse_lines(path, first, lines, lambda part: _read_json(part, wanted, options))
        yield from table.select(columns).combine_chunks().to_batches()
        first += len(lines)


def _read_json(lines: list[bytes], schema: pa.Schema | None, options: json.ReadOptions) -> pa.Table:
    if not lines:
        return (schema or pa.schema([])).empty_table()
    options.block_size = max(options.block_size, 1 + sum(map(len, lines)))
    parsing = json.ParseOptions(
        explicit_schema=schema, unexpected_field_behavior="infer" if schema is None else "ignore"
    )
    return json.read_json(io.BytesIO(b"".join(lines)), read_options=options, parse_options=parsing)


def _parse_lines(
    path: Path, first: int, lines: list[bytes], parse: Callable[[list[bytes]], pa.Table]
) -> pa.Table:
    try:
        return parse(lines)
    except pa.ArrowInvalid as error:
        row = find_first_failing(len(lines), lambda n_lines: parse(lines[:n_lines])) or 0
        problem = str(error)
        try:
            parse([lines[row]])
        except pa.ArrowInvalid as own:
            problem = str(own)
        refuse_row(path, first + row, problem)


def _read_blocks(path: Path, n_bytes: int) -> Iterator[list[bytes]]:
    """Read the lines that are not blank, about `n_bytes` at a time."""
    lines: list[bytes] = []
    n_read = 0
    with path.open("rb") as file:
        while line := file.readline(MAX_VALUE_BYTES):
            if len(line) == MAX_VALUE_BYTES and not line.endswith(b"\n"):
                raise BadInput(f"{path} has a line of more than {MAX_VALUE_BYTES:,} bytes")
            if line.strip():
                lines.append(line)
                n_read += len(line)
            if n_read >= n_bytes:
                yield lines
                lines, n_read = [], 0
    if lines:
        yield lines
