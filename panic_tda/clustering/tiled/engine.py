"""The backend `tiled`: an exact minimum spanning tree at the cost of one brute-force neighbour search."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from panic_tda.arrays.namespace import device_library, namespace, on_device
from panic_tda.clustering import phases
from panic_tda.clustering.backends.base import FitOptions
from panic_tda.clustering.neighbour_graph import empty_lists, list_bytes
from panic_tda.clustering.state_files import Form
from panic_tda.clustering.tiled import axes, device, forest, host, layout, neighbours, sharing, verify
from panic_tda.clustering.tiled.block_neighbours import fill_lists
from panic_tda.clustering.tiled.block_verify import BlockVerifier
from panic_tda.clustering.tiled.cores import batch_bytes, measure_core_distances
from panic_tda.clustering.tiled.improving_edges import estimate_candidates
from panic_tda.clustering.tiled.joining import Search, join_components
from panic_tda.clustering.tiled.pair_kernels import DENSE_SHARE
from panic_tda.clustering.tiled.space import build_lifted_space, build_space, select_kernels
from panic_tda.clustering.tiled.state_checks import check_nearer_rows, check_tree, tree_forms
from panic_tda.clustering.tiled.workers import Workers, workers
from panic_tda.clustering.trees import Edges, concatenate, dendrogram_order, minimum_forest
from panic_tda.devices import cuda
from panic_tda.devices.machine import available_cores
from panic_tda.errors import InvalidParameter, UnsupportedOnBackend
from panic_tda.records import EUCLIDEAN
from panic_tda.types import SpanningTree
from panic_tda.wording import format_bytes

if TYPE_CHECKING:
    from panic_tda.clustering.tiled.contract import Kernels, Lists, Space
    from panic_tda.clustering.tiled.layout import Layout
    from panic_tda.clustering.tiled.row_files import RowWriter
    from panic_tda.progress import Progress
    from panic_tda.types import Array, ArrayModule, FloatArray, IntArray, NeighbourLists

_SEED = 0
FORMAT = 3
"""Version of the saved states; raise it if a pass would misread the states of an earlier version."""
_INITIAL_TREE, _FINISHED_TREE = "first-tree", "finished-tree"
_NEARER_ROWS = "nearer-rows"
"""The lists of `FitOptions.keep_neighbours`, which belong to both trees."""
_STATES = (neighbours.STATE, _INITIAL_TREE, verify.STATE, _FINISHED_TREE)
"""Names of the saved states, in the order in which they are written; each replaces those before it."""
_ROW_BYTES = 160
"""Bytes per row for core distances, the initial tree and its order, candidates, and sorting them."""
_DEVICE_ROW_BYTES = 64
"""Bytes per row on a device: weights, core distances, merge heights and their maxima, positions."""
_MOST_PACKED_BYTES = 1 << 29
"""Packed whole rows up to which the verify pass packs all of them, where the axes reject few pairs."""
_GROUP_ROWS = 32
"""Fewest rows of a group that is joined to the others by a search beyond the neighbour lists.

