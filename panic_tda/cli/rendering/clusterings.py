"""What is said of clusterings: made, listed, shown, deleted, saved at last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any
from uuid import UUID

from panic_tda.cli.rendering.common import decimal, percent, plain, yes_no
from panic_tda.cli.text import Column, on_one_line, paragraph, shorten, table
from panic_tda.doubts import find_doubts
from panic_tda.parameters import ClusteringRecord, chord_to_cosine
from panic_tda.storage.read.results import ClusterDetails, ClusteringSummary, UnreadableClustering
from panic_tda.types import ModelOutcome, SavedPending
from panic_tda.wording import pluralize

_COUNTED = ("n_total", "n_sampled", "n_excluded", "n_embeddings", "n_unique", "n_clusters", "n_outliers")
NO_CLUSTERINGS = "No clusterings are stored; make some with panic-tda cluster-embeddings."
_DELETED_SHOWN = 50
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
_LISTED_COLUMNS = (
    Column("id"),
    Column("model", elastic=True),
    Column("algorithm", rank=9),
    Column("epsilon", right=True, rank=2),
    Column("downsample", right=True, rank=5),
    Column("backend", rank=6),
    Column("exact", rank=7),
    Column("clusters", right=True),
    Column("assigned", right=True, rank=4),
    Column("outliers", right=True, rank=1),
    Column("created (UTC)", rank=3),
    Column("time", right=True, rank=8),
)
_LISTED_KEYS = (
    *("id", "embedding_model", "algorithm", "epsilon", "downsample", "backend", "exact", "n_clusters"),
    *("n_assignments", "outlier_percent", "created_at", "duration_seconds", "unreadable"),
)
_LEAST_TEXT = 20
"""With fewer columns left, a medoid's text gets a line of its own."""


def outcomes_json(outcomes: Sequence[ModelOutcome]) -> dict[str, Any]:
    """Return the object that `cluster-embeddings --json` prints."""
    results = [
        plain(asdict(outcome)) | {"doubts": [asdict(doubt) for doubt in outcome.doubts]}
        for outcome in outcomes
    ]
    return {"results": results}


def outcomes_text(outcomes: Sequence[ModelOutcome], width: int) -> str:
    """Return one line a model, and below them the reason of each that was not clustered."""
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
            str(outcome.id or "-"),
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


def listing_json(
    summaries: Sequence[ClusteringSummary], unreadable: Sequence[UnreadableClustering] = ()
) -> list[dict[str, Any]]:
    """Return the list that `list-clusterings --json` prints, with what cannot be read at its end."""
    readable = [
        plain(
            {
                "id": summary.id,
                "embedding_model": summary.embedding_model,
                "algorithm": summary.algorithm,
                "epsilon": summary.record.cluster_selection_epsilon,
                "downsample": summary.record.downsample,
                "backend": summary.record.backend,
                "exact": summary.record.exact,
                "n_clusters": summary.record.n_clusters,
                "root_selected": summary.record.root_selected,
                "doubts": _doubts_json(summary.record),
                "n_assignments": summary.record.n_embeddings,
                "outlier_percent": _share(summary),
                "created_at": summary.created_at,
                "duration_seconds": summary.seconds,
                "unreadable": None,
            }
        )
        for summary in summaries
    ]
    return readable + [
        dict.fromkeys(_LISTED_KEYS)
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
) -> str:
    """Return one line a stored clustering, the latest first, and how many of `n_stored` are not shown.

    Below them stand those that cannot be read, each with the reason. `names` are the ids of all stored
    clusterings, shortened (`text.shorten_ids`); without them ids are whole.
    """
    lines = [_unreadable_line(clustering, width) for clustering in unreadable]
    if not summaries:
        return "\n".join(lines) or NO_CLUSTERINGS
    rows = [
        (
            (names or {}).get(str(summary.id), str(summary.id)),
            summary.embedding_model,
            summary.algorithm,
            f"{summary.record.cluster_selection_epsilon:g}",
            str(summary.record.downsample),
            summary.record.backend,
            yes_no(summary.record.exact),
            str(summary.record.n_clusters) + " (root)" * bool(summary.record.root_selected),
            str(summary.record.n_embeddings),
            percent(summary.record.n_outliers, summary.record.n_embeddings),
            f"{summary.created_at:%Y-%m-%d %H:%M}",
            f"{summary.seconds:.1f} s",
        )
        for summary in summaries
    ]
    listed = table(_LISTED_COLUMNS, rows, width)
    hidden = n_stored - len(summaries)
    if hidden:
        older = pluralize(hidden, "older one")
        listed = f"{listed}\n… and {hidden} {older}; list-clusterings --limit 0 lists all"
    return "\n\n".join([listed, *(["\n".join(lines)] if lines else [])])


def details_json(summary: ClusteringSummary, clusters: Sequence[ClusterDetails]) -> dict[str, Any]:
    """Return one element of the list that `show-clustering --json` prints."""
    said = plain(asdict(summary))
    del said["record"]
    found = [plain(asdict(cluster)) for cluster in clusters]
    about = {"parameters": summary.record.to_json(), "doubts": _doubts_json(summary.record)}
    return said | about | {"clusters": found}


