"""Compare two clusterings: their agreement, and the fate of each cluster of the first one in the second.

Two clusters match if their Jaccard index is above 0.5. So a cluster has at most one match, and the numbering
of clusters plays no part. A cluster of A is

- *kept* if it has a match;
- *split* if at least two clusters of B each contain a tenth of it and have half of their rows in it;
- *merged* if half of it is in one cluster of B that also contains half of another cluster of A;
- *dissolved* if half of it are outliers in B;
- *moved* otherwise.

The first condition that is true decides. A cluster of B is *new* if no cluster of A contains half of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np

from panic_tda.errors import InvalidParameter, NothingShared
from panic_tda.insight.agreement import adjusted_mutual_information, adjusted_rand, contingency
from panic_tda.progress import Progress, Silent
from panic_tda.records import COSINE
from panic_tda.storage.database import Database
from panic_tda.storage.read.clusterings import StoredClustering
from panic_tda.storage.read.results import ClusteringSummary
from panic_tda.types import BoolArray, BytesArray, FloatArray, IntArray

BY_EMBEDDING, BY_INVOCATION = "embedding", "invocation"
FATES = KEPT, SPLIT, MERGED, DISSOLVED, MOVED = ("kept", "split", "merged", "dissolved", "moved")
_UNMATCHED = -1


@dataclass(frozen=True)
class ClusterFate:
    """Fate of a cluster of A.

    Attributes
    ----------
    a : int
        Label of the cluster.
    size : int
        Number of its rows among the shared rows.
    b : int or None
        Label of the matching cluster of B; None if there is none.
    jaccard : float
        Largest Jaccard index (rows in both / rows in either) with a cluster of B; 0 if no row is shared.
    fate : str
        One of `FATES`.
    into : tuple of (int, float)
        Labels of clusters of B with their shares of this cluster's rows, the largest first: for a kept
        cluster its match, for a split one its parts, for a merged one the cluster that contains it, and
        otherwise those that contain a tenth of it.
    """

    a: int
    size: int
    b: int | None
    jaccard: float
    fate: str
    into: tuple[tuple[int, float], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return an element of `clusters` in `compare-clusterings --json`, of plain values."""
        return {
            "a": self.a,
            "b": self.b,
            "jaccard": self.jaccard,
            "fate": self.fate,
            "into": [{"b": label, "share": share} for label, share in self.into],
        }


@dataclass(frozen=True)
class LabelComparison:
    """Comparison of two labelings of the same rows.

    Attributes
    ----------
    n_shared : int
        Number of shared rows.
    ari, ami : float or None
        Adjusted Rand index and adjusted mutual information over the rows that are outliers in neither; None
        if there is no such row.
    ari_with_outliers, ami_with_outliers : float
        The same over all rows, with the outliers as one more cluster.
    outliers_both, outliers_only_a, outliers_only_b : int
        Numbers of rows that are outliers in both labelings or in one.
    clusters : tuple of ClusterFate
        Fates of the clusters of A with shared rows, by label.
    new : tuple of int
        Labels of the new clusters of B.
    n_clusters_b : int
        Number of clusters of B with shared rows.
    """

    n_shared: int
    ari: float | None
    ami: float | None
    ari_with_outliers: float
    ami_with_outliers: float
    outliers_both: int
    outliers_only_a: int
    outliers_only_b: int
    clusters: tuple[ClusterFate, ...]
    new: tuple[int, ...]
    n_clusters_b: int

    @property
    def changed(self) -> tuple[ClusterFate, ...]:
        """The clusters of A that were not kept."""
        return tuple(fate for fate in self.clusters if fate.fate != KEPT)


@dataclass(frozen=True)
class ClusteringComparison:
    """Comparison of two stored clusterings.

    Attributes
    ----------
    a, b : UUID
        Their ids.
    by : str
        Key by which rows were paired: "embedding" or "invocation".
    result : LabelComparison
        Comparison of the rows that are in both.
    """

    a: UUID
    b: UUID
    by: str
    result: LabelComparison

    def to_dict(self) -> dict[str, Any]:
        """Return the object that `compare-clusterings --json` prints, of plain values."""
        result = self.result
        return {
            "a": str(self.a),
            "b": str(self.b),
            "by": self.by,
            "n_shared": result.n_shared,
            "ari": result.ari,
            "ami": result.ami,
            "ari_with_outliers": result.ari_with_outliers,
            "ami_with_outliers": result.ami_with_outliers,
            "outliers": {
                "both": result.outliers_both,
                "only_a": result.outliers_only_a,
                "only_b": result.outliers_only_b,
            },
            "clusters": [fate.to_dict() for fate in result.clusters],
            "new": list(result.new),
        }


