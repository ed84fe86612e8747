"""Blocks of tiles: the unit of work of an executor's tasks, and the files from which tasks read their rows.

A block is a range of tiles of a layout. A task processes pairs of tiles between two blocks, or within one. It
knows neither the layout nor the rows: a `Part` says which positions it needs, and `RowFiles` where their rows
are. All its indices are local, numbers among the positions of its part.

Rows are stored in files in the order of the layout, so that a block is one range of each file. Tasks read
these ranges into memory of their own. They do not map the files: Dask counts mapped pages as a worker's
memory, and ends workers that use too much.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

import numpy as np

from panic_tda.arrays.rows import slices
from panic_tda.disk import PRIVATE_FILE, commit_file, free_text, name_partial
from panic_tda.errors import NoRoom
from panic_tda.wording import format_bytes

if TYPE_CHECKING:
    from panic_tda.clustering.tiled.contract import Space
    from panic_tda.types import Array, BoolArray, Float32Array, Int32Array, IntArray

MOST_TILES = 24
"""Tiles of a block at most, for up to 255 slots.

Of 24, 12, 6 and 4 tiles a block, the tasks of a fit took 17, 18, 24 and 29 s of processor time: each of them
reads its rows and learns thresholds anew. Rows of two blocks fit into 200 MiB at 768 dimensions.
"""
_SLOTS, _MOST_GROWTH = 64, 4
"""Blocks grow with the square root of the slots above this number, up to so many times.