def details_text(
    summary: ClusteringSummary, clusters: Sequence[ClusterDetails], width: int, *, limit: int = 0
) -> str:
    """Return one clustering: its parameters, then its clusters, the largest first.

    `limit` is how many clusters were asked for, 0 meaning all.
    """
    said = summary.record
    heading = (
        f"Clustering {summary.id} of {on_one_line(summary.embedding_model)}, "
        f"{summary.created_at:%Y-%m-%d %H:%M} UTC, {summary.seconds:.1f} s"
    )
    doubts = [f"  doubtful: {doubt.sentence}" for doubt in find_doubts(said)]
    lines = [*(paragraph(line, width) for line in (heading, *_parameter_lines(said), *doubts)), ""]
    if len(clusters) > said.n_clusters or sum(one.size for one in clusters) > said.n_embeddings:
        lines += ["The stored counts and the rows differ; panic-tda doctor says more.", ""]
    for cluster in clusters:
        lines += _cluster_lines(cluster, said.n_embeddings, width)
    hidden = said.n_clusters - len(clusters)
    if hidden > 0 and len(clusters) == limit:
        lines.append(f"… and {hidden} smaller {pluralize(hidden, 'cluster')}; --limit 0 shows all")
    elif hidden > 0:
        have = pluralize(hidden, "cluster has", "clusters have")
        were = pluralize(hidden, "embedding that was its medoid", "embeddings that were their medoids")
        lines.append(f"{hidden} {have} gone since, with the {were}")
    return "\n".join(lines)


def deletion_text(
    summaries: Sequence[ClusteringSummary],
    width: int,
    unreadable: Sequence[UnreadableClustering] = (),
    *,
    names: Mapping[str, str] | None = None,
) -> str:
    """Say what a deletion takes away; `names` as for `listing_text`."""
    if not summaries and not unreadable:
        return "Nothing to delete."
    n_clusters = sum(summary.record.n_clusters for summary in summaries)
    n_assignments = sum(summary.record.n_embeddings for summary in summaries)
    n_gone = len(summaries) + len(unreadable)
    return (
        f"{listing_text(summaries[:_DELETED_SHOWN], len(summaries), width, unreadable, names=names)}\n"
        f"{n_gone} {pluralize(n_gone, 'clustering goes', 'clusterings go')}, with {n_clusters} "
        f"{pluralize(n_clusters, 'cluster')} and {n_assignments} {pluralize(n_assignments, 'assignment')}."
    )


def saved_json(saved: Sequence[SavedPending]) -> dict[str, Any]:
    """Return the object that `save-pending --json` prints."""
    return {"saved": [plain(asdict(one)) for one in saved]}


def saved_text(saved: Sequence[SavedPending]) -> str:
    """Return one line a clustering that is in the database now."""
    return (
        "\n".join(
            f"Saved clustering {one.id} of {on_one_line(one.embedding_model)}"
            + (f"; {_vanished(one.n_vanished)}" if one.n_vanished else "")
            for one in saved
        )
        or "No clustering waits to be saved."
    )


def _vanished(number: int) -> str:
    have = pluralize(number, "embedding has gone since and was", "embeddings have gone since and were")
    return f"{number} {have} left out"


def _unreadable_line(clustering: UnreadableClustering, width: int) -> str:
    model = "" if clustering.embedding_model is None else f" of {clustering.embedding_model}"
    return paragraph(on_one_line(f"{clustering.reference}{model} cannot be read: {clustering.reason}"), width)


def _parameter_lines(said: ClusteringRecord) -> list[str]:
    epsilon = said.cluster_selection_epsilon
    counts = ", ".join(f"{name.removeprefix('n_')} {getattr(said, name)}" for name in _COUNTED)
    limit = said.max_cluster_size
    largest = f", max_cluster_size {limit}" if limit else ""
    return [
        f"  epsilon {epsilon:g} chord (cosine distance {chord_to_cosine(epsilon):g}), min_cluster_size "
        f"{said.min_cluster_size}{largest}, min_samples {said.min_samples}, "
        f"{said.cluster_selection_method}, "
        f"single cluster {'allowed' if said.allow_single_cluster else 'not allowed'}",
        f"  backend {said.backend} ({'exact' if said.exact else 'approximate'}), "
        f"downsample {said.downsample}; {counts}",
        *_approximation_lines(said),
    ]


def _approximation_lines(said: ClusteringRecord) -> list[str]:
    share = said.lighter_edge_share
    if share is None:
        return []
    return [
        f"  {100 * share:.2f} % of {said.lighter_edge_sample} sampled rows have an edge lighter than "
        "their path in the tree (0 % in an exact one)"
    ]


def _cluster_lines(cluster: ClusterDetails, n_embeddings: int, width: int) -> list[str]:
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
    return [*first, *_id_lines(ids, width), ""]


def _id_lines(ids: dict[str, UUID | None], width: int) -> list[str]:
    lines = [" " * 5]
    for name, value in ids.items():
        item = f"  {name} {value or '-'}"
        if len(lines[-1]) + len(item) > width and lines[-1].strip():
            lines.append(" " * 5)
        lines[-1] += item
    return lines


def _doubts_json(record: ClusteringRecord) -> list[dict[str, str]]:
    return [asdict(doubt) for doubt in find_doubts(record)]


def _share(summary: ClusteringSummary) -> float | None:
    n_embeddings = summary.record.n_embeddings
    return 100 * summary.record.n_outliers / n_embeddings if n_embeddings else None
