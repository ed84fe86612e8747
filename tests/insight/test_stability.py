"""Test stability by runs: indices by hand, complete runs sampled, clusters that depend on one run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from panic_tda.clustering_manager import cluster_all_data
from panic_tda.errors import InvalidParameter
from panic_tda.files.importing import import_embeddings
from panic_tda.insight.origins import count_members
from panic_tda.insight.stability import (
    ClusterStability,
    compare_samples,
    draw_runs,
    match_clusters,
    measure_stability,
)
from panic_tda.storage.database import open_database
from panic_tda.storage.read.clusterings import find_stored, open_clustering
from panic_tda.storage.read.trajectories import RunFacts
from panic_tda.types import OUTLIER
from tests.insight.planted import PlantedRun, plant
from tests.insight.test_milestones import laid_out
from tests.snapshots import REPOSITORY


def test_the_best_jaccard_matches_a_hand_computed_example() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, OUTLIER, 3])
    others = np.array([5, 5, 5, OUTLIER, 5, 2, 2, OUTLIER])
    # 3 of 0 are among the 4 of cluster 5, one is an outlier there: 3 / 5; 1 shares one row with 2: 1 / 3.
    result = match_clusters(labels, others, n_clusters=4)
    assert result[:2].tolist() == [3 / 5, 1 / 3]
    assert np.isnan(result[2])
    assert result[3] == 0


def test_each_cluster_has_the_mean_of_the_samples_that_have_it() -> None:
    labels = np.repeat([0, 1], 4)
    samples = [
        (np.arange(8), labels),
        (np.arange(4), np.array([7, 7, OUTLIER, OUTLIER])),
        (np.arange(4, 8), np.zeros(4, dtype=np.int64)),
    ]
    first, second = compare_samples(labels, samples, n_clusters=2)
    assert (first.label, first.n_resamples, first.jaccard, first.verdict) == (0, 2, 0.75, "stable")
    assert (second.n_resamples, second.jaccard, second.low, second.high) == (2, 1.0, 1.0, 1.0)
    assert (first.low, first.high) == (pytest.approx(0.5125), pytest.approx(0.9875))
    assert compare_samples(labels, [], n_clusters=2)[0] == ClusterStability(0, 0, None, None, None)


@pytest.mark.parametrize(
    ("jaccard", "verdict"), [(0.75, "stable"), (0.74, None), (0.5, "dissolved"), (0.51, None)]
)
def test_verdicts_are_those_of_the_paper(jaccard: float, verdict: str | None) -> None:
    assert ClusterStability(0, 9, jaccard, 0.0, 1.0).verdict == verdict


def test_runs_are_sampled_with_all_their_rows() -> None:
    steps = laid_out([dict.fromkeys(range(5), (0, 1.0)) for _ in range(60)])
    shares = []
    for rows in draw_runs(steps, 50):
        counts = np.bincount(steps.run_numbers[np.isin(steps.rows, rows)], minlength=60)
        assert set(counts.tolist()) == {0, 5}
        assert len(set(rows.tolist())) == len(rows)
        shares.append((counts > 0).mean())
    assert np.mean(shares) == pytest.approx(1 - 1 / np.e, abs=0.02)


def test_members_are_counted_by_run_and_prompt() -> None:
    steps = laid_out([{0: (0, 1.0), 1: (0, 1.0), 2: (1, 1.0)}, {0: (0, 1.0)}, {0: (0, 1.0), 1: (-1, 0.0)}])
    facts = dict(zip(steps.run_ids, [RunFacts(("a",), "x", 0), RunFacts(("a",), "x", 1)], strict=False))
    first, second, none = count_members(steps, facts, n_clusters=3)
    # The third run has gone: its prompt is not known, and is one of its own.
    assert (first.size, first.runs, first.prompts, first.largest_run_share) == (4, 3, 2, 0.5)
    assert (second.size, second.runs, second.prompts, second.largest_run_share) == (1, 1, 1, 1.0)
    assert (none.size, none.runs) == (0, 0)


def test_the_sample_has_few_stable_clusters(tmp_path: Path) -> None:
    database = open_database(tmp_path / "sample.sqlite", create=True)
    import_embeddings([REPOSITORY / "panic_tda" / "sample" / "captions_minilm.parquet"], database)
    cluster_all_data(database)
    opened, clustering = find_stored(database.path or "", "latest")
    stability = measure_stability(opened, clustering, n_resamples=4)
    assert (stability.n_runs, len(stability.clusters)) == (48, clustering.record.n_clusters)
    with open_clustering(opened, clustering) as stored:
        sizes = np.bincount(stored.assignments.labels[stored.assignments.labels != OUTLIER])
    assert [member.size for member in stability.members] == sizes.tolist()
    stable = [cluster for cluster in stability.clusters if cluster.verdict == "stable"]
    # Clusters of runs that are in every sample by and large come back; those that hang on one or two do not.
    assert 0 < len(stable) < 0.6 * len(stability.clusters)
    assert any(cluster.verdict == "dissolved" for cluster in stability.clusters)
    assert measure_stability(opened, clustering, n_resamples=4) == stability


def test_one_run_cannot_be_sampled(tmp_path: Path) -> None:
    database, clustering = plant(tmp_path / "one.sqlite", [PlantedRun([0] * 5)])
    with pytest.raises(InvalidParameter, match="samples of runs"):
        measure_stability(database, clustering)
    with pytest.raises(InvalidParameter, match="at least 2"):
        measure_stability(database, clustering, n_resamples=1)
