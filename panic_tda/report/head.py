"""Describe the clustering in the head of the page: parameters, origin, and a summary in one paragraph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from panic_tda.doubts import Doubt
from panic_tda.insight.run_groups import GroupSummary
from panic_tda.parameters import chord_to_cosine
from panic_tda.records import COSINE
from panic_tda.storage.database import Database
from panic_tda.storage.read.results import ClusteringSummary
from panic_tda.wording import pluralize

_NOT_PARAMETERS = ("versions", "seconds", "further", "input_sha256", "recut_of")


def describe_clustering(source: ClusteringSummary, database: Database) -> dict[str, Any]:
    """Return the parameters, counts and origin of a clustering."""
    record = source.record
    fields = asdict(record)
    parameters = [[name, value] for name, value in fields.items() if name not in _NOT_PARAMETERS]
    return {
        "id": str(source.id),
        "model": source.embedding_model,
        "algorithm": source.algorithm,
        "created": f"{source.created_at.isoformat(sep=' ', timespec='seconds')} UTC",
        "seconds": source.seconds,
        "exact": record.exact,
        "epsilon": record.cluster_selection_epsilon,
        "cosine": chord_to_cosine(record.cluster_selection_epsilon),
        "min_cluster_size": record.min_cluster_size,
        "min_samples": record.min_samples,
        "n_embeddings": record.n_embeddings,
        "n_clusters": record.n_clusters,
        "n_outliers": record.n_outliers,
        "parameters": parameters,
        "stages": [[name, value] for name, value in record.seconds.items()],
        "versions": [[name, value] for name, value in sorted(record.versions.items())],
        "input_sha256": record.input_sha256,
        "recut_of": record.recut_of,
        "made_by": clustering_command(source, database),
    }


def clustering_command(source: ClusteringSummary, database: Database) -> str:
    """Return a command line that would compute the clustering again."""
    record = source.record
    options: list[object] = [
        *("--epsilon", record.cluster_selection_epsilon, "--min-cluster-size", record.min_cluster_size),
        *("--min-samples", record.min_samples, "--selection-method", record.cluster_selection_method),
        "--allow-single-cluster" if record.allow_single_cluster else "--no-allow-single-cluster",
    ]
    if record.max_cluster_size:
        options += ["--max-cluster-size", record.max_cluster_size]
    if record.metric not in (None, COSINE):
        options += ["--metric", record.metric]
    if record.recut_of:
        return database.command("recut-clustering", *options, record.recut_of)
    options += ["--downsample", record.downsample or 1, "--backend", record.backend]
    options += ["--exact"] * record.exact
    # A name that begins with a dash would be an option.
    options += ["--"] * source.embedding_model.startswith("-")
    return database.command("cluster-embeddings", *options, source.embedding_model)


def compose_summary(
    source: ClusteringSummary, total: GroupSummary | None, *, outputs: str, doubts: Sequence[Doubt] = ()
) -> str:
    """Summarise the clustering in plain words, after the most serious doubt if there is one.

    Parameters
    ----------
    source : ClusteringSummary
        The clustering.
    total : GroupSummary or None
        Statistics of all runs; None if there are no runs.
    outputs : str
        What was embedded: "texts", "images" or "outputs".
    doubts : sequence of Doubt
        From `doubts.find_doubts`.
    """
    record = source.record
    n, inside = record.n_embeddings, record.n_embeddings - record.n_outliers
    of_runs = f" of {_format_count(total.n_runs, 'run')}" if total else ""
    clusters = _format_count(record.n_clusters, "cluster")
    if record.n_clusters:
        sentences = [f"Of {n:,} {outputs}{of_runs}, {100 * inside / n:.0f} % are in {clusters}."]
    else:
        sentences = [f"None of {n:,} {outputs}{of_runs} is in a cluster."]
    if total:
        sentences += _summarise_motion(total, outputs)
    if doubts:
        sentences.insert(0, f"This clustering is doubtful. {doubts[0].sentence}")
    return " ".join(sentences)


def _summarise_motion(total: GroupSummary, outputs: str) -> list[str]:
    verb = _inflect(total.settled_runs, "settle")
    settled = f"{total.settled_runs:,} of {_format_count(total.n_runs, 'run')} {verb} in one"
    if total.n_runs == 1:
        settled = f"its run settles in {'one' if total.settled_runs else 'none'}"
    # Half of the visits may not have been seen to their end.
    dwell = total.dwell.median
    sentences = []
    if dwell is not None:
        median = _format_count(dwell, "step")
        sentences.append(f"Half of all visits to a cluster last {median} or less; {settled}.")
    elif total.dwell.visits:
        sentences.append(f"{settled[0].upper()}{settled[1:]}.")
    if outputs != "images":
        fixed = total.periodic_runs.get(1, 0)
        loops = sum(total.periodic_runs.values()) - fixed
        at = total.absorption.median
        since = f", half by step {at:g}" if at is not None and total.n_runs > 1 else ""
        if total.n_runs == 1:
            end = "one text" if fixed else "a loop of texts" if loops else "no text"
            ending = f"It repeats {end} until its end{f' from step {at:g} on' if at is not None else ''}."
        else:
            verb = _inflect(fixed, "repeat")
            ending = f"{fixed:,} {verb} one text until their end and {loops:,} a loop{since}."
        sentences.append(ending)
    return sentences


def _inflect(number: int, verb: str) -> str:
    return f"{verb}s" if number == 1 else verb


def _format_count(number: float, thing: str) -> str:
    things = pluralize(number, thing)
    return f"{number:,g} {things}" if number < 1e6 else f"{number:,.0f} {things}"


def describe_predicted(n_predicted: int) -> str:
    """Return the note that embeddings were assigned since, which are not on the page."""
    were = pluralize(n_predicted, "embedding was", "embeddings were")
    return (
        f"{n_predicted:,} further {were} assigned to these clusters since (predicted). Exports and "
        "show-trajectories include predicted embeddings; this page does not."
    )
