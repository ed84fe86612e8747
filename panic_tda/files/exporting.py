"""Rows into files: Parquet, Arrow, CSV and NDJSON, by the end of the name, whole or not at all.

Rows are written while they come, in groups of some ten thousand. What is unfinished has another name; a file
of the name that was asked for is complete, and one that was there before stays until then.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import csv, ipc

from panic_tda.errors import WrongUsage
from panic_tda.files.replacing import replacing, require_place
from panic_tda.paths import expand_home
from panic_tda.progress import Progress, Silent
from panic_tda.storage.database import Database
from panic_tda.storage.read.exports import RowStream, open_rows
from panic_tda.storage.read.results import ClusteringSummary

GROUP_ROWS = 100_000
GROUP_BYTES = 32 << 20
"""Rows are written in groups of at most so many, and about so many bytes."""
_COMPRESSION = "zstd"
_RUN_BY_SPREADSHEETS = r"^'*([\t\r\n]|\s*[=+\-@＝＋－＠])"
"""Texts that a spreadsheet would run, or that look like one that was kept from it
(https://owasp.org/www-community/attacks/CSV_Injection)."""

Groups = Iterator[pa.RecordBatch]


@dataclass(frozen=True)
class Written:
    """A file that was written.

    Attributes
    ----------
    file : Path
        As it was named.
    rows, bytes : int
        In it.
    """

    file: Path
    rows: int
    bytes: int


def export_clustering(
    database: Database,
    clustering: ClusteringSummary,
    file: str | Path,
    *,
    with_vectors: bool = False,
    beside: pa.RecordBatch | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Written:
    """Write a clustering into a file, one row an embedding (see `open_rows`).

    Parameters
    ----------
    database : Database
        Read in one transaction, which lasts as long as the export.
    clustering : ClusteringSummary
        One that is stored.
    file : str or Path
        Its end says the format, see `FORMATS`.
    with_vectors : bool
        Whether there is a column of vectors; `import_embeddings` takes such a file.
    beside : pyarrow.RecordBatch, optional
        Further columns, as for `open_rows`; such as `layout.columns_of` gives.
    force : bool
        Replace a file that exists.
    progress : Progress, optional
        Told the rows written.

    Raises
    ------
    WrongUsage, MissingPath, CannotWrite
        As `write_rows`.
    DatabaseError
        As `open_rows`.
    """
    path = expand_home(file)
    require_target(path, force=force, with_lists=with_vectors, source=database.path)
    with open_rows(database, clustering, with_vectors=with_vectors, beside=beside) as rows:
        return write_rows(path, rows, force=force, progress=progress)


def require_target(
    path: Path, *, force: bool = False, with_lists: bool = False, source: Path | None = None
) -> None:
    """Check that a file can be made, before anything is read for it.

    Parameters
    ----------
    path : Path
        Of the file.
    force : bool
        Whether it may exist.
    with_lists : bool
        Whether a column holds lists.
    source : Path, optional
        The database file that the rows come from.

    Raises
    ------
    WrongUsage
        Its name ends in none of `FORMATS`, it exists, the format has no lists, or it is a database or lies
        beside one.
    MissingPath
        Its folder does not.
    """
    name = path.suffix.lower()
    if name not in FORMATS:
        raise WrongUsage(f"the name of the file must end in {', '.join(FORMATS)}; got {str(path)!r}")
    if with_lists and name in _WITHOUT_LISTS:
        others = ", ".join(other for other in FORMATS if other not in _WITHOUT_LISTS)
        raise WrongUsage(f"{path}: a {name} file has no vectors; name one that ends in {others}")
    require_place(path, force=force, source=source)


def write_rows(
    path: Path, rows: RowStream, *, force: bool = False, progress: Progress | None = None
) -> Written:
    """Write all rows of a stream into a file in the format that its name ends in.

    Parameters
    ----------
    path : Path
        Of the file.
    rows : RowStream
        Is used up.
    force : bool
        Replace a file that exists. It is what it was until the new one is complete.
    progress : Progress, optional
        Told the rows written.

    Raises
    ------
    WrongUsage, MissingPath
        As `require_target`.
    CannotWrite
        The disk is full, or the folder takes no file.
    """
    path = expand_home(path)
    with_lists = any(map(_is_list, rows.schema.types))
    require_target(path, force=force, with_lists=with_lists, source=rows.source)
    progress = progress or Silent()
    progress.phase("export", total=rows.n_rows)
    n_written = 0

    def groups() -> Groups:
        nonlocal n_written
        for group in _grouped(rows.batches):
            yield group
            n_written += group.num_rows
            progress.advance(group.num_rows)

    with replacing(path, force=force, source=rows.source) as file:
        FORMATS[path.suffix.lower()](file, rows.schema, groups())
    return Written(path, n_written, path.stat().st_size)


def _grouped(batches: Groups) -> Groups:
    """Join batches to groups."""
    some: list[pa.RecordBatch] = []
    for batch in batches:
        some.append(batch)
        if (
            sum(one.num_rows for one in some) + batch.num_rows > GROUP_ROWS
            or sum(one.nbytes for one in some) + batch.nbytes > GROUP_BYTES
        ):
            yield pa.concat_batches(some)
            some = []
    if some:
        yield pa.concat_batches(some)


def _write_parquet(file: IO[bytes], schema: pa.Schema, groups: Groups) -> None:
    # Vectors hardly ever repeat: a dictionary of them is built in vain.
    texts = [field.name for field in schema if pa.types.is_string(field.type)]
    with pq.ParquetWriter(file, schema, compression=_COMPRESSION, use_dictionary=texts) as writer:
        for group in groups:
            writer.write_batch(group, row_group_size=GROUP_ROWS)


def _write_arrow(file: IO[bytes], schema: pa.Schema, groups: Groups) -> None:
    with ipc.new_file(file, schema, options=ipc.IpcWriteOptions(compression=_COMPRESSION)) as writer:
        for group in groups:
            writer.write_batch(group)


def _write_csv(file: IO[bytes], schema: pa.Schema, groups: Groups) -> None:
    with csv.CSVWriter(file, schema) as writer:
        for group in groups:
            columns = [
                _kept_from_spreadsheets(column) if pa.types.is_string(column.type) else column
                for column in group.columns
            ]
            writer.write_batch(pa.record_batch(columns, schema=schema))


def _write_ndjson(file: IO[bytes], _schema: pa.Schema, groups: Groups) -> None:
    encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
    for group in groups:
        plain = pa.record_batch([_finite(column) for column in group.columns], names=group.schema.names)
        # In ASCII: some programs take a line for ended by characters that JSON leaves as they are.
        file.writelines(f"{encode(row)}\n".encode() for row in _rows(plain))


FORMATS: dict[str, Callable[[IO[bytes], pa.Schema, Groups], None]] = {
    ".parquet": _write_parquet,
    ".arrow": _write_arrow,
    ".feather": _write_arrow,
    ".ipc": _write_arrow,
    ".csv": _write_csv,
    ".ndjson": _write_ndjson,
    ".jsonl": _write_ndjson,
}
"""What writes a file, by the end of its name."""
_WITHOUT_LISTS = (".csv",)


def _rows(batch: pa.RecordBatch, at_once: int = 1000) -> Iterator[dict[str, Any]]:
    for start in range(0, batch.num_rows, at_once):
        yield from batch.slice(start, at_once).to_pylist()


def _kept_from_spreadsheets(texts: pa.Array) -> pa.Array:
    """Put a `'` before texts that a spreadsheet would run.

    It goes also before texts that begin with such marks already: taking one away from what
    `_RUN_BY_SPREADSHEETS` matches gives every text back.
    """
    runs = pc.match_substring_regex(texts, _RUN_BY_SPREADSHEETS)
    return pc.if_else(runs, pc.binary_join_element_wise("'", texts, ""), texts)


def _finite(column: pa.Array) -> pa.Array:
    """Make nulls of numbers that JSON does not know."""
    if _is_list(column.type):
        values = _finite(column.values)
        return pa.FixedSizeListArray.from_arrays(values, column.type.list_size, mask=column.is_null())
    if not pa.types.is_floating(column.type):
        return column
    return pc.if_else(pc.is_finite(column), column, None)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_list(kind))