The list of an outlier reaches into several clusters, so the neighbour graph joins these clusters by heavy
edges. Lighter edges between their dense rows exist, but the lists of dense rows end nearby.
"""

_log = logging.getLogger(__name__)


class _Stage(NamedTuple):
    """Core distances, a spanning tree, and the lists of `FitOptions.keep_neighbours`."""

    cores: FloatArray
    tree: Edges
    nearer: NeighbourLists | None


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
        Whether the pass uses the bound. The axes exist in any case, to choose tiles and inter-component
        edges.
    prune_rows : bool
        Whether the verify pass leaves out rows that cannot have an improving edge.
    threads : int or None
        None takes the available cores. Ignored where a device does the work: it has its own.
    initial_tree : callable or None
        Gives the first spanning tree from the number of rows and a random generator, instead of the
        neighbour graph: a test of the verify pass.
    library : module or None
        Library that computes; None takes that of the rows, or CuPy if `FitOptions.on_device` is set.
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
        """Check that the pairs of a tile can be numbered."""
        if self.tile_rows is not None and not 1 <= self.tile_rows <= layout.MAX_TILE_ROWS:
            raise InvalidParameter(f"tile_rows must be 1 to {layout.MAX_TILE_ROWS:,}; got {self.tile_rows:,}")


class TiledBackend:
    """Exact backend for hundreds of dimensions, in memory proportional to the number of rows.

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
        """Refuse rows whose neighbour lists and tiles exceed the free device memory; see `Backend.check`.

        In host memory every shape is accepted, because lists can be kept in files.
        """
        if not options.on_device:
            return
        needed, free = (
            self.device_bytes(n_rows, n_features, options.tree_min_samples),
            cuda.allocatable_bytes(),
        )
        if needed > free:
            raise UnsupportedOnBackend(
                f"backend tiled needs {format_bytes(needed)} of device memory for {n_rows:,} rows, without "
                f"the rows themselves; {format_bytes(free)} are free: use --devices none, a smaller "
                "--min-samples, or a sample with --downsample"
            )

    def rows_on_device(self, n_rows: int, n_features: int, options: FitOptions) -> bool:
        """Return whether the rows fit into device memory with the work; if not, tiles are uploaded."""
        if not options.on_device:
            return False
        rows = 4 * n_rows * n_features
        return (
            rows + self.device_bytes(n_rows, n_features, options.tree_min_samples) <= cuda.allocatable_bytes()
        )

    def device_bytes(self, n_rows: int, n_features: int, min_samples: int) -> int:
        """Return the most bytes that the work takes on a device, without the rows."""
        length, axes_floats = neighbours.list_length(n_rows, min_samples), self._device_axes + 1
        by_row = device.list_bytes(length) + 4 * axes_floats + _DEVICE_ROW_BYTES
        tile_rows = min(n_rows, self.settings.tile_rows or device.TILE_ROWS)
        return n_rows * by_row + device.buffer_bytes(tile_rows, max(n_features, axes_floats))

    def bytes_needed(self, n_rows: int, n_features: int, options: FitOptions) -> int:
        """Return the bytes of the rows and of the work; see `Backend.bytes_needed`."""
        # Euclidean rows are a float64 copy of the float32 rows that were loaded.
        rows = (12 if options.metric == EUCLIDEAN else 4) * n_rows * n_features
        if options.on_device:
            work_bytes = self.device_bytes(n_rows, n_features, options.tree_min_samples)
            return work_bytes + rows if self.rows_on_device(n_rows, n_features, options) else work_bytes
        n_axes = self._n_axes(n_rows, np)
        # The number that the rows choose is unknown before they are loaded.
        n_axes = max(axes.N_AXES_CHOICES) if n_axes is None else n_axes
        return rows + self._bytes(
            (n_rows, n_features),
            options,
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
        if options.tree_min_samples > int(weights.sum()):
            raise InvalidParameter(
                f"min_samples must be at most the number of rows, {int(weights.sum())}; "
                f"got {options.tree_min_samples}"
            )
        if n == 1:
            empty = np.empty(0, dtype=np.int64)
            lists = empty_lists(1, options.tree_min_samples) if options.keep_neighbours else None
            floor = np.full(1, options.distance_floor)
            return SpanningTree(empty, empty, np.empty(0), floor, neighbours=lists)
        if not on_device(vectors):
            # A plain view: the compiled kernels take memory maps only as ordinary arrays.
            vectors = np.asarray(vectors)
        if options.metric == EUCLIDEAN:
            # The files of tasks hold unit rows.
            options = replace(options, executor=None)
        xp = self._choose_library(vectors, options)
        threads = select_kernels(xp).THREADS or self.settings.threads
        self._open_checkpoint(options, xp)
        if finished := self._load_stage(options, _FINISHED_TREE, vectors.shape):
            return _as_spanning_tree(finished)
        rng = np.random.default_rng(_SEED)
        with (
            workers(threads) as team,
            sharing.open_folder(options, vectors.shape, self._tile_rows(xp, options)) as folder,
        ):
            # In one thread: those of the BLAS library wait for each other by turning in circles.
            if options.metric == EUCLIDEAN:
                space = build_lifted_space(vectors)
            else:
                space = build_space(xp, vectors, self._n_axes(n, xp), rng, team)
            writer = sharing.open_writer(space, options, folder)
            stage = self._load_stage(options, _INITIAL_TREE, vectors.shape) or self._build_initial_tree(
                space, weights, options, team, rng, writer
            )
            tree = self._minimize_tree(space, stage.cores, stage.tree, options, team, writer)
            if options.executor is not None and options.executor.on_device:
                # Devices sum in another order than processors. What is stored does not depend on the workers.
                tree = minimum_forest(n, forest.measure(space, stage.cores, (tree.u, tree.v), team))
            stage = stage._replace(tree=tree)
        # The caller removes the state when the result is saved; a kill before then costs no second fit.
        self._save_stage(options, _FINISHED_TREE, stage.cores, stage.tree)
        return _as_spanning_tree(stage)

    def _choose_library(self, vectors: Array, options: FitOptions) -> ArrayModule:
        if self.settings.library is None and options.on_device and not on_device(vectors):
            return device_library()
        return self.settings.library or namespace(vectors)

    def _tile_rows(self, xp: ArrayModule, options: FitOptions) -> int:
        on_device = options.executor is not None and options.executor.on_device
        tile_rows = device.TILE_ROWS if on_device else select_kernels(xp).TILE_ROWS
        return self.settings.tile_rows or tile_rows

    def _n_axes(self, n_rows: int, xp: ArrayModule) -> int | None:
        # With two tiles, finding the axes takes longer than the one product that they could spare.
        if n_rows <= 2 * (self.settings.tile_rows or select_kernels(xp).TILE_ROWS):
            return 0
        return self.settings.n_axes if xp is np else self._device_axes

    @property
    def _device_axes(self) -> int:
        return axes.DEFAULT_N_AXES if self.settings.n_axes is None else self.settings.n_axes

    def _open_checkpoint(self, options: FitOptions, xp: ArrayModule) -> None:
        if options.checkpoint is not None:
            options.checkpoint.open(
                backend=self.name,
                format=FORMAT,
                min_samples=options.tree_min_samples,
                distance_floor=options.distance_floor,
                # Lists are kept as the library has them, and tiles are counted off. The orders of rows and of
                # tile pairs are in the state, whatever the other settings would make of them.
                library=xp.__name__,
                tile_rows=self._tile_rows(xp, options),
            )

    def _load_stage(self, options: FitOptions, name: str, shape: tuple[int, int]) -> _Stage | None:
        if options.checkpoint is None:
            return None
        arrays = options.checkpoint.load(name, tree_forms(shape[0]), check=check_tree)
        if arrays is None:
            return None
        nearer = None
        if options.keep_neighbours:
            nearer = self._make_nearer_lists(shape, options)
            lists: dict[str, Array] = {"rows": nearer.rows, "distances": nearer.distances}
            forms = {field: Form(values.shape, values.dtype) for field, values in lists.items()}
            check = partial(check_nearer_rows, cores=arrays["cores"])
            if options.checkpoint.load(_NEARER_ROWS, forms, into=lists, check=check) is None:
                return None
        return _Stage(arrays["cores"], Edges(*(arrays[field] for field in Edges._fields)), nearer)

    def _save_stage(self, options: FitOptions, name: str, cores: FloatArray, tree: Edges) -> None:
        if options.checkpoint is not None:
            options.checkpoint.save(name, cores=cores, **tree._asdict())
            for earlier in _STATES[: _STATES.index(name)]:
                options.checkpoint.remove(earlier)

    def _build_initial_tree(
        self,
        space: Space,
        weights: IntArray,
        options: FitOptions,
        team: Workers,
        rng: np.random.Generator,
        writer: RowWriter | None,
    ) -> _Stage:
        searched_space = space if self.settings.bound_neighbours else replace(space, bounded=False)
        where, lists = self._find_neighbours(searched_space, options, team, rng, writer)
        nearer = self._make_nearer_lists(space.vectors.shape, options) if options.keep_neighbours else None
        cores, n_searched = measure_core_distances(
            space,
            weights,
            lists,
            min_samples=options.tree_min_samples,
            floor=options.distance_floor,
            team=team,
            progress=options.progress,
            nearer=nearer,
            search=sharing.open_core_search(where, weights, options, writer),
        )
        if nearer is not None and options.checkpoint is not None:
            # Before the tree, so that no tree is without them.
            options.checkpoint.save(_NEARER_ROWS, rows=nearer.rows, distances=nearer.distances)
        _log.debug("%d of %d lists were too short for an exact core distance", n_searched, len(weights))
        options.progress.phase(phases.FOREST)
        if self.settings.initial_tree is not None:
            ends = self.settings.initial_tree(len(weights), rng)
            tree = forest.measure(space, cores, ends, team)
        else:
            search = sharing.open_search(space, where, cores, team, options, writer)
            tree = self._build_tree_from_neighbours(search, lists, rng, options.progress)
        if writer is not None:
            writer.remove_files()
        tree = minimum_forest(len(weights), tree)
        self._save_stage(options, _INITIAL_TREE, cores, tree)
        return _Stage(cores, tree, nearer)

    def _make_nearer_lists(self, shape: tuple[int, int], options: FitOptions) -> NeighbourLists:
        """Return lists for the nearer rows, in host memory, or in files above the memory limit."""
        folder, limit = None, options.memory_limit
        if limit is not None:
            needed = self.bytes_needed(*shape, replace(options, on_device=False)) - 4 * shape[0] * shape[1]
            folder = (options.work_dir or Path(tempfile.gettempdir())) if needed > limit else None
        return empty_lists(shape[0], options.tree_min_samples, folder)

    def _find_neighbours(
        self,
        space: Space,
        options: FitOptions,
        team: Workers,
        rng: np.random.Generator,
        writer: RowWriter | None,
    ) -> tuple[Layout, Lists]:
        n, length = len(space.vectors), neighbours.list_length(len(space.vectors), options.tree_min_samples)
        where = layout.build_local_layout(space.coordinates, self._tile_rows(space.xp, options), rng, team)
        folder = None
        limit = options.memory_limit if space.xp is np else None
        if limit is not None and self.memory(space, options, team) > limit:
            folder = options.work_dir or Path(tempfile.gettempdir())
            _log.info("neighbour lists of %s go into a file in %s", format_bytes(8 * n * length), folder)
        lists = space.kernels.empty_lists(space.xp, where, length, folder)
        state: dict[str, Any] = {"progress": options.progress, "checkpoint": options.checkpoint}
        if options.executor is None or writer is None:
            return neighbours.find_neighbours(space, where, lists, team=team, **state), lists
        return fill_lists(space, where, lists, executor=options.executor, writer=writer, **state), lists

    def memory(self, space: Space, options: FitOptions, team: Workers) -> int:
        """Return the most bytes taken above the input: lists, axes and trees by row, buffers by thread."""
        n, d = space.vectors.shape
        taken = _coordinate_bytes(space.kernels, d, space.coordinates.shape[1] - 1 if space.bounded else 0)
        if space.lifted is not None:
            # Both lifted forms and their packed values, and the points.
            taken = 4 * (3 * d + 5) + 2 * space.kernels.packed_bytes(d + 2)
        return self._bytes(
            (n, d), options, work=space.kernels, coordinate_bytes=taken, n_threads=team.n_threads
        )

    def _bytes(
        self,
        shape: tuple[int, int],
        options: FitOptions,
        *,
        work: Kernels,
        coordinate_bytes: int,
        n_threads: int,
    ) -> int:
        (n, d), min_samples = shape, options.tree_min_samples
        nearer_bytes = list_bytes(min_samples) if options.keep_neighbours else 0
        length = neighbours.list_length(n, min_samples)
        buffers = work.buffer_bytes(self.settings.tile_rows or work.TILE_ROWS, d)
        # The passes run one after the other, and each frees its tiles at its end.
        buffers = max(buffers, batch_bytes(work, d, min_samples) if length < n - 1 else 0)
        largest = n * work.list_bytes(length)
        if not options.on_device and options.metric != EUCLIDEAN and self.settings.n_axes is None:
            # The verify pass begins when the lists are gone.
            largest = max(largest, self._packed_rows_bytes(n, d))
        return int(largest + n * (nearer_bytes + coordinate_bytes + _ROW_BYTES) + n_threads * buffers)

    def _build_tree_from_neighbours(
        self, search: Search, lists: Lists, rng: np.random.Generator, progress: Progress
    ) -> Edges:
        """Connect all rows by edges of the neighbour graph and edges between its components."""
        space, cores, team = search.space, search.cores, search.team
        known = forest.measure(space, cores, forest.neighbour_forest(lists, cores), team)
        groups = forest.split_into_groups(len(cores), known, _GROUP_ROWS)
        _log.debug("%d edges of the neighbour graph, %d groups", len(known.u), len(np.unique(groups)))
        edges = join_components(search, groups, rng, progress)
        return concatenate([known, forest.measure(space, cores, edges, team)])

    def _minimize_tree(
        self,
        space: Space,
        cores: FloatArray,
        tree: Edges,
        options: FitOptions,
        team: Workers,
        writer: RowWriter | None,
    ) -> Edges:
        if not self.settings.bound_verify or self._prefers_rows(space, cores, tree, options, team):
            space = replace(space, bounded=False)
        settings: dict[str, Any] = {
            "tile_rows": self._tile_rows(space.xp, options),
            "progress": options.progress,
            "prune_rows": self.settings.prune_rows,
            "checkpoint": options.checkpoint,
        }
        verifier: verify.Verifier | BlockVerifier
        if options.executor is None or writer is None:
            verifier = verify.Verifier(space, cores, team=team, **settings)
        else:
            verifier = BlockVerifier(space, cores, executor=options.executor, writer=writer, **settings)
        tree = verifier.minimize_tree(tree)
        _log.debug("the verify pass found %d candidates", verifier.n_candidates)
        return tree

    def _prefers_rows(
        self, space: Space, cores: FloatArray, tree: Edges, options: FitOptions, team: Workers
    ) -> bool:
        """Return whether the verify pass compares whole rows, because the axes would reject too few pairs."""
        if not space.bounded or space.xp is not np or options.executor is not None:
            return False
        if self.settings.n_axes is not None or not self._packed_rows_bytes(*space.vectors.shape):
            return False
        limit = options.memory_limit
        if limit is not None and self.memory(space, options, team) > limit:
            return False
        share = estimate_candidates(space, cores, dendrogram_order(len(cores), tree))
        _log.debug("the axes leave %.1e of the pairs of the verify pass", share)
        return share > DENSE_SHARE

    def _packed_rows_bytes(self, n_rows: int, n_features: int) -> int:
        """Return the bytes of packed whole rows, or 0 where they are too large to be packed all at once."""
        n_bytes = n_rows * host.packed_bytes(n_features, n_rows)
        return n_bytes if n_bytes <= _MOST_PACKED_BYTES else 0


def _coordinate_bytes(work: Kernels, n_features: int, n_axes: int) -> int:
    """Return the bytes of a row's projected coordinates and of its packed form."""
    if not axes.bound_saves_time(n_axes, n_features):
        return work.packed_bytes(n_features)
    return 4 * (n_axes + 1) + work.packed_bytes(n_axes + 1)


def _as_spanning_tree(stage: _Stage) -> SpanningTree:
    return SpanningTree(*stage.tree, core_distances=stage.cores, neighbours=stage.nearer)