def compare_clusterings(
    database: Database, a: ClusteringSummary, b: ClusteringSummary, *, progress: Progress | None = None
) -> ClusteringComparison:
    """Compare two stored clusterings on the embeddings, or else the invocations, that both contain.

    Parameters
    ----------
    database : Database
        Where both are stored.
    a, b : ClusteringSummary
        From `results.find_clustering`.
    progress : Progress, optional
        Told what is being done.

    Returns
    -------
    ClusteringComparison
        By embedding where they share any, else by invocation; where a model embedded an invocation twice,
        the embedding of the smaller id counts.

    Raises
    ------
    NothingShared
        They have neither in common.
    InvalidParameter
        They have different metrics.

    Notes
    -----
    Some 250 bytes of memory for each row of the two clusterings, 400 where invocations are read.
    """
    metrics = [summary.record.metric or COSINE for summary in (a, b)]
    if metrics[0] != metrics[1]:
        raise InvalidParameter(
            f"only clusterings of one metric can be compared; got {metrics[0]} (clustering {a.id}) and "
            f"{metrics[1]} (clustering {b.id})"
        )
    progress = progress or Silent()
    by = BY_EMBEDDING
    with database.reading() as connection:
        stored = [StoredClustering(connection, summary, progress) for summary in (a, b)]
        rows_a, rows_b = (clustering.assignments for clustering in stored)
        shared_a, shared_b = _find_shared(rows_a.ids, rows_b.ids)
        if not len(shared_a):
            by = BY_INVOCATION
            shared_a, shared_b = _find_shared(*(clustering.invocations for clustering in stored))
    if not len(shared_a):
        raise NothingShared(
            f"clustering {a.id} of {a.embedding_model} and clustering {b.id} of {b.embedding_model} have no "
            "embedding and no invocation in common (as of texts and images, or of other samples), so there "
            "is nothing to compare"
        )
    progress.phase("compare")
    return ClusteringComparison(
        a.id, b.id, by, compare_labels(rows_a.labels[shared_a], rows_b.labels[shared_b])
    )


def compare_labels(a: IntArray, b: IntArray) -> LabelComparison:
    """Compare two labelings of the same rows.

    Parameters
    ----------
    a, b : (n,) int64
        Label of each row, or `OUTLIER`; n is at least 1.
    """
    table = contingency(a, b)
    # Outliers have the first row and the first column.
    clustered = table[1:, 1:]
    outliers = int(table[0, 0])
    overlaps = _find_overlaps(table)
    return LabelComparison(
        n_shared=len(a),
        ari=adjusted_rand(clustered) if clustered.nnz else None,
        ami=adjusted_mutual_information(clustered) if clustered.nnz else None,
        ari_with_outliers=adjusted_rand(table),
        ami_with_outliers=adjusted_mutual_information(table),
        outliers_both=outliers,
        outliers_only_a=int(table[[0]].sum()) - outliers,
        outliers_only_b=int(table[:, [0]].sum()) - outliers,
        clusters=_decide_fates(overlaps),
        new=_find_new_clusters(overlaps),
        n_clusters_b=len(overlaps.labels_b),
    )


@dataclass(frozen=True)
class _Overlaps:
    """The pairs of clusters that share rows, by cluster of A, the largest overlap first.

    Attributes
    ----------
    labels_a, labels_b : (ka,), (kb,) int64
        The clusters that have rows, ascending.
    sizes_a, sizes_b : (ka,), (kb,) int64
        Their rows, those that are outliers in the other labeling included.
    a, b, rows : (m,) int64
        Of each pair: index of the cluster of A, of the one of B, and the rows in both.
    """

    labels_a: IntArray
    labels_b: IntArray
    sizes_a: IntArray
    sizes_b: IntArray
    a: IntArray
    b: IntArray
    rows: IntArray

    @property
    def unions(self) -> IntArray:
        """Rows in either of each pair, (m,)."""
        return self.sizes_a[self.a] + self.sizes_b[self.b] - self.rows

    @property
    def jaccard(self) -> FloatArray:
        """Jaccard index of each pair, (m,)."""
        return self.rows / self.unions

    @property
    def shares(self) -> FloatArray:
        """Share that each pair has of the rows of its cluster of A, (m,)."""
        return self.rows / self.sizes_a[self.a]

    def count_a(self, pairs: BoolArray) -> IntArray:
        """Count, for every cluster of A, the pairs that are marked, (ka,)."""
        return np.bincount(self.a[pairs], minlength=len(self.labels_a))


