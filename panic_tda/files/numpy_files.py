"""Reading of NumPy files as columns in batches: the array of a `.npy` file, and the arrays of an `.npz` file.

Pickled data are never read. A `.npy` file is memory-mapped, and an `.npz` archive is decompressed step by
step, so that memory use does not grow with the file.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

from panic_tda.arrays.rows import slices
from panic_tda.errors import BadInput
from panic_tda.files.arrow_files import NUMPY, ArrowFile, translate_read_errors
from panic_tda.files.casting import BATCH_VALUES, MAX_VALUES
from panic_tda.files.texts_files import TextsFile

_WHOLE_BYTES = 1 << 30
"""Largest size of an array in an archive that is stored by columns, because it must be read at once."""


@dataclass(frozen=True)
class _Array:
    """An array in a file, or the array `member` of an archive."""

    path: Path
    member: str | None
    shape: tuple[int, ...]
    is_by_columns: bool
    dtype: np.dtype[Any]

    @property
    def kind(self) -> pa.DataType | None:
        """Return the type of the array as a column, or None if it cannot be a column."""
        if self.dtype.kind not in "iufUSb" or (self.dtype.kind == "f" and self.dtype.itemsize > 8):
            return None
        if self.dtype.kind in "US":
            value = pa.string() if self.dtype.kind == "U" else pa.binary()
        else:
            value = pa.from_numpy_dtype(self.dtype.newbyteorder("="))
        if len(self.shape) == 1:
            return value
        is_matrix = len(self.shape) == 2 and self.dtype.kind in "iuf" and self.shape[1] <= MAX_VALUES
        return pa.list_(value, self.shape[1]) if is_matrix else None

    def columns(self, batch_rows: int) -> Iterator[pa.Array]:
        """Read the rows as parts of a column, `batch_rows` at a time."""
        return (_to_arrow(rows, self.kind) for rows in self.rows(batch_rows))

    def rows(self, batch_rows: int) -> Iterator[np.ndarray[Any, Any]]:
        """Read the rows, `batch_rows` at a time."""
        if self.shape[0] == 0:
            return
        if self.member is None:
            array = np.load(self.path, mmap_mode="r", allow_pickle=False)
            yield from (array[rows] for rows in slices(len(array), batch_rows))
            return
        with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as file:
            _read_header(file)
            if self.is_by_columns and len(self.shape) > 1:
                n_bytes = self.dtype.itemsize * int(np.prod(self.shape))
                if n_bytes > _WHOLE_BYTES:
                    raise ValueError(
                        f"{self.member} is stored by columns; save numpy.ascontiguousarray of it"
                    )
                array = self._convert_bytes(_read_exactly(file, n_bytes), self.shape[::-1]).T
                yield from (array[rows] for rows in slices(len(array), batch_rows))
                return
            row_bytes = self.dtype.itemsize * int(np.prod(self.shape[1:]))
            for rows in slices(self.shape[0], batch_rows):
                n_rows = rows.stop - rows.start
                yield self._convert_bytes(_read_exactly(file, n_rows * row_bytes), (n_rows, *self.shape[1:]))

    def _convert_bytes(self, content: bytes, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
        # Arrays without bytes, such as strings of length 0, cannot be read from a buffer.
        if not content:
            return np.zeros(shape, self.dtype)
        return np.frombuffer(content, self.dtype).reshape(shape)


def open_numpy_file(
    path: Path, names: dict[str, str | None], texts: TextsFile | None, *, is_archive: bool
) -> ArrowFile:
    """Open a `.npy` or `.npz` file; a single array is the column `vector`.

    Parameters
    ----------
    path : Path
        The file.
    names : dict of str to str
        As for `ArrowFile.names`.
    texts : TextsFile or None
        Texts for the rows, which become the column `text`.
    is_archive : bool
        Whether it is an `.npz` archive.

    Raises
    ------
    MissingPath
        There is no such file.
    BadInput
        It is damaged, its single array is not a matrix of vectors, or the number of texts is not that of
        rows.
    """
    with translate_read_errors(path, NUMPY), _translate_numpy_errors():
        arrays = _read_archive_headers(path) if is_archive else {"vector": _read_file_header(path)}
    if len(arrays) == 1 and names.get("vector") in (None, "vector"):
        arrays = {"vector": next(iter(arrays.values()))}
    if list(arrays) == ["vector"]:
        _require_vectors(arrays["vector"])
    columns = {name: array for name, array in arrays.items() if array.kind is not None}
    vector = columns.get(names.get("vector") or "vector")
    n_rows = None if vector is None else vector.shape[0]
    schema = [(name, array.kind) for name, array in columns.items() if texts is None or name != "text"]
    if texts is not None:
        schema.append(("text", pa.large_string()))
        n_texts = texts.count()
        if n_rows is not None and n_texts != n_rows:
            raise BadInput(
                f"{texts.path} has {n_texts:,} texts, and {path} {n_rows:,} rows; it needs one text per row"
            )
    read = partial(_read_columns, columns, texts)
    return ArrowFile(path, pa.schema(schema), n_rows, read, format=NUMPY, names=names)


def _require_vectors(array: _Array) -> None:
    if array.dtype.hasobject:
        raise BadInput(
            f"{array.path} holds Python objects, which could run code when they are read; save an array of "
            "numbers, (rows, dimensions)"
        )
    if array.kind is None or not pa.types.is_fixed_size_list(array.kind):
        raise BadInput(
            f"{array.path} must hold an array of numbers of two dimensions, (rows, dimensions); got "
            f"{array.dtype} of shape {array.shape}"
        )


def _read_columns(
    arrays: dict[str, _Array], texts: TextsFile | None, _path: Path, columns: list[str], batch_rows: int
) -> Iterator[pa.RecordBatch]:
    chosen = {name: arrays[name] for name in columns if texts is None or name != "text"}
    if len({array.shape[0] for array in chosen.values()}) > 1:
        lengths = ", ".join(f"{name} has {array.shape[0]:,}" for name, array in chosen.items())
        raise BadInput(f"{_path}: its arrays have different numbers of rows: {lengths}")
    widths = [array.shape[1] for array in chosen.values() if len(array.shape) == 2]
    step = min(batch_rows, BATCH_VALUES // max(1, *widths, 1))
    streams = {name: array.columns(step) for name, array in chosen.items()}
    if texts is not None and "text" in columns:
        streams["text"] = texts.batches(step)
    with _translate_numpy_errors():
        # Columns of different lengths were refused above, or raise an error of their own here.
        for parts in zip(*(streams[name] for name in columns), strict=True):
            yield pa.RecordBatch.from_arrays(list(parts), names=columns)


def _to_arrow(rows: np.ndarray[Any, Any], kind: pa.DataType) -> pa.Array:
    if rows.dtype.kind in "US":
        return pa.array(rows.tolist(), kind)
    native = rows.astype(rows.dtype.newbyteorder("="), copy=False)
    if not pa.types.is_fixed_size_list(kind):
        return pa.array(native, kind)
    return pa.FixedSizeListArray.from_arrays(pa.array(native.reshape(-1), kind.value_type), type=kind)


def _read_file_header(path: Path) -> _Array:
    with path.open("rb") as file:
        return _Array(path, None, *_read_header(file))


def _read_archive_headers(path: Path) -> dict[str, _Array]:
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            with archive.open(member) as file:
                arrays[member.removesuffix(".npy")] = _Array(path, member, *_read_header(file))
    return arrays


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} of the format, for arrays with named fields, is not read")
    return read(file)


def _read_exactly(file: IO[bytes], n_bytes: int) -> bytes:
    content = file.read(n_bytes)
    if len(content) < n_bytes:
        raise ValueError("the file ends before its array does")
    return content


@contextmanager
def _translate_numpy_errors() -> Iterator[None]:
    """Turn errors in the bytes of arrays into errors that `translate_read_errors` knows."""
    try:
        yield
    except (ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise OSError(str(error)) from error
