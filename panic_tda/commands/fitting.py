"""Making clusterings."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import click

from panic_tda import parameters
from panic_tda.cli import completion, display, options, terminal
from panic_tda.cli.options import option
from panic_tda.cli.rendering import common

_what, _clustering, _machine, _cut = (
    functools.partial(option, section=section)
    for section in ("What to cluster", "Clustering", "Machine", "What is to be other than there")
)


@options.command("cluster-embeddings", example="cluster-embeddings MiniLM --downsample 2 --epsilon 0.35")
@click.argument("models", nargs=-1, metavar="[MODEL]...", shell_complete=completion.models)
@_what("--downsample", type=int, default=1, show_default=True, metavar="N", help="Keep every N-th output.")
@_what("--skip-invalid", is_flag=True, help="Leave invalid vectors out instead of failing their model.")
@_clustering(
    "--epsilon",
    type=float,
    default=parameters.EPSILON,
    show_default=True,
    help="Chord below which clusters are not split (cosine epsilon²/2).",
)
@_clustering(
    "--min-cluster-size", metavar="N|P%", help="Fewest members, or a share of the rows such as 0.1%."
)
@_clustering("--min-samples", type=int, help="Neighbours that make a row dense, itself counted.")
@_clustering(
    "--allow-single-cluster/--no-allow-single-cluster",
    default=parameters.ALLOW_SINGLE_CLUSTER,
    show_default=True,
    help="Whether the root cluster, which holds all rows, may be selected.",
)
@_clustering(
    "--selection-method",
    type=click.Choice(parameters.SELECTION_METHODS),
    default="eom",
    show_default=True,
    help="Excess of mass, or the leaves of the hierarchy.",
)
@_clustering("--max-cluster-size", type=int, help="Most rows of a cluster (eom only); 0 for no limit.")
@_machine(
    "--backend",
    type=click.Choice(options.BACKENDS),
    default="auto",
    show_default=True,
    help="What builds the spanning tree; a named one never gives way to another.",
)
@_machine("--exact", is_flag=True, help="No approximate tree: auto does not take cuml.")
@_machine(
    "--memory-limit",
    metavar="SIZE",
    help="Bytes above the vectors, such as 2GiB, at least 1MiB; the rest goes into files.",
)
@_machine(
    "--devices",
    metavar="N,…|none",
    help="CUDA devices by number, one model on each at a time, or none.  [default: all]",
)
@_machine(
    "--work-dir",
    type=options.PATH,
    help="Where unfinished work is kept.  [default: NAME.panic-tda beside the database]",
)
@_machine("--no-checkpoint", is_flag=True, help="Keep no state: a killed run starts afresh.")
@_machine("--discard-checkpoints", is_flag=True, help="Remove what earlier runs kept.")
@_machine("--no-tree", is_flag=True, help="Do not store the spanning tree.")
@options.json_output
@options.common
def cluster_embeddings(
    database: str,
    models: tuple[str, ...],
    downsample: int,
    skip_invalid: bool,
    memory_limit: str | None,
    devices: str | None,
    work_dir: Path | None,
    no_checkpoint: bool,
    discard_checkpoints: bool,
    no_tree: bool,
    max_cluster_size: int | None,
    as_json: bool,
    **asked: Any,
) -> None:
    """Cluster all embeddings of the named embedding models, or of all models, and save the results."""
    from panic_tda import clustering_manager
    from panic_tda.cli.rendering import clusterings as rendering
    from panic_tda.types import FAILED

    wanted = parameters.from_options(max_cluster_size=max_cluster_size or None, **asked)
    resources = parameters.Resources(
        memory_limit=None if memory_limit is None else parameters.parse_bytes(memory_limit),
        work_dir=work_dir,
        checkpoints=not no_checkpoint,
        discard_checkpoints=discard_checkpoints,
        keep_tree=not no_tree,
        devices=None if devices is None else parameters.parse_devices(devices),
    )
    with display.make_progress() as progress:
        outcomes = clustering_manager.cluster_all_data(
            database,
            models,
            parameters=wanted,
            downsample=downsample,
            skip_invalid=skip_invalid,
            resources=resources,
            progress=progress,
            wording="options",
        )
    terminal.print_data(
        rendering.outcomes_json(outcomes)
        if as_json
        else rendering.outcomes_text(outcomes, common.table_width())
    )
    if any(outcome.status == FAILED for outcome in outcomes):
        sys.exit(terminal.EXIT_FAILED)


@options.command("recut-clustering", example="recut-clustering latest --model MiniLM --epsilon 0.3")
@options.reference
@options.model("The latest clustering of this embedding model.")
@_cut("--epsilon", type=float, help="Chord below which clusters are not split.")
@_cut("--min-cluster-size", metavar="N|P%", help="Fewest members, or a share of the rows such as 0.1%.")
@_cut("--min-samples", type=int, help="Belongs to the tree; another number than the tree's is refused.")
@_cut(
    "--allow-single-cluster/--no-allow-single-cluster",
    default=None,
    help="Whether the root cluster, which holds all rows, may be selected.",
)
@_cut(
    "--selection-method",
    type=click.Choice(parameters.SELECTION_METHODS),
    help="Excess of mass, or the leaves of the hierarchy.",
)
@_cut("--max-cluster-size", type=int, help="Most rows of a cluster (eom only); 0 for no limit.")
@option(
    "--memory-limit",
    metavar="SIZE",
    help="Vectors of more bytes, such as 8GiB, at least 1MiB, go into a file.",
)
@options.json_output
@options.common
def recut_clustering(
    database: str,
    reference: str,
    model: str | None,
    min_cluster_size: str | None,
    memory_limit: str | None,
    as_json: bool,
    **changes: Any,
) -> None:
    """Cut other clusters from the tree of a stored clustering, without fitting again.

    The result is stored like any other, and equals what clustering the same embeddings anew would give.
    """
    from panic_tda.cli.rendering import clusterings as rendering
    from panic_tda.insight.recut import Changes
    from panic_tda.insight.recut import recut_clustering as recut
    from panic_tda.storage.database import open_current
    from panic_tda.storage.read.results import find_clustering

    size = None if min_cluster_size is None else parameters.parse_min_cluster_size(min_cluster_size)
    limit = (
        None
        if memory_limit is None
        else parameters.validate_memory_limit(parameters.parse_bytes(memory_limit))
    )
    opened = open_current(database)
    with opened.session() as session:
        source = find_clustering(session, reference, model=model)
    with display.make_progress() as progress:
        outcome = recut(
            opened,
            source,
            Changes(min_cluster_size=size, **changes),
            memory_limit=limit,
            progress=progress,
            wording="options",
        )
    terminal.print_data(
        rendering.outcomes_json([outcome])
        if as_json
        else rendering.outcomes_text([outcome], common.table_width())
    )
