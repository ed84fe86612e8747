"""Describe the density of a clustering, and what its outliers depend on.

References
----------
.. [1] Hartigan, Hartigan (1985). The dip test of unimodality. The Annals of Statistics 13(1), 70-84.
   https://doi.org/10.1214/aos/1176346577
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np

from panic_tda.clustering.cuts import Cut, count_rows, cut_all
from panic_tda.clustering.neighbour_graph import lower_min_samples
from panic_tda.devices.machine import available_cores
from panic_tda.errors import NoTree
from panic_tda.insight.text_notes import TextNotes
from panic_tda.progress import Progress, Silent
from panic_tda.records import EffectiveParameters, require_cosine
from panic_tda.storage.database import Database
from panic_tda.storage.read.clusterings import open_clustering
from panic_tda.storage.read.results import ClusteringSummary
from panic_tda.storage.read.trajectories import RunSteps
from panic_tda.types import OUTLIER, BoolArray, FloatArray, IntArray, SpanningTree

BINS = 200
DECILES = 10
LEAST_DIP_ROWS, MOST_DIP_ROWS = 4, 72_000
"""Range of row numbers in the tables of the dip test's p-value."""
N_SIZES, LARGEST_SIZE_SHARE = 12, 0.01
N_SAMPLES = 8
EPSILONS = tuple(round(0.1 * step, 1) for step in range(13))


@dataclass(frozen=True)
class Histogram:
    """Core distances (chords) in bins of equal width.

    Attributes
    ----------
    edges : list of float
        The 201 edges of the 200 bins; the last bin includes its upper edge.
    all, outliers : list of int
        Number of rows, and of outliers among them, in each bin.
    """

    edges: list[float]
    all: list[int]
    outliers: list[int]


@dataclass(frozen=True)
class Dip:
    """Hartigan's dip test [1]_ for one mode of the core distances against more.

    Attributes
    ----------
    statistic, p_value : float
        Statistic and p-value. Copies of a row have equal core distances, which makes the p-value too small.
    n_rows : int
        Number of tested rows: all of them, or `MOST_DIP_ROWS` drawn at random.
    """

    statistic: float
    p_value: float
    n_rows: int


@dataclass(frozen=True)
class Share:
    """Share of outliers in a group of rows.

    Attributes
    ----------
    first, last : float or None
        Smallest and largest value in the group, if groups are ranges of values.
    name : str or None
        Name of the group, if it has one.
    n_rows : int
        Number of rows in the group.
    outlier_share : float
        Share of the rows that are outliers, 0 to 1.
    """

    first: float | None
    last: float | None
    name: str | None
    n_rows: int
    outlier_share: float


def histogram(core_distances: FloatArray, are_outliers: BoolArray) -> Histogram:
    """Count core distances, (n,) float64, and those of outliers in bins from the smallest to the largest."""
    edges = np.histogram_bin_edges(core_distances, BINS)
    return Histogram(
        edges=edges.tolist(),
        all=np.histogram(core_distances, edges)[0].tolist(),
        outliers=np.histogram(core_distances[are_outliers], edges)[0].tolist(),
    )


def dip(core_distances: FloatArray) -> Dip | None:
    """Test core distances, (m,) float64, for one mode by Hartigan's dip test.

    From more than `MOST_DIP_ROWS` distances that number is drawn, always the same ones. The result is None
    for fewer than `LEAST_DIP_ROWS`, or if the package `diptest` is missing.
    """
    if len(core_distances) < LEAST_DIP_ROWS:
        return None
    try:
        from diptest import diptest
    except ImportError:
        return None
    if len(core_distances) > MOST_DIP_ROWS:
        chosen = np.random.default_rng(0).choice(len(core_distances), MOST_DIP_ROWS, replace=False)
        core_distances = core_distances[chosen]
    statistic, p_value = diptest(np.sort(core_distances))
    return Dip(float(statistic), float(p_value), len(core_distances))


def by_min_samples(
    graph: SpanningTree, effective: EffectiveParameters, progress: Progress | None = None
) -> list[Cut]:
    """Cut the trees at many values of min_samples, with the other settings unchanged.

    Parameters
    ----------
    graph : SpanningTree
        With neighbour lists.
    effective : EffectiveParameters
        The settings.
    progress : Progress, optional
        Receives the number of trees.

    Returns
    -------
    list of Cut
        At `sample_counts`, and at the value of the settings.
    """
    assert graph.neighbours is not None
    counts = sorted({*sample_counts(graph.neighbours.min_samples), effective.min_samples})
    progress = progress or Silent()
    progress.phase("cut trees at other min_samples", total=len(counts))
    cuts: list[Cut] = []
    for count in counts:
        tree = lower_min_samples(graph, count, effective.distance_floor)
        cuts += cut_all(tree, [replace(effective, min_samples=count)], count_rows)
        progress.advance(1)
    return cuts


