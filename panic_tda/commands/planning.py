"""Command that estimates time and memory before clustering."""

from __future__ import annotations

import functools
import logging
from typing import Any

import click

from panic_tda import parameters
from panic_tda.cli import display, options, parsing, terminal
from panic_tda.cli.options import option
from panic_tda.cli.rendering import common

_clustering = functools.partial(option, section="Settings of cluster-embeddings")


@options.command("plan-clustering", example="plan-clustering MiniLM --within 8h")
@options.models("Embedding model to plan, like MODEL; may be repeated.")
@option(
    "--downsample",
    "downsamples",
    type=int,
    multiple=True,
    metavar="N",
    help="Sampling factor to plan; may be repeated.  [default: 1, 10, 100, 1000]",
)
@option(
    "--within",
    metavar="TIME",
    help="Find the smallest factor that ends within a time such as 8h or 1h30m.  [default: no time limit]",
)
@_clustering(
    "--min-cluster-size",
    metavar="N|P%",
    help=f"{options.MIN_CLUSTER_SIZE}  [default: as cluster-embeddings]",
)
@_clustering("--min-samples", type=int, help=options.MIN_SAMPLES)
@_clustering(
    "--metric",
    type=click.Choice(parameters.METRICS),
    default=parameters.COSINE,
    show_default=True,
    help=options.METRIC,
)
@_clustering(
    "--backend",
    type=click.Choice(options.BACKENDS),
    default="auto",
    show_default=True,
    help="Engine that fits.",
)
@_clustering("--exact", is_flag=True, help="Build no approximate tree.")
@_clustering("--devices", metavar="N,…|none", help="CUDA devices by number, or none.  [default: all]")
@options.json_output
@options.common
def plan_clustering(
    database: str,
    models: tuple[str, ...],
    downsamples: tuple[int, ...],
    within: str | None,
    devices: str | None,
    metric: str,
    as_json: bool,
    **clustering_options: Any,
) -> None:
    """Estimate time and memory before clustering.

    Shows rows, memory and time on this machine, by embedding model and sampling factor. Fits some thousand
    rows of each, which takes seconds, and changes nothing. Without MODEL or --model, all embedding models
    are planned.
    """
    from panic_tda.cli.rendering import plan as rendering
    from panic_tda.insight import planning

    clustering_parameters = parsing.from_options(
        epsilon=parameters.choose_epsilon(metric), metric=metric, **clustering_options
    )
    with display.make_progress(ended=logging.DEBUG) as progress:
        plan = planning.plan_clustering(
            database,
            models,
            parameters=clustering_parameters,
            downsamples=downsamples,
            within=None if within is None else parsing.parse_duration(within),
            devices=None if devices is None else parsing.parse_devices(devices),
            progress=progress,
        )
    terminal.print_data(plan.to_dict() if as_json else rendering.plan_text(plan, common.table_width()))
