"""Data classes that the packages exchange, and type aliases for arrays.

Arrays are C-ordered. `n` is the number of rows, `d` the number of dimensions. NumPy is imported for
annotations only.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import UUID

from panic_tda.doubts import Doubt, find_doubts
from panic_tda.wording import pluralize

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from panic_tda.records import ClusteringRecord

    FloatArray: TypeAlias = NDArray[np.float64]
    Float32Array: TypeAlias = NDArray[np.float32]
    IntArray: TypeAlias = NDArray[np.int64]
    Int32Array: TypeAlias = NDArray[np.int32]
    BytesArray: TypeAlias = NDArray[np.bytes_]
    BoolArray: TypeAlias = NDArray[np.bool_]
    # An array of NumPy or CuPy, and the module that it belongs to. CuPy has no type annotations.
    Array: TypeAlias = Any
    ArrayModule: TypeAlias = Any
else:
    FloatArray = Float32Array = IntArray = Int32Array = BytesArray = BoolArray = Array = ArrayModule = Any

OUTLIER = -1
"""Label of rows that belong to no cluster."""
CLUSTERED, SKIPPED, FAILED, UNCHANGED = "clustered", "skipped", "failed", "unchanged"
ASSIGNED = "assigned"
"""Statuses of a model in `ModelOutcome`.

