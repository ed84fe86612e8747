"""The backend `tiled`: an exact minimum spanning tree at the cost of one brute-force neighbour search."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from panic_tda.arrays.namespace import device_library, namespace, on_device
from panic_tda.clustering.backends.base import FitOptions
from panic_tda.clustering.tiled import axes, device, forest, layout, neighbours, verify
from panic_tda.clustering.tiled.block_neighbours import fill_lists
from panic_tda.clustering.tiled.block_verify import BlockVerifier
from panic_tda.clustering.tiled.blocks import RowWriter
from panic_tda.clustering.tiled.cores import batch_bytes, core_distances
from panic_tda.clustering.tiled.joining import join_components
from panic_tda.clustering.tiled.space import build_space, select_kernels
from panic_tda.clustering.tiled.state_checks import check_tree, tree_forms
from panic_tda.clustering.tiled.workers import Workers, workers
from panic_tda.clustering.trees import Edges, concatenate, minimum_forest
from panic_tda.devices import cuda
from panic_tda.devices.machine import available_cores
from panic_tda.disk import make_own_folder
from panic_tda.errors import InvalidParameter, NoRoom, UnsupportedOnBackend
from panic_tda.types import SpanningTree
from panic_tda.wording import format_bytes

if TYPE_CHECKING:
    from panic_tda.clustering.tiled.contract import Kernels, Lists, Space
    from panic_tda.clustering.tiled.layout import Layout
    from panic_tda.progress import Progress
    from panic_tda.types import Array, ArrayModule, FloatArray, IntArray

_SEED = 0
_FORMAT = 3
"""Of the saved states: another one where a pass would misread what an earlier version of it left behind."""
_INITIAL_TREE, _FINISHED_TREE = "first-tree", "finished-tree"
_STATES = (neighbours.STATE, _INITIAL_TREE, verify.STATE, _FINISHED_TREE)
"""What a checkpoint holds, in the order in which it is written; each makes those before it useless."""
_ROW_BYTES = 160
"""Cores, first tree and its order, candidates and what sorting them takes, for each row."""
_DEVICE_ROW_BYTES = 64
"""On a device: weights, cores, gaps and their maxima, positions."""
_GROUP_ROWS = 32
"""Fewest rows of the groups whose joints are looked for beyond the neighbour lists.

