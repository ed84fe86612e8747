"""Measure the stability of clusters: cluster other samples of the runs again.

References
----------
.. [1] Hennig (2007). Cluster-wise assessment of cluster stability. Computational Statistics & Data Analysis
   52(1), 258-271. https://doi.org/10.1016/j.csda.2006.11.025
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

import numpy as np

from panic_tda.clustering.geometry import convert_rows
from panic_tda.clustering.recipe import cluster_rows
from panic_tda.errors import InvalidParameter
from panic_tda.insight.agreement import contingency
from panic_tda.insight.origins import ClusterMembers, count_members
from panic_tda.parameters import STABILITY_RESAMPLES, ClusteringParameters
from panic_tda.progress import Progress, Silent
from panic_tda.storage.database import Database
from panic_tda.storage.read.clusterings import open_clustering
from panic_tda.storage.read.results import ClusteringSummary
from panic_tda.storage.read.trajectories import RunSteps
from panic_tda.types import OUTLIER, FloatArray, IntArray

STABLE, DISSOLVED = 0.75, 0.5
"""A cluster is stable from a mean Jaccard index of 0.75, and dissolved up to 0.5 [1]_."""
_SEED = 0


@dataclass(frozen=True)
class ClusterStability:
    """Stability of one cluster.

    Attributes
    ----------
    label : int
        Label of the cluster.
    n_resamples : int
        Number of samples of runs that contain members.
    jaccard : float or None
        Mean over these of the largest Jaccard index (rows in both / rows in either) of its sampled rows with
        a cluster of the sample [1]_; None where there are none.
    low, high : float or None
        2.5 % and 97.5 % quantiles of the index over the samples.
    """

    label: int
    n_resamples: int
    jaccard: float | None
    low: float | None
    high: float | None

    @property
    def verdict(self) -> str | None:
        """Verdict: stable, dissolved, or None between the two and without samples."""
        if self.jaccard is None or DISSOLVED < self.jaccard < STABLE:
            return None
        return "stable" if self.jaccard >= STABLE else "dissolved"

    def to_dict(self) -> dict[str, Any]:
        """Return an element of `clusters` in `stability-clustering --json`, of plain values."""
        return asdict(self) | {"verdict": self.verdict}


@dataclass(frozen=True)
class ClusteringStability:
    """Stability of the clusters of a stored clustering.

    Attributes
    ----------
    clustering : UUID
        Its id.
    n_resamples, n_runs : int
        Number of samples, and of the runs that they were drawn from.
    clusters : tuple of ClusterStability
        Stabilities by label.
    members : tuple of ClusterMembers
        Origins of the members by label.
    """

    clustering: UUID
    n_resamples: int
    n_runs: int
    clusters: tuple[ClusterStability, ...]
    members: tuple[ClusterMembers, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the object that `stability-clustering --json` prints, of plain values."""
        pairs = zip(self.members, self.clusters, strict=True)
        return {
            "clustering": str(self.clustering),
            "n_resamples": self.n_resamples,
            "n_runs": self.n_runs,
            "clusters": [asdict(members) | stability.to_dict() for members, stability in pairs],
        }


