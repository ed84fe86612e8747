"""The plain data that travels between the stages.

Arrays are C-ordered. `n` counts rows, `d` their dimensions. NumPy is imported for annotations only.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import UUID

from panic_tda.doubts import Doubt, find_doubts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from panic_tda.parameters import ClusteringRecord

    FloatArray: TypeAlias = NDArray[np.float64]
    Float32Array: TypeAlias = NDArray[np.float32]
    IntArray: TypeAlias = NDArray[np.int64]
    Int32Array: TypeAlias = NDArray[np.int32]
    BytesArray: TypeAlias = NDArray[np.bytes_]
    BoolArray: TypeAlias = NDArray[np.bool_]
    # NumPy's array or CuPy's, and the one of the two modules that it belongs to: CuPy ships no types.
    Array: TypeAlias = Any
    ArrayModule: TypeAlias = Any

CLUSTERED, SKIPPED, FAILED, UNCHANGED = "clustered", "skipped", "failed", "unchanged"
"""What may become of one embedding model; unchanged is a recut that was stored before."""


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
        One row an embedding, as stored (not normalised); NumPy's, or CuPy's in device memory.
    n_total : int
        Embeddings of this model in the database, before sampling and exclusion.
    n_sampled : int
        Embeddings that the downsampling rule chose.
    n_excluded : int
        Embeddings left out because they belong to no invocation, or, when this was asked for, because
        their vectors are invalid.
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
        """How the rows were chosen, by the names of `ClusteringRecord`."""
        names = ("downsample", "n_total", "n_sampled", "n_excluded")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class LighterEdges:
    """How far a sample of rows shows that a spanning tree is not a minimum one.

    Attributes
    ----------
    share : float
        Share of the sampled rows that have an edge lighter than the heaviest on the tree's path to its other
        end; 0 in a minimum spanning tree.
    sample : int
        Rows sampled.
    """

    share: float
    sample: int


@dataclass(frozen=True)
class SpanningTree:
    """A minimum spanning tree of the mutual reachability graph.

    Attributes
    ----------
    u, v : (n - 1,) int64
        The two rows that each edge joins, in any order.
    height : (n - 1,) float64
        Mutual reachability distance of each edge (chord length), not necessarily sorted.
    core_distances : (n,) float64 or None
        Distance of each row to its `min_samples`-th neighbour, the row itself counted, and the distance floor
        at least. Every backend gives them; None where a tree was made by hand.
    tie_tolerance : float
        Relative difference up to which two heights are one number measured twice.
    lighter_edges : LighterEdges or None
        What a sample of rows says of a tree that is not exact; None where it is.
    """

    u: IntArray
    v: IntArray
    height: FloatArray
    core_distances: FloatArray | None = None
    tie_tolerance: float = 1e-9
    lighter_edges: LighterEdges | None = None


@dataclass(frozen=True)
class FlatClusters:
    """What the hierarchy says of every row, before clusters get their final numbers.

    Attributes
    ----------
    labels : (n,) int64
        Cluster of each row, 0 to n_clusters - 1, or `OUTLIER`.
    probabilities : (n,) float64
        Membership strength in 0 to 1; 0 for outliers.
    persistence : (n_clusters,) float64
        Mean share of its life that a member spends inside the cluster, 0 to 1; NaN for the root cluster.
    root_selected : bool
        Whether the root cluster, which holds all rows, was selected.
    """

    labels: IntArray
    probabilities: FloatArray
    persistence: FloatArray
    root_selected: bool = False


@dataclass(frozen=True)
class Clustering:
    """A finished clustering of `n` rows.

    Attributes
    ----------
    labels : (n,) int64
        Cluster of each row: 0 is the largest cluster, ties go to the one with the smallest row;
        `OUTLIER` (-1) for rows in none.
    probabilities : (n,) float64
        Membership strength in 0 to 1; 0 for outliers.
    persistence : (n_clusters,) float64
        Persistence of each cluster, 0 to 1; NaN for the root cluster, which was never born.
    medoid_indices : dict of int to int
        Row of the medoid of each cluster, by label.
    medoid_copies : dict of int to int
        Rows that equal the medoid bit by bit once normalised, the medoid among them, by label.
    record : ClusteringRecord
        Every effective value, as it is stored with the result; its `seconds` are those of the stages here.
    tree : SpanningTree or None
        The tree over all rows that the clusters were cut from; None where there were too few rows for one.
    """

    labels: IntArray
    probabilities: FloatArray
    persistence: FloatArray
    medoid_indices: dict[int, int]
    medoid_copies: dict[int, int]
    record: ClusteringRecord
    tree: SpanningTree | None = None

    @property
    def n_clusters(self) -> int:
        """Number of clusters, outliers not counted."""
        return len(self.persistence)


@dataclass(frozen=True)
class FinishedClustering:
    """A computed clustering with all that its rows in the database say.

    Attributes
    ----------
    id : UUID
        Id of the result.
    embedding_model : str
        Name of the embedding model.
    started_at, completed_at : datetime
        Naive UTC times of the computation.
    record : ClusteringRecord
        Every effective value, and how the rows were chosen.
    ids : (n,) S32
        Embedding ids, ascending.
    labels : (n,) int64
        Cluster of each embedding, or `OUTLIER`.
    probabilities : (n,) float64
        Membership strengths.
    medoids : dict of int to int
        Row of the medoid by cluster label; one for every cluster.
    persistence : dict of int to float
        By cluster label.
    medoid_copies : dict of int to int
        Embeddings with the medoid's very vector, the medoid among them, by label; empty where nobody counted.
    tree : SpanningTree or None
        The tree over all rows, in the order of `ids`; None where it is not kept.
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


@dataclass(frozen=True)
class ModelOutcome:
    """What became of one embedding model; the fields are the keys of `cluster-embeddings --json`."""

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
        """Say what became of a model that was clustered, in so many seconds by stage."""
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


@dataclass(frozen=True)
class SavedPending:
    """A kept clustering that is in the database now."""

    id: UUID
    embedding_model: str
    n_vanished: int
