"""Validated parameters of a clustering, and the one home of their defaults."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from panic_tda.errors import DatabaseError, InvalidParameter
from panic_tda.paths import expand_home

EPSILON = 0.4
DISTANCE_FLOOR = 1e-3
MIN_CLUSTER_SHARE = 0.001
MIN_SAMPLES_CAP = 64
ALLOW_SINGLE_CLUSTER = False
SELECTION_METHODS = ("eom", "leaf")
LEAST_MEMORY = 2**20
"""Bytes; less is a number whose unit was forgotten."""
_LARGEST_INTEGER = 2**63 - 1
"""What a database takes as an integer."""


@dataclass(frozen=True)
class EffectiveParameters:
    """What a run really used; the names are the keys under which they are stored.

    `cluster_selection_epsilon` and `distance_floor` are chord distances. `min_samples` counts the point
    itself. `max_cluster_size` is None where clusters may have any size.
    """

    cluster_selection_epsilon: float
    min_cluster_size: int
    min_samples: int
    allow_single_cluster: bool
    cluster_selection_method: str
    max_cluster_size: int | None
    distance_floor: float


@dataclass(frozen=True, kw_only=True)
class ClusteringRecord(EffectiveParameters):
    """How a clustering came about, as it is stored: the parameters that were used, and what they met with.

    Attributes
    ----------
    backend : str
        What built the spanning tree.
    exact : bool
        Whether the tree is that of the complete graph.
    n_embeddings, n_unique, n_clusters, n_outliers : int
        Rows, distinct rows among them, and what they came to.
    versions : dict of str to str
        Of the libraries that had a part in it.
    seconds : dict of str to float
        Wall-clock time, by stage.
    lighter_edge_share : float or None
        What a sample of rows says of a tree that is not exact (see `types.LighterEdges`); None of others.
    lighter_edge_sample : int or None
        Rows of that sample.
    downsample, n_total, n_sampled, n_excluded : int or None
        How the rows were chosen from a database (see `types.EmbeddingMatrix`); None where there was none.
    n_vanished : int or None
        Embeddings that had gone before a kept result could be saved.
    input_sha256 : str or None
        Of the embedding ids and the rows.
    recut_of : str or None
        Id of the clustering whose tree was cut anew; None of those that were fitted.
    root_selected : bool or None
        Whether the root cluster, which holds all rows, was selected (not merely allowed); None where an
        older version stored the clustering.
    largest_cluster_size : int or None
        Rows of the largest cluster, 0 without clusters; None where an older version stored the clustering.
    further : dict
        Values that other versions stored and this one knows nothing of; they are kept as they are.
    """

    backend: str
    exact: bool
    n_embeddings: int
    n_unique: int
    n_clusters: int
    n_outliers: int
    versions: dict[str, str]
    seconds: dict[str, float] = field(default_factory=dict)
    lighter_edge_share: float | None = None
    lighter_edge_sample: int | None = None
    downsample: int | None = None
    n_total: int | None = None
    n_sampled: int | None = None
    n_excluded: int | None = None
    n_vanished: int | None = None
    input_sha256: str | None = None
    recut_of: str | None = None
    root_selected: bool | None = None
    largest_cluster_size: int | None = None
    further: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the object that is stored; values that do not apply are left out."""
        said = asdict(self)
        further: dict[str, Any] = said.pop("further")
        always = ("max_cluster_size",)
        return {name: value for name, value in said.items() if value is not None or name in always} | further

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """Read what `to_json` returned, in this version or an older one.

        Raises
        ------
        DatabaseError
            A value is missing without which a clustering means nothing, or is not what its name says.
        """
        if not isinstance(stored, Mapping):
            raise DatabaseError(f"the stored parameters are not a JSON object; got {stored!r:.40}")
        known = {one.name: one for one in fields(cls) if one.name != "further"}
        missing = [
            name
            for name, one in known.items()
            if one.default is MISSING and one.default_factory is MISSING and name not in stored
        ]
        if missing:
            raise DatabaseError(f"the stored parameters lack {', '.join(missing)}: they are not panic_tda's")
        record = cls(
            **{name: value for name, value in stored.items() if name in known},
            further={name: value for name, value in stored.items() if name not in known},
        )
        record._require_readable()
        return record

    def _require_readable(self) -> None:
        for one in fields(self):
            value, kind = getattr(self, one.name), str(one.type)
            if not _is_of_kind(value, kind):
                raise DatabaseError(f"the stored parameter {one.name} must be {kind}; got {value!r:.40}")