def measure_stability(
    database: Database,
    clustering: ClusteringSummary,
    *,
    n_resamples: int = STABILITY_RESAMPLES,
    progress: Progress | None = None,
) -> ClusteringStability:
    """Cluster samples of the runs of a stored clustering again, with its parameters and on its backend.

    Parameters
    ----------
    database : Database
        Database of the clustering; it may be read-only.
    clustering : ClusteringSummary
        From `results.find_clustering`.
    n_resamples : int
        Number of bootstrap samples of runs. A run that is drawn twice counts once, because copies of rows
        would form clusters of their own. So a sample has 63 % of the runs on average.
    progress : Progress, optional
        Receives the number of samples done.

    Raises
    ------
    InvalidParameter
        Fewer than two samples, or a clustering of fewer than two runs.
    UnsupportedOnBackend
        The backend of the clustering is not available on this machine.

    Notes
    -----
    Memory: twice the vectors, and the memory of a fit. Time: one fit per sample.
    `min_cluster_size` and `min_samples` are the stored counts, whatever the sample's size: a cluster that is
    found again is found from two thirds of its evidence.
    """
    if n_resamples < 2:
        raise InvalidParameter(f"resamples must be at least 2; got {n_resamples}")
    progress = progress or Silent()
    with open_clustering(database, clustering, progress) as stored:
        steps, runs, labels = stored.steps, stored.runs, stored.assignments.labels
        if len(steps.run_ids) < 2:
            raise InvalidParameter(
                f"stability is measured on samples of runs, so at least 2 runs are needed; clustering "
                f"{clustering.id} has {len(steps.run_ids)}"
            )
        vectors = stored.load_matrix().vectors
    parameters = ClusteringParameters.of(clustering.record)
    n_clusters = max(clustering.record.n_clusters, int(labels.max(initial=OUTLIER)) + 1)

    def refit(rows: IntArray) -> IntArray:
        progress.advance(1)
        sample = convert_rows(np.ascontiguousarray(vectors[rows]), parameters.metric)
        return cluster_rows(sample, parameters, Silent()).labels

    progress.phase("cluster samples of runs", total=n_resamples)
    samples = ((rows, refit(rows)) for rows in draw_runs(steps, n_resamples))
    return ClusteringStability(
        clustering=clustering.id,
        n_resamples=n_resamples,
        n_runs=len(steps.run_ids),
        clusters=compare_samples(labels, samples, n_clusters=n_clusters),
        members=count_members(steps, runs, n_clusters=n_clusters),
    )


def draw_runs(steps: RunSteps, n_resamples: int) -> Iterator[IntArray]:
    """Yield the rows, ascending, of the runs in each bootstrap sample; always the same samples."""
    rng = np.random.default_rng(_SEED)
    n_runs = len(steps.run_ids)
    for _ in range(n_resamples):
        drawn = np.zeros(n_runs, dtype=bool)
        drawn[rng.integers(n_runs, size=n_runs)] = True
        yield np.sort(steps.rows[drawn[steps.run_numbers]])


def compare_samples(
    labels: IntArray, samples: Iterable[tuple[IntArray, IntArray]], *, n_clusters: int
) -> tuple[ClusterStability, ...]:
    """Compare a clustering with clusterings of some of its rows.

    Parameters
    ----------
    labels : (n,) int64
        Of all rows, or `OUTLIER`.
    samples : iterable of ((m,) int64, (m,) int64)
        The rows of each sample, and their labels there.
    n_clusters : int
        Clusters of all rows.
    """
    rows_of_table = [
        match_clusters(labels[rows], of_sample, n_clusters=n_clusters) for rows, of_sample in samples
    ]
    table = np.array(rows_of_table).reshape(-1, n_clusters)
    stabilities = []
    for label, column in enumerate(table.T):
        known = column[~np.isnan(column)]
        figures: list[float | None] = [None] * 3
        if len(known):
            figures = [float(known.mean()), *np.quantile(known, [0.025, 0.975]).tolist()]
        stabilities.append(ClusterStability(label, len(known), *figures))
    return tuple(stabilities)


def match_clusters(labels: IntArray, others: IntArray, *, n_clusters: int) -> FloatArray:
    """Return the largest Jaccard index of each cluster of `labels`, (m,), with one of `others`, (m,).

    Returns
    -------
    (n_clusters,) float64
        NaN for a cluster without a row here.
    """
    # Outliers have the first row and the first column.
    table = contingency(labels, others)
    sizes, other_sizes = (np.asarray(table.sum(axis=axis)).ravel()[1:] for axis in (1, 0))
    best = np.full(n_clusters, np.nan)
    best[np.flatnonzero(sizes)] = 0.0
    pairs = table[1:, 1:].tocoo()
    row, column = pairs.coords
    np.maximum.at(best, row, pairs.data / (sizes[row] + other_sizes[column] - pairs.data))
    return best
