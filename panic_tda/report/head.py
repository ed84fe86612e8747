"""The head of the page: what the clustering is, how it was made, and one sentence that says what it shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from panic_tda.doubts import Doubt
from panic_tda.insight.trajectories import GroupSummary
from panic_tda.parameters import chord_to_cosine
from panic_tda.storage.database import Database
from panic_tda.storage.read.results import ClusteringSummary
from panic_tda.wording import pluralize

_NOT_PARAMETERS = ("versions", "seconds", "further", "input_sha256", "recut_of")


def describe_clustering(source: ClusteringSummary, database: Database) -> dict[str, Any]:
    """Return what the page says of a clustering before anything is looked at."""
    record = source.record
    said = asdict(record)
    parameters = [[name, value] for name, value in said.items() if name not in _NOT_PARAMETERS]
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
    """Return a line of shell that would make the clustering again."""
    record = source.record
    options: list[object] = [
        *("--epsilon", record.cluster_selection_epsilon, "--min-cluster-size", record.min_cluster_size),
        *("--min-samples", record.min_samples, "--selection-method", record.cluster_selection_method),
        "--allow-single-cluster" if record.allow_single_cluster else "--no-allow-single-cluster",
    ]
    if record.max_cluster_size:
        options += ["--max-cluster-size", record.max_cluster_size]
    if record.recut_of:
        return database.command("recut-clustering", *options, record.recut_of)
    options += ["--downsample", record.downsample or 1, "--backend", record.backend]
    options += ["--exact"] * record.exact
    # A name that begins with a dash would be an option.
    options += ["--"] * source.embedding_model.startswith("-")
    return database.command("cluster-embeddings", *options, source.embedding_model)


def sentence(
    source: ClusteringSummary, total: GroupSummary | None, *, outputs: str, doubts: Sequence[Doubt] = ()
) -> str:
    """Say in plain words what was found, after the gravest reason to doubt it where there is one.

    Parameters
    ----------
    source : ClusteringSummary
        The clustering.
    total : GroupSummary or None
        All of its runs; None where there are none.
    outputs : str
        What was embedded: texts, images or outputs.
    doubts : sequence of Doubt
        From `doubts.find_doubts`.
    """
    record = source.record
    n, inside = record.n_embeddings, record.n_embeddings - record.n_outliers
    of_runs = f" of {_counted(total.n_runs, 'run')}" if total else ""
    places = "one place" if record.n_clusters == 1 else f"{record.n_clusters:,} places"
    if record.n_clusters:
        said = [f"Of {n:,} {outputs}{of_runs}, {100 * inside / n:.0f} % fall into {places}."]
    else:
        said = [f"None of {n:,} {outputs}{of_runs} fall into a place that others share."]
    if total:
        said += _motion(total, outputs)
    if doubts:
        said.insert(0, f"This clustering is doubtful. {doubts[0].sentence}")
    return " ".join(said)


def _motion(total: GroupSummary, outputs: str) -> list[str]:
    verb = _do(total.settled_runs, "settle")
    settled = f"{total.settled_runs:,} of {_counted(total.n_runs, 'run')} {verb} in one"
    if total.n_runs == 1:
        settled = f"its run settles in {'one' if total.settled_runs else 'none'}"
    # Half of the visits may not have been seen to their end.
    dwell = total.dwell.median
    said = []
    if dwell is not None:
        said.append(f"Half of all visits to a place last {_counted(dwell, 'step')} or less; {settled}.")
    elif total.dwell.visits:
        said.append(f"{settled[0].upper()}{settled[1:]}.")
    if outputs != "images":
        fixed = total.periodic_runs.get(1, 0)
        loops = sum(total.periodic_runs.values()) - fixed
        at = total.median_absorbed_at
        since = f", half of these by step {at:g}" if at is not None and fixed + loops > 1 else ""
        if total.n_runs == 1:
            end = "a fixed point" if fixed else "a loop" if loops else "no fixed point and no loop"
            said.append(f"It ends in {end} of its texts{f' from step {at:g} on' if at is not None else ''}.")
        else:
            ends = f"{fixed:,} {_do(fixed, 'end')} in a fixed point of their texts"
            said.append(f"{ends} and {loops:,} in a loop{since}.")
    return said


def _do(number: int, verb: str) -> str:
    return f"{verb}s" if number == 1 else verb


def _counted(number: float, thing: str) -> str:
    things = pluralize(number, thing)
    return f"{number:,g} {things}" if number < 1e6 else f"{number:,.0f} {things}"
