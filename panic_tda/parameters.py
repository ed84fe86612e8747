"""Parameters of a clustering and of its resources, with their defaults and their validation."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from panic_tda.errors import InvalidParameter
from panic_tda.paths import expand_home
from panic_tda.records import COSINE, EUCLIDEAN, LARGEST_INTEGER, ClusteringRecord, EffectiveParameters

METRICS = (COSINE, EUCLIDEAN)
EPSILON = 0.4
DISTANCE_FLOOR = 1e-3
EUCLIDEAN_FLOOR = 1e-9
"""Distance floor of the metric euclidean, in units of the largest distance of a row from the centre."""
MIN_CLUSTER_SHARE = 0.001
MIN_SAMPLES = 5
ALLOW_SINGLE_CLUSTER = False
KEEP_NEIGHBOURS = 20
SELECTION_METHODS = ("eom", "leaf")
MAP_ROWS = 50_000
"""Largest number of embeddings on a map."""
N_LABELS, FIGURE_WIDTH = 30, 7.2
"""Clusters with a label in a figure, and its width in inches: two columns of most journals (183 mm)."""
STABILITY_RESAMPLES = 20
NETWORK, PROMPT, MODEL, T2I, I2T = "network", "prompt", "model", "t2i", "i2t"
GROUPINGS = (NETWORK, PROMPT, MODEL, T2I, I2T, f"{NETWORK},{PROMPT}")
"""Keys by which runs are grouped."""
LEAST_MEMORY = 2**20
"""Smallest memory limit in bytes; a smaller number is probably one without its unit."""


def choose_epsilon(metric: str) -> float:
    """Return the default of epsilon for a metric."""
    return EPSILON if metric == COSINE else 0.0


@dataclass(frozen=True, kw_only=True)
class ClusteringParameters:
    """Requested parameters of a clustering.

    Parameters
    ----------
    epsilon : float
        Merge clusters closer than this chord distance; 0.4 is cosine distance 0.08 (epsilon²/2).
    min_cluster_size : int, float or None
        Smallest number of rows of a cluster, or a share of the rows as a float in (0, 1). None is 0.1 % of
        the rows; on small data it is a tenth of the rows, at most 10.
    min_samples : int or None
        Number of neighbours for the core distance, including the point itself. None is 5, or the number
        of rows if that is smaller.
    allow_single_cluster : bool
        Whether the root cluster, which contains all rows, may be selected.
    selection_method : {"eom", "leaf"}
        Excess of mass, or the leaves of the hierarchy.
    max_cluster_size : int or None
        Clusters above this size are split, and epsilon does not merge clusters beyond it; for "eom" only.
    distance_floor : float
        Smaller chord distances count as this one, so that densities stay finite.
    backend : str
        Name of the backend that builds the spanning tree, or "auto".
    exact : bool
        Whether "auto" excludes backends whose tree is not that of the complete graph.
    metric : {"cosine", "euclidean"}
        Distance of two rows. With euclidean, `epsilon` is a distance in the units of the rows, and
        `distance_floor` does not apply: the floor is `EUCLIDEAN_FLOOR` times the largest distance of a row
        from the centre.

    Raises
    ------
    InvalidParameter
        A value is outside its range, or two values contradict each other.
    """

    epsilon: float = EPSILON
    min_cluster_size: int | float | None = None
    min_samples: int | None = None
    allow_single_cluster: bool = ALLOW_SINGLE_CLUSTER
    selection_method: str = "eom"
    max_cluster_size: int | None = None
    distance_floor: float = DISTANCE_FLOOR
    backend: str = "auto"
    exact: bool = False
    metric: str = COSINE

    @classmethod
    def of(cls, record: ClusteringRecord, **changes: Any) -> Self:
        """Return the parameters of a stored clustering for another fit, with changes."""
        metric = record.metric or COSINE
        values: dict[str, Any] = {
            "epsilon": record.cluster_selection_epsilon,
            "min_cluster_size": record.min_cluster_size,
            "min_samples": record.min_samples,
            "allow_single_cluster": record.allow_single_cluster,
            "selection_method": record.cluster_selection_method,
            "max_cluster_size": record.max_cluster_size,
            # The floor of Euclidean distances depends on the rows.
            "distance_floor": record.distance_floor if metric == COSINE else DISTANCE_FLOOR,
            "backend": record.backend,
            "metric": metric,
        }
        return cls(**(values | changes))

    def __post_init__(self) -> None:
        _make_plain(self)
        _require(self.metric in METRICS, "metric", " or ".join(METRICS), repr(self.metric))
        is_cosine = self.metric == COSINE
        allowed = "a chord distance from 0 to 2" if is_cosine else "a finite distance of at least 0"
        _require_number("epsilon", allowed, self.epsilon)
        _require(
            0 <= self.epsilon <= (2 if is_cosine else sys.float_info.max), "epsilon", allowed, self.epsilon
        )
        _require_number("distance_floor", "above 0 and up to 2", self.distance_floor)
        _require(0 < self.distance_floor <= 2, "distance_floor", "above 0 and up to 2", self.distance_floor)
        for name in ("allow_single_cluster", "exact"):
            _require_bool(name, getattr(self, name))
        _require(isinstance(self.backend, str), "backend", "the name of a backend", repr(self.backend))
        _require(
            self.selection_method in SELECTION_METHODS,
            "selection_method",
            " or ".join(SELECTION_METHODS),
            self.selection_method,
        )
        size = self.min_cluster_size
        if isinstance(size, float):
            _require(
                0 < size < 1, "min_cluster_size", "a share above 0 % and below 100 %", f"{100 * size:g} %"
            )
        elif size is not None:
            _require_count(2, "min_cluster_size", "a count of at least 2", size)
        if self.min_samples is not None:
            allowed = "a whole number of at least 1 (the point itself)"
            _require_count(1, "min_samples", allowed, self.min_samples)
        if self.max_cluster_size is not None:
            _require_count(1, "max_cluster_size", "a whole number of at least 1", self.max_cluster_size)
        self._require_consistent()

    def _require_consistent(self) -> None:
        if self.exact and self.backend == "cuml":
            raise InvalidParameter(
                "backend cuml is not exact: its tree is that of a neighbour graph; "
                "use --backend auto or tiled with --exact, or leave --exact out"
            )
        if self.metric == EUCLIDEAN:
            self._require_euclidean()
        is_leaf = self.selection_method == "leaf"
        if is_leaf and self.max_cluster_size is not None:
            raise InvalidParameter(
                f"max_cluster_size has no effect on the selection method leaf; got {self.max_cluster_size}; "
                "use eom, or leave the limit out"
            )
        if is_leaf and self.epsilon == 0 and self.allow_single_cluster:
            raise InvalidParameter(
                "allow_single_cluster has no effect on the selection method leaf at epsilon 0: no leaf is "
                "the root cluster; use eom or an epsilon above 0, or leave it out"
            )
        if isinstance(self.min_cluster_size, int):
            _require_size_above(self.min_cluster_size, self.max_cluster_size)
        if self.metric == COSINE and 0 < self.epsilon < self.distance_floor:
            raise InvalidParameter(
                f"epsilon must be 0 or at least distance_floor, {self.distance_floor:g}: no distance is "
                f"below that; got {self.epsilon:g}"
            )

    def _require_euclidean(self) -> None:
        if self.backend == "cuml":
            raise InvalidParameter(
                "backend cuml clusters by the metric cosine only; use backend auto or tiled for euclidean"
            )
        if self.distance_floor != DISTANCE_FLOOR:
            raise InvalidParameter(
                f"distance_floor has no effect on the metric euclidean; got {self.distance_floor:g}; "
                "leave it out"
            )

    def resolve(self, n_rows: int) -> EffectiveParameters:
        """Return the effective parameters for a number of rows, including duplicates.

        Raises
        ------
        InvalidParameter
            `min_cluster_size` is a share or the default, and is larger than `max_cluster_size` for these
            rows.
        """
        size = self._resolve_min_cluster_size(n_rows)
        _require_size_above(size, self.max_cluster_size)
        samples = self.min_samples if self.min_samples is not None else min(MIN_SAMPLES, max(2, n_rows))
        return EffectiveParameters(
            cluster_selection_epsilon=float(self.epsilon),
            min_cluster_size=size,
            min_samples=samples,
            allow_single_cluster=self.allow_single_cluster,
            cluster_selection_method=self.selection_method,
            max_cluster_size=self.max_cluster_size,
            distance_floor=float(self.distance_floor),
        )

    def _resolve_min_cluster_size(self, n_rows: int) -> int:
        size = self.min_cluster_size
        if size is None:
            return max(_count_share(MIN_CLUSTER_SHARE, n_rows), min(10, max(2, n_rows // 10)))
        if isinstance(size, float):
            return max(2, _count_share(size, n_rows))
        return size


@dataclass(frozen=True, kw_only=True)
class Resources:
    """Memory, folders and devices of a run; none of them changes the clusters.

    Parameters
    ----------
    memory_limit : int or None
        Bytes to use in addition to the vectors, at least 1 MiB; lists above the limit, and vectors that are
        larger than it, are stored in files.
    work_dir : Path or None
        Folder for the state of unfinished runs; None is `<name>.panic-tda` beside the database.
    checkpoints : bool
        Whether the state is saved, so that the same command resumes after a kill.
    discard_checkpoints : bool
        Whether states of these models from earlier runs, with any parameters, are removed first.
    devices : tuple of int or None
        Numbers of the visible CUDA devices on which models are clustered, each with a Dask worker unless it
        is the first one alone. An empty tuple disables CUDA, and None uses all devices.
    keep_tree : bool
        Whether the spanning tree is stored with the result, some 20 bytes per row, so that the clusters can
        be cut again without a new fit.
    keep_neighbours : int
        Largest `min_samples` at which the clusters can be cut again: so many neighbours of each row are
        stored with the tree, with their distances. The `min_samples` of the clustering counts instead if it
        is larger. 0 stores none; without the tree none are stored either.
    workers : int or None
        Number of Dask worker processes that share the work of each fit, on this machine. If CUDA devices are
        used, each process has one of them.
    scheduler : str or None
        Address of a Dask scheduler, or path of its scheduler file, whose workers share the work of each fit.
        They must see `work_dir` by the same path. Without `workers` and `scheduler`, threads of this process
        do the work.
    """

    memory_limit: int | None = None
    work_dir: Path | None = None
    checkpoints: bool = True
    discard_checkpoints: bool = False
    devices: tuple[int, ...] | None = None
    keep_tree: bool = True
    keep_neighbours: int = KEEP_NEIGHBOURS
    workers: int | None = None
    scheduler: str | None = None

    def __post_init__(self) -> None:
        _make_plain(self)
        if self.workers is not None:
            _require_count(1, "workers", "a whole number of at least 1", self.workers)
            allowed = "None beside workers: processes here or a scheduler's, not both"
            _require(self.scheduler is None, "scheduler", allowed, repr(self.scheduler))
        if self.scheduler is not None:
            is_name = isinstance(self.scheduler, str) and bool(self.scheduler.strip())
            allowed = "an address such as tcp://host:8786, or the path of a scheduler file"
            _require(is_name, "scheduler", allowed, repr(self.scheduler))
        if self.scheduler is not None:
            allowed = "none beside scheduler, whose workers have the devices that they see"
            _require(not self.devices, "devices", allowed, repr(self.devices))
        if self.memory_limit is not None:
            validate_memory_limit(self.memory_limit)
        if self.work_dir is not None:
            allowed = "a folder that exists or can be created, as a pathlib.Path"
            _require(isinstance(self.work_dir, Path), "work_dir", allowed, repr(self.work_dir))
            object.__setattr__(self, "work_dir", expand_home(self.work_dir))
            # Unlike the methods of a path, these raise no error if a name is too long or access is denied.
            is_possible = os.path.isdir(self.work_dir) or not os.path.exists(self.work_dir)
            _require(is_possible, "work_dir", allowed, self.work_dir)
        for name in ("checkpoints", "discard_checkpoints", "keep_tree"):
            _require_bool(name, getattr(self, name))
        _require_count(
            0, "keep_neighbours", "a whole number of at least 0 (0 stores none)", self.keep_neighbours
        )
        if self.devices is not None:
            allowed = "a tuple of device numbers such as (0, 1)"
            _require(isinstance(self.devices, (tuple, list)), "devices", allowed, repr(self.devices))
            object.__setattr__(self, "devices", tuple(map(_to_plain, self.devices)))
            for number in self.devices:
                _require_count(0, "devices", allowed, number)

    @property
    def uses_dask(self) -> bool:
        """Return whether Dask workers share the work."""
        return self.workers is not None or self.scheduler is not None


def validate_downsample(factor: int) -> int:
    """Return `factor` if it is a whole number of at least 1.

    Raises
    ------
    InvalidParameter
        It is not.
    """
    allowed = "a whole number of at least 1 (1 keeps every row) that fits into 64 bits"
    plain: int = _to_plain(factor)
    _require_count(1, "downsample", allowed, plain)
    _require(plain <= LARGEST_INTEGER, "downsample", allowed, plain)
    return plain


def validate_memory_limit(limit: int) -> int:
    """Return `limit` if it is a whole number of at least 1 MiB in bytes.

    Raises
    ------
    InvalidParameter
        It is not.
    """
    allowed = "at least 1 MiB in bytes, or a size such as 2GiB as an option"
    plain: int = _to_plain(limit)
    _require_count(LEAST_MEMORY, "memory_limit", allowed, plain)
    return plain


def chord_to_cosine(chord: float) -> float:
    """Return the cosine distance (1 - cos) of two unit vectors with this chord distance."""
    return chord * chord / 2


def _count_share(share: float, n_rows: int) -> int:
    # 0.001 * 3000 is 3.0000000000000004 in floating point, but must be 3 rows, not 4.
    return math.ceil(round(share * n_rows, 9))


def _require_size_above(smallest: int, largest: int | None) -> None:
    allowed = f"at least min_cluster_size, {smallest}"
    _require(largest is None or largest >= smallest, "max_cluster_size", allowed, largest)


def _require(is_valid: bool, name: str, allowed: str, value: Any) -> None:
    if not is_valid:
        raise InvalidParameter(f"{name} must be {allowed}; got {value}")


def _to_plain(value: Any) -> Any:
    """Convert a NumPy scalar to a Python number, which JSON can store."""
    return value.item() if hasattr(value, "item") and not getattr(value, "shape", ()) else value


def _make_plain(instance: Any) -> None:
    for item in fields(instance):
        # Assignment is not possible in a frozen dataclass.
        object.__setattr__(instance, item.name, _to_plain(getattr(instance, item.name)))


def _require_number(name: str, allowed: str, value: Any) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    _require(is_number, name, allowed, repr(value))


def _require_bool(name: str, value: Any) -> None:
    _require(isinstance(value, bool), name, "True or False", repr(value))


def _require_count(least: int, name: str, allowed: str, value: Any) -> None:
    _require(isinstance(value, int) and not isinstance(value, bool), name, allowed, repr(value))
    _require(value >= least, name, allowed, value)