def sample_counts(most: int) -> list[int]:
    """Return the values of min_samples at which trees are cut, up to `most`.

    >>> sample_counts(20)
    [2, 3, 4, 5, 7, 10, 14, 20]
    """
    return sorted(set(np.geomspace(min(2, most), most, N_SAMPLES).round().astype(int).tolist()))


def by_setting(
    tree: SpanningTree, effective: EffectiveParameters, progress: Progress | None = None
) -> tuple[list[Cut], list[Cut]]:
    """Cut a tree at many values of min_cluster_size and of epsilon, with the other settings unchanged.

    Returns
    -------
    by_min_cluster_size, by_epsilon : list of Cut
        At up to 12 sizes from 2 to 1 % of the rows in geometric steps, and at 13 epsilons from 0 to 1.2.
    """
    progress = progress or Silent()
    sizes = cluster_sizes(len(tree.height) + 1)
    settings = [replace(effective, min_cluster_size=size) for size in sizes]
    settings += [replace(effective, cluster_selection_epsilon=epsilon) for epsilon in EPSILONS]
    progress.phase("cut the tree", total=len(settings))
    cuts = []
    for cut in cut_all(tree, settings, count_rows, threads=available_cores()):
        cuts.append(cut)
        progress.advance(1)
    return cuts[: len(sizes)], cuts[len(sizes) :]


def cluster_sizes(n_rows: int) -> list[int]:
    """Return the values of min_cluster_size at which a tree over `n_rows` rows is cut.

    >>> cluster_sizes(100_000)
    [2, 4, 6, 11, 19, 34, 59, 104, 184, 323, 568, 1000]
    """
    largest = max(2.0, LARGEST_SIZE_SHARE * n_rows)
    return sorted(set(np.geomspace(2, largest, N_SIZES).round().astype(int).tolist()))


def by_decile(values: IntArray, are_outliers: BoolArray) -> list[Share]:
    """Divide rows into ten groups of ascending values, as equal as ties allow, and count outliers.

    Parameters
    ----------
    values : (n,) int64
        Value of each row.
    are_outliers : (n,) bool
        Whether each row is an outlier.

    Returns
    -------
    list of Share
        At most ten; equal values are never in two groups.
    """
    if not len(values):
        return []
    ends = np.unique(np.quantile(values, np.linspace(0, 1, DECILES + 1)[1:], method="inverted_cdf"))
    group = np.searchsorted(ends, values)
    starts = [int(values[group == number].min()) for number in range(len(ends))]
    return [
        Share(float(first), float(last), None, int(in_group.sum()), float(are_outliers[in_group].mean()))
        for first, last, in_group in (
            (first, last, group == number)
            for number, (first, last) in enumerate(zip(starts, ends, strict=True))
        )
    ]


def by_name(codes: IntArray, names: Sequence[str], are_outliers: BoolArray) -> list[Share]:
    """Count outliers among the rows of each name, the most frequent first.

    Parameters
    ----------
    codes : (n,) int64
        Position in `names` of each row.
    names : sequence of str
        Names of the groups.
    are_outliers : (n,) bool
        Whether each row is an outlier.
    """
    counts = np.bincount(codes, minlength=len(names))
    outliers = np.bincount(codes[are_outliers], minlength=len(names))
    shares = [
        Share(None, None, name, int(count), float(out / count))
        for name, count, out in zip(names, counts, outliers, strict=True)
        if count
    ]
    return sorted(shares, key=lambda share: (-share.n_rows, share.name))