@dataclass(frozen=True, kw_only=True)
class ClusteringParameters:
    """What was asked for.

    Parameters
    ----------
    epsilon : float
        Chord distance below which clusters are not split (0.4 is cosine distance 0.08).
    min_cluster_size : int, float or None
        Fewest rows of a cluster: a count, or a share of the rows as a float in (0, 1). None takes 0.1 %
        of the rows, but on small data a tenth of the rows and at most 10.
    min_samples : int or None
        The core distance of a row is the distance to its `min_samples`-th nearest row, the row itself
        being the first. None takes `min_cluster_size`, at most 64.
    allow_single_cluster : bool
        Whether the root cluster, which holds all rows, may be selected.
    selection_method : {"eom", "leaf"}
        Excess of mass, or the leaves of the hierarchy.
    max_cluster_size : int or None
        Clusters above this size are split further, and epsilon merges none beyond it; of "eom" only.
    distance_floor : float
        Smaller chord distances count as this one, so that densities stay finite.
    backend : str
        Name of the backend that builds the spanning tree, or "auto".
    exact : bool
        Whether "auto" leaves out backends whose tree is not that of the complete graph.

    Raises
    ------
    InvalidParameter
        A value outside its range, or two that contradict each other.
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

    def __post_init__(self) -> None:
        _make_plain(self)
        _require_number("epsilon", "a chord distance from 0 to 2", self.epsilon)
        _require(0 <= self.epsilon <= 2, "epsilon", "a chord distance from 0 to 2", self.epsilon)
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
        if 0 < self.epsilon < self.distance_floor:
            raise InvalidParameter(
                f"epsilon must be 0 or at least distance_floor, {self.distance_floor:g}: no distance is "
                f"below that; got {self.epsilon:g}"
            )

    def resolve(self, n_rows: int) -> EffectiveParameters:
        """Fill in what depends on the number of rows, duplicates counted.

        Raises
        ------
        InvalidParameter
            `min_cluster_size` is a share, or the default, and comes to more rows than `max_cluster_size`.
        """
        size = self._cluster_size(n_rows)
        _require_size_above(size, self.max_cluster_size)
        samples = self.min_samples if self.min_samples is not None else min(size, MIN_SAMPLES_CAP)
        return EffectiveParameters(
            cluster_selection_epsilon=float(self.epsilon),
            min_cluster_size=size,
            min_samples=samples,
            allow_single_cluster=self.allow_single_cluster,
            cluster_selection_method=self.selection_method,
            max_cluster_size=self.max_cluster_size,
            distance_floor=float(self.distance_floor),
        )

    def _cluster_size(self, n_rows: int) -> int:
        size = self.min_cluster_size
        if size is None:
            return max(_share_of(MIN_CLUSTER_SHARE, n_rows), min(10, max(2, n_rows // 10)))
        if isinstance(size, float):
            return max(2, _share_of(size, n_rows))
        return size


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a run may take and where it keeps its state; none of it changes the clusters.

    Parameters
    ----------
    memory_limit : int or None
        Bytes above the vectors, at least 1 MiB; lists beyond it go into files, and so do vectors that are
        larger than it.
    work_dir : Path or None
        Folder for the state of unfinished runs; None takes `<name>.panic-tda` beside the database.
    checkpoints : bool
        Whether the state is kept, so that the same command goes on after a kill.
    discard_checkpoints : bool
        Whether the states that earlier runs left of the models, with whatever parameters, are removed first.
    devices : tuple of int or None
        CUDA devices among which models are shared out, by their numbers among the visible ones; none of them
        does without CUDA, and None takes all.
    keep_tree : bool
        Whether the spanning tree is stored with the result, some 20 bytes a row, so that the clusters can be
        cut anew without fitting again.
    """

    memory_limit: int | None = None
    work_dir: Path | None = None
    checkpoints: bool = True
    discard_checkpoints: bool = False
    devices: tuple[int, ...] | None = None
    keep_tree: bool = True

    def __post_init__(self) -> None:
        _make_plain(self)
        if self.memory_limit is not None:
            validate_memory_limit(self.memory_limit)
        if self.work_dir is not None:
            allowed = "a folder, or a place for one, as a pathlib.Path"
            _require(isinstance(self.work_dir, Path), "work_dir", allowed, repr(self.work_dir))
            object.__setattr__(self, "work_dir", expand_home(self.work_dir))
            # Unlike the methods of a path, these raise nothing where a name is too long or nobody may look.
            is_place = os.path.isdir(self.work_dir) or not os.path.exists(self.work_dir)
            _require(is_place, "work_dir", allowed, self.work_dir)
        for name in ("checkpoints", "discard_checkpoints", "keep_tree"):
            _require_bool(name, getattr(self, name))
        if self.devices is not None:
            allowed = "a tuple of device numbers such as (0, 1)"
            _require(isinstance(self.devices, (tuple, list)), "devices", allowed, repr(self.devices))
            object.__setattr__(self, "devices", tuple(map(_plain, self.devices)))
            for number in self.devices:
                _require_count(0, "devices", allowed, number)


