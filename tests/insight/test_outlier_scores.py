"""Compare outlier scores with those of hdbscan; test the cluster assigned to each outlier."""

from __future__ import annotations

import numpy as np
import pytest

from panic_tda import hdbscan as cluster
from panic_tda.insight.outlier_scores import find_nearest_clusters, score_outliers
from panic_tda.types import OUTLIER, SpanningTree
from tests.insight.test_merges import planted_blobs


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("min_cluster_size", [5, 20])
def test_hdbscan_gives_the_same_scores(seed: int, min_cluster_size: int) -> None:
    from hdbscan import HDBSCAN

    vectors = planted_blobs(seed)
    units = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float64)
    clustering = cluster(vectors, min_cluster_size=min_cluster_size, min_samples=5, epsilon=0.0)
    assert clustering.tree is not None
    scores = score_outliers(clustering.tree, clustering.record)
    # hdbscan does not count the point itself.
    fitted = HDBSCAN(
        min_cluster_size=min_cluster_size, min_samples=4, algorithm="generic", metric="euclidean"
    )
    expected = fitted.fit(units).outlier_scores_
    tree = fitted.condensed_tree_.to_numpy()
    rows, clusters = tree[tree["child"] < len(units)], tree[tree["child"] >= len(units)]
    births = dict(zip(clusters["child"].tolist(), clusters["lambda_val"].tolist(), strict=True))
    # What falls out of a cluster at the very height of its birth is in its parent here, as merges at one
    # height are one.
    born = np.array([births.get(cluster, 0.0) for cluster in rows["parent"].tolist()])
    untied = rows["child"][np.abs(rows["lambda_val"] - born) > 1e-9]
    assert len(untied) > 0.98 * len(units)
    assert scores[untied] == pytest.approx(expected[untied], abs=1e-5)
    assert scores.min() >= 0
    assert scores[clustering.labels == OUTLIER].mean() > scores[clustering.labels != OUTLIER].mean()


def test_few_rows_have_no_score() -> None:
    clustering = cluster(np.eye(4, dtype=np.float32), min_cluster_size=3, min_samples=2)
    assert clustering.tree is not None
    few = SpanningTree(clustering.tree.u[:1], clustering.tree.v[:1], clustering.tree.height[:1])
    assert np.isnan(score_outliers(few, clustering.record)).all()


def test_an_outlier_belongs_to_the_nearest_cluster_along_the_tree() -> None:
    # Rows 0 1 | 2 3 | 4 5: two clusters at the ends of a chain.
    tree = SpanningTree(np.arange(5), np.arange(1, 6), np.array([0.1, 0.4, 0.2, 0.7, 0.1]))
    labels = np.array([0, 0, OUTLIER, OUTLIER, 1, 1])
    # From row 3 it is 0.6 to cluster 0 and 0.7 to cluster 1.
    nearest = find_nearest_clusters(tree, labels)
    assert nearest.labels.tolist() == [0, 0, 0, 0, 1, 1]
    # The largest height on the way: 0.4 for rows 2 and 3.
    assert nearest.distances.tolist() == [0.0, 0.0, 0.4, 0.4, 0.0, 0.0]
    nowhere = np.full(6, OUTLIER)
    assert find_nearest_clusters(tree, nowhere).labels.tolist() == nowhere.tolist()


def test_the_distance_to_the_nearest_cluster_is_the_largest_height_of_a_long_path() -> None:
    generator = np.random.default_rng(5)
    n = 300
    parents = np.array([generator.integers(row) for row in range(1, n)])
    tree = SpanningTree(np.arange(1, n), parents, generator.uniform(0.1, 1, n - 1))
    labels = np.full(n, OUTLIER)
    labels[0], labels[7] = 0, 1
    nearest = find_nearest_clusters(tree, labels)
    neighbours: dict[int, list[tuple[int, float]]] = {row: [] for row in range(n)}
    for u, v, height in zip(tree.u.tolist(), tree.v.tolist(), tree.height.tolist(), strict=True):
        neighbours[u].append((v, height))
        neighbours[v].append((u, height))
    # Sum and largest height from each member to every row, by a walk through the tree.
    walks = {}
    for member in (0, 7):
        reached, open_rows = {member: (0.0, 0.0)}, [member]
        while open_rows:
            row = open_rows.pop()
            for neighbour, height in neighbours[row]:
                if neighbour not in reached:
                    total, largest = reached[row]
                    reached[neighbour] = total + height, max(largest, height)
                    open_rows.append(neighbour)
        walks[member] = reached
    for row in range(n):
        member = min((0, 7), key=lambda candidate: walks[candidate][row][0])
        assert nearest.labels[row] == labels[member]
        assert nearest.distances[row] == walks[member][row][1]
