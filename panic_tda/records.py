"""The record of a clustering: its effective parameters, counts, versions and times, as they are stored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, Self

from panic_tda.errors import DatabaseError, InvalidParameter

COSINE, EUCLIDEAN = "cosine", "euclidean"
LARGEST_INTEGER = 2**63 - 1
"""Largest integer that a database stores."""


@dataclass(frozen=True)
class EffectiveParameters:
    """Effective parameters of a clustering; the names are the keys under which they are stored.

    `cluster_selection_epsilon` and `distance_floor` are chord distances. `min_samples` counts the point
    itself. `max_cluster_size` is None if clusters may have any size.
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
    """Stored description of a clustering: effective parameters, counts, versions and times.

    Attributes
    ----------
    backend : str
        Backend that built the spanning tree.
    exact : bool
        Whether the tree is that of the complete graph.
    n_embeddings, n_unique, n_clusters, n_outliers : int
        Number of rows, of distinct rows, of clusters and of outliers.
    versions : dict of str to str
        Versions of the libraries that were used.
    seconds : dict of str to float
        Wall-clock time of each stage, in seconds.
    lighter_edge_share : float or None
        For a tree that is not exact, the share of sampled rows with an improving edge (see
        `types.ImprovingEdgeSample`); otherwise None.
    lighter_edge_sample : int or None
        Number of rows of that sample.
    downsample, n_total, n_sampled, n_excluded : int or None
        Selection of the rows from a database (see `types.EmbeddingMatrix`); None without a database.
    n_vanished : int or None
        Number of embeddings that were deleted before a pending result could be saved.
    input_sha256 : str or None
        Hash of the embedding ids and the rows.
    recut_of : str or None
        Id of the clustering whose tree was cut again; None for a clustering that was fitted.
    keep_neighbours : int or None
        Largest `min_samples` at which the clustering can be cut again; None if no neighbours are stored.
    root_selected : bool or None
        Whether the root cluster, which contains all rows, was selected (not only allowed); None if an older
        version stored the clustering.
    largest_cluster_size : int or None
        Number of rows of the largest cluster, 0 without clusters; None if an older version stored the
        clustering.
    metric : {"cosine", "euclidean"} or None
        Distance of two rows; None (cosine) if an older version stored the clustering.
    further : dict
        Values that another version stored and that this version does not know; they are not changed.
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
    keep_neighbours: int | None = None
    root_selected: bool | None = None
    largest_cluster_size: int | None = None
    metric: str | None = None
    further: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the object that is stored, without values that do not apply."""
        values = asdict(self)
        further: dict[str, Any] = values.pop("further")
        always = ("max_cluster_size",)
        known = {name: value for name, value in values.items() if value is not None or name in always}
        return known | further

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """Build a record from a stored object of this version or an older one.

        Raises
        ------
        DatabaseError
            A required value is missing, or a value has a wrong type.
        """
        if not isinstance(stored, Mapping):
            raise DatabaseError(f"the stored parameters are not a JSON object; got {stored!r:.40}")
        known = {item.name: item for item in fields(cls) if item.name != "further"}
        missing = [
            name
            for name, item in known.items()
            if item.default is MISSING and item.default_factory is MISSING and name not in stored
        ]
        if missing:
            raise DatabaseError(
                f"the stored parameters lack {', '.join(missing)}: panic_tda did not store them"
            )
        record = cls(
            **{name: value for name, value in stored.items() if name in known},
            further={name: value for name, value in stored.items() if name not in known},
        )
        record._require_readable()
        return record

    def _require_readable(self) -> None:
        for item in fields(self):
            value, kind = getattr(self, item.name), str(item.type)
            if not _is_of_kind(value, kind):
                raise DatabaseError(f"the stored parameter {item.name} must be {kind}; got {value!r:.40}")


def require_cosine(record: ClusteringRecord, purpose: str) -> None:
    """Check that the distances of a clustering are chords (metric cosine).

    Raises
    ------
    InvalidParameter
        It has another metric.
    """
    if record.metric not in (None, COSINE):
        raise InvalidParameter(
            f"{purpose} needs a clustering of the metric cosine; this one has the metric {record.metric}; "
            "cluster again with --metric cosine"
        )


def _is_of_kind(value: Any, kind: str) -> bool:
    """Return whether a stored value has the declared type of a field of `ClusteringRecord`."""
    if kind.endswith(" | None"):
        return value is None or _is_of_kind(value, kind.removesuffix(" | None"))
    if kind.startswith("dict[str, "):
        inner = kind[len("dict[str, ") : -1]
        return isinstance(value, dict) and all(_is_of_kind(item, inner) for item in value.values())
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind == "int":
        return is_number and isinstance(value, int) and 0 <= value <= LARGEST_INTEGER
    if kind == "float":
        return is_number and math.isfinite(value)
    return kind == "Any" or isinstance(value, {"str": str, "bool": bool}[kind])