An outlier's list reaches into several clusters, and through it the neighbour graph joins them by edges
heavier than those that its dense rows, whose lists end nearby, know nothing of.
"""

_log = logging.getLogger(__name__)

InitialTree = Callable[[int, np.random.Generator], tuple["IntArray", "IntArray"]]


@dataclass(frozen=True)
class Settings:
    """Settings of the engine; none of them changes the result.

    Parameters
    ----------
    tile_rows : int or None
        Most rows of a tile, up to `layout.MAX_TILE_ROWS`; None takes what suits the memory where it works.
    n_axes : int or None
        Principal axes of the bound; 0 does without, None chooses by the rows (64 on a device).
    bound_neighbours, bound_verify : bool
        Whether the pass asks the bound. The axes are there all the same: tiles and joints are chosen by them.
    prune_rows : bool
        Whether the verify pass leaves out rows that cannot have an improving edge.
    threads : int or None
        None takes the available cores. Ignored where a device does the work: it has its own.
    initial_tree : callable or None
        Gives the first spanning tree from the number of rows and a random generator, instead of the
        neighbour graph: a test of the verify pass.
    library : module or None
        Works with this library's arrays; None takes that of the rows, or CuPy where `FitOptions.on_device`
        asks for it.
    """

    tile_rows: int | None = None
    n_axes: int | None = None
    bound_neighbours: bool = True
    bound_verify: bool = True
    prune_rows: bool = True
    threads: int | None = None
    initial_tree: InitialTree | None = None
    library: ArrayModule | None = None

    def __post_init__(self) -> None:
        """Refuse tiles whose pairs have no number."""
        if self.tile_rows is not None and not 1 <= self.tile_rows <= layout.MAX_TILE_ROWS:
            raise InvalidParameter(f"tile_rows must be 1 to {layout.MAX_TILE_ROWS:,}; got {self.tile_rows:,}")


class TiledBackend:
    """Exact in hundreds of dimensions, in memory proportional to the rows.

    Notes
    -----
    Products of float32 rows find candidates within proven margins; every number that decides is measured
    in float64 from the rows. Neither tile size, threads nor the BLAS library can therefore change the
    weights of the tree.

    References
    ----------
    .. [1] McInnes, Healy (2017). Accelerated hierarchical density based clustering. ICDM Workshops.
       https://doi.org/10.1109/ICDMW.2017.12
    """

    name = "tiled"
    exact = True
    weighted = True

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()

    def check(self, n_rows: int, n_features: int, options: FitOptions) -> None:
        """Accept every shape whose lists fit where they must lie; in host memory, all of them."""
        if not options.on_device:
            return
        needed, free = self.device_bytes(n_rows, n_features, options.min_samples), cuda.free_bytes()
        if needed > free:
            raise UnsupportedOnBackend(
                f"backend tiled needs {format_bytes(needed)} of device memory for {n_rows:,} rows, beside "
                f"the rows themselves; {format_bytes(free)} are free: use --devices none, a smaller "
                "--min-samples, or a sample with --downsample"
            )

    def rows_on_device(self, n_rows: int, n_features: int, options: FitOptions) -> bool:
        """Return whether the rows fit into device memory with the work; if not, tiles are uploaded."""
        if not options.on_device:
            return False
        rows = 4 * n_rows * n_features
        return rows + self.device_bytes(n_rows, n_features, options.min_samples) <= cuda.free_bytes()

    def device_bytes(self, n_rows: int, n_features: int, min_samples: int) -> int:
        """Return the most bytes that the work takes on a device, without the rows."""
        length, axes_floats = neighbours.list_length(n_rows, min_samples), self._device_axes + 1
        by_row = device.list_bytes(length) + 4 * axes_floats + _DEVICE_ROW_BYTES
        tile_rows = min(n_rows, self.settings.tile_rows or device.TILE_ROWS)
        return n_rows * by_row + device.buffer_bytes(tile_rows, max(n_features, axes_floats))

    def bytes_needed(self, n_rows: int, n_features: int, options: FitOptions) -> int:
        """Return the bytes of the rows and of the work; see `Backend.bytes_needed`."""
        rows = 4 * n_rows * n_features
        if options.on_device:
            beside = self.device_bytes(n_rows, n_features, options.min_samples)
            return beside + rows if self.rows_on_device(n_rows, n_features, options) else beside
        n_axes = self._n_axes(n_rows, np)
        # What is chosen by the rows is not known before they are there.
        n_axes = max(axes.CHOICES) if n_axes is None else n_axes
        return rows + self._bytes(
            (n_rows, n_features),
            options.min_samples,
            work=select_kernels(np),
            coordinate_bytes=_coordinate_bytes(select_kernels(np), n_features, n_axes),
            n_threads=self.settings.threads or available_cores(),
        )

    def fit(self, vectors: Array, weights: IntArray, options: FitOptions) -> SpanningTree:
        """Build the tree; see `Backend.fit`.

        Raises
        ------
        InvalidParameter
            `min_samples` exceeds the number of rows, copies counted.
        """
        n = len(vectors)
        if options.min_samples > int(weights.sum()):
            raise InvalidParameter(
                f"min_samples must be at most the number of rows, {int(weights.sum())}; "
                f"got {options.min_samples}"
            )
        if n == 1:
            empty = np.empty(0, dtype=np.int64)
            return SpanningTree(empty, empty, np.empty(0), np.full(1, options.distance_floor))
        if not on_device(vectors):
            # A plain view: the compiled kernels take memory maps only as ordinary arrays.
            vectors = np.asarray(vectors)
        xp = self._library(vectors, options)
        threads = select_kernels(xp).THREADS or self.settings.threads
        self._open(options, xp)
        if finished := self._stored(options, _FINISHED_TREE, n):
            return _as_spanning_tree(*finished)
        rng = np.random.default_rng(_SEED)
        with workers(threads) as team, _shared_folder(options) as folder:
            # In one thread: those of the BLAS library wait for each other by turning in circles.
            space = build_space(xp, vectors, self._n_axes(n, xp), rng)
            cores, tree = self._stored(options, _INITIAL_TREE, n) or self._initial_tree(
                space, weights, options, team, rng, folder
            )
            tree = self._close(space, cores, tree, options, team, folder)
        # Whoever called discards the state when the result is safe; a kill before costs no second fit.
        self._store(options, _FINISHED_TREE, cores, tree)
        return _as_spanning_tree(cores, tree)

    def _library(self, vectors: Array, options: FitOptions) -> ArrayModule:
        if self.settings.library is None and options.on_device and not on_device(vectors):
            return device_library()
        return self.settings.library or namespace(vectors)

    def _tile_rows(self, xp: ArrayModule) -> int:
        return self.settings.tile_rows or select_kernels(xp).TILE_ROWS

    def _n_axes(self, n_rows: int, xp: ArrayModule) -> int | None:
        # With two tiles, finding the axes takes longer than the one product that they could spare.
        if n_rows <= 2 * self._tile_rows(xp):
            return 0
        return self.settings.n_axes if xp is np else self._device_axes

    @property
    def _device_axes(self) -> int:
        return axes.N_AXES if self.settings.n_axes is None else self.settings.n_axes

    def _open(self, options: FitOptions, xp: ArrayModule) -> None:
        if options.checkpoint is not None:
            options.checkpoint.open(
                backend=self.name,
                format=_FORMAT,
                min_samples=options.min_samples,
                distance_floor=options.distance_floor,
                # Lists are kept as the library has them, and tiles are counted off. The orders of rows and of
                # tile pairs are in the state, whatever the other settings would make of them.
                library=xp.__name__,
                tile_rows=self._tile_rows(xp),
            )

    def _stored(self, options: FitOptions, name: str, n_rows: int) -> tuple[FloatArray, Edges] | None:
        if options.checkpoint is None:
            return None
        stored = options.checkpoint.load(name, tree_forms(n_rows), check=check_tree)
        if stored is None:
            return None
        return stored["cores"], Edges(*(stored[field] for field in Edges._fields))

    def _store(self, options: FitOptions, name: str, cores: FloatArray, tree: Edges) -> None:
        if options.checkpoint is not None:
            options.checkpoint.save(name, cores=cores, **tree._asdict())
            for earlier in _STATES[: _STATES.index(name)]:
                options.checkpoint.remove(earlier)

    def _initial_tree(
        self,
        space: Space,
        weights: IntArray,
        options: FitOptions,
        team: Workers,
        rng: np.random.Generator,
        shared: Path | None,
    ) -> tuple[FloatArray, Edges]:
        where, lists = self._neighbours(space, options, team, rng, shared)
        cores, n_redone = core_distances(
            space,
            weights,
            lists,
            min_samples=options.min_samples,
            floor=options.distance_floor,
            team=team,
            progress=options.progress,
        )
        _log.debug("%d of %d lists were too short for an exact core distance", n_redone, len(weights))
        options.progress.phase("forest")
        if self.settings.initial_tree is not None:
            ends = self.settings.initial_tree(len(weights), rng)
            tree = forest.measure(space, cores, ends, team)
        else:
            tree = self._joined(space, where, cores, lists, team, rng, options.progress)
        tree = minimum_forest(len(weights), tree)
        self._store(options, _INITIAL_TREE, cores, tree)
        return cores, tree

    def _neighbours(
        self,
        space: Space,
        options: FitOptions,
        team: Workers,
        rng: np.random.Generator,
        shared: Path | None,
    ) -> tuple[Layout, Lists]:
        n, length = len(space.vectors), neighbours.list_length(len(space.vectors), options.min_samples)
        where = layout.local_layout(space.coordinates, self._tile_rows(space.xp), rng)
        folder = None
        limit = options.memory_limit if space.xp is np else None
        if limit is not None and self.memory(space, options.min_samples, team) > limit:
            folder = options.work_dir or Path(tempfile.gettempdir())
            _log.info("neighbour lists of %s go into a file in %s", format_bytes(8 * n * length), folder)
        lists = space.kernels.empty_lists(space.xp, where, length, folder)
        asking = space if self.settings.bound_neighbours else replace(space, bounded=False)
        state: dict[str, Any] = {"progress": options.progress, "checkpoint": options.checkpoint}
        if options.executor is None or shared is None:
            return neighbours.find_neighbours(asking, where, lists, team=team, **state), lists
        writer = RowWriter(asking, shared)
        return fill_lists(asking, where, lists, executor=options.executor, writer=writer, **state), lists

    def memory(self, space: Space, min_samples: int, team: Workers) -> int:
        """Return the most bytes taken above the input: lists, axes and trees by row, buffers by thread."""
        n, d = space.vectors.shape
        taken = _coordinate_bytes(space.kernels, d, space.coordinates.shape[1] - 1 if space.bounded else 0)
        return self._bytes(
            (n, d), min_samples, work=space.kernels, coordinate_bytes=taken, n_threads=team.n_threads
        )

    def _bytes(
        self,
        shape: tuple[int, int],
        min_samples: int,
        *,
        work: Kernels,
        coordinate_bytes: int,
        n_threads: int,
    ) -> int:
        n, d = shape
        length = neighbours.list_length(n, min_samples)
        buffers = work.buffer_bytes(self.settings.tile_rows or work.TILE_ROWS, d)
        # One pass after the other: what each takes for its tiles is gone when the next begins.
        buffers = max(buffers, batch_bytes(work, d, min_samples) if length < n - 1 else 0)
        return int(n * (work.list_bytes(length) + coordinate_bytes + _ROW_BYTES) + n_threads * buffers)

    def _joined(
        self,
        space: Space,
        where: Layout,
        cores: FloatArray,
        lists: Lists,
        team: Workers,
        rng: np.random.Generator,
        progress: Progress,
    ) -> Edges:
        """Connect all rows by edges of the neighbour graph and edges between its components."""
        known = forest.measure(space, cores, forest.neighbour_forest(lists, cores), team)
        groups = forest.split_at_joints(len(cores), known, _GROUP_ROWS)
        _log.debug("%d edges of the neighbour graph, %d groups", len(known.u), len(np.unique(groups)))
        joints = join_components(space, where, cores, groups, team, rng, progress)
        return concatenate([known, forest.measure(space, cores, joints, team)])

    def _close(
        self,
        space: Space,
        cores: FloatArray,
        tree: Edges,
        options: FitOptions,
        team: Workers,
        shared: Path | None,
    ) -> Edges:
        space = space if self.settings.bound_verify else replace(space, bounded=False)
        settings: dict[str, Any] = {
            "tile_rows": self._tile_rows(space.xp),
            "progress": options.progress,
            "prune_rows": self.settings.prune_rows,
            "checkpoint": options.checkpoint,
        }
        verifier: verify.Verifier | BlockVerifier
        if options.executor is None or shared is None:
            verifier = verify.Verifier(space, cores, team=team, **settings)
        else:
            writer = RowWriter(space, shared)
            verifier = BlockVerifier(space, cores, executor=options.executor, writer=writer, **settings)
        tree = verifier.minimize_tree(tree)
        _log.debug("the verify pass found %d candidates", verifier.n_candidates)
        return tree


@contextlib.contextmanager
def _shared_folder(options: FitOptions) -> Iterator[Path | None]:
    """Open the folder in which the workers of an executor find the rows, that of the states if there is one.

    Files there are removed with the states; without states, at the end.
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
        options.executor.share_folder(folder.resolve())
        yield folder.resolve()


def _coordinate_bytes(work: Kernels, n_features: int, n_axes: int) -> int:
    """Return the bytes of a row's projected coordinates and of its packed form."""
    if not axes.pay(n_axes, n_features):
        return work.packed_bytes(n_features)
    return 4 * (n_axes + 1) + work.packed_bytes(n_axes + 1)


def _as_spanning_tree(cores: FloatArray, tree: Edges) -> SpanningTree:
    return SpanningTree(tree.u, tree.v, tree.height, cores)
