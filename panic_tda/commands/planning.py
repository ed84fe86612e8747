"""What clusterings would take, before any is made."""

from __future__ import annotations

import functools
import logging
from typing import Any

import click

from panic_tda.cli import completion, display, options, parsing, terminal
from panic_tda.cli.options import option
from panic_tda.cli.rendering import common

_clustering = functools.partial(option, section="As cluster-embeddings will be told")


@options.command("plan-clustering", example="plan-clustering MiniLM --within 8h")
@click.argument("models", nargs=-1, metavar="[MODEL]...", shell_complete=completion.models)
@option(
    "--downsample",
    "downsamples",
    type=int,
    multiple=True,
    metavar="N",
    help="A factor to plan, repeatable.  [default: 1, 10, 100, 1000]",
)
@option("--within", metavar="TIME", help="Find the smallest factor that ends in time, such as 8h or 1h30m.")
@_clustering("--min-cluster-size", metavar="N|P%", help="Fewest members, or a share of the rows.")
@_clustering("--min-samples", type=int, help="Neighbours that make a row dense, itself counted.")
@_clustering(
    "--backend", type=click.Choice(options.BACKENDS), default="auto", show_default=True, help="What fits."
)
@_clustering("--exact", is_flag=True, help="No approximate tree.")
@_clustering("--devices", metavar="N,…|none", help="CUDA devices by number, or none.  [default: all]")
@options.json_output
@options.common
def plan_clustering(
    database: str,
    models: tuple[str, ...],
    downsamples: tuple[int, ...],
    within: str | None,
    devices: str | None,
    as_json: bool,
    **asked: Any,
) -> None:
    """Estimate time and memory before clustering.

    Shows rows, memory and time on this machine, by embedding model and sampling factor. Fits some thousand
    rows of each, which takes seconds, and changes nothing. Without MODEL or --model, all embedding models
    are planned.
    """
    from panic_tda.cli.rendering import plan as rendering
    from panic_tda.insight import planning

    wanted = parsing.from_options(**asked)
    with display.make_progress(ended=logging.DEBUG) as progress:
        plan = planning.plan_clustering(
            database,
            models,
            parameters=wanted,
            downsamples=downsamples,
            within=None if within is None else parsing.parse_duration(within),
            devices=None if devices is None else parsing.parse_devices(devices),
            progress=progress,
        )
    terminal.print_data(plan.to_dict() if as_json else rendering.plan_text(plan, common.table_width()))
