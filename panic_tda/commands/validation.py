"""Commands that validate clusterings: stability, merges, and divergence of runs."""

from __future__ import annotations

import logging

import click

from panic_tda import parameters
from panic_tda.cli import display, options, terminal
from panic_tda.cli.options import option
from panic_tda.cli.rendering import common

_limit = options.limit(20, "Largest number of rows in the text; 0 shows all.")


@options.command("stability-clustering", example="stability-clustering latest --model MiniLM --resamples 5")
@options.reference
@options.model("Use the latest clustering of this embedding model.")
@option(
    "--resamples",
    type=click.IntRange(min=2),
    default=parameters.STABILITY_RESAMPLES,
    show_default=True,
    help="Number of samples of runs; each sample is clustered.",
)
@_limit
@options.json_output
@options.common
def stability_clustering(
    database: str, reference: str, model: str | None, resamples: int, limit: int, as_json: bool
) -> None:
    """Measure how stable clusters are over samples of runs.

    Takes the largest Jaccard index of each cluster with a cluster of each sample. A cluster with a mean of
    0.75 or more is called stable, with 0.5 or less dissolved. Each sample is a fit with the stored parameters
    on the same backend. ID may be shortened.
    """
    from panic_tda.cli.rendering import validation as rendering
    from panic_tda.insight import stability
    from panic_tda.storage.read.clusterings import find_stored, open_clustering

    opened, clustering = find_stored(database, reference, model=model)
    with display.make_progress(ended=logging.DEBUG) as progress:
        result = stability.measure_stability(opened, clustering, n_resamples=resamples, progress=progress)
    if as_json:
        terminal.print_data(result.to_dict())
        return
    shown = [members.label for members in result.members[: limit or None]]
    with open_clustering(opened, clustering) as stored:
        texts = stored.read_medoid_texts(shown)
    terminal.print_data(
        rendering.stability_text(result, clustering, texts, width=common.table_width(), limit=limit)
    )


@options.command("show-merges", example="show-merges latest --model MiniLM --limit 5")
@options.reference
@options.model("Use the latest clustering of this embedding model.")
@_limit
@options.json_output
@options.common
def show_merges(database: str, reference: str, model: str | None, limit: int, as_json: bool) -> None:
    """Show at which heights clusters join.

    Shows also at which min_cluster_size the stored tree has stable clusters. A layer is a min_cluster_size
    with which recut-clustering --selection-method leaf finds clusters that stay the same over many sizes. ID
    may be shortened.
    """
    from panic_tda.cli.rendering import validation as rendering
    from panic_tda.insight import merges
    from panic_tda.storage.read.clusterings import find_stored, open_clustering

    opened, clustering = find_stored(database, reference, model=model)
    with display.make_progress(ended=logging.DEBUG) as progress:
        result = merges.read_merges(opened, clustering, progress=progress)
    if as_json:
        terminal.print_data(result.to_dict())
        return
    shown = result.merges[: limit or None]
    labels = {label for merge in shown for label in (merge.a, merge.b)}
    with open_clustering(opened, clustering) as stored:
        texts = stored.read_medoid_texts(labels)
    terminal.print_data(
        rendering.merges_text(result, clustering, texts, width=common.table_width(), limit=limit)
    )


@options.command("show-divergence", example="show-divergence latest --model MiniLM")
@options.reference
@options.model("Use the latest clustering of this embedding model.")
@options.json_output
@options.common
def show_divergence(database: str, reference: str, model: str | None, as_json: bool) -> None:
    """Show how runs drift apart, step by step.

    Shows also for how many steps the prompt of a run can be recovered. The mean chord between runs of one
    prompt, and of different prompts, is fitted by d(t) = d_inf - (d_inf - d_0) exp(-t / tau). A prompt is
    recovered if the nearest mean vector of other runs belongs to the same prompt. ID may be shortened.
    """
    from panic_tda.cli.rendering import validation as rendering
    from panic_tda.insight import divergence
    from panic_tda.storage.read.clusterings import find_stored

    opened, clustering = find_stored(database, reference, model=model)
    with display.make_progress(ended=logging.DEBUG) as progress:
        result = divergence.read_divergence(opened, clustering, progress=progress)
    terminal.print_data(
        {"clustering": str(clustering.id)} | result.to_dict()
        if as_json
        else rendering.divergence_text(result, clustering, common.table_width())
    )
