"""Lay out a sample of a clustering's embeddings in two dimensions, as a map.

References
----------
.. [1] McInnes, Healy, Melville (2018). UMAP: Uniform manifold approximation and projection for dimension
   reduction. https://doi.org/10.48550/arXiv.1802.03426
.. [2] Kobak, Linderman (2021). Initialization is critical for preserving global data structure in both
   t-SNE and UMAP. Nature Biotechnology 39, 156-157. https://doi.org/10.1038/s41587-020-00809-z
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from panic_tda.clustering.duplicates import find_distinct
from panic_tda.errors import InvalidParameter
from panic_tda.insight.umap_loops import keep_compiled
from panic_tda.parameters import MAP_ROWS
from panic_tda.progress import Progress, Silent
from panic_tda.records import require_cosine
from panic_tda.storage.database import Database
from panic_tda.storage.read.clusterings import StoredClustering, open_clustering
from panic_tda.storage.read.results import ClusteringSummary
from panic_tda.types import Float32Array, IntArray

NEIGHBOURS = 15
"""Number of neighbours of each row in UMAP, including the row itself. With no more rows than that PCA is
used."""
LEAST_DISTANCE = 0.5
"""Between neighbours on the map. At UMAP's own 0.1 clusters of captions are specks in an empty plane; here
they are areas, at a price: of 1,231 distinct captions in 384 dimensions the trustworthiness
(`sklearn.manifold`, 10 neighbours) is 0.987, not 0.992."""


@dataclass(frozen=True)
class Map:
    """Coordinates of a sample of a clustering's rows.

    Attributes
    ----------
    rows : (m,) int64
        Positions among the assignments of the clustering (`read_assignments`), ascending.
    xy : (m, 2) float32
        Coordinates. Identical vectors have the same coordinates.
    method : str
        Layout method and its version.
    n_total : int
        Number of assignments that the rows were sampled from.
    """

    rows: IntArray
    xy: Float32Array
    method: str
    n_total: int


def read_map(
    database: Database,
    source: ClusteringSummary,
    *,
    n_rows: int = MAP_ROWS,
    seed: int = 0,
    progress: Progress | None = None,
) -> Map:
    """Lay out a sample of a clustering's embeddings in two dimensions.

    Parameters
    ----------
    database : Database
        Read in one transaction, which ends before the layout begins.
    source : ClusteringSummary
        One that is stored.
    n_rows : int
        Maximum number of rows, at least 1. All medoids are included, even if there are more.
    seed : int
        Seed of the sample and the layout. The same seed gives the same map on one machine.
    progress : Progress, optional
        Receives the number of rows read.

    Returns
    -------
    Map
        Of all medoids and an even sample of the steps of all runs (see `sample_rows`).

    Raises
    ------
    InvalidParameter
        `n_rows` is below 1.
    DatabaseError
        Vectors were deleted since the clustering.

    Notes
    -----
    Memory: about 200 bytes an assignment, and the vectors of the sampled rows twice. Only those are read.
    """
    require_cosine(source.record, "the map")
    progress = progress or Silent()
    with open_clustering(database, source, progress) as stored:
        rows = choose_rows(stored, n_rows=n_rows, seed=seed)
        vectors = stored.read_vectors(rows)
    progress.phase("compute the map")
    return Map(rows, *lay_out(vectors, seed=seed), n_total=len(stored.assignments.ids))


def choose_rows(stored: StoredClustering, *, n_rows: int, seed: int) -> IntArray:
    """Choose the rows of a map among the assignments of a clustering, (m,) int64; see `sample_rows`."""
    in_order = stored.steps.rows
    return sample_rows(in_order, np.array(list(stored.medoids.values()), int), n_rows=n_rows, seed=seed)


def columns_of(layout: Map) -> pa.RecordBatch:
    """Return columns `x` and `y` of all assignments, null where a row is not on the map; see `open_rows`."""
    missing = np.ones(layout.n_total, dtype=bool)
    missing[layout.rows] = False
    columns = []
    for axis in layout.xy.T:
        values = np.zeros(layout.n_total, dtype=np.float32)
        values[layout.rows] = axis
        columns.append(pa.array(values, mask=missing))
    fields = [pa.field(name, pa.float32(), metadata={"layout": layout.method}) for name in ("x", "y")]
    return pa.record_batch(columns, schema=pa.schema(fields))


def sample_rows(in_order: IntArray, medoids: IntArray, *, n_rows: int, seed: int) -> IntArray:
    """Choose rows that are spread evenly over runs and steps, and all medoids.

    Parameters
    ----------
    in_order : (n,) int64
        Rows run by run, each run by ascending step.
    medoids : (k,) int64
        Rows that are chosen in any case.
    n_rows : int
        Rows to choose; no fewer than the medoids, no more than there are.
    seed : int
        Of the random numbers.

    Returns
    -------
    (m,) int64
        Ascending.

    Raises
    ------
    InvalidParameter
        `n_rows` is below 1.

    Notes
    -----
    The ordered rows are divided into intervals of equal length, and one row is drawn from each interval. So
    every run, and every part of a run, has its share of the sample, up to two rows. Every k-th row instead
    would resonate with loops, and choose the same steps of all runs of the same length.
    """
    if n_rows < 1:
        raise InvalidParameter(f"a map needs at least 1 row; got {n_rows}")
    medoids = np.unique(medoids)
    others = in_order[~np.isin(in_order, medoids)]
    n_others = min(len(others), max(0, n_rows - len(medoids)))
    edges = np.arange(n_others + 1) * len(others) // max(1, n_others)
    drawn = np.random.default_rng(seed).random(n_others) * np.diff(edges)
    return np.sort(np.concatenate([medoids, others[edges[:-1] + drawn.astype(np.int64)]]))


def lay_out(vectors: Float32Array, *, seed: int = 0) -> tuple[Float32Array, str]:
    """Lay out rows in two dimensions so that neighbours stay neighbours.

    Parameters
    ----------
    vectors : (n, d) float32
        Finite; only their directions count.
    seed : int
        Of the random numbers.

    Returns
    -------
    xy : (n, 2) float32
        Identical rows lie at one place: half of all captions are exact copies, which would push the others
        out of their neighbourhoods.
    method : str
        UMAP by cosine, begun from the principal components [2]_; or these alone where the package `umap`
        is missing or there are no more than `NEIGHBOURS` distinct rows.
    """
    # A zero vector, which no clustering takes, stays one.
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    distinct = find_distinct(vectors)
    vectors = vectors[distinct.first]
    # Here is where rows on a device would be handed to its own UMAP.
    xy, method = _project_on_principal_axes(vectors), f"PCA, NumPy {np.__version__}"
    if len(vectors) > NEIGHBOURS:
        try:
            xy, method = _lay_out_by_umap(vectors, xy, seed)
        except ImportError:
            method += " (the package umap-learn is missing)"
    return xy.astype(np.float32)[distinct.inverse], method


def _project_on_principal_axes(vectors: Float32Array) -> Float32Array:
    """Return the first two principal components, (n, 2); zeros for those that there are not."""
    n, d = vectors.shape
    xy = np.zeros((n, 2), dtype=np.float32)
    if n and d:
        centred = vectors - vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        _, axes = np.linalg.eigh((centred.T @ centred).astype(np.float64))
        axes = axes[:, ::-1][:, :2]
        # The sign of an eigenvector is arbitrary: its largest component is made positive.
        axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
        xy[:, : axes.shape[1]] = centred @ axes
    return xy


def _lay_out_by_umap(vectors: Float32Array, start: Float32Array, seed: int) -> tuple[Float32Array, str]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Tensorflow not installed", ImportWarning)
        import umap
    keep_compiled()
    model = umap.UMAP(
        n_neighbors=NEIGHBOURS,
        min_dist=LEAST_DISTANCE,
        metric="cosine",
        init=start,
        random_state=seed,
        n_jobs=1,
    )
    # The orientation of a map has no meaning; its widest direction becomes the horizontal one.
    xy = _project_on_principal_axes(model.fit_transform(vectors))
    return xy, f"UMAP (cosine), umap-learn {umap.__version__}"
