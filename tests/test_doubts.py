"""Test that doubtful clusterings are recognised by their counts alone."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from panic_tda import hdbscan
from panic_tda.doubts import find_doubts, name_setting
from panic_tda.parameters import ClusteringParameters
from panic_tda.records import ClusteringRecord


def record(**counts: Any) -> ClusteringRecord:
    effective = asdict(ClusteringParameters().resolve(1000))
    known = {"backend": "tiled", "exact": True, "n_unique": 1000, "versions": {}}
    sound = {"n_embeddings": 1000, "n_clusters": 3, "n_outliers": 100, "root_selected": False}
    return ClusteringRecord(**(effective | known | sound | {"largest_cluster_size": 500} | counts))


@pytest.mark.parametrize(
    ("counts", "kinds"),
    [
        ({}, []),
        ({"n_clusters": 0, "n_outliers": 1000, "largest_cluster_size": 0}, ["no_clusters"]),
        (
            {"n_clusters": 0, "n_outliers": 1000, "largest_cluster_size": 0, "root_selected": True},
            ["no_clusters", "root_selected"],
        ),
        ({"root_selected": True, "n_clusters": 1, "n_outliers": 400}, ["root_selected"]),
        ({"n_outliers": 600}, []),
        ({"n_outliers": 601}, ["mostly_outliers"]),
        ({"largest_cluster_size": 900, "n_outliers": 0}, []),
        ({"largest_cluster_size": 901, "n_outliers": 0}, ["one_large_cluster"]),
        ({"root_selected": True, "n_clusters": 1, "n_outliers": 904}, ["root_selected", "mostly_outliers"]),
        # Limits are exact where 0.6 and 0.9 are no binary fractions.
        ({"n_embeddings": 5, "n_outliers": 3, "largest_cluster_size": 1}, []),
        ({"n_embeddings": 10, "n_outliers": 0, "largest_cluster_size": 9}, []),
        # Older versions stored neither of the two; a single cluster holds all rows but the outliers.
        ({"root_selected": None, "largest_cluster_size": None}, []),
        (
            {"root_selected": None, "largest_cluster_size": None, "n_clusters": 1, "n_outliers": 10},
            ["one_large_cluster"],
        ),
        ({"n_embeddings": 0, "n_clusters": 0, "n_outliers": 0, "largest_cluster_size": 0}, ["no_clusters"]),
    ],
)
def test_each_kind_of_doubt_is_detected(counts: dict[str, Any], kinds: list[str]) -> None:
    assert [doubt.kind for doubt in find_doubts(record(**counts))] == kinds


def test_the_sentences_contain_the_numbers_and_the_alternative() -> None:
    counts = {"n_embeddings": 20_000, "n_clusters": 1, "n_outliers": 18_080, "largest_cluster_size": 1_920}
    root, outliers = find_doubts(record(**counts, root_selected=True))
    assert root.sentence == (
        "The root cluster, which holds all rows, was selected: 1,920 of 20,000 rows (9.6 %) became "
        "one cluster; --no-allow-single-cluster excludes it."
    )
    assert outliers.sentence == "18,080 of 20,000 rows (90.4 %) are outliers, more than 60 %."
    in_python = find_doubts(record(**counts, root_selected=True), wording="parameters")[0].sentence
    assert "allow_single_cluster=False" in in_python
    assert "--" not in in_python


def test_a_given_largest_size_is_used_where_none_is_stored() -> None:
    old = record(largest_cluster_size=None, n_outliers=0)
    assert [doubt.kind for doubt in find_doubts(old, largest_cluster_size=950)] == ["one_large_cluster"]


@pytest.mark.parametrize(
    ("name", "value", "option", "parameter"),
    [
        ("epsilon", 0.25, "--epsilon 0.25", "epsilon=0.25"),
        ("allow_single_cluster", True, "--allow-single-cluster", "allow_single_cluster=True"),
        ("max_cluster_size", None, "--max-cluster-size 0", "max_cluster_size=None"),
        ("selection_method", "leaf", "--selection-method leaf", "selection_method='leaf'"),
    ],
)
def test_suggested_settings_are_written_as_options(
    name: str, value: Any, option: str, parameter: str
) -> None:
    assert name_setting(name, value, "options") == option
    assert name_setting(name, value, "parameters") == parameter


def test_the_record_holds_whether_the_root_was_selected_rather_than_allowed() -> None:
    pile = np.ones((60, 3))
    of_pile = hdbscan(pile, allow_single_cluster=True, min_cluster_size=5).record
    assert (of_pile.root_selected, of_pile.largest_cluster_size) == (True, 60)
    groups = np.repeat(np.eye(3), 20, axis=0)
    of_groups = hdbscan(groups, allow_single_cluster=True, min_cluster_size=5).record
    assert (of_groups.n_clusters, of_groups.root_selected, of_groups.largest_cluster_size) == (3, False, 20)
