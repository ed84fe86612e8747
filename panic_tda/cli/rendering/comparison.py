"""Render the comparison of two clusterings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from panic_tda.cli.rendering.common import percent
from panic_tda.cli.text import Column, paragraph, table
from panic_tda.insight.comparison import FATES, KEPT, ClusterFate, ClusteringComparison, LabelComparison
from panic_tda.storage.read.results import ClusteringSummary
from panic_tda.wording import on_one_line, pluralize

_VERDICTS = ((0.9, "Nearly the same"), (0.6, "Alike"), (0.2, "Alike in part"), (-1.0, "Different"))
"""Verdicts by the smallest adjusted Rand index that each needs."""
_COLUMNS = (
    Column("A", right=True),
    Column("rows", right=True, rank=2),
    Column("fate"),
    Column("B", right=True),
    Column("share", right=True, rank=1),
    Column("medoid", elastic=True),
)
Texts = Mapping[int, str | None]


def comparison_text(
    comparison: ClusteringComparison,
    summaries: tuple[ClusteringSummary, ClusteringSummary],
    texts: tuple[Texts, Texts],
    *,
    width: int,
    limit: int = 0,
) -> str:
    """Return a verdict, and below it the clusters that changed.

    Parameters
    ----------
    comparison : ClusteringComparison
        Result of the comparison.
    summaries : pair of ClusteringSummary
        A and B.
    texts : pair of mappings
        Medoid texts of A's and B's clusters, by label.
    width : int
        Columns of the terminal.
    limit : int
        Largest number of changed clusters, and of new clusters; 0 shows all.
    """
    labels = comparison.result
    lines = [
        paragraph(verdict(labels), width),
        "",
        *(
            paragraph(f"{name}: {_describe_clustering(summary)}", width)
            for name, summary in zip("AB", summaries, strict=True)
        ),
        paragraph(_describe_shared_rows(comparison, summaries), width),
    ]
    changed, new = labels.changed[: limit or None], labels.new[: limit or None]
    if changed or new:
        rows = [*_format_changed(changed, *texts), *_format_new(new, texts[1])]
        lines += ["", table(_COLUMNS, rows, width)]
    hidden = len(labels.changed) + len(labels.new) - len(changed) - len(new)
    if hidden:
        lines.append(f"… and {hidden} more; --limit 0 shows all")
    return "\n".join(lines)


def verdict(labels: LabelComparison) -> str:
    """Return a line on how alike two labelings are; the lower of the two Rand indices decides."""
    counts = Counter(cluster.fate for cluster in labels.clusters)
    fates = ", ".join(f"{counts[fate]} {fate}" for fate in FATES if fate != KEPT and counts[fate])
    return (
        f"{_choose_verdict(labels)}: ARI {_format_number(labels.ari)}, AMI {_format_number(labels.ami)}, "
        f"{counts[KEPT]} of {len(labels.clusters)} "
        f"{pluralize(len(labels.clusters), 'cluster')} kept{f' ({fates})' if fates else ''}, "
        f"{len(labels.new)} of {labels.n_clusters_b} new."
    )


def _choose_verdict(labels: LabelComparison) -> str:
    worse = min(labels.ari_with_outliers, 1.0 if labels.ari is None else labels.ari)
    if worse == 1:
        return "The same"
    return next(word for least, word in _VERDICTS if worse >= least)


def _describe_clustering(summary: ClusteringSummary) -> str:
    record = summary.record
    return (
        f"{summary.id} of {on_one_line(summary.embedding_model)}, {summary.created_at:%Y-%m-%d %H:%M} UTC, "
        f"{record.n_clusters} {pluralize(record.n_clusters, 'cluster')}, "
        f"{percent(record.n_outliers, record.n_embeddings)} outliers"
    )


def _describe_shared_rows(
    comparison: ClusteringComparison, summaries: tuple[ClusteringSummary, ClusteringSummary]
) -> str:
    labels = comparison.result
    stored = [summary.record.n_clusters for summary in summaries]
    in_common = [len(labels.clusters), labels.n_clusters_b]
    of_a = pluralize(stored[0], "cluster")
    clusters = f", in {in_common[0]} of A's {stored[0]} {of_a} and {in_common[1]} of B's {stored[1]}"
    return (
        f"On {labels.n_shared} shared {pluralize(labels.n_shared, comparison.by)}"
        f"{clusters if in_common != stored else ''}. "
        f"Outliers: {labels.outliers_both} in both, {labels.outliers_only_a} only in A, "
        f"{labels.outliers_only_b} only in B. With them as one more cluster: "
        f"ARI {_format_number(labels.ari_with_outliers)}, AMI {_format_number(labels.ami_with_outliers)}."
    )


def _format_changed(changed: Sequence[ClusterFate], in_a: Texts, in_b: Texts) -> Iterator[tuple[str, ...]]:
    for cluster in changed:
        yield str(cluster.a), str(cluster.size), cluster.fate, "", "", _get_text(in_a, cluster.a)
        for label, share in cluster.into:
            yield "", "", "", str(label), f"{100 * share:.1f} %", _get_text(in_b, label)


def _format_new(new: Sequence[int], in_b: Texts) -> Iterator[tuple[str, ...]]:
    for label in new:
        yield "", "", "new", str(label), "", _get_text(in_b, label)


def _get_text(texts: Texts, label: int) -> str:
    return texts.get(label) or "(no text)"


def _format_number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
