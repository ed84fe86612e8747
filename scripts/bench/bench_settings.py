#!/usr/bin/env python3
"""Print what min_samples and epsilon do: clusters, outliers, agreement with the truth, validity, stability.

Everything is cut from one stored clustering with neighbour lists. Columns:

- epsilon `q50`: the median of the core distances at that min_samples.
- truth: adjusted Rand index with the groups of equal first words of the texts (`--truth N`), outliers
  counting as a cluster; in brackets on the clustered rows alone.
- largest: share of the rows in the largest cluster.
- validity: relative validity of the cut, which compares settings of one min_samples only.
- stability: mean adjusted Rand index with fits of random halves of the runs, on the rows of each half,
  outliers counting as a cluster. min_cluster_size is the same in all.

Usage: bench_settings.py DATABASE MODEL [--truth N]
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from panic_tda.clustering.hierarchy import extract_clusters
from panic_tda.clustering.neighbour_graph import lower_min_samples
from panic_tda.clustering.placement import choose_placement
from panic_tda.clustering.recipe import cluster_rows
from panic_tda.insight.agreement import adjusted_rand, contingency
from panic_tda.insight.sweep import relative_validity
from panic_tda.parameters import ClusteringParameters
from panic_tda.progress import Silent
from panic_tda.records import EffectiveParameters
from panic_tda.storage.read.clusterings import StoredClustering, find_stored, open_clustering
from panic_tda.types import OUTLIER, SpanningTree

HALVES = 5
MIN_SAMPLES, EPSILONS = (3, 5, 10), (0.0, 0.2, 0.4, 0.6, "q50")


def cut(graph: SpanningTree, setting: EffectiveParameters) -> tuple[np.ndarray, SpanningTree, int]:
    """Return the labels at a setting, the tree, and the number of clusters."""
    tree = lower_min_samples(graph, setting.min_samples, setting.distance_floor)
    flat = extract_clusters(tree, setting)
    return flat.labels, tree, len(flat.persistence)


def fit_halves(stored: StoredClustering, keep: int) -> list[tuple[np.ndarray, SpanningTree]]:
    """Return the rows of random halves of the runs, and the tree of each with its neighbour lists."""
    vectors, steps = stored.load_matrix().vectors, stored.steps
    n_runs = len(steps.run_ids)
    halves = []
    for seed in range(HALVES):
        runs = np.random.default_rng(seed).choice(n_runs, n_runs // 2, replace=False)
        rows = np.sort(np.concatenate([steps.rows[steps.offsets[r] : steps.offsets[r + 1]] for r in runs]))
        parameters = ClusteringParameters(min_samples=keep)
        placement = choose_placement(parameters, len(rows), vectors.shape[1], keep_neighbours=keep)
        graph = cluster_rows(vectors[rows], parameters, Silent(), placement=placement).graph
        assert graph is not None
        halves.append((rows, graph))
    return halves


def read_groups(stored: StoredClustering, n_words: int) -> np.ndarray:
    """Return the group of each row by the first words of its text; -1 without a text."""
    steps, names = stored.steps, dict[str, int]()
    groups = np.full(len(stored.assignments.ids), -1)
    numbers = {run: number for number, run in enumerate(steps.run_ids)}

    def add(run: object) -> None:
        number = numbers[run.run_id]  # type: ignore[attr-defined]
        texts = dict(zip(run.steps.tolist(), run.texts, strict=True))  # type: ignore[attr-defined]
        for at in range(steps.offsets[number], steps.offsets[number + 1]):
            words = texts.get(int(steps.steps[at]), "").split()[:n_words]
            groups[steps.rows[at]] = names.setdefault(" ".join(words), len(names))

    stored.read_texts(add)
    return groups


def agree(left: np.ndarray, right: np.ndarray) -> float:
    """Return the adjusted Rand index."""
    return adjusted_rand(contingency(left, right))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("database", type=Path)
    parser.add_argument("model")
    parser.add_argument("--truth", type=int, metavar="N")
    arguments = parser.parse_args()
    database, source = find_stored(arguments.database, "latest", model=arguments.model)
    with open_clustering(database, source) as stored:
        graph = stored.graph
        halves = fit_halves(stored, source.record.keep_neighbours or 0)
        groups = None if arguments.truth is None else read_groups(stored, arguments.truth)
    record = source.record
    print(f"{arguments.model}: {record.n_embeddings} rows, min_cluster_size {record.min_cluster_size}")
    print("| min_samples | epsilon | clusters | outliers | largest | truth | validity | stability |")
    print("|---|---|---|---|---|---|---|---|")
    for min_samples in MIN_SAMPLES:
        cores = lower_min_samples(graph, min_samples, record.distance_floor).core_distances
        for name in EPSILONS:
            epsilon = float(np.median(cores)) if name == "q50" else float(name)
            setting = replace(record, min_samples=min_samples, cluster_selection_epsilon=epsilon)
            labels, tree, n_clusters = cut(graph, setting)
            stability = np.mean([agree(cut(half, setting)[0], labels[rows]) for rows, half in halves])
            truth = "–"
            if groups is not None:
                inside = labels != OUTLIER
                truth = f"{agree(labels, groups):.3f} ({agree(labels[inside], groups[inside]):.3f})"
            validity = relative_validity(tree, labels, n_clusters)
            shown = f"q50 = {epsilon:.2f}" if name == "q50" else f"{epsilon:g}"
            sizes = np.bincount(labels[labels != OUTLIER], minlength=1)
            outliers, largest = (
                f"{100 * count / len(labels):.1f} %" for count in ((labels == OUTLIER).sum(), sizes.max())
            )
            validity_text = "–" if validity is None else f"{validity:.3f}"
            cells = (outliers, largest, truth, validity_text, f"{stability:.3f}")
            print(f"| {' | '.join(map(str, (min_samples, shown, n_clusters, *cells)))} |", flush=True)


if __name__ == "__main__":
    main()