def parse_bytes(text: str) -> int:
    """Read a size in bytes such as `2GiB`, `512MiB` or `4GB`.

    Raises
    ------
    InvalidParameter
        It is none.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]i?)?B?\s*", text, flags=re.IGNORECASE)
    if not found:
        raise InvalidParameter(
            f"a size must be a number with KiB, MiB, GiB, TiB, KB, MB, GB or TB; got {text!r}"
        )
    unit = (found[2] or "").upper()
    base = 1024 if unit.endswith("I") else 1000
    return int(float(found[1]) * base ** " KMGT".index(unit[:1] or " "))


def format_bytes(size: int) -> str:
    """Say a number of bytes as people do: `28.0 GiB`, or `512 MiB` below one."""
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / 2**20:,.0f} MiB"


def parse_devices(text: str) -> tuple[int, ...]:
    """Read device numbers such as `0,1`, or `none`.

    Raises
    ------
    InvalidParameter
        Neither of the two.
    """
    if text.strip().lower() == "none":
        return ()
    if not re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*)*", text, flags=re.ASCII):
        raise InvalidParameter(f"devices are numbers such as 0 or 0,1, or none; got {text!r}")
    return tuple(int(number) for number in text.split(","))


def parse_min_cluster_size(text: str) -> int | float:
    """Read a count (`25`) or a share of the rows (`0.1%`).

    Raises
    ------
    InvalidParameter
        Neither of the two.
    """
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else int(text)
    except ValueError:
        raise InvalidParameter(
            f"min_cluster_size is a count such as 25 or a share of the rows such as 0.1%; got {text!r}"
        ) from None


def from_options(*, min_cluster_size: str | None = None, **others: Any) -> ClusteringParameters:
    """Make parameters from the options of a command, where `min_cluster_size` is text.

    Raises
    ------
    InvalidParameter
        A value outside its range.
    """
    size = None if min_cluster_size is None else parse_min_cluster_size(min_cluster_size)
    return ClusteringParameters(min_cluster_size=size, **others)


def validate_downsample(factor: int) -> int:
    """Return `factor` when it is a whole number of at least 1.

    Raises
    ------
    InvalidParameter
        Anything else.
    """
    allowed = "a whole number of at least 1 (1 keeps every row) that fits into 64 bits"
    plain: int = _plain(factor)
    _require_count(1, "downsample", allowed, plain)
    _require(plain <= _LARGEST_INTEGER, "downsample", allowed, plain)
    return plain


def validate_memory_limit(limit: int) -> int:
    """Return `limit` when it is a number of bytes that something can be done in.

    Raises
    ------
    InvalidParameter
        It is below 1 MiB, or no whole number.
    """
    allowed = "at least 1 MiB in bytes, or a size such as 2GiB as an option"
    plain: int = _plain(limit)
    _require_count(LEAST_MEMORY, "memory_limit", allowed, plain)
    return plain


def chord_to_cosine(chord: float) -> float:
    """Cosine distance (1 - cos) of two unit vectors that lie `chord` apart."""
    return chord * chord / 2


def _share_of(share: float, n_rows: int) -> int:
    # 0.001 * 3000 is 3.0000000000000004 in floating point; that is 3 rows, not 4.
    return math.ceil(round(share * n_rows, 9))


def _require_size_above(smallest: int, largest: int | None) -> None:
    allowed = f"at least min_cluster_size, {smallest}"
    _require(largest is None or largest >= smallest, "max_cluster_size", allowed, largest)


def _is_of_kind(value: Any, kind: str) -> bool:
    """Tell whether a stored value is of the kind that a field of `ClusteringRecord` is declared as."""
    if kind.endswith(" | None"):
        return value is None or _is_of_kind(value, kind.removesuffix(" | None"))
    if kind.startswith("dict[str, "):
        inner = kind[len("dict[str, ") : -1]
        return isinstance(value, dict) and all(_is_of_kind(item, inner) for item in value.values())
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind == "int":
        return is_number and isinstance(value, int) and 0 <= value <= _LARGEST_INTEGER
    if kind == "float":
        return is_number and math.isfinite(value)
    return kind == "Any" or isinstance(value, {"str": str, "bool": bool}[kind])


def _require(holds: bool, name: str, allowed: str, got: Any) -> None:
    if not holds:
        raise InvalidParameter(f"{name} must be {allowed}; got {got}")


def _plain(value: Any) -> Any:
    """Make Python's number of NumPy's, which JSON does not know."""
    return value.item() if hasattr(value, "item") and not getattr(value, "shape", ()) else value


def _make_plain(given: Any) -> None:
    for one in fields(given):
        # The way into a frozen dataclass.
        object.__setattr__(given, one.name, _plain(getattr(given, one.name)))


def _require_number(name: str, allowed: str, got: Any) -> None:
    is_number = isinstance(got, (int, float)) and not isinstance(got, bool)
    _require(is_number, name, allowed, repr(got))


def _require_bool(name: str, got: Any) -> None:
    _require(isinstance(got, bool), name, "True or False", repr(got))


def _require_count(least: int, name: str, allowed: str, got: Any) -> None:
    _require(isinstance(got, int) and not isinstance(got, bool), name, allowed, repr(got))
    _require(got >= least, name, allowed, got)
