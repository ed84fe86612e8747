"""Render the stability of clusters, their merges, and the divergence of runs."""

from __future__ import annotations

from collections.abc import Mapping

from panic_tda.cli.rendering.common import PIPE_COLUMNS, decimal
from panic_tda.cli.text import Column, paragraph, table
from panic_tda.insight.divergence import PROMPT_STEP, Divergence, StepDivergence
from panic_tda.insight.merges import TreeMerges
from panic_tda.insight.relaxation import Relaxation
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
_PROMPT_COLUMNS = (Column("from prompt", right=True), Column("nearest prompt", right=True))
Texts = Mapping[int, str | None]


def stability_text(
    measured: ClusteringStability, clustering: ClusteringSummary, texts: Texts, *, width: int, limit: int
) -> str:
    """Return the number of stable clusters, and below it the clusters, the largest first."""
    verdicts = [stability.verdict for stability in measured.clusters]
    n_stable, n_dissolved = verdicts.count("stable"), verdicts.count("dissolved")
    head = (
        f"{_describe_clustering(clustering)}: {n_stable} of {len(verdicts)} "
        f"{pluralize(len(verdicts), 'cluster')} "
        f"{pluralize(n_stable, 'is', 'are')} stable (mean Jaccard index 0.75 or more) and {n_dissolved} "
        f"{pluralize(n_dissolved, 'dissolves', 'dissolve')} (0.5 or less) in "
        f"{measured.n_resamples} {pluralize(measured.n_resamples, 'sample')} of the runs"
    )
    rows = [
        (
            str(members.label),
            str(members.size),
            str(members.runs),
            str(members.prompts),
            f"{100 * members.largest_run_share:.1f} %",
            decimal(stability.jaccard),
            "-"
            if stability.low is None or stability.high is None
            else f"{stability.low:.2f} to {stability.high:.2f}",
            stability.verdict or "",
            on_one_line(texts.get(members.label) or ""),
        )
        for members, stability in list(zip(measured.members, measured.clusters, strict=True))[: limit or None]
    ]
    return "\n\n".join(
        [
            paragraph(head, min(width, PIPE_COLUMNS)),
            table(_STABILITY_COLUMNS, rows, width),
            *_describe_hidden(len(verdicts), len(rows)),
        ]
    )


def merges_text(
    tree: TreeMerges, clustering: ClusteringSummary, texts: Texts, *, width: int, limit: int
) -> str:
    """Return the merges of clusters by ascending height, and the stable layers."""
    rows = [
        (
            f"{merge.height:.3f}",
            str(merge.n_clusters),
            str(merge.a),
            on_one_line(texts.get(merge.a) or ""),
            str(merge.b),
            on_one_line(texts.get(merge.b) or ""),
        )
        for merge in tree.merges[: limit or None]
    ]
    parts = [
        paragraph(
            f"{_describe_clustering(clustering)}: clusters join at these heights", min(width, PIPE_COLUMNS)
        )
    ]
    parts += [table(_MERGE_COLUMNS, rows, width)] if rows else ["There are no two clusters."]
    parts += _describe_hidden(len(tree.merges), len(rows))
    layers = [
        (str(layer.min_cluster_size), str(layer.n_clusters), f"{layer.persistence:g}")
        for layer in tree.layers
    ]
    if layers:
        listed = table(_LAYER_COLUMNS, layers, width)
        parts.append(f"Stable layers of leaf clusters, the most persistent first:\n{listed}")
    return "\n\n".join(parts)


def divergence_text(divergence: Divergence, clustering: ClusteringSummary, width: int) -> str:
    """Return the distances and the recovered prompts by step, and the fits."""
    rows = [
        (
            "prompt" if step.step == PROMPT_STEP else str(step.step),
            str(step.n_runs),
            decimal(step.same_prompt) + _format_span(step, "same_prompt"),
            decimal(step.other_prompt) + _format_span(step, "other_prompt"),
            _format_share(step.recovered) + _format_span(step, "recovered", percents=True),
            _format_share(step.by_chance),
            decimal(step.from_prompt) + _format_span(step, "from_prompt"),
            _format_share(step.nearest_prompt) + _format_span(step, "nearest_prompt", percents=True),
        )
        for step in divergence.steps
    ]
    has_prompts = any(step.from_prompt is not None for step in divergence.steps)
    columns = [*_DIVERGENCE_COLUMNS, *(_PROMPT_COLUMNS if has_prompts else ())]
    narrow = min(width, PIPE_COLUMNS)
    head = (
        f"{_describe_clustering(clustering)}: mean chord between runs, and prompts recovered, by output step"
    )
    return "\n\n".join(
        [
            paragraph(head, narrow),
            table(columns, [row[: len(columns)] for row in rows], width),
            paragraph(_describe_fit("Runs of one prompt", divergence.same_prompt), narrow),
            paragraph(_describe_fit("Runs of different prompts", divergence.other_prompt), narrow),
        ]
    )


def _describe_fit(name: str, fit: Relaxation | None) -> str:
    if fit is None:
        return f"{name}: the distance does not level off within these steps."
    interval = fit.time_interval
    span = "" if interval is None else f" ({interval.low:.1f} to {interval.high:.1f})"
    return f"{name}: from {fit.start:.3f} to {fit.limit:.3f}, time constant in steps {fit.time:.1f}{span}."


def _describe_clustering(clustering: ClusteringSummary) -> str:
    return f"Clustering {clustering.id} of {on_one_line(clustering.embedding_model)}"


def _describe_hidden(n_all: int, n_shown: int) -> list[str]:
    return [f"… and {n_all - n_shown} more; --limit 0 shows all"] if n_all > n_shown else []


def _format_span(step: StepDivergence, name: str, *, percents: bool = False) -> str:
    interval = step.intervals[name]
    if interval is None:
        return ""
    if percents:
        return f" ({100 * interval.low:.0f} to {100 * interval.high:.0f})"
    return f" ({interval.low:.2f} to {interval.high:.2f})"


def _format_share(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"
