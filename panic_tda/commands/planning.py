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
from panic_tda.parameters import ClusteringParameters

_workers = functools.partial(option, section="Clustering shared by workers")
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
@options.metric(section="Settings of cluster-embeddings")
@_clustering(
    "--backend",
    type=click.Choice(options.BACKENDS),
    default="auto",
    show_default=True,
    help="Engine that fits.",
)
@_clustering("--exact", is_flag=True, help="Build no approximate tree.")
@_clustering("--devices", metavar="N,…|none", help="CUDA devices by number, or none.  [default: all]")
@_workers(
    "--rows",
    type=click.IntRange(2, 10**10),
    metavar="N",
    help="Number of rows; no database is read.  [default: those of the database]",
)
@_workers(
    "--features",
    type=click.IntRange(1, 1 << 16),
    metavar="N",
    help="Dimensions of these rows.  [default: none]",
)
@_workers(
    "--workers",
    type=click.IntRange(1, 10**6),
    metavar="N",
    help="Dask workers, each with a core of its own.  [default: none]",
)
@_workers(
    "--scheduler",
    metavar="ADDRESS|FILE",
    help="Scheduler of Dask whose workers are counted instead.  [default: none]",
)
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
    rows: int | None,
    features: int | None,
    workers: int | None,
    scheduler: str | None,
    **clustering_options: Any,
) -> None:
    """Estimate time and memory before clustering.

    Shows rows, memory and time on this machine, by embedding model and sampling factor. Fits some thousand
    rows of each, which takes seconds, and changes nothing. Without MODEL or --model, all embedding models
    are planned. With --rows, --features and --workers (or --scheduler), shows time and memory of a
    clustering that Dask workers share.
    """
    from panic_tda.cli.rendering import plan as rendering
    from panic_tda.insight import planning

    clustering_parameters = parsing.from_options(
        epsilon=parameters.choose_epsilon(metric), metric=metric, **clustering_options
    )
    if any(value is not None for value in (rows, features, workers, scheduler)):
        if rows is None or features is None or (workers is None) == (scheduler is None):
            raise click.UsageError("--rows, --features and either --workers or --scheduler go together")
        if models or downsamples or within or devices:
            raise click.UsageError(
                "with --rows, no model is planned: drop MODEL, --downsample, --within, --devices"
            )
        if clustering_parameters.backend not in ("auto", "tiled"):
            raise click.UsageError("workers share the fits of --backend tiled alone: drop --backend")
        _print_workers_plan((rows, features), workers, scheduler, clustering_parameters, as_json=as_json)
        return
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


def _print_workers_plan(
    shape: tuple[int, int],
    workers: int | None,
    scheduler: str | None,
    clustering_parameters: ClusteringParameters,
    *,
    as_json: bool,
) -> None:
    from panic_tda.cli.rendering import plan as rendering
    from panic_tda.insight import scaling

    if scheduler is not None:
        from panic_tda.clustering import dask_workers

        with dask_workers.connect(scheduler, use_devices=False) as executor:
            workers = executor.slots
    with display.make_progress(ended=logging.DEBUG) as progress:
        plan = scaling.plan_workers(
            *shape,
            workers or 1,
            are_local=scheduler is None,
            parameters=clustering_parameters,
            progress=progress,
        )
    terminal.print_data(plan.to_dict() if as_json else rendering.workers_text(plan, common.table_width()))
