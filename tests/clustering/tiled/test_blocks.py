"""Blocks of tiles, and the files from which tasks read their rows."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from panic_tda.clustering.tiled import kernels
from panic_tda.clustering.tiled.blocks import (
    MOST_DEVICE_TILES,
    MOST_TILES,
    divide_tiles,
    group_pairs,
    make_part,
    sort_pairs,
)
from panic_tda.clustering.tiled.layout import Layout, schedule_tile_pairs, tile_starts
from panic_tda.clustering.tiled.row_files import RowFiles, RowWriter
from panic_tda.clustering.tiled.space import build_space
from panic_tda.errors import NoRoom


def rows_of(n: int, d: int) -> np.ndarray:
    rows = np.random.default_rng(0).standard_normal((n, d))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(("n_tiles", "slots"), [(1, 8), (2, 1), (100, 1), (100, 16), (5, 1000), (5000, 8)])
@pytest.mark.parametrize(("on_device", "most_tiles"), [(False, MOST_TILES), (True, MOST_DEVICE_TILES)])
def test_blocks_hold_every_tile_and_keep_all_slots_busy(
    n_tiles: int, slots: int, on_device: bool, most_tiles: int
) -> None:
    bounds = divide_tiles(n_tiles, slots, on_device=on_device)
    sizes = np.diff(bounds)
    assert (bounds[0], bounds[-1]) == (0, n_tiles)
    assert 1 <= sizes.min() <= sizes.max() <= min(most_tiles, sizes.min() + 1)
    assert len(sizes) * (len(sizes) + 1) // 2 >= slots or len(sizes) == n_tiles


def test_parts_hold_every_pair_of_tiles_once_by_the_positions_of_their_tiles() -> None:
    starts = tile_starts(1000, 31)
    rows = rows_of(1000, 5)
    layout = Layout(np.random.default_rng(1).permutation(1000).astype(np.int32), starts)
    pairs, bounds = schedule_tile_pairs(rows, layout), divide_tiles(layout.n_tiles, 3)
    chosen = np.flatnonzero(np.arange(len(pairs)) % 7 > 0)
    groups = group_pairs(pairs, chosen, bounds)
    assert sorted(np.concatenate(groups.within + groups.between).tolist()) == chosen.tolist()
    for place, numbers in enumerate(groups.within + groups.between):
        part = make_part(pairs, numbers, starts, bounds)
        assert len(part.ranges) == (1 if place < len(groups.within) else 2)
        assert len(part.positions) == part.starts[-1]
        for (first, second), (local_first, local_second) in zip(pairs[part.numbers], part.pairs, strict=True):
            for tile, local in ((first, local_first), (second, local_second)):
                there = part.positions[part.starts[local] : part.starts[local + 1]]
                assert there.tolist() == list(range(starts[tile], starts[tile + 1]))


def test_pairs_that_are_done_come_first() -> None:
    pairs = np.array([[0, 0], [1, 1], [0, 1], [0, 2]], dtype=np.int32)
    is_done = np.array([True, False, True, False])
    in_order, n_done = sort_pairs(pairs, is_done)
    assert n_done == 2
    assert in_order.tolist() == [[0, 0], [0, 1], [1, 1], [0, 2]]


@pytest.fixture
def written(tmp_path: Path) -> tuple[RowWriter, np.ndarray, RowFiles]:
    rows = rows_of(900, 200)
    space = build_space(np, rows, 48, np.random.default_rng(0))
    writer, order = RowWriter(space, tmp_path), np.random.default_rng(2).permutation(900).astype(np.int32)
    return writer, order, writer.write(order, bounded=space.bounded)


def test_a_part_is_read_as_it_was_written(written: tuple[RowWriter, np.ndarray, RowFiles]) -> None:
    writer, order, files = written
    starts, bounds = tile_starts(900, 100), np.array([0, 3, 6, 9])
    pairs = np.array([[1, 8]], dtype=np.int32)
    part = make_part(pairs, np.array([0]), starts, bounds)
    vectors, coordinates = files.read(part.ranges)
    np.testing.assert_array_equal(vectors, writer.space.vectors[order[part.positions]])
    np.testing.assert_array_equal(coordinates, writer.space.coordinates[order[part.positions]])
    assert vectors.base is None  # not a map of the file


def test_the_same_rows_in_the_same_order_are_written_once(
    written: tuple[RowWriter, np.ndarray, RowFiles],
) -> None:
    writer, order, files = written
    before = os.stat(files.vectors.path)
    assert writer.write(order, bounded=files.bounded) == files
    assert os.stat(files.vectors.path).st_ino == before.st_ino
    reversed_files = writer.write(order[::-1].copy(), bounded=files.bounded)
    assert not {reversed_files.vectors, reversed_files.coordinates} & {files.vectors, files.coordinates}
    # What was cut off is written anew.
    os.truncate(files.vectors.path, 1000)
    with pytest.raises(OSError, match="too short"):
        files.read([(800, 900)])
    assert writer.write(order, bounded=files.bounded).vectors.path.stat().st_size == before.st_size
    assert not files.vectors.path.stat().st_mode & 0o077
    writer.remove_files()
    assert list(files.vectors.path.parent.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named_with_the_size(tmp_path: Path) -> None:
    space = build_space(np, rows_of(300, 20), 0, np.random.default_rng(0))
    with pytest.raises(NoRoom, match=r"could not be written in .*gone .*--work-dir"):
        RowWriter(space, tmp_path / "gone").write(np.arange(300, dtype=np.int32), bounded=space.bounded)


def test_an_entry_that_comes_twice_stands_once_in_a_list() -> None:
    list_rows, list_sims = np.full((2, 4), -1, np.int32), np.full((2, 4), -np.inf, np.float32)
    owners, others = np.array([0, 0, 1], np.int32), np.array([2, 3, 0], np.int32)
    sims, rows = np.array([0.5, 0.25, 0.75], np.float32), np.array([1, 9, 4, 6], np.int32)
    rows[0] = 0  # the list's owner
    for _ in range(3):
        kernels.merge_entries(owners, others, sims, np.array([0, 1, 4, 6], np.int32), list_rows, list_sims)
    assert sorted(list_rows[0].tolist()) == [-1, -1, 4, 6]
    assert sorted(list_rows[1].tolist()) == [-1, -1, -1, 0]
