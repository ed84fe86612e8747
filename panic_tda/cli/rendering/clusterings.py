"""Render clusterings: results of a fit, details, and results saved later."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from panic_tda.cli.rendering.common import decimal, percent, yes_no
from panic_tda.cli.text import Column, paragraph, shorten, table
from panic_tda.doubts import find_doubts
from panic_tda.insight.origins import ORIGINS, ClusterOrigins
from panic_tda.parameters import chord_to_cosine
from panic_tda.records import COSINE, ClusteringRecord
from panic_tda.storage.read.results import ClusterDetails, ClusteringSummary
from panic_tda.types import CLUSTERED, ModelOutcome
from panic_tda.wording import on_one_line, pluralize

if TYPE_CHECKING:
    from panic_tda.storage.write.recovery import SavedPending

_COUNTED = ("n_total", "n_sampled", "n_excluded", "n_embeddings", "n_unique", "n_clusters", "n_outliers")
NO_CLUSTERINGS = "No clusterings are stored; make some with panic-tda cluster-embeddings."
_OUTCOME_COLUMNS = (
    Column("model", elastic=True),
    Column("status"),
    Column("embeddings", right=True, rank=1),
    Column("clusters", right=True),
    Column("outliers", right=True),
    Column("backend", rank=3),
    Column("exact", rank=4),
    Column("time", right=True, rank=2),
    Column("clustering"),
)
_LEAST_TEXT = 20
"""With fewer columns left, the text of a medoid goes on a separate line."""


def outcomes_json(outcomes: Sequence[ModelOutcome]) -> dict[str, Any]:
    """Return the object that `cluster-embeddings --json` prints."""
    return {"results": [vars(outcome) | {"doubts": outcome.doubts} for outcome in outcomes]}


def outcomes_text(
    outcomes: Sequence[ModelOutcome], width: int, *, names: Mapping[str, str] | None = None
) -> str:
    """Return one line per model, and below them the reason of each that was not clustered.

    `names` are the ids of all stored clusterings, shortened (`wording.shorten_ids`).
    """
    rows = [
        (
            outcome.embedding_model,
            outcome.status,
            str(outcome.n_embeddings),
            str(outcome.n_clusters),
            percent(outcome.n_outliers, outcome.n_embeddings),
            outcome.backend or "-",
            yes_no(outcome.exact),
            f"{sum(outcome.seconds.values()):.1f} s",
            (names or {}).get(str(outcome.id), str(outcome.id or "-")),
        )
        for outcome in outcomes
    ]
    listed = table(_OUTCOME_COLUMNS, rows, width)
    reasons = [
        paragraph(on_one_line(f"{outcome.embedding_model}: {outcome.reason}"), width)
        for outcome in outcomes
        if outcome.reason
    ]
    return "\n\n".join([listed, *reasons])


def next_steps_text(outcomes: Sequence[ModelOutcome], command: Callable[..., str], metric: str) -> str:
    """Return the commands that show a first clustering; `command` joins arguments to a shell line."""
    models = [outcome.embedding_model for outcome in outcomes if outcome.status == CLUSTERED]
    option = ["--model", models[0]] if len(models) > 1 else []
    # The report measures chords.
    second = ["report-clustering", "latest", *option, "--open"]
    if metric != COSINE:
        second = ["show-trajectories", "latest", *option]
    lines = [
        command("show-clustering", "latest", *option),
        command(*second),
        "panic-tda help choosing-parameters",
    ]
    return "\n".join(["Next:", *(f"  {line}" for line in lines)])


def details_json(
    summary: ClusteringSummary,
    clusters: Sequence[ClusterDetails],
    origins: ClusterOrigins | None = None,
    *,
    n_predicted: int = 0,
) -> dict[str, Any]:
    """Return one element of the list that `show-clustering --json` prints."""
    cluster_objects = [
        vars(cluster) | (dict.fromkeys(ORIGINS) if origins is None else origins.to_dict(cluster.label))
        for cluster in clusters
    ]
    return {name: value for name, value in vars(summary).items() if name != "record"} | {
        "parameters": summary.record.to_json(),
        "doubts": find_doubts(summary.record),
        "n_predicted": n_predicted,
        "clusters": cluster_objects,
    }


def details_text(
    summary: ClusteringSummary,
    clusters: Sequence[ClusterDetails],
    width: int,
    *,
    limit: int = 0,
    origins: ClusterOrigins | None = None,
    n_predicted: int = 0,
) -> str:
    """Return one clustering: its parameters, then its clusters, the largest first.

    `limit` is the largest number of clusters, 0 for all; `origins` has the runs and prompts of their members.
    """
    record = summary.record
    heading = (
        f"Clustering {summary.id} of {on_one_line(summary.embedding_model)}, "
        f"{summary.created_at:%Y-%m-%d %H:%M} UTC, {summary.seconds:.1f} s"
    )
    doubts = [f"  doubtful: {doubt.sentence}" for doubt in find_doubts(record)]
    further = [f"  {_describe_predicted(n_predicted)}"] if n_predicted else []
    about = (heading, *_format_parameters(record), *doubts, *further)
    lines = [*(paragraph(line, width) for line in about), ""]
    if len(clusters) > record.n_clusters or sum(cluster.size for cluster in clusters) > record.n_embeddings:
        lines += ["The stored counts and the rows differ; panic-tda doctor says more.", ""]
    for cluster in clusters:
        first, *others = _format_cluster(cluster, record.n_embeddings, width)
        lines += [first, *_format_origins(cluster.label, origins, width), *others]
    hidden = record.n_clusters - len(clusters)
    if hidden > 0 and len(clusters) == limit:
        lines.append(f"… and {hidden} smaller {pluralize(hidden, 'cluster')}; --limit 0 shows all")
    elif hidden > 0:
        have = pluralize(hidden, "cluster has", "clusters have")
        were = pluralize(hidden, "embedding that was its medoid", "embeddings that were their medoids")
        lines.append(f"{hidden} {have} been deleted since, with the {were}")
    return "\n".join(lines)


def uncounted_text(summary: ClusteringSummary, width: int) -> str:
    """Return the paragraph that says that origins were not counted, with the line breaks before it."""
    n = summary.record.n_total or summary.record.n_embeddings
    return "\n\n" + paragraph(
        f"--origins counts the runs and prompts of each cluster; it reads the indexes of {n:,} "
        f"{pluralize(n, 'embedding')}.",
        width,
    )


def saved_text(saved: Sequence[SavedPending]) -> str:
    """Return one line per clustering that was saved."""
    return (
        "\n".join(
            f"Saved clustering {clustering.id} of {on_one_line(clustering.embedding_model)}"
            + (f"; {_describe_vanished(clustering.n_vanished)}" if clustering.n_vanished else "")
            for clustering in saved
        )
        or "There are no pending clusterings."
    )


def _describe_predicted(number: int) -> str:
    have = pluralize(number, "embedding was assigned", "embeddings were assigned")
    return (
        f"{number} further {have} since (assign-embeddings); sizes, outliers and persistence are without them"
    )


def _describe_vanished(number: int) -> str:
    have = pluralize(
        number, "embedding has been deleted since and was", "embeddings have been deleted since and were"
    )
    return f"{number} {have} left out"


def _format_parameters(record: ClusteringRecord) -> list[str]:
    epsilon = record.cluster_selection_epsilon
    counts = ", ".join(f"{name.removeprefix('n_')} {getattr(record, name)}" for name in _COUNTED)
    limit = record.max_cluster_size
    largest = f", max_cluster_size {limit}" if limit else ""
    is_cosine = record.metric in (None, COSINE)
    unit = f"chord (cosine distance {chord_to_cosine(epsilon):g})" if is_cosine else f"({record.metric})"
    return [
        f"  epsilon {epsilon:g} {unit}, min_cluster_size "
        f"{record.min_cluster_size}{largest}, min_samples {record.min_samples}, "
        f"{record.cluster_selection_method}, "
        f"single cluster {'allowed' if record.allow_single_cluster else 'not allowed'}",
        f"  backend {record.backend} ({'exact' if record.exact else 'approximate'}), "
        f"downsample {record.downsample}; {counts}",
        *_format_approximation(record),
    ]


def _format_approximation(record: ClusteringRecord) -> list[str]:
    share = record.lighter_edge_share
    if share is None:
        return []
    return [
        f"  {100 * share:.2f} % of {record.lighter_edge_sample} sampled rows have an improving edge "
        "(0 % in an exact tree)"
    ]


def _format_cluster(cluster: ClusterDetails, n_embeddings: int, width: int) -> list[str]:
    copies = f" ×{cluster.medoid_copies}" if cluster.medoid_copies else ""
    head = (
        f"{cluster.label:>5}  {cluster.size:>8}  {percent(cluster.size, n_embeddings):>7}  "
        f"persistence {decimal(cluster.persistence):>5}{copies:>7}  "
    )
    is_image = cluster.medoid_invocation_id == cluster.medoid_image_invocation_id is not None
    text = on_one_line(cluster.medoid_text or "") or ("(image)" if is_image else "(no text)")
    ids = {
        "embedding": cluster.medoid_embedding_id,
        "invocation": cluster.medoid_invocation_id,
        "run": cluster.medoid_run_id,
        "image": cluster.medoid_image_invocation_id,
    }
    left = width - len(head)
    first = (
        [head + shorten(text, left)]
        if left >= _LEAST_TEXT
        else [shorten(head.rstrip(), width), shorten(f"{'':7}{text}", width)]
    )
    return [*first, *_format_ids(ids, width), ""]


def _format_origins(label: int, origins: ClusterOrigins | None, width: int) -> list[str]:
    if origins is None:
        return []
    members = origins.get_members(label)
    line = (
        f"{'':7}{members.runs} {pluralize(members.runs, 'run')}, {members.prompts} "
        f"{pluralize(members.prompts, 'prompt')}, {100 * members.largest_run_share:.1f} % from one run"
    )
    lines = [shorten(line, width)]
    if origins.words is not None and origins.words.get(label):
        lines.append(shorten(f"{'':7}{', '.join(origins.words[label])}", width))
    return lines


def _format_ids(ids: dict[str, UUID | None], width: int) -> list[str]:
    lines = [" " * 5]
    for name, value in ids.items():
        item = f"  {name} {value or '-'}"
        if len(lines[-1]) + len(item) > width and lines[-1].strip():
            lines.append(" " * 5)
        lines[-1] += item
    return lines
