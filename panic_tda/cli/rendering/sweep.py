"""What is said of many settings side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from panic_tda.cli.rendering.common import percent
from panic_tda.cli.text import Column, on_one_line, paragraph, table
from panic_tda.insight.sweep import CLIFF_ARI, Setting
from panic_tda.storage.results import ClusteringSummary
from panic_tda.wording import pluralize

_COLUMNS = (
    Column("epsilon", right=True),
    Column("min_cluster_size", right=True),
    Column("method", rank=2),
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
    rows = [
        (
            f"{one.epsilon:g}",
            str(one.min_cluster_size),
            one.selection_method,
            str(one.n_clusters),
            percent(one.n_outliers, record.n_embeddings),
            f"{100 * one.largest_share:.1f} %",
            _number(one.median_persistence),
            _number(one.relative_validity),
            _number(one.ari_stored),
            _number(one.ari_previous),
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
        "cliff: the labels differ much from those of the line before (adjusted Rand index below "
        f"{CLIFF_ARI:g}, outliers counting as a cluster). validity: how much denser clusters are inside than "
        "between each other, -1 to 1. recut-clustering stores a setting."
    )
    narrow = min(width, 110)
    return "\n\n".join([paragraph(head, narrow), table(_COLUMNS, rows, width), paragraph(foot, narrow)])


def _marks(source: ClusteringSummary, one: Setting) -> list[str]:
    record = source.record
    is_stored = (one.epsilon, one.min_cluster_size, one.selection_method, one.allow_single_cluster) == (
        record.cluster_selection_epsilon,
        record.min_cluster_size,
        record.cluster_selection_method,
        record.allow_single_cluster,
    )
    return ["stored"] * is_stored + ["cliff"] * one.cliff


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
