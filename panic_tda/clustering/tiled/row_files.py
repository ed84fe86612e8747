"""Files from which the tasks of an executor read their rows.

Rows are stored in the order of a layout, so that a block is one range of each file. Tasks read these ranges
into memory of their own. They do not map the files: Dask counts mapped pages as a worker's memory, and ends
workers that use too much.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

import numpy as np

from panic_tda.arrays.rows import slices
from panic_tda.disk import PRIVATE_FILE, commit_file, free_text, name_partial
from panic_tda.errors import NoRoom
from panic_tda.wording import format_bytes

if TYPE_CHECKING:
    from panic_tda.clustering.tiled.contract import Space
    from panic_tda.types import Array, Float32Array, Int32Array, IntArray

ROWS_SUFFIX = ".rows"
_CHUNK_ROWS = 16_384
_DIGEST_BYTES = 12


class MatrixFile(NamedTuple):
    """A file of plain float32 numbers, row after row.

    Attributes
    ----------
    path : Path
        The file.
    width : int
        Numbers of a row.
    """

    path: Path
    width: int

    def read(self, ranges: Sequence[tuple[int, int]]) -> Float32Array:
        """Read ranges of rows, each from its first row up to its end, into memory.

        Raises
        ------
        OSError
            The file is missing, cannot be read or is too short.
        """
        rows = np.empty((sum(end - begin for begin, end in ranges), self.width), dtype=np.float32)
        self.read_into(ranges, rows)
        return rows

    def read_into(self, ranges: Sequence[tuple[int, int]], rows: Float32Array) -> None:
        """Read ranges of rows into an array of their size; see `read`."""
        with self.path.open("rb", buffering=0) as file:
            at = 0
            for begin, end in ranges:
                file.seek(begin * self.width * rows.itemsize)
                _read_into(file, rows[at : at + end - begin].data.cast("B"), self.path)
                at += end - begin


@dataclass(frozen=True)
class RowFiles:
    """Files with the rows of a space in one order.

    Attributes
    ----------
    vectors, coordinates : MatrixFile
        The rows and their projected coordinates; the same file if the space has no bound.
    bounded, margin, slack
        See `contract.Space`.
    on_device : bool
        Whether tasks compare the rows on the CUDA device of their process.
    """

    vectors: MatrixFile
    coordinates: MatrixFile
    bounded: bool
    margin: float
    slack: float
    on_device: bool = False

    def read(self, ranges: Sequence[tuple[int, int]]) -> tuple[Float32Array, Float32Array]:
        """Read the rows and the coordinates of ranges of positions; see `MatrixFile.read`."""
        vectors = self.vectors.read(ranges)
        return vectors, self.coordinates.read(ranges) if self.bounded else vectors


class RowWriter:
    """Writes the rows of a space into files that the workers of an executor read.

    Parameters
    ----------
    space : Space
        n rows in host memory.
    folder : Path
        Folder that all workers see.
    on_device : bool
        See `RowFiles`.

    Notes
    -----
    The names contain a digest of the numbers and their order: a run that goes on after a kill uses the files
    again.
    """

    def __init__(self, space: Space, folder: Path, *, on_device: bool = False) -> None:
        self.space, self._folder, self.on_device = space, folder, on_device
        self._paths: set[Path] = set()

    def write(self, order: Int32Array, *, bounded: bool) -> RowFiles:
        """Write the rows in an order.

        Parameters
        ----------
        order : (n,) int32
            Row of each position.
        bounded : bool
            Whether the tasks use the bound of the space, and so need its coordinates.

        Raises
        ------
        NoRoom
            A file cannot be written; the message has its size and the folder.
        """
        vectors = self.write_vectors(order)
        coordinates = self.write_coordinates(order) if bounded else vectors
        margin, slack = self.space.margin, self.space.slack
        return RowFiles(vectors, coordinates, bounded, margin, slack, on_device=self.on_device)

    def write_vectors(self, order: Int32Array | IntArray) -> MatrixFile:
        """Write some rows, or all, in an order; see `write`."""
        return self._write(self.space.vectors, self._vectors_digest, order)

    def write_coordinates(self, order: Int32Array | IntArray) -> MatrixFile:
        """Write the coordinates of some rows, or of all, in an order; see `write`."""
        return self._write(self.space.coordinates, self._coordinates_digest, order)

    def write_matrix(self, matrix: Float32Array) -> MatrixFile:
        """Write another matrix; see `write`."""
        return self._write(matrix, _hash_rows(matrix), np.arange(len(matrix)))

    def _write(self, matrix: Array, digest: bytes, order: Int32Array | IntArray) -> MatrixFile:
        positions = np.ascontiguousarray(order).view(np.uint8).data
        name = hashlib.blake2b(digest + bytes(positions), digest_size=_DIGEST_BYTES).hexdigest()
        path = self._folder / f"{name}{ROWS_SUFFIX}"
        _write_rows(matrix, order, path)
        self._paths.add(path)
        return MatrixFile(path, matrix.shape[1])

    @cached_property
    def _vectors_digest(self) -> bytes:
        return _hash_rows(self.space.vectors)

    @cached_property
    def _coordinates_digest(self) -> bytes:
        return _hash_rows(self.space.coordinates)

    def remove_files(self) -> None:
        """Remove all files that were written, when no task needs them any more."""
        for path in self._paths:
            path.unlink(missing_ok=True)
        self._paths.clear()


def _hash_rows(matrix: Array) -> bytes:
    digest = hashlib.blake2b(f"{matrix.shape}".encode())
    for part in slices(len(matrix), _CHUNK_ROWS):
        digest.update(np.ascontiguousarray(matrix[part]).view(np.uint8).data)
    return digest.digest()


def _write_rows(matrix: Array, order: Int32Array | IntArray, path: Path) -> None:
    """Write the rows into a file, unless an earlier run has done so: only complete files have this name."""
    n_bytes = len(order) * matrix.shape[1] * matrix.itemsize
    if path.is_file() and path.stat().st_size == n_bytes:
        return
    partial = name_partial(path)
    try:
        number = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
        with os.fdopen(number, "wb") as file:
            for part in slices(len(order), _CHUNK_ROWS):
                file.write(np.ascontiguousarray(matrix[order[part]]).data)
            commit_file(file, partial, path)
    except OSError as error:
        raise NoRoom(
            f"the rows for the workers ({format_bytes(n_bytes)}) could not be written in {path.parent} "
            f"({error.strerror}{free_text(path.parent)}): make room there, or name another folder with "
            "--work-dir"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _read_into(file: IO[bytes], buffer: memoryview, path: Path) -> None:
    filled = 0
    while filled < len(buffer):
        n_bytes = file.readinto(buffer[filled:])  # type: ignore[attr-defined]
        if not n_bytes:
            raise OSError(errno.EIO, "it is too short", str(path))
        filled += n_bytes
