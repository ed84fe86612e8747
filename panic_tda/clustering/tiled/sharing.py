"""Open the folder, the memory check and the searches with which the engine shares work with an executor."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from panic_tda.clustering.tiled import axes, block_cores, block_joining, neighbours, tasks
from panic_tda.clustering.tiled.blocks import divide_tiles
from panic_tda.clustering.tiled.joining import Search
from panic_tda.clustering.tiled.layout import tile_starts
from panic_tda.clustering.tiled.row_files import RowWriter
from panic_tda.disk import make_own_folder
from panic_tda.errors import NoRoom

if TYPE_CHECKING:
    from panic_tda.clustering.backends.base import FitOptions
    from panic_tda.clustering.tiled.contract import Space
    from panic_tda.clustering.tiled.layout import Layout
    from panic_tda.clustering.tiled.workers import Workers
    from panic_tda.types import FloatArray, IntArray


@contextlib.contextmanager
def open_folder(options: FitOptions, shape: tuple[int, int], tile_rows: int) -> Iterator[Path | None]:
    """Open the folder in which the workers of an executor find the rows, that of the states if there is one.

    The executor checks that its workers see the folder and have memory for the tasks. Files in the folder are
    removed with the states; without states, at the end.
    """
    if options.executor is None:
        yield None
        return
    with contextlib.ExitStack() as stack:
        try:
            if options.checkpoint is not None:
                folder = options.checkpoint.make_folder()
            else:
                if options.work_dir is not None:
                    make_own_folder(options.work_dir)
                temporary = tempfile.TemporaryDirectory(prefix="panic-tda-", dir=options.work_dir)
                folder = Path(stack.enter_context(temporary))
        except OSError as error:
            raise NoRoom(
                f"the folder of the rows for the workers could not be made in "
                f"{options.work_dir or tempfile.gettempdir()} ({error.strerror}): name another one with "
                "--work-dir"
            ) from error
        executor, device_bytes = options.executor, 0
        size = shape, options.tree_min_samples, executor.slots, tile_rows
        if executor.on_device:
            device_bytes = estimate_task_bytes(*size, estimate=tasks.estimate_device_bytes)
        executor.prepare(folder.resolve(), estimate_task_bytes(*size), device_bytes)
        yield folder.resolve()


def estimate_task_bytes(
    shape: tuple[int, int],
    min_samples: int,
    slots: int,
    tile_rows: int,
    estimate: Callable[..., int] = tasks.estimate_bytes,
) -> int:
    """Return the most bytes that a task takes on a worker.

    Parameters
    ----------
    shape : (int, int)
        Rows and dimensions.
    min_samples, slots, tile_rows : int
        Settings of the fit, and the slots of the executor.
    estimate : callable
        `tasks.estimate_bytes`, or `tasks.estimate_device_bytes` for device memory.
    """
    n, d = shape
    n_tiles = len(tile_starts(n, tile_rows)) - 1
    on_device = estimate is tasks.estimate_device_bytes
    block_tiles = int(np.diff(divide_tiles(n_tiles, slots, on_device=on_device)).max())
    return estimate(
        min(tile_rows, n),
        min(2 * block_tiles, n_tiles),
        d,
        # The number of axes is unknown before the rows are loaded; short rows are not projected.
        n_coordinates=max(*axes.N_AXES_CHOICES, min(d, axes.MIN_FEATURES)) + 1,
        length=neighbours.list_length(n, min_samples),
    )


def open_writer(space: Space, options: FitOptions, folder: Path | None) -> RowWriter | None:
    """Return the writer of the rows for the executor, if there is one and the folder is open."""
    if options.executor is None or folder is None:
        return None
    return RowWriter(space, folder, on_device=options.executor.on_device)


def open_core_search(
    layout: Layout, weights: IntArray, options: FitOptions, writer: RowWriter | None
) -> block_cores.BlockSearch | None:
    """Return the search of the rows nearer than core distances by the executor, if there is one."""
    if options.executor is None or writer is None:
        return None
    return block_cores.BlockSearch(
        layout, weights, min_samples=options.tree_min_samples, executor=options.executor, writer=writer
    )


def open_search(
    space: Space,
    layout: Layout,
    cores: FloatArray,
    team: Workers,
    options: FitOptions,
    writer: RowWriter | None,
) -> Search:
    """Return the search of the joining pass, by the executor if there is one."""
    if options.executor is None or writer is None:
        return Search(space, layout, cores, team)
    return block_joining.BlockSearch(space, layout, cores, team, executor=options.executor, writer=writer)
