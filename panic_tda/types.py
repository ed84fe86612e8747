"""The plain data that travels between the stages.

Arrays are C-ordered. `n` counts rows, `d` their dimensions. NumPy is imported for annotations only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import UUID

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    FloatArray: TypeAlias = NDArray[np.float64]
    Float32Array: TypeAlias = NDArray[np.float32]
    IntArray: TypeAlias = NDArray[np.int64]
    Int32Array: TypeAlias = NDArray[np.int32]
    BytesArray: TypeAlias = NDArray[np.bytes_]
    BoolArray: TypeAlias = NDArray[np.bool_]
    # NumPy's array or CuPy's, and the one of the two modules that it belongs to: CuPy ships no types.
    Array: TypeAlias = Any
    ArrayModule: TypeAlias = Any

CLUSTERED, SKIPPED, FAILED = "clustered", "skipped", "failed"
"""What may become of one embedding model."""


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
        Distance of each row to its `min_samples`-th neighbour; needed where rows carry weights, because
        the copies of a row are attached at this height.
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
        Mean share of its life that a member spends inside the cluster, 0 to 1.
    """

    labels: IntArray
    probabilities: FloatArray
    persistence: FloatArray


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
        Persistence of each cluster, 0 to 1.
    medoid_indices : dict of int to int
        Row of the medoid of each cluster, by label.
    parameters : dict
        Every effective value, as it is stored with the result.
    seconds : dict of str to float
        Wall-clock seconds of the stages `fit` and `medoids`.
    """

    labels: IntArray
    probabilities: FloatArray
    persistence: FloatArray
    medoid_indices: dict[int, int]
    parameters: dict[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)

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
    parameters : dict
        Every effective value; must be JSON.
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
    """

    id: UUID
    embedding_model: str
    started_at: datetime
    completed_at: datetime
    parameters: dict[str, Any]
    ids: BytesArray
    labels: IntArray
    probabilities: FloatArray
    medoids: dict[int, int]
    persistence: dict[int, float]


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
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What this machine has; the fields are the keys of `doctor --environment --json`.

    Attributes
    ----------
    platform : str
        Operating system, processor and Python.
    cores : int
        Those that this process may use.
    memory_bytes, available_bytes : int or None
        Of the host: all of it, and what can be had; None where the system does not say.
    driver : str or None
        Version of the NVIDIA driver; None where there is none.
    driver_cuda, cuda_runtime : str or None
        CUDA version up to which the driver goes, and that of the runtime which CuPy uses; None without CUDA.
    cuda_unusable_because : str or None
        Why CuPy can do nothing, with the remedy; None where it can.
    devices : tuple
        Visible devices, as `cuda.devices` lists them.
    versions : dict of str to str or None
        By package; None for what is not installed.
    backends : dict of str to str or None
        By name: why it can do nothing here, with the remedy; None where it can.
    """

    platform: str
    cores: int
    memory_bytes: int | None
    available_bytes: int | None
    driver: str | None
    driver_cuda: str | None
    cuda_runtime: str | None
    cuda_unusable_because: str | None
    devices: tuple[Any, ...]
    versions: dict[str, str | None]
    backends: dict[str, str | None]


@dataclass(frozen=True)
class SavedPending:
    """A kept clustering that is in the database now."""

    id: UUID
    embedding_model: str
    n_vanished: int


@dataclass(frozen=True)
class ImportSummary:
    """What an import added.

    Attributes
    ----------
    n_files, n_rows : int
        Read.
    n_new_embeddings, n_new_invocations, n_new_runs : int
        Added; the other rows were in the database already, with the same text and vector.
    models : tuple of str
        Embedding models of the rows, sorted.
    experiment_id : UUID or None
        The new runs' experiment; None where all runs were there.
    """

    n_files: int
    n_rows: int
    n_new_embeddings: int
    n_new_invocations: int
    n_new_runs: int
    models: tuple[str, ...]
    experiment_id: UUID | None

    @property
    def n_present(self) -> int:
        """Rows whose embedding was in the database already."""
        return self.n_rows - self.n_new_embeddings

    def describe(self) -> str:
        """Say in one or two lines what was added."""
        read = f"read {self.n_rows:,} rows from {self.n_files} {'file' if self.n_files == 1 else 'files'}"
        if not self.n_new_embeddings:
            return f"{read}: nothing to add, all of them are in the database already"
        present = f"; {self.n_present:,} were there already" if self.n_present else ""
        return (
            f"{read}: added {self.n_new_embeddings:,} embeddings ({', '.join(self.models)}), "
            f"{self.n_new_invocations:,} invocations and {self.n_new_runs:,} runs{present}"
        )

    def __str__(self) -> str:
        return self.describe()
