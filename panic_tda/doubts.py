"""Reasons to doubt a clustering, derived from its stored counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from panic_tda.records import ClusteringRecord

NO_CLUSTERS = "no_clusters"
ROOT_SELECTED = "root_selected"
MOSTLY_OUTLIERS = "mostly_outliers"
ONE_LARGE_CLUSTER = "one_large_cluster"

OUTLIER_LIMIT_PERCENT = 60
"""Share of outliers above which a clustering is doubtful."""
LARGEST_LIMIT_PERCENT = 90
"""Share of the rows in one cluster above which a clustering is doubtful."""

Wording = Literal["options", "parameters", "estimator"]
"""How settings are named: as options of the commands, as parameters of the functions or of the estimator."""
ESTIMATOR_NAMES = {
    "epsilon": "cluster_selection_epsilon",
    "selection_method": "cluster_selection_method",
}
"""Parameters of the estimator by those of `ClusteringParameters` that have other names."""


@dataclass(frozen=True)
class Doubt:
    """A reason to doubt a clustering.

    Attributes
    ----------
    kind : str
        `NO_CLUSTERS`, `ROOT_SELECTED`, `MOSTLY_OUTLIERS` or `ONE_LARGE_CLUSTER`.
    sentence : str
        The reason as one sentence with its numbers.
    """

    kind: str
    sentence: str


def find_doubts(
    record: ClusteringRecord, *, largest_cluster_size: int | None = None, wording: Wording = "options"
) -> list[Doubt]:
    """Return the reasons to doubt a clustering, the most serious first; an empty list if there are none.

    Parameters
    ----------
    record : ClusteringRecord
        The record of the clustering, of which the counts and `root_selected` are used.
    largest_cluster_size : int, optional
        Number of rows of the largest cluster. None uses that of the record, which older versions did not
        store.
    wording : {"options", "parameters", "estimator"}
        How settings are named.
    """
    n, n_outliers, n_clusters = record.n_embeddings, record.n_outliers, record.n_clusters
    largest = record.largest_cluster_size if largest_cluster_size is None else largest_cluster_size
    if largest is None and n_clusters <= 1:
        largest = n - n_outliers
    doubts = []
    if not n_clusters:
        doubts.append(Doubt(NO_CLUSTERS, f"There are no clusters: all {n:,} rows are outliers."))
    if record.root_selected:
        doubts.append(Doubt(ROOT_SELECTED, _describe_root(record, wording)))
    if n_clusters and are_mostly_outliers(n_outliers, n):
        sentence = (
            f"{n_outliers:,} of {n:,} rows ({_format_percent(n_outliers, n)}) are outliers, "
            f"more than {OUTLIER_LIMIT_PERCENT} %."
        )
        doubts.append(Doubt(MOSTLY_OUTLIERS, sentence))
    if n_clusters and largest is not None and is_nearly_all(largest, n):
        sentence = (
            f"One cluster holds {largest:,} of {n:,} rows ({_format_percent(largest, n)}), "
            f"more than {LARGEST_LIMIT_PERCENT} %."
        )
        doubts.append(Doubt(ONE_LARGE_CLUSTER, sentence))
    return doubts


def are_mostly_outliers(n_outliers: int, n_rows: int) -> bool:
    """Return whether more than `OUTLIER_LIMIT_PERCENT` of the rows are outliers."""
    return 100 * n_outliers > OUTLIER_LIMIT_PERCENT * n_rows


def is_nearly_all(size: int, n_rows: int) -> bool:
    """Return whether a cluster has more than `LARGEST_LIMIT_PERCENT` of the rows."""
    return 100 * size > LARGEST_LIMIT_PERCENT * n_rows


def name_setting(name: str, value: Any, wording: Wording) -> str:
    """Return a setting as a user types it.

    Parameters
    ----------
    name : str
        Name of a parameter of `ClusteringParameters`.
    value : object
        Its value; None means no limit.
    wording : {"options", "parameters", "estimator"}
        How it is written.

    Examples
    --------
    >>> name_setting("allow_single_cluster", False, "options")
    '--no-allow-single-cluster'
    >>> name_setting("selection_method", "eom", "parameters")
    "selection_method='eom'"
    """
    if wording == "estimator":
        name = ESTIMATOR_NAMES.get(name, name)
    if wording != "options":
        return f"{name}={value!r}"
    option = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{'' if value else 'no-'}{option}"
    return f"--{option} {0 if value is None else value}"


def _describe_root(record: ClusteringRecord, wording: Wording) -> str:
    n, n_clusters = record.n_embeddings, record.n_clusters
    inside = n - record.n_outliers
    if not n_clusters:
        effect = "none of its rows is dense enough to stay in it"
    elif n_clusters > 1:
        effect = f"its rows outside the {n_clusters:,} clusters became outliers"
    else:
        effect = f"{inside:,} of {n:,} rows ({_format_percent(inside, n)}) became one cluster"
    exclusion = name_setting("allow_single_cluster", False, wording)
    return f"The root cluster, which holds all rows, was selected: {effect}; {exclusion} excludes it."


def _format_percent(part: int, total: int) -> str:
    return f"{100 * part / total:.1f} %" if total else "0.0 %"
