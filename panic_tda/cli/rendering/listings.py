"""Render lists of stored clusterings: differing settings in columns, common settings below."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from panic_tda.cli.rendering.clusterings import NO_CLUSTERINGS
from panic_tda.cli.rendering.common import percent, yes_no
from panic_tda.cli.text import Column, paragraph, table
from panic_tda.doubts import find_doubts
from panic_tda.records import COSINE, ClusteringRecord
from panic_tda.storage.read.results import ClusteringSummary, UnreadableClustering
from panic_tda.wording import on_one_line, pluralize

_DELETED_SHOWN = 50
_RECUT = "recut of"
_FIRST_COLUMNS = (Column("id"), Column("model", elastic=True), Column("created (UTC)"))
_LAST_COLUMNS = (
    Column("clusters", right=True),
    Column("outliers", right=True, rank=6),
    Column("time", right=True, rank=13),
)


_PREDICTED = Column("predicted", right=True, rank=6)


class _Setting(NamedTuple):
    """A setting of a clustering: its column, its name in a sentence, and its text.

    A setting that is `unremarkable` in all clusterings is not mentioned.
    """

    column: Column
    name: str
    describe: Callable[[ClusteringRecord], str]
    unremarkable: str = ""


def _format_optional(value: object) -> str:
    return "-" if value is None else str(value)


_SETTINGS = (
    _Setting(
        Column("epsilon", right=True, rank=1),
        "epsilon",
        lambda record: f"{record.cluster_selection_epsilon:g}",
    ),
    _Setting(
        Column("min size", right=True, rank=2),
        "min_cluster_size",
        lambda record: str(record.min_cluster_size),
    ),
    _Setting(
        Column("min_samples", right=True, rank=3), "min_samples", lambda record: str(record.min_samples)
    ),
    _Setting(
        Column("downsample", right=True, rank=4),
        "downsample",
        lambda record: _format_optional(record.downsample),
    ),
    _Setting(Column("embeddings", right=True, rank=8), "embeddings", lambda record: str(record.n_embeddings)),
    _Setting(Column(_RECUT, rank=5), "recut of", lambda record: _format_optional(record.recut_of), "-"),
    _Setting(Column("method", rank=7), "selection method", lambda record: record.cluster_selection_method),
    _Setting(
        Column("max size", right=True, rank=9),
        "max_cluster_size",
        lambda record: str(record.max_cluster_size or "-"),
        "-",
    ),
    _Setting(
        Column("single", rank=10),
        "single cluster allowed",
        lambda record: yes_no(record.allow_single_cluster),
        "no",
    ),
    _Setting(Column("metric", rank=5), "metric", lambda record: record.metric or COSINE, COSINE),
    _Setting(Column("exact", rank=11), "exact", lambda record: yes_no(record.exact)),
    _Setting(Column("backend", rank=12), "backend", lambda record: record.backend),
)


_JSON_KEYS = (
    *("id", "embedding_model", "algorithm", "epsilon", "min_cluster_size", "min_samples", "selection_method"),
    *("max_cluster_size", "allow_single_cluster", "downsample", "recut_of", "backend", "exact", "n_clusters"),
    "metric",
    *("root_selected", "doubts", "n_assignments", "outlier_percent", "created_at", "duration_seconds"),
    *("n_predicted", "unreadable"),
)


def listing_json(
    summaries: Sequence[ClusteringSummary],
    unreadable: Sequence[UnreadableClustering] = (),
    *,
    predicted: Mapping[UUID, int] | None = None,
) -> list[dict[str, Any]]:
    """Return the list that `list-clusterings --json` prints, with unreadable clusterings at its end.

    `predicted` has the numbers of predicted embeddings by id of the clustering.
    """
    predicted = predicted or {}
    return [_convert_summary(summary, predicted.get(summary.id, 0)) for summary in summaries] + [
        dict.fromkeys(_JSON_KEYS)
        | {
            "id": clustering.reference,
            "embedding_model": clustering.embedding_model,
            "unreadable": clustering.reason,
        }
        for clustering in unreadable
    ]


def listing_text(
    summaries: Sequence[ClusteringSummary],
    n_stored: int,
    width: int,
    unreadable: Sequence[UnreadableClustering] = (),
    *,
    names: Mapping[str, str] | None = None,
    predicted: Mapping[UUID, int] | None = None,
) -> str:
    """Return one line per stored clustering, the latest first, and how many of `n_stored` are not shown.

    Settings in which the clusterings differ have columns; the others stand below, and so do clusterings that
    cannot be read, each with the reason. `names` are the ids of all stored clusterings, shortened
    (`wording.shorten_ids`); without them ids are not shortened. `predicted` has the numbers of predicted
    embeddings by id of the clustering; without any there is no column of them.
    """
    lines = [_describe_unreadable(clustering, width) for clustering in unreadable]
    if not summaries:
        return "\n".join(lines) or NO_CLUSTERINGS
    names = names or {}
    cells = [
        [_describe_setting(setting, summary.record, names) for setting in _SETTINGS] for summary in summaries
    ]
    differing = [number for number in range(len(_SETTINGS)) if len({row[number] for row in cells}) > 1]
    columns = [*_FIRST_COLUMNS, *(_SETTINGS[number].column for number in differing), *_LAST_COLUMNS]
    columns += [_PREDICTED] if predicted else []
    rows = [
        (
            names.get(str(summary.id), str(summary.id)),
            summary.embedding_model,
            f"{summary.created_at:%Y-%m-%d %H:%M}",
            *(row[number] for number in differing),
            str(summary.record.n_clusters) + " (root)" * bool(summary.record.root_selected),
            percent(summary.record.n_outliers, summary.record.n_embeddings),
            f"{summary.seconds:.1f} s",
            *([str(predicted.get(summary.id, 0))] if predicted else ()),
        )
        for summary, row in zip(summaries, cells, strict=True)
    ]
    shared = ", ".join(
        f"{setting.name} {cells[0][number]}"
        for number, setting in enumerate(_SETTINGS)
        if number not in differing and cells[0][number] != setting.unremarkable
    )
    title = "the same in all" if len(summaries) > 1 else "settings"
    listed = f"{table(columns, rows, width)}\n{paragraph(f'{title}: {shared}', width)}"
    hidden = n_stored - len(summaries)
    if hidden:
        older = pluralize(hidden, "older one")
        listed = f"{listed}\n… and {hidden} {older}; list-clusterings --limit 0 lists all"
    return "\n\n".join([listed, *(["\n".join(lines)] if lines else [])])


def deletion_text(
    summaries: Sequence[ClusteringSummary],
    width: int,
    unreadable: Sequence[UnreadableClustering] = (),
    *,
    names: Mapping[str, str] | None = None,
    predicted: Mapping[UUID, int] | None = None,
) -> str:
    """Return what a deletion removes; `names` and `predicted` as for `listing_text`."""
    if not summaries and not unreadable:
        return "Nothing to delete."
    n_clusters = sum(summary.record.n_clusters for summary in summaries)
    n_assignments = sum(summary.record.n_embeddings for summary in summaries)
    n_predicted = sum((predicted or {}).get(summary.id, 0) for summary in summaries)
    also = f", and {n_predicted} predicted {pluralize(n_predicted, 'assignment')}" if n_predicted else ""
    n_deleted = len(summaries) + len(unreadable)
    listed = listing_text(summaries[:_DELETED_SHOWN], len(summaries), width, unreadable, names=names)
    total = (
        f"This deletes {n_deleted} {pluralize(n_deleted, 'clustering')} with {n_clusters} "
        f"{pluralize(n_clusters, 'cluster')} and {n_assignments} "
        f"{pluralize(n_assignments, 'assignment')}{also}."
    )
    return f"{listed}\n{paragraph(total, width)}"


def _describe_setting(setting: _Setting, record: ClusteringRecord, names: Mapping[str, str]) -> str:
    """Return the text of a setting, with the id of another clustering shortened."""
    text = on_one_line(setting.describe(record))
    if setting.column.name != _RECUT or text == setting.unremarkable or not names:
        return text
    return names.get(text, text[: max(map(len, names.values()))])


def _convert_summary(summary: ClusteringSummary, n_predicted: int) -> dict[str, Any]:
    record = summary.record
    outlier_percent = 100 * record.n_outliers / record.n_embeddings if record.n_embeddings else None
    values = (
        *(str(summary.id), summary.embedding_model, summary.algorithm, record.cluster_selection_epsilon),
        *(record.min_cluster_size, record.min_samples, record.cluster_selection_method),
        *(record.max_cluster_size, record.allow_single_cluster, record.downsample, record.recut_of),
        *(record.backend, record.exact, record.n_clusters, record.metric or COSINE, record.root_selected),
        find_doubts(record),
        *(record.n_embeddings, outlier_percent, summary.created_at, summary.seconds),
        *(n_predicted, None),
    )
    return dict(zip(_JSON_KEYS, values, strict=True))


def _describe_unreadable(clustering: UnreadableClustering, width: int) -> str:
    model = "" if clustering.embedding_model is None else f" of {clustering.embedding_model}"
    return paragraph(on_one_line(f"{clustering.reference}{model} cannot be read: {clustering.reason}"), width)
