"""What is said of many settings side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from panic_tda.cli.rendering.common import decimal, percent
from panic_tda.cli.text import Column, on_one_line, paragraph, table
from panic_tda.insight.sweep import CLIFF_ARI, Setting
from panic_tda.storage.read.results import ClusteringSummary
from panic_tda.wording import pluralize

_SINGLE = "single cluster"
_ABOUT_SINGLE = "single cluster: whether it was allowed; where both give the same, one line stands for both."
_ABOUT_ROOT = (
    "root: the root cluster, which holds all rows, was selected; --no-allow-single-cluster excludes it."
)
_COLUMNS = (
    Column("epsilon", right=True),
    Column("min_cluster_size", right=True),
    Column("method", rank=2),
    Column(_SINGLE),
    Column("clusters", right=True),
    Column("outliers", right=True),
    Column("largest", right=True, rank=1),
    Column("persistence", right=True, rank=4),
    Column("validity", right=True, rank=3),
    Column("ARI stored", right=True),
    Column("ARI before", right=True),
    Column(""),
)


def sweep_json(source: ClusteringSummary, settings: Sequence[Setting]) -> dict[str, Any]:
    """Return the object that `sweep-clustering --json` prints."""
    return {"clustering": str(source.id), "settings": [asdict(setting) for setting in settings]}


def sweep_text(source: ClusteringSummary, settings: Sequence[Setting], width: int) -> str:
    """Return one line a setting, the stored one and cliffs marked, and below them what the marks mean."""
    record = source.record
    shows_single = len({one.allow_single_cluster for one in settings}) > 1
    rows = [
        (
            f"{one.epsilon:g}",
            str(one.min_cluster_size),
            one.selection_method,
            *(["yes" if one.allow_single_cluster else "no"] * shows_single),
            str(one.n_clusters),
            percent(one.n_outliers, record.n_embeddings),
            f"{100 * one.largest_share:.1f} %",
            decimal(one.median_persistence),
            decimal(one.relative_validity),
            decimal(one.ari_stored),
            decimal(one.ari_previous),
            " ".join(_marks(source, one)),
        )
        for one in settings
    ]
    head = (
        f"Clustering {source.id} of {on_one_line(source.embedding_model)}, {record.n_embeddings} "
        f"{pluralize(record.n_embeddings, 'embedding')}, "
        f"min_samples {record.min_samples}, cut anew; nothing is stored"
    )
    foot = (
        "cliff: the labels differ much from those of the setting before (adjusted Rand index below "
        f"{CLIFF_ARI:g}, outliers counting as a cluster). validity: how much denser clusters are inside than "
        "between each other, -1 to 1. recut-clustering stores a setting."
    )
    if shows_single:
        foot += f" {_ABOUT_SINGLE}"
    if any(one.root_selected for one in settings):
        foot += f" {_ABOUT_ROOT}"
    columns = [column for column in _COLUMNS if shows_single or column.name != _SINGLE]
    narrow = min(width, 110)
    return "\n\n".join([paragraph(head, narrow), table(columns, rows, width), paragraph(foot, narrow)])


def _marks(source: ClusteringSummary, one: Setting) -> list[str]:
    record = source.record
    is_stored = (one.epsilon, one.min_cluster_size, one.selection_method, one.allow_single_cluster) == (
        record.cluster_selection_epsilon,
        record.min_cluster_size,
        record.cluster_selection_method,
        record.allow_single_cluster,
    )
    return ["stored"] * is_stored + ["root"] * one.root_selected + ["cliff"] * one.cliff
