"""Count the runs and prompts that the members of clusters come from, and find words that name clusters.

Counting walks the index of all embeddings of the model, with one index lookup for each; no row of an
embedding or an invocation is read. Words need all texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from panic_tda.insight.keywords import WordCounts
from panic_tda.progress import Progress
from panic_tda.storage.database import Database
from panic_tda.storage.read.clusterings import StoredClustering, open_clustering
from panic_tda.storage.read.results import ClusteringSummary
from panic_tda.storage.read.trajectories import RunFacts, RunSteps, RunTexts
from panic_tda.types import OUTLIER

MOST_COUNTED = 50_000
"""Embeddings of a model up to which `show-clustering` counts unasked. Each takes 19 microseconds of
processor time and 470 bytes of index pages, so that 50,000 take a second."""
WORDS_COLUMN = "cluster_words"


@dataclass(frozen=True)
class ClusterMembers:
    """Origins of the members of one cluster.

    Attributes
    ----------
    label, size : int
        Label and size of the cluster; the size counts members that belong to a step of a run.
    runs, prompts : int
        Number of runs and of initial prompts with members.
    largest_run_share : float
        Share of the members that come from the run with most of them.
    """

    label: int
    size: int
    runs: int
    prompts: int
    largest_run_share: float


@dataclass(frozen=True)
class ClusterOrigins:
    """Origins of the members of all clusters.

    Attributes
    ----------
    members : tuple of ClusterMembers
        By label.
    words : dict of int to (tuple of str), or None
        Words of the clusters by label, see `keywords.weigh_words`; None if they were not requested.
    """

    members: tuple[ClusterMembers, ...]
    words: dict[int, tuple[str, ...]] | None

    def get_members(self, label: int) -> ClusterMembers:
        """Return the members of a cluster; none for a label that no stored assignment has."""
        if 0 <= label < len(self.members):
            return self.members[label]
        return ClusterMembers(label, size=0, runs=0, prompts=0, largest_run_share=0.0)

    def to_dict(self, label: int) -> dict[str, Any]:
        """Return the origins of a cluster for `show-clustering --json`, of plain values."""
        members = self.get_members(label)
        facts = {name: getattr(members, name) for name in ORIGINS}
        return facts if self.words is None else facts | {"words": list(self.words.get(label, ()))}


ORIGINS = ("runs", "prompts", "largest_run_share")


class StepWords:
    """Collector of the words of all clustered steps, run by run."""

    def __init__(self, steps: RunSteps) -> None:
        self._steps = steps
        self._numbers = {run: number for number, run in enumerate(steps.run_ids)}
        self.counts = WordCounts()

    def add(self, run: RunTexts) -> None:
        """Count the words of the texts of a run."""
        number = self._numbers[run.run_id]
        mine = slice(self._steps.offsets[number], self._steps.offsets[number + 1])
        sampled = self._steps.are_texts[mine] & (self._steps.labels[mine] != OUTLIER)
        labels = dict(
            zip(
                self._steps.steps[mine][sampled].tolist(),
                self._steps.labels[mine][sampled].tolist(),
                strict=True,
            )
        )
        for step, text in zip(run.steps.tolist(), run.texts, strict=True):
            if step in labels:
                self.counts.add(labels[step], text)


def read_origins(
    database: Database | str | Path,
    clustering: ClusteringSummary,
    *,
    with_words: bool = False,
    progress: Progress | None = None,
) -> ClusterOrigins:
    """Read the runs and prompts of the members of all clusters.

    Parameters
    ----------
    database : Database, str or Path
        Database of the clustering.
    clustering : ClusteringSummary
        A stored clustering.
    with_words : bool
        Whether to read all texts for the words of the clusters. Otherwise only indexes are read.
    progress : Progress, optional
        Receives the number of rows read.
    """
    with open_clustering(database, clustering, progress) as stored:
        steps, runs = stored.steps, stored.runs
        words = read_words(stored) if with_words else None
    members = count_members(steps, runs, n_clusters=clustering.record.n_clusters)
    return ClusterOrigins(members, words)


def read_words(stored: StoredClustering) -> dict[int, tuple[str, ...]]:
    """Read the texts of all clustered steps, and return the words of the clusters by label."""
    words = StepWords(stored.steps)
    stored.read_texts(words.add)
    return words.counts.name_clusters()


def read_word_column(
    database: Database, clustering: ClusteringSummary, *, progress: Progress | None = None
) -> pa.RecordBatch:
    """Return the words of the cluster of every assignment, separated by commas, in the order of assignments.

    They are null for outliers and for clusters without texts.
    """
    with open_clustering(database, clustering, progress) as stored:
        words, labels = read_words(stored), stored.assignments.labels
    names = [", ".join(words.get(label, ())) or None for label in range(int(labels.max(initial=OUTLIER)) + 1)]
    positions = pa.array(labels, mask=labels == OUTLIER)
    return pa.record_batch([pa.array(names, pa.string()).take(positions)], names=[WORDS_COLUMN])


def count_members(
    steps: RunSteps, runs: dict[str, RunFacts], *, n_clusters: int
) -> tuple[ClusterMembers, ...]:
    """Count the runs and the initial prompts with members in each cluster, at least `n_clusters` of them."""
    n_clusters = max(n_clusters, int(steps.labels.max(initial=OUTLIER)) + 1)
    clustered = steps.labels != OUTLIER
    labels, numbers = steps.labels[clustered], steps.run_numbers[clustered]
    prompts: dict[str | None, int] = {}
    prompt_of_run = np.array(
        [
            prompts.setdefault(runs[run].initial_prompt if run in runs else None, len(prompts))
            for run in steps.run_ids
        ],
        dtype=np.int64,
    )
    (run_labels, _), counts = np.unique(np.stack([labels, numbers]), axis=1, return_counts=True)
    prompt_labels = np.unique(np.stack([labels, prompt_of_run[numbers]]), axis=1)[0]
    sizes, n_runs, n_prompts = (
        np.bincount(values, minlength=n_clusters) for values in (labels, run_labels, prompt_labels)
    )
    largest = np.zeros(n_clusters)
    np.maximum.at(largest, run_labels, counts)
    return tuple(
        ClusterMembers(label, int(size), int(n_runs[label]), int(n_prompts[label]), float(top / max(1, size)))
        for label, (size, top) in enumerate(zip(sizes.tolist(), largest.tolist(), strict=True))
    )
