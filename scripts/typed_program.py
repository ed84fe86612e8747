"""Use the public API as a typed program does; `scripts/release.sh` checks it with mypy and runs it."""

from __future__ import annotations

import sys
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

import panic_tda
from panic_tda import HDBSCAN, OUTLIER, Clustering, ClusteringParameters, Database, PanicTdaError


def cluster_rows(rows: NDArray[np.float32]) -> NDArray[np.int64]:
    """Cluster rows with the function and with the estimator, and return the labels."""
    clustering: Clustering = panic_tda.hdbscan(rows, epsilon=0.4, min_cluster_size=10)
    probabilities: NDArray[np.float64] = clustering.probabilities
    model: HDBSCAN = HDBSCAN(min_cluster_size=10, cluster_selection_epsilon=0.4).fit(rows)
    if np.any(model.predict(rows) != clustering.labels) or np.any(probabilities > 1):
        raise SystemExit("the estimator and the function differ")
    return clustering.labels


def count_clusters(path: str) -> int:
    """Cluster a database, and count its clusters of all models."""
    database: Database = panic_tda.open_database(path)
    outcomes = panic_tda.cluster_all_data(database, parameters=ClusteringParameters(epsilon=0.4))
    ids: list[UUID] = [outcome.id for outcome in outcomes if outcome.id is not None]
    with database.session() as session:
        details = [panic_tda.get_cluster_details(identity, session) for identity in ids]
        texts: list[str | None] = [cluster.medoid_text for clusters in details for cluster in clusters]
    panic_tda.delete_clusterings(database, ids)
    return len(texts)


def use_unknown_name() -> object:
    """Return a name that does not exist, which mypy must refuse."""
    return panic_tda.no_such_name  # type: ignore[attr-defined]


if __name__ == "__main__":
    generator = np.random.default_rng(0)
    groups = np.repeat(generator.normal(size=(3, 8)), 40, axis=0)
    vectors = (groups + 0.05 * generator.normal(size=groups.shape)).astype(np.float32)
    labels = set(cluster_rows(vectors).tolist()) - {OUTLIER}
    try:
        print(f"{len(labels)} clusters of vectors, {count_clusters(sys.argv[1])} of the database")
    except PanicTdaError as error:
        raise SystemExit(str(error)) from error
