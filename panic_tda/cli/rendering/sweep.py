"""Render the comparison of many settings of a clustering."""

from __future__ import annotations

from collections.abc import Sequence

from panic_tda.cli.rendering.common import decimal, percent
from panic_tda.cli.text import Column, paragraph, table
from panic_tda.insight.sweep import CLIFF_ARI, Setting
from panic_tda.storage.read.results import ClusteringSummary
from panic_tda.wording import on_one_line, pluralize

_SINGLE, _SAMPLES = "single cluster", "min_samples"
_ABOUT_SINGLE = "single cluster: whether it was allowed; where both give the same, one line stands for both."
_ABOUT_ROOT = (
    "root: the root cluster, which holds all rows, was selected; --no-allow-single-cluster excludes it."
)
_COLUMNS = (
    Column("epsilon", right=True),
    Column(_SAMPLES, right=True),
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


def sweep_text(source: ClusteringSummary, settings: Sequence[Setting], width: int) -> str:
    """Return one line per setting with its marks, and below them an explanation of the marks."""
    record = source.record
    shows_single = len({setting.allow_single_cluster for setting in settings}) > 1
    shows_samples = any(setting.min_samples != record.min_samples for setting in settings)
    rows = [
        (
            f"{setting.epsilon:g}",
            *([str(setting.min_samples)] * shows_samples),
            str(setting.min_cluster_size),
            setting.selection_method,
            *(["yes" if setting.allow_single_cluster else "no"] * shows_single),
            str(setting.n_clusters),
            percent(setting.n_outliers, record.n_embeddings),
            f"{100 * setting.largest_share:.1f} %",
            decimal(setting.median_persistence),
            decimal(setting.relative_validity),
            decimal(setting.ari_stored),
            decimal(setting.ari_previous),
            " ".join(_list_marks(source, setting)),
        )
        for setting in settings
    ]
    head = (
        f"Clustering {source.id} of {on_one_line(source.embedding_model)}, {record.n_embeddings} "
        f"{pluralize(record.n_embeddings, 'embedding')}, "
        f"{'' if shows_samples else f'min_samples {record.min_samples}, '}cut anew; nothing is stored"
    )
    foot = (
        "ARI before: agreement with the setting before, on the rows in a cluster at both; cliff: an abrupt "
        f"change, this agreement is below {CLIFF_ARI:g}. validity: how much denser clusters are inside than "
        "between each other, -1 to 1. recut-clustering stores a setting."
    )
    if shows_single:
        foot += f" {_ABOUT_SINGLE}"
    if any(setting.root_selected for setting in settings):
        foot += f" {_ABOUT_ROOT}"
    if shows_samples:
        foot += " validity compares settings of one min_samples only."
    hidden = [_SINGLE] * (not shows_single) + [_SAMPLES] * (not shows_samples)
    columns = [column for column in _COLUMNS if column.name not in hidden]
    narrow = min(width, 110)
    return "\n\n".join([paragraph(head, narrow), table(columns, rows, width), paragraph(foot, narrow)])


def _list_marks(source: ClusteringSummary, setting: Setting) -> list[str]:
    record = source.record
    is_stored = (
        setting.epsilon,
        setting.min_samples,
        setting.min_cluster_size,
        setting.selection_method,
        setting.allow_single_cluster,
    ) == (
        record.cluster_selection_epsilon,
        record.min_samples,
        record.min_cluster_size,
        record.cluster_selection_method,
        record.allow_single_cluster,
    )
    return ["stored"] * is_stored + ["root"] * setting.root_selected + ["cliff"] * setting.cliff