def _find_shared(ids_a: BytesArray, ids_b: BytesArray) -> tuple[IntArray, IntArray]:
    """Return where the ids stand that both have, in each of the two; of equal ones the first."""
    common, in_a, in_b = np.intersect1d(ids_a, ids_b, return_indices=True)
    known = common != b""
    return in_a[known], in_b[known]


def _find_overlaps(table: Any) -> _Overlaps:
    sizes_a, sizes_b = (np.asarray(table.sum(axis=axis)).ravel()[1:] for axis in (1, 0))
    labels_a, labels_b = np.flatnonzero(sizes_a), np.flatnonzero(sizes_b)
    pairs = table[1:, 1:].tocoo()
    row, column = (
        np.searchsorted(labels, index)
        for labels, index in zip((labels_a, labels_b), pairs.coords, strict=True)
    )
    order = np.lexsort((column, -pairs.data, row))
    return _Overlaps(
        labels_a, labels_b, sizes_a[labels_a], sizes_b[labels_b], row[order], column[order], pairs.data[order]
    )


def _decide_fates(overlaps: _Overlaps) -> tuple[ClusterFate, ...]:
    rows, sizes = overlaps.rows, overlaps.sizes_a
    # Counts are compared instead of shares, so that a half is exact.
    is_match = 2 * rows > overlaps.unions
    is_tenth, is_half = 10 * rows >= sizes[overlaps.a], 2 * rows >= sizes[overlaps.a]
    is_part = is_tenth & (2 * rows >= overlaps.sizes_b[overlaps.b])
    is_joined = (
        is_half & (np.bincount(overlaps.b[is_half], minlength=len(overlaps.labels_b)) >= 2)[overlaps.b]
    )
    clustered = np.bincount(overlaps.a, weights=rows, minlength=len(sizes))
    fates = np.select(
        [
            overlaps.count_a(is_match) > 0,
            overlaps.count_a(is_part) >= 2,
            overlaps.count_a(is_joined) > 0,
            2 * clustered <= sizes,
        ],
        [KEPT, SPLIT, MERGED, DISSOLVED],
        MOVED,
    )
    of_pair = fates[overlaps.a]
    is_listed = np.select(
        [of_pair == KEPT, of_pair == SPLIT, of_pair == MERGED], [is_match, is_part, is_joined], is_tenth
    )
    ends = np.searchsorted(overlaps.a[is_listed], np.arange(len(sizes) + 1))
    into = list(
        zip(
            overlaps.labels_b[overlaps.b[is_listed]].tolist(),
            overlaps.shares[is_listed].tolist(),
            strict=True,
        )
    )
    jaccard, match = np.zeros(len(sizes)), np.full(len(sizes), _UNMATCHED)
    np.maximum.at(jaccard, overlaps.a, overlaps.jaccard)
    match[overlaps.a[is_match]] = overlaps.b[is_match]
    return tuple(
        ClusterFate(
            a=int(overlaps.labels_a[cluster]),
            size=int(sizes[cluster]),
            b=int(overlaps.labels_b[match[cluster]]) if match[cluster] != _UNMATCHED else None,
            jaccard=float(jaccard[cluster]),
            fate=str(fates[cluster]),
            into=tuple(into[ends[cluster] : ends[cluster + 1]]),
        )
        for cluster in range(len(sizes))
    )


def _find_new_clusters(overlaps: _Overlaps) -> tuple[int, ...]:
    is_contained = 2 * overlaps.rows >= overlaps.sizes_b[overlaps.b]
    contained = np.bincount(overlaps.b[is_contained], minlength=len(overlaps.labels_b)) > 0
    return tuple(overlaps.labels_b[~contained].tolist())