A recut with the settings of its source is unchanged, and nothing is stored.
"""


@dataclass(frozen=True)
class EmbeddingMatrix:
    """The vectors of one embedding model, in ascending order of embedding id.

    Attributes
    ----------
    model : str
        Name of the embedding model.
    ids : (n,) S32
        Embedding ids, 32 lower-case hexadecimal characters each, ascending.
    vectors : (n, d) float32
        One row per embedding, as stored (not normalised); a NumPy array, or a CuPy array in device memory.
    n_total : int
        Number of embeddings of this model in the database, before sampling and exclusion.
    n_sampled : int
        Number of embeddings that the downsampling rule chose.
    n_excluded : int
        Number of embeddings that are excluded because they belong to no invocation, or because their vectors
        are invalid (with `skip_invalid`).
    downsample : int
        The sampling factor; 1 keeps every row.
    """

    model: str
    ids: BytesArray
    vectors: Any
    n_total: int
    n_sampled: int
    n_excluded: int
    downsample: int

    @property
    def chosen(self) -> dict[str, Any]:
        """Return the fields of `ClusteringRecord` that describe the selection of the rows."""
        names = ("downsample", "n_total", "n_sampled", "n_excluded")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class ImprovingEdgeSample:
    """Share of sampled rows that prove that a spanning tree is not a minimum one.

    Attributes
    ----------
    share : float
        Share of the sampled rows that have an improving edge: one that is shorter than the longest edge on
        the tree's path between its ends. 0 for a minimum spanning tree.
    sample : int
        Number of sampled rows.
    """

    share: float
    sample: int


@dataclass(frozen=True)
class NeighbourLists:
    """The nearest rows of every row: with the tree of their `min_samples`, all that smaller values need.

    Only originals have lists, and only originals are on them.

    Attributes
    ----------
    min_samples : int
        K, that of the tree that has these lists.
    rows : (m, max(0, K - 2)) int32
        For each of the m originals, ascending, the rows that are nearer than its core distance at K, the
        nearest first, itself left out; -1 where there are no more.
    distances : (m, max(0, K - 2)) float64
        Their chord distances, at least the distance floor; infinite where there are no more.
    originals : (n,) int64
        The first row that equals each row: itself, unless it is a copy. A backend that does not collapse
        copies has n originals.
    """

    min_samples: int
    rows: Int32Array
    distances: FloatArray
    originals: IntArray


@dataclass(frozen=True)
class SpanningTree:
    """A spanning tree of the mutual reachability graph, minimal unless `improving_edges` says otherwise.

    Attributes
    ----------
    u, v : (n - 1,) int64
        The two rows that each edge joins, in any order.
    height : (n - 1,) float64
        Mutual reachability distance of each edge (chord length), not necessarily sorted.
    core_distances : (n,) float64 or None
        Distance of each row to its `min_samples`-th neighbour, counting the row itself; at least the distance
        floor. Every backend returns them; None for a tree from elsewhere.
    tie_tolerance : float
        Relative difference up to which two heights count as equal.
    improving_edges : ImprovingEdgeSample or None
        Share of sampled rows with an improving edge, for a tree that is not exact; otherwise None.
    neighbours : NeighbourLists or None
        The lists of `FitOptions.keep_neighbours`; None if they were not requested, or the tree is not exact.
    """

    u: IntArray
    v: IntArray
    height: FloatArray
    core_distances: FloatArray | None = None
    tie_tolerance: float = 1e-9
    improving_edges: ImprovingEdgeSample | None = None
    neighbours: NeighbourLists | None = None


@dataclass(frozen=True)
class Clustering:
    """A clustering of `n` rows without ids, as a fit or a recut returns it.

    Attributes
    ----------
    labels : (n,) int64
        Cluster of each row: 0 is the largest cluster; of equally large ones, that with the smallest row comes
        first. `OUTLIER` (-1) for rows in no cluster.
    probabilities : (n,) float64
        Membership strength in 0 to 1; 0 for outliers.
    persistence : (n_clusters,) float64
        Persistence of each cluster, 0 to 1; NaN for the root cluster, which has no birth.
    medoid_indices : dict of int to int
        Row of the medoid of each cluster, by label.
    medoid_copies : dict of int to int
        Number of rows that equal the medoid bit by bit after normalisation, including the medoid, by label.
    record : ClusteringRecord
        Every effective value, as stored with the result.
    tree : SpanningTree or None
        The tree over all rows from which the clusters were cut; None if there were too few rows for a tree.
    graph : SpanningTree or None
        The tree with neighbour lists from which trees at other `min_samples` can be built; None without
        lists.
    """

    labels: IntArray
    probabilities: FloatArray
    persistence: FloatArray
    medoid_indices: dict[int, int]
    medoid_copies: dict[int, int]
    record: ClusteringRecord
    tree: SpanningTree | None = None
    graph: SpanningTree | None = None

    @property
    def n_clusters(self) -> int:
        """Return the number of clusters, without the outliers."""
        return len(self.persistence)

    def __repr__(self) -> str:
        """Return the counts and the settings, without arrays."""
        return f"Clustering({', '.join(self._describe().values())})"

    def _repr_html_(self) -> str:
        """Return the counts and the settings as a table for a notebook."""
        cells = "".join(
            f"<tr><th style='text-align:left'>{name}</th><td style='text-align:left'>{value}</td></tr>"
            for name, value in self._describe().items()
        )
        return f"<table><caption>panic_tda clustering</caption><tbody>{cells}</tbody></table>"

    def to_arrow(self) -> pa.Table:
        """Return a table with a row per clustered row, in their order.

        Returns
        -------
        pyarrow.Table
            `label` (int64, -1 for outliers), `probability` and `core_distance` (float64; null without a
            tree), `is_medoid` (bool): columns of an export, with the same meaning.
        """
        import numpy as np
        import pyarrow as pa

        n = len(self.labels)
        is_medoid = np.zeros(n, dtype=np.bool_)
        is_medoid[list(self.medoid_indices.values())] = True
        cores = None if self.tree is None else self.tree.core_distances
        return pa.table(
            {
                "label": pa.array(self.labels, pa.int64()),
                "probability": pa.array(self.probabilities, pa.float64()),
                "core_distance": pa.nulls(n, pa.float64()) if cores is None else pa.array(cores),
                "is_medoid": pa.array(is_medoid),
            }
        )

    def _describe(self) -> dict[str, str]:
        record = self.record
        n, share = record.n_embeddings, 100 * record.n_outliers / max(1, record.n_embeddings)
        settings = [
            f"epsilon {record.cluster_selection_epsilon:g}",
            f"min_cluster_size {record.min_cluster_size}",
            f"min_samples {record.min_samples}",
            record.cluster_selection_method,
            *([f"max_cluster_size {record.max_cluster_size}"] if record.max_cluster_size else []),
            *(["allow_single_cluster"] if record.allow_single_cluster else []),
        ]
        return {
            "rows": f"{n:,} {pluralize(n, 'row')} ({record.n_unique:,} distinct)",
            "clusters": f"{self.n_clusters:,} {pluralize(self.n_clusters, 'cluster')}",
            "outliers": f"{record.n_outliers:,} {pluralize(record.n_outliers, 'outlier')} ({share:.1f} %)",
            "metric": f"metric {record.metric or 'cosine'}",
            "settings": ", ".join(settings),
            "backend": f"backend {record.backend} ({'exact' if record.exact else 'not exact'})",
        }


@dataclass(frozen=True)
class FinishedClustering:
    """A clustering of stored embeddings, as the database or a pending file stores it.

    Attributes
    ----------
    id : UUID
        Id of the result.
    embedding_model : str
        Name of the embedding model.
    started_at, completed_at : datetime
        Naive UTC times of the computation.
    record : ClusteringRecord
        Every effective value, and the selection of the rows.
    ids : (n,) S32
        Embedding ids, ascending.
    labels : (n,) int64
        Cluster of each embedding, or `OUTLIER`.
    probabilities : (n,) float64
        Membership strengths.
    medoids : dict of int to int
        Row of the medoid of every cluster, by label.
    persistence : dict of int to float
        Persistence of every cluster, by label; 1 for the root cluster.
    medoid_copies : dict of int to int
        Number of embeddings whose vector equals the medoid's bit by bit after normalisation, including the
        medoid, by label; empty if they were not counted.
    tree : SpanningTree or None
        The tree over all rows, in the order of `ids`; None if it is not stored.
    graph : SpanningTree or None
        The tree with neighbour lists, likewise.
    """

    id: UUID
    embedding_model: str
    started_at: datetime
    completed_at: datetime
    record: ClusteringRecord
    ids: BytesArray
    labels: IntArray
    probabilities: FloatArray
    medoids: dict[int, int]
    persistence: dict[int, float]
    medoid_copies: dict[int, int] = field(default_factory=dict)
    tree: SpanningTree | None = None
    graph: SpanningTree | None = None


@dataclass(frozen=True)
class ModelOutcome:
    """Outcome of clustering one embedding model; the fields are the keys of `cluster-embeddings --json`."""

    id: UUID | None
    embedding_model: str
    status: str
    reason: str | None
    n_total: int
    n_sampled: int
    n_excluded: int
    n_embeddings: int = 0
    n_clusters: int = 0
    n_outliers: int = 0
    backend: str | None = None
    exact: bool | None = None
    root_selected: bool | None = None
    doubts: tuple[Doubt, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, finished: FinishedClustering, seconds: dict[str, float]) -> ModelOutcome:
        """Return the outcome of a model that was clustered, with the seconds of each stage."""
        outcome = cls.of_record(finished.record, finished.id, finished.embedding_model, CLUSTERED)
        return replace(outcome, seconds=seconds)

    @classmethod
    def of_record(
        cls, record: ClusteringRecord, clustering_id: UUID, model: str, status: str, reason: str | None = None
    ) -> ModelOutcome:
        """Return the outcome of a model that has a clustering with this record."""
        return cls(
            id=clustering_id,
            embedding_model=model,
            status=status,
            reason=reason,
            backend=record.backend,
            exact=record.exact,
            n_total=record.n_total or 0,
            n_sampled=record.n_sampled or 0,
            n_excluded=record.n_excluded or 0,
            n_embeddings=record.n_embeddings,
            n_clusters=record.n_clusters,
            n_outliers=record.n_outliers,
            root_selected=record.root_selected,
            doubts=tuple(find_doubts(record)),
        )
