"""Export of rows into files of Parquet, Arrow, CSV or NDJSON, chosen by the file name extension.

Rows are written while they are read, in groups of up to 100,000 rows or about 32 MiB. An unfinished file has
a temporary name. It replaces an existing file only when it is complete.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import csv, ipc

from panic_tda.arrays.rows import slices
from panic_tda.errors import WrongUsage
from panic_tda.files.replacing import replacing, require_place
from panic_tda.paths import expand_home
from panic_tda.progress import Progress, Silent
from panic_tda.storage.database import Database
from panic_tda.storage.read.exports import open_rows
from panic_tda.storage.read.results import ClusteringSummary
from panic_tda.storage.read.row_streams import RowStream

GROUP_ROWS = 100_000
GROUP_BYTES = 32 << 20
"""Largest number of rows of a group, and approximate largest size of it in bytes."""
_COMPRESSION = "zstd"
FORMULA = r"^'*([\t\r\n]|\s*[=+\-@＝＋－＠])"
"""Texts that a spreadsheet would run as a formula, and texts that look like an escaped one.

See https://owasp.org/www-community/attacks/CSV_Injection.
"""

Groups = Iterator[pa.RecordBatch]


@dataclass(frozen=True)
class WrittenFile:
    """A file that was written.

    Attributes
    ----------
    file : Path
        Its path.
    rows, bytes : int
        Its number of rows and of bytes.
    """

    file: Path
    rows: int
    bytes: int

    def to_dict(self) -> dict[str, Any]:
        """Return the object that the export commands print with `--json`."""
        return {"file": str(self.file), "rows": self.rows, "bytes": self.bytes}


def export_clustering(
    database: Database,
    clustering: ClusteringSummary,
    file: str | Path,
    *,
    with_vectors: bool = False,
    extra_columns: pa.RecordBatch | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> WrittenFile:
    """Write a clustering into a file, one row per embedding (see `open_rows`).

    Parameters
    ----------
    database : Database
        The database, which is read in one transaction.
    clustering : ClusteringSummary
        A stored clustering.
    file : str or Path
        Path of the file; its extension determines the format, see `FORMATS`.
    with_vectors : bool
        Whether to write a column of vectors; `import_embeddings` reads such a file.
    extra_columns : pyarrow.RecordBatch, optional
        Additional columns, as for `open_rows`, such as those of `layout.columns_of`.
    force : bool
        Replace an existing file.
    progress : Progress, optional
        Receives the number of written rows.

    Raises
    ------
    WrongUsage, MissingPath, CannotWrite
        As for `write_rows`.
    DatabaseError
        As for `open_rows`.
    """
    path = expand_home(file)
    require_target(path, force=force, with_lists=with_vectors, source=database.path)
    with open_rows(database, clustering, with_vectors=with_vectors, extra_columns=extra_columns) as rows:
        return write_rows(path, rows, force=force, progress=progress)


def join_columns(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """Return one batch with the columns of all of these batches, which have the same rows."""
    fields = [field for batch in batches for field in batch.schema]
    columns = [column for batch in batches for column in batch.columns]
    return pa.record_batch(columns, schema=pa.schema(fields))


def require_target(
    path: Path, *, force: bool = False, with_lists: bool = False, source: Path | None = None
) -> None:
    """Check that a file can be created, before anything is read for it.

    Parameters
    ----------
    path : Path
        Path of the file.
    force : bool
        Whether it may exist.
    with_lists : bool
        Whether a column contains lists.
    source : Path, optional
        The database file that the rows come from.

    Raises
    ------
    WrongUsage
        Its extension is not in `FORMATS`, it exists, the format has no lists, or it is a database or a file
        of one.
    MissingPath
        Its folder does not exist.
    """
    name = path.suffix.lower()
    if name not in FORMATS:
        raise WrongUsage(f"the name of the file must end in {', '.join(FORMATS)}; got {str(path)!r}")
    if with_lists and name in _WITHOUT_LISTS:
        allowed = ", ".join(extension for extension in FORMATS if extension not in _WITHOUT_LISTS)
        raise WrongUsage(f"{path}: a {name} file has no vectors; name one that ends in {allowed}")
    require_place(path, force=force, source=source)


def write_rows(
    path: Path, rows: RowStream, *, force: bool = False, progress: Progress | None = None
) -> WrittenFile:
    """Write all rows of a stream into a file, in the format of its extension.

    Parameters
    ----------
    path : Path
        Path of the file.
    rows : RowStream
        The rows, which can be read only once.
    force : bool
        Replace an existing file; it is not changed until the new one is complete.
    progress : Progress, optional
        Receives the number of written rows.

    Raises
    ------
    WrongUsage, MissingPath
        As for `require_target`.
    CannotWrite
        The disk is full, or the folder cannot be written.
    """
    path = expand_home(path)
    with_lists = any(map(_is_list, rows.schema.types))
    require_target(path, force=force, with_lists=with_lists, source=rows.source)
    progress = progress or Silent()
    progress.phase("export", total=rows.n_rows)
    n_written = 0

    def groups() -> Groups:
        nonlocal n_written
        for group in _join_batches(rows.batches):
            yield group
            n_written += group.num_rows
            progress.advance(group.num_rows)

    with replacing(path, force=force, source=rows.source) as file:
        FORMATS[path.suffix.lower()](file, rows.schema, groups())
    return WrittenFile(path, n_written, path.stat().st_size)


def _join_batches(batches: Groups) -> Groups:
    """Join batches to groups."""
    group: list[pa.RecordBatch] = []
    for batch in batches:
        group.append(batch)
        if (
            sum(part.num_rows for part in group) + batch.num_rows > GROUP_ROWS
            or sum(part.nbytes for part in group) + batch.nbytes > GROUP_BYTES
        ):
            yield pa.concat_batches(group)
            group = []
    if group:
        yield pa.concat_batches(group)


def _write_parquet(file: IO[bytes], schema: pa.Schema, groups: Groups) -> None:
    # No dictionary for vectors, because they hardly ever repeat.
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
                _escape_formulas(column) if pa.types.is_string(column.type) else column
                for column in group.columns
            ]
            writer.write_batch(pa.record_batch(columns, schema=schema))


def _write_ndjson(file: IO[bytes], _schema: pa.Schema, groups: Groups) -> None:
    encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
    for group in groups:
        plain = pa.record_batch(
            [_replace_infinite(column) for column in group.columns], names=group.schema.names
        )
        # In ASCII, because some programs treat characters that JSON does not escape as the end of a line.
        file.writelines(f"{encode(row)}\n".encode() for row in _read_rows(plain))


FORMATS: dict[str, Callable[[IO[bytes], pa.Schema, Groups], None]] = {
    ".parquet": _write_parquet,
    ".arrow": _write_arrow,
    ".feather": _write_arrow,
    ".ipc": _write_arrow,
    ".csv": _write_csv,
    ".ndjson": _write_ndjson,
    ".jsonl": _write_ndjson,
}
"""The function that writes a file, by the file name extension."""
_WITHOUT_LISTS = (".csv",)


def _read_rows(batch: pa.RecordBatch, at_once: int = 1000) -> Iterator[dict[str, Any]]:
    for rows in slices(batch.num_rows, at_once):
        yield from batch[rows].to_pylist()


def _escape_formulas(texts: pa.Array) -> pa.Array:
    """Put a `'` before texts that a spreadsheet would run as formulas.

    It is also put before texts that look escaped already, such as `'=1`. Removing one mark from every
    text that `FORMULA` matches restores the original texts.
    """
    is_formula = pc.match_substring_regex(texts, FORMULA)
    return pc.if_else(is_formula, pc.binary_join_element_wise("'", texts, ""), texts)


def _replace_infinite(column: pa.Array) -> pa.Array:
    """Replace NaN and infinite numbers, which JSON does not have, by null."""
    if _is_list(column.type):
        values = _replace_infinite(column.values)
        return pa.FixedSizeListArray.from_arrays(values, column.type.list_size, mask=column.is_null())
    if not pa.types.is_floating(column.type):
        return column
    return pc.if_else(pc.is_finite(column), column, None)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_list(kind))