The client takes about 10 ms for each task, so that with many slots tasks must take longer.
"""
_TASKS_PER_SLOT = 4
"""Pairs of blocks for each slot, at least: so that no slot is idle for long at the end of a pass."""
ROWS_SUFFIX = ".rows"
_CHUNK_ROWS = 16_384
_DIGEST_BYTES = 12


class Part(NamedTuple):
    """The positions and the pairs of tiles of one task.

    Attributes
    ----------
    ranges : tuple of (int, int)
        Positions of one block, or of two: the first one of each range, and the end.
    starts : (tiles + 1,) int64
        Local index at which each tile begins, and the end.
    pairs : (pairs, 2) int32
        Pairs I <= J of local tiles.
    numbers : (pairs,) int64
        Numbers of these pairs in the schedule.
    """

    ranges: tuple[tuple[int, int], ...]
    starts: IntArray
    pairs: Int32Array
    numbers: IntArray

    @property
    def positions(self) -> IntArray:
        """Return the position of every local index."""
        return np.concatenate([np.arange(begin, end) for begin, end in self.ranges])


def divide_tiles(n_tiles: int, slots: int) -> IntArray:
    """Divide tiles into blocks of equal size, give or take one.

    Returns
    -------
    (blocks + 1,) int64
        Tile at which each block begins, and the end.
    """
    growth = min(_MOST_GROWTH, max(1, math.isqrt(slots // _SLOTS)))
    n_blocks = -(-n_tiles // (MOST_TILES * growth))
    while n_blocks < n_tiles and n_blocks * (n_blocks + 1) // 2 < _TASKS_PER_SLOT * slots:
        n_blocks += 1
    return np.linspace(0, n_tiles, n_blocks + 1).astype(np.int64)


class Groups(NamedTuple):
    """Pairs of tiles by the blocks that they lie in.

    Attributes
    ----------
    within, between : list of (members,) int64
        Numbers of the pairs of each group, ascending, within a block and between two blocks. The groups have
        the order of their first pairs.
    """

    within: list[IntArray]
    between: list[IntArray]


def group_pairs(pairs: Int32Array, numbers: IntArray, bounds: IntArray) -> Groups:
    """Group pairs of tiles by the blocks that they lie in.

    Parameters
    ----------
    pairs : (all pairs, 2) int32
        Tiles I <= J in the order of a schedule.
    numbers : (chosen,) int64
        Those to group, ascending.
    bounds : (blocks + 1,) int64
        See `divide_tiles`.
    """
    blocks = np.searchsorted(bounds, pairs[numbers], side="right") - 1
    keys = blocks[:, 0] * len(bounds) + blocks[:, 1]
    order = np.argsort(keys, kind="stable")
    groups = [group for group in np.split(order, np.flatnonzero(np.diff(keys[order])) + 1) if len(group)]
    groups.sort(key=lambda group: int(group[0]))
    is_within = [bool(blocks[group[0], 0] == blocks[group[0], 1]) for group in groups]
    return Groups(
        [numbers[group] for group, within in zip(groups, is_within, strict=True) if within],
        [numbers[group] for group, within in zip(groups, is_within, strict=True) if not within],
    )


def sort_pairs(pairs: Int32Array, is_done: BoolArray) -> tuple[Int32Array, int]:
    """Put the pairs that are done first, otherwise in their order, and count them."""
    return np.concatenate([pairs[is_done], pairs[~is_done]]), int(np.count_nonzero(is_done))


def make_part(pairs: Int32Array, numbers: IntArray, starts: IntArray, bounds: IntArray) -> Part:
    """Build the part of a group of pairs.

    Parameters
    ----------
    pairs : (all pairs, 2) int32
        The schedule.
    numbers : (pairs,) int64
        Those of the group, all in the same two blocks.
    starts : (tiles + 1,) int64
        Position at which each tile of the layout begins, and the end.
    bounds : (blocks + 1,) int64
        See `divide_tiles`.
    """
    pairs = pairs[numbers]
    first, second = (int(block) for block in np.searchsorted(bounds, pairs[0], side="right") - 1)
    left = slice(int(bounds[first]), int(bounds[first + 1]))
    right = slice(int(bounds[second]), int(bounds[second + 1]))
    ranges = [(int(starts[left.start]), int(starts[left.stop]))]
    local_starts, local_pairs = starts[left.start : left.stop + 1] - starts[left.start], pairs - left.start
    if first != second:
        ranges.append((int(starts[right.start]), int(starts[right.stop])))
        end = local_starts[-1]
        more = starts[right.start + 1 : right.stop + 1] - starts[right.start] + end
        local_starts = np.concatenate([local_starts, more])
        local_pairs[:, 1] = pairs[:, 1] - right.start + (left.stop - left.start)
    return Part(tuple(ranges), local_starts, local_pairs, numbers)


@dataclass(frozen=True)
class RowFiles:
    """Files with the rows of a space in the order of a layout: plain float32 numbers, row after row.

    Attributes
    ----------
    vectors, coordinates : Path
        Files of the rows and of their projected coordinates; the same one if the space has no bound.
    n_features, n_coordinates : int
        Numbers of a row in each of them.
    bounded, margin, slack
        See `contract.Space`.
    """

    vectors: Path
    coordinates: Path
    n_features: int
    n_coordinates: int
    bounded: bool
    margin: float
    slack: float

    def read(self, part: Part) -> tuple[Float32Array, Float32Array]:
        """Read the rows and the coordinates of a part into memory.

        Raises
        ------
        OSError
            A file is missing, cannot be read or is too short.
        """
        vectors = _read_ranges(self.vectors, part.ranges, self.n_features)
        if not self.bounded:
            return vectors, vectors
        return vectors, _read_ranges(self.coordinates, part.ranges, self.n_coordinates)


class RowWriter:
    """Writes the rows of a space into files that the workers of an executor read.

    Parameters
    ----------
    space : Space
        n rows in host memory.
    folder : Path
        Folder that all workers see.

    Notes
    -----
    The names contain a digest of rows and order: a run that goes on after a kill uses the files again.
    """

    def __init__(self, space: Space, folder: Path) -> None:
        self._space, self._folder = space, folder
        self._digests = [_hash_rows(matrix) for matrix in (space.vectors, space.compared)]

    def write(self, order: Int32Array) -> RowFiles:
        """Write the rows in an order.

        Raises
        ------
        NoRoom
            A file cannot be written; the message has its size and the folder.
        """
        space = self._space
        vectors, coordinates = (self._folder / f"{name}{ROWS_SUFFIX}" for name in self._name_files(order))
        _write_rows(space.vectors, order, vectors)
        if space.bounded:
            _write_rows(space.coordinates, order, coordinates)
        return RowFiles(
            vectors, coordinates, space.vectors.shape[1], space.coordinates.shape[1],
            space.bounded, space.margin, space.slack,
        )  # fmt: skip

    def remove(self, files: RowFiles) -> None:
        """Remove files that no task needs any more."""
        for path in (files.vectors, files.coordinates):
            path.unlink(missing_ok=True)

    def _name_files(self, order: Int32Array) -> list[str]:
        positions = np.ascontiguousarray(order).view(np.uint8).data
        return [
            hashlib.blake2b(digest + bytes(positions), digest_size=_DIGEST_BYTES).hexdigest()
            for digest in self._digests
        ]


def _hash_rows(matrix: Array) -> bytes:
    digest = hashlib.blake2b(f"{matrix.shape}".encode())
    for part in slices(len(matrix), _CHUNK_ROWS):
        digest.update(np.ascontiguousarray(matrix[part]).view(np.uint8).data)
    return digest.digest()


def _write_rows(matrix: Array, order: Int32Array, path: Path) -> None:
    """Write the rows into a file, unless an earlier run has done so: only complete files have this name."""
    if path.is_file() and path.stat().st_size == matrix.nbytes:
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
            f"the rows for the workers ({format_bytes(matrix.nbytes)}) could not be written in {path.parent} "
            f"({error.strerror}{free_text(path.parent)}): make room there, or name another folder with "
            "--work-dir"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _read_ranges(path: Path, ranges: tuple[tuple[int, int], ...], width: int) -> Float32Array:
    rows = np.empty((sum(end - begin for begin, end in ranges), width), dtype=np.float32)
    with path.open("rb", buffering=0) as file:
        at = 0
        for begin, end in ranges:
            file.seek(begin * width * rows.itemsize)
            _read_into(file, rows[at : at + end - begin].data.cast("B"), path)
            at += end - begin
    return rows


def _read_into(file: IO[bytes], buffer: memoryview, path: Path) -> None:
    filled = 0
    while filled < len(buffer):
        n_bytes = file.readinto(buffer[filled:])  # type: ignore[attr-defined]
        if not n_bytes:
            raise OSError(errno.EIO, "it is too short", str(path))
        filled += n_bytes