@dataclass(frozen=True)
class Density:
    """Density of one clustering, as `show-density` shows it.

    Attributes
    ----------
    clustering, embedding_model : UUID, str
        The clustering, and the model of its embeddings.
    n_rows, n_outliers : int
        Number of rows, and of rows in no cluster.
    n_distinct : int
        Number of distinct texts, plus the rows that are not texts.
    histogram : Histogram
        Histogram of the core distances.
    dip : Dip or None
        Dip test of the core distances; None if `diptest` is missing.
    by_min_samples : list of Cut
        Clusters and outliers at other `min_samples`; empty if no neighbour lists are stored.
    by_min_cluster_size, by_epsilon : list of Cut
        Clusters and outliers at other settings.
    by_text_length, by_step : list of Share
        Outliers by length of the text in characters, and by output step; the first for texts only.
    by_writer : list of Share
        Outliers by the model that wrote the text; for texts only.
    """

    clustering: UUID
    embedding_model: str
    n_rows: int
    n_outliers: int
    n_distinct: int
    histogram: Histogram
    dip: Dip | None
    by_min_samples: list[Cut]
    by_min_cluster_size: list[Cut]
    by_epsilon: list[Cut]
    by_text_length: list[Share]
    by_step: list[Share]
    by_writer: list[Share]

    def to_dict(self) -> dict[str, Any]:
        """Return the object that `show-density --json` prints, of plain values."""
        cuts = {
            name: [_convert_cut(cut, self.n_rows) for cut in getattr(self, name)]
            for name in ("by_min_samples", "by_min_cluster_size", "by_epsilon")
        }
        return asdict(self) | {"clustering": str(self.clustering)} | cuts


def examine(
    database: Database | str | Path, source: ClusteringSummary, *, progress: Progress | None = None
) -> Density:
    """Read a stored clustering, and describe its density and its outliers.

    Parameters
    ----------
    database : Database, str or Path
        Database of the clustering; it may be read-only.
    source : ClusteringSummary
        From `results.find_clustering`.
    progress : Progress, optional
        Receives the phases.

    Raises
    ------
    NoTree
        The clustering was stored without a tree, or embeddings were deleted since.

    Notes
    -----
    Reads the tree, the neighbour lists, the assignments, the indexes on steps, and the texts of all runs, one
    run at a time. No vector and no image is read. Memory: about 200 bytes per row, and 12 for each stored
    neighbour.
    """
    require_cosine(source.record, "show-density")
    progress = progress or Silent()
    with open_clustering(database, source, progress) as stored:
        tree, graph, texts = stored.tree, stored.find_graph(), TextNotes(stored.steps)
        stored.read_texts(texts.add)
    labels = stored.assignments.labels
    return describe(source, (tree, graph), labels, steps=stored.steps, texts=texts, progress=progress)


def describe(
    source: ClusteringSummary,
    trees: tuple[SpanningTree, SpanningTree | None],
    labels: IntArray,
    *,
    steps: RunSteps,
    texts: TextNotes,
    progress: Progress,
) -> Density:
    """Describe the density of a clustering from data that was read; see `examine`.

    Parameters
    ----------
    source, progress
        As for `examine`.
    trees : tuple of SpanningTree
        The tree over the n rows of the clustering, and that with the neighbour lists, or None.
    labels : (n,) int64
        Of the rows.
    steps : RunSteps
        The steps of the rows.
    texts : TextNotes
        With the texts of all runs.
    """
    are_outliers = labels == OUTLIER
    tree, graph = trees
    cores = tree.core_distances
    if cores is None:
        raise NoTree(f"the tree of clustering {source.id} has no core distances; cluster again")
    samples = [] if graph is None else by_min_samples(graph, source.record, progress)
    sizes, epsilons = by_setting(tree, source.record, progress)
    progress.phase("count")
    # An embedding whose invocation was deleted has a core distance, but no step and no text.
    rows = steps.rows
    known, is_first = texts.lengths >= 0, texts.is_first
    of_texts = rows[known]
    return Density(
        clustering=source.id,
        embedding_model=source.embedding_model,
        n_rows=len(cores),
        n_outliers=int(are_outliers.sum()),
        n_distinct=int(is_first.sum()),
        histogram=histogram(cores, are_outliers),
        dip=dip(cores),
        by_min_samples=samples,
        by_min_cluster_size=sizes,
        by_epsilon=epsilons,
        by_text_length=by_decile(texts.lengths[known], are_outliers[of_texts]),
        by_step=by_decile(steps.steps, are_outliers[rows]),
        by_writer=by_name(texts.writers[known], texts.names, are_outliers[of_texts]),
    )


def _convert_cut(cut: Cut, n_rows: int) -> dict[str, Any]:
    return {
        "min_samples": cut.parameters.min_samples,
        "min_cluster_size": cut.parameters.min_cluster_size,
        "epsilon": cut.parameters.cluster_selection_epsilon,
        "n_clusters": cut.n_clusters,
        "n_outliers": cut.n_outliers,
        "outlier_share": cut.n_outliers / n_rows,
    }
