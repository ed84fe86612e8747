"""What is said of how far clusters can be trusted, and of how runs drift apart."""

from __future__ import annotations

from collections.abc import Mapping

from panic_tda.cli.rendering.common import PIPE_COLUMNS, decimal
from panic_tda.cli.text import Column, paragraph, table
from panic_tda.insight.divergence import Divergence, Relaxation
from panic_tda.insight.merges import TreeMerges
from panic_tda.insight.stability import ClusteringStability
from panic_tda.storage.read.results import ClusteringSummary
from panic_tda.wording import on_one_line, pluralize

_STABILITY_COLUMNS = (
    Column("cluster", right=True),
    Column("size", right=True, rank=3),
    Column("runs", right=True),
    Column("prompts", right=True, rank=2),
    Column("one run", right=True, rank=1),
    Column("Jaccard", right=True),
    Column("95 %", right=True),
    Column(""),
    Column("medoid", elastic=True),
)
_MERGE_COLUMNS = (
    Column("height", right=True),
    Column("clusters", right=True, rank=1),
    Column("A", right=True),
    Column("medoid", elastic=True),
    Column("B", right=True),
    Column("medoid", elastic=True),
)
_LAYER_COLUMNS = (
    Column("min_cluster_size", right=True),
    Column("clusters", right=True),
    Column("persistence", right=True),
)
_DIVERGENCE_COLUMNS = (
    Column("step", right=True),
    Column("runs", right=True),
    Column("one prompt", right=True),
    Column("other prompts", right=True),
    Column("recovered", right=True),
    Column("by chance", right=True),
)
Texts = Mapping[int, str | None]


def stability_text(
    found: ClusteringStability, clustering: ClusteringSummary, texts: Texts, *, width: int, limit: int
) -> str:
    """Return how many clusters are stable, and below it the clusters, the largest first."""
    verdicts = [one.verdict for one in found.clusters]
    n_stable, n_dissolved = verdicts.count("stable"), verdicts.count("dissolved")
    head = (
        f"{_named(clustering)}: {n_stable} of {len(verdicts)} {pluralize(len(verdicts), 'cluster')} "
        f"{pluralize(n_stable, 'is', 'are')} stable (mean Jaccard index 0.75 or more) and {n_dissolved} "
        f"{pluralize(n_dissolved, 'dissolves', 'dissolve')} (0.5 or less) in "
        f"{found.n_resamples} {pluralize(found.n_resamples, 'sample')} of the runs"
    )
    rows = [
        (
            str(members.label),
            str(members.size),
            str(members.runs),
            str(members.prompts),
            f"{100 * members.largest_run_share:.1f} %",
            decimal(one.jaccard),
            "-" if one.low is None or one.high is None else f"{one.low:.2f} to {one.high:.2f}",
            one.verdict or "",
            on_one_line(texts.get(members.label) or ""),
        )
        for members, one in list(zip(found.members, found.clusters, strict=True))[: limit or None]
    ]
    return "\n\n".join(
        [
            paragraph(head, min(width, PIPE_COLUMNS)),
            table(_STABILITY_COLUMNS, rows, width),
            *_hidden(len(verdicts), len(rows)),
        ]
    )


def merges_text(
    found: TreeMerges, clustering: ClusteringSummary, texts: Texts, *, width: int, limit: int
) -> str:
    """Return the merges of clusters by ascending height, and the stable layers."""
    rows = [
        (
            f"{one.height:.3f}",
            str(one.n_clusters),
            str(one.a),
            on_one_line(texts.get(one.a) or ""),
            str(one.b),
            on_one_line(texts.get(one.b) or ""),
        )
        for one in found.merges[: limit or None]
    ]
    parts = [paragraph(f"{_named(clustering)}: clusters join at these heights", min(width, PIPE_COLUMNS))]
    parts += [table(_MERGE_COLUMNS, rows, width)] if rows else ["There are no two clusters."]
    parts += _hidden(len(found.merges), len(rows))
    layers = [
        (str(one.min_cluster_size), str(one.n_clusters), f"{one.persistence:g}") for one in found.layers
    ]
    if layers:
        listed = table(_LAYER_COLUMNS, layers, width)
        parts.append(f"Stable layers of leaf clusters, the most persistent first:\n{listed}")
    return "\n\n".join(parts)


def divergence_text(found: Divergence, clustering: ClusteringSummary, width: int) -> str:
    """Return the distances and the recovered prompts by step, and the fits."""
    rows = [
        (
            str(one.step),
            str(one.n_runs),
            decimal(one.same_prompt),
            decimal(one.other_prompt),
            _percent(one.recovered),
            _percent(one.by_chance),
        )
        for one in found.steps
    ]
    narrow = min(width, PIPE_COLUMNS)
    head = f"{_named(clustering)}: mean chord between runs, and prompts recovered, by output step"
    return "\n\n".join(
        [
            paragraph(head, narrow),
            table(_DIVERGENCE_COLUMNS, rows, width),
            paragraph(_fit_text("Runs of one prompt", found.same_prompt), narrow),
            paragraph(_fit_text("Runs of different prompts", found.other_prompt), narrow),
        ]
    )


def _fit_text(name: str, fit: Relaxation | None) -> str:
    if fit is None:
        return f"{name}: the distance settles at no value within these steps."
    interval = fit.time_interval
    span = "" if interval is None else f" ({interval.low:.1f} to {interval.high:.1f})"
    return f"{name}: from {fit.start:.3f} to {fit.limit:.3f}, time constant in steps {fit.time:.1f}{span}."


def _named(clustering: ClusteringSummary) -> str:
    return f"Clustering {clustering.id} of {on_one_line(clustering.embedding_model)}"


def _hidden(n_all: int, n_shown: int) -> list[str]:
    return [f"… and {n_all - n_shown} more; --limit 0 shows all"] if n_all > n_shown else []


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
