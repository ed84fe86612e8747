"""Test the warnings of doubtful clusterings: each suggested setting gives the printed numbers."""

from __future__ import annotations

import logging
import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from panic_tda import hdbscan
from panic_tda.clustering.advice import evaluate_alternatives, warn_if_doubtful
from panic_tda.types import Clustering

Rows = NDArray[np.float64]


def pile() -> Rows:
    return np.ones((60, 3))


def groups() -> Rows:
    """Eight tight groups of twelve rows."""
    rng = np.random.default_rng(0)
    return np.repeat(np.eye(8), 12, axis=0) + 0.02 * rng.standard_normal((96, 8))


def spread_groups() -> Rows:
    """Groups of which some are twelve times as wide as others."""
    rng = np.random.default_rng(0)
    group = np.arange(1000) % 20
    widths = np.linspace(0.2, 2.5, 20)[group]
    return 1.5 * rng.standard_normal((20, 96))[group] + widths[:, None] * rng.standard_normal((1000, 96))


def apart() -> Rows:
    return np.eye(30)


DOUBTFUL: list[tuple[Any, dict[str, Any], str]] = [
    (pile, {"selection_method": "leaf", "min_cluster_size": 5}, "no clusters"),
    (pile, {"selection_method": "eom", "min_cluster_size": 5}, "no clusters"),
    (pile, {"max_cluster_size": 10, "min_cluster_size": 5, "allow_single_cluster": True}, "no clusters"),
    (groups, {"min_cluster_size": 0.9}, "no clusters"),
    (groups, {"min_cluster_size": 40, "min_samples": 5, "epsilon": 0.01}, "no clusters"),
    (groups, {"min_cluster_size": 10, "max_cluster_size": 11}, "no clusters"),
    (groups, {"epsilon": 2.0, "allow_single_cluster": True}, "root cluster"),
    (groups, {"min_samples": 90, "min_cluster_size": 5, "epsilon": 0.0}, "no clusters"),
    (spread_groups, {"allow_single_cluster": True}, "root cluster"),
    (spread_groups, {"epsilon": 0.0, "min_cluster_size": 5, "min_samples": 60}, "more than 60 %"),
    (spread_groups, {"min_cluster_size": 45, "min_samples": 60}, "no clusters"),
    (apart, {"epsilon": 0.1}, "no clusters"),
]


def named_settings(message: str) -> list[tuple[dict[str, Any], int, int]]:
    """Parse the parameters and the numbers of clusters and outliers in a warning."""
    pattern = r"((?:\w+=[^ ,;]+(?:, )?)+) gives ([\d,]+) clusters? and ([\d,]+) outliers"
    return [
        (eval(f"dict({changes})"), int(clusters.replace(",", "")), int(outliers.replace(",", "")))
        for changes, clusters, outliers in re.findall(pattern, message)
    ]


@pytest.mark.parametrize(("make", "settings", "reason"), DOUBTFUL)
def test_every_named_setting_gives_exactly_the_named_numbers(
    make: Any, settings: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows = make()
    with caplog.at_level(logging.WARNING, "panic_tda"):
        doubtful = hdbscan(rows, **settings)
    assert reason in caplog.text
    named = named_settings(caplog.text)
    assert bool(named) != ("none" in caplog.text)
    assert "--" not in caplog.text
    for changes, n_clusters, n_outliers in named:
        again = hdbscan(rows, **(settings | changes))
        assert (again.n_clusters, again.record.n_outliers) == (n_clusters, n_outliers), changes
        assert n_clusters > 0
        assert again.record.min_samples == doubtful.record.min_samples


def test_no_suggestion_is_made_only_if_no_evaluated_setting_is_better(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "panic_tda"):
        hdbscan(apart(), epsilon=0.1)
    assert re.search(r"all 30 rows are outliers\. \d+ other settings were evaluated", caplog.text)
    assert caplog.text.rstrip().endswith("none finds a cluster.")


@pytest.mark.parametrize("method", ["eom", "leaf"])
def test_equal_rows_are_one_cluster_of_eom_and_the_warning_names_it(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "panic_tda"):
        assert hdbscan(pile(), selection_method=method, min_cluster_size=5).n_clusters == 0
    assert "allow_single_cluster=True" in caplog.text
    assert ("selection_method='eom'" in caplog.text) == (method == "leaf")
    assert "1 cluster and 0 outliers (0.0 %)" in caplog.text


def test_without_a_tree_no_other_setting_is_suggested(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "panic_tda"):
        assert hdbscan(groups(), min_samples=97).tree is None
    assert "min_samples 97 is more than there are rows" in caplog.text
    assert "other settings" not in caplog.text


def test_a_sound_clustering_has_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "panic_tda"):
        clustering = hdbscan(groups())
    assert clustering.n_clusters == 8
    assert caplog.text == ""


def fitted() -> Clustering:
    return hdbscan(spread_groups(), allow_single_cluster=True)


def test_the_warning_names_options_and_the_command_that_stores_one(caplog: pytest.LogCaptureFixture) -> None:
    model = fitted()
    caplog.clear()
    with caplog.at_level(logging.WARNING, "panic_tda"):
        warn_if_doubtful(model.record, model.tree, name="M", wording="options", remedy="Store one so.")
    assert caplog.messages[0].startswith("M: The root cluster")
    assert "--no-allow-single-cluster gives 20 clusters" in caplog.text
    assert caplog.messages[0].endswith("Store one so.")
    assert "=" not in caplog.messages[0]


def test_few_settings_are_evaluated_and_none_twice() -> None:
    for make, settings, _ in DOUBTFUL:
        clustering = hdbscan(make(), **settings)
        assert clustering.tree is not None
        assert 0 < evaluate_alternatives(clustering.tree, clustering.record).n_evaluated <= 27


def test_spread_groups_are_found_by_default_and_one_cluster_where_it_is_allowed() -> None:
    # Allowed, the root cluster was selected silently: 1 cluster and 85 % outliers.
    default, allowed = hdbscan(spread_groups()), fitted()
    assert (default.n_clusters, default.record.root_selected) == (20, False)
    assert default.record.n_outliers < 200
    assert (allowed.n_clusters, allowed.record.root_selected) == (1, True)
    assert np.isnan(allowed.persistence).all()
