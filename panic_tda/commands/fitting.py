"""Commands that compute clusterings: cluster embeddings, recut a clustering."""

from __future__ import annotations

import functools
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from panic_tda import parameters
from panic_tda.cli import display, options, parsing, terminal
from panic_tda.cli.options import option
from panic_tda.cli.rendering import common
from panic_tda.errors import PanicTdaError
from panic_tda.types import ModelOutcome
from panic_tda.wording import shorten_ids

_what, _clustering, _machine, _cut = (
    functools.partial(option, section=section)
    for section in ("What to cluster", "Clustering", "Machine", "Settings to change")
)

_EPSILON = (
    "Merge clusters closer than this chord distance (cosine distance = epsilon²/2); with euclidean, than "
    "this distance in the units of the vectors."
)
_DEFAULT_SIZE = "[default: 0.1%, at least 10; a tenth below 100 rows]"
_SINGLE = "Whether the root cluster, which holds all rows, may be selected."
_METHOD = "Select clusters by excess of mass, or the leaves of the hierarchy."
_LARGEST = "Largest cluster in rows (eom only)"
_SCHEDULER_VARIABLE = "DASK_SCHEDULER_ADDRESS"
"""Dask's own variable."""
_UNCHANGED = "[default: as in the clustering]"


@options.command("cluster-embeddings", example="cluster-embeddings MiniLM --downsample 2 --epsilon 0.35")
@options.models("Embedding model to cluster, like MODEL; may be repeated.", section="What to cluster")
@options.downsample(section="What to cluster")
@options.skip_invalid(section="What to cluster")
@options.metric(section="Clustering")
@_clustering(
    "--epsilon",
    type=float,
    help=f"{_EPSILON}  [default: {parameters.EPSILON}; 0 with euclidean]",
)
@_clustering("--min-cluster-size", metavar="N|P%", help=f"{options.MIN_CLUSTER_SIZE}  {_DEFAULT_SIZE}")
@_clustering("--min-samples", type=int, help=options.MIN_SAMPLES)
@_clustering(
    "--allow-single-cluster/--no-allow-single-cluster",
    default=parameters.ALLOW_SINGLE_CLUSTER,
    show_default=True,
    help=_SINGLE,
)
@_clustering(
    "--selection-method",
    type=click.Choice(parameters.SELECTION_METHODS),
    default="eom",
    show_default=True,
    help=_METHOD,
)
@_clustering("--max-cluster-size", type=int, help=f"{_LARGEST}.  [default: 0, no limit]")
@_machine(
    "--backend",
    type=click.Choice(options.BACKENDS),
    default="auto",
    show_default=True,
    help="Engine that builds the spanning tree. Only auto may choose another one.",
)
@_machine("--exact", is_flag=True, help="Build no approximate tree: auto does not choose cuml.")
@_machine(
    "--memory-limit",
    metavar="SIZE",
    help="Largest memory above the vectors, such as 2GiB, at least 1MiB; the rest goes to files.  "
    "[default: no limit]",
)
@_machine(
    "--devices",
    metavar="N,…|none",
    help="CUDA devices by number, each with a Dask worker if there are several, or none.  [default: all]",
)
@_machine(
    "--workers",
    type=int,
    metavar="N",
    help="Share each fit among N Dask workers of this machine, each with a CUDA device if any are used.  "
    "[default: threads of this process]",
)
@_machine(
    "--scheduler",
    metavar="ADDRESS|FILE",
    envvar=_SCHEDULER_VARIABLE,
    show_envvar=True,
    help="Share each fit among the workers of this Dask scheduler, such as tcp://host:8786.  [default: none]",
)
@_machine(
    "--work-dir",
    type=options.PATH,
    help="Folder for unfinished work.  [default: NAME.panic-tda beside the database]",
)
@_machine("--no-checkpoint", is_flag=True, help="Save no state: a killed run cannot be continued.")
@_machine("--discard-checkpoints", is_flag=True, help="First delete the saved states of earlier runs.")
@_machine("--no-tree", is_flag=True, help="Do not store the spanning tree: no recut, no sweep.")
@_machine(
    "--keep-neighbours",
    type=int,
    default=parameters.KEEP_NEIGHBOURS,
    show_default=True,
    metavar="K",
    help="Store neighbours, so that recut-clustering and sweep-clustering accept any --min-samples up to K "
    "(or that of this clustering, if larger); 0 stores none.",
)
@options.json_output
@options.common
def cluster_embeddings(
    database: str,
    models: tuple[str, ...],
    downsample: int,
    skip_invalid: bool,
    memory_limit: str | None,
    devices: str | None,
    workers: int | None,
    scheduler: str | None,
    work_dir: Path | None,
    no_checkpoint: bool,
    discard_checkpoints: bool,
    no_tree: bool,
    keep_neighbours: int,
    max_cluster_size: int | None,
    epsilon: float | None,
    metric: str,
    as_json: bool,
    **clustering_options: Any,
) -> None:
    """Cluster the embeddings of each embedding model.

    Saves the results in the database. Without MODEL or --model, all models are clustered.
    """
    from panic_tda import clustering_manager
    from panic_tda.types import FAILED

    clustering_parameters = parsing.from_options(
        max_cluster_size=max_cluster_size or None,
        epsilon=parameters.choose_epsilon(metric) if epsilon is None else epsilon,
        metric=metric,
        **clustering_options,
    )
    resources = parameters.Resources(
        memory_limit=None if memory_limit is None else parsing.parse_bytes(memory_limit),
        work_dir=work_dir,
        checkpoints=not no_checkpoint,
        discard_checkpoints=discard_checkpoints,
        keep_tree=not no_tree,
        keep_neighbours=keep_neighbours,
        devices=None if devices is None else parsing.parse_devices(devices),
        workers=workers,
        scheduler=None if _is_overridden(workers) else scheduler,
    )
    with display.make_progress() as progress:
        outcomes = clustering_manager.cluster_all_data(
            database,
            models,
            parameters=clustering_parameters,
            downsample=downsample,
            skip_invalid=skip_invalid,
            resources=resources,
            progress=progress,
            wording="options",
        )
    _print_outcomes(database, outcomes, as_json=as_json, metric=metric)
    if any(outcome.status == FAILED for outcome in outcomes):
        sys.exit(terminal.EXIT_FAILED)


def _is_overridden(workers: int | None) -> bool:
    """Return whether `--workers` takes the place of a scheduler that an environment variable names."""
    source = click.get_current_context().get_parameter_source("scheduler")
    return workers is not None and source is ParameterSource.ENVIRONMENT


@options.command("recut-clustering", example="recut-clustering latest --model MiniLM --epsilon 0.3")
@options.reference
@options.model("Use the latest clustering of this embedding model.")
@_cut("--epsilon", type=float, help=f"{_EPSILON}  {_UNCHANGED}")
@_cut("--min-cluster-size", metavar="N|P%", help=f"{options.MIN_CLUSTER_SIZE}  {_UNCHANGED}")
@_cut(
    "--min-samples",
    type=int,
    help=f"Number of neighbours for the core distance, {options.STORED_SAMPLES}.  {_UNCHANGED}",
)
@_cut(
    "--allow-single-cluster/--no-allow-single-cluster",
    default=None,
    help=f"{_SINGLE}  {_UNCHANGED}",
)
@_cut(
    "--selection-method",
    type=click.Choice(parameters.SELECTION_METHODS),
    help=f"{_METHOD}  {_UNCHANGED}",
)
@_cut("--max-cluster-size", type=int, help=f"{_LARGEST}; 0 for no limit.  {_UNCHANGED}")
@option(
    "--memory-limit",
    metavar="SIZE",
    help="Largest memory of the vectors, such as 8GiB, at least 1MiB; larger ones go to a file.  "
    "[default: no limit]",
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
    """Recut a stored clustering with other settings.

    Cuts the spanning tree of a stored clustering with other settings, without fitting again. The result is
    stored like any other, and equals a new clustering of the same embeddings. ID may be shortened.
    """
    from panic_tda.insight.recut import Changes
    from panic_tda.insight.recut import recut_clustering as recut
    from panic_tda.storage.read.clusterings import find_stored

    size = None if min_cluster_size is None else parsing.parse_min_cluster_size(min_cluster_size)
    limit = (
        None if memory_limit is None else parameters.validate_memory_limit(parsing.parse_bytes(memory_limit))
    )
    opened, source = find_stored(database, reference, model=model)
    with display.make_progress() as progress:
        outcome = recut(
            opened,
            source,
            Changes(min_cluster_size=size, **changes),
            memory_limit=limit,
            progress=progress,
            wording="options",
        )
    _print_outcomes(database, [outcome], as_json=as_json)


def _print_outcomes(
    database: str, outcomes: Sequence[ModelOutcome], *, as_json: bool, metric: str | None = None
) -> None:
    """Print the outcome of each model; after the first clustering of a database also the next commands.

    Parameters
    ----------
    metric : str, optional
        The metric of the fit. None is a recut, before which there was a clustering.
    """
    from panic_tda.cli.rendering import clusterings as rendering
    from panic_tda.storage.database import open_current
    from panic_tda.storage.read.results import read_clustering_ids
    from panic_tda.types import CLUSTERED

    if as_json:
        terminal.print_data(rendering.outcomes_json(outcomes))
        return
    stored: list[str] = []
    # The results are saved: an error while reading the database must not hide them.
    with suppress(PanicTdaError), open_current(database).session() as session:
        stored = read_clustering_ids(session)
    text = rendering.outcomes_text(outcomes, common.table_width(), names=shorten_ids(stored))
    clustered = {str(outcome.id) for outcome in outcomes if outcome.status == CLUSTERED}
    if metric is not None and stored and set(stored) == clustered:
        build_line = functools.partial(_build_shell_line, database)
        text += f"\n\n{rendering.next_steps_text(outcomes, build_line, metric)}"
    terminal.print_data(text)


def _build_shell_line(database: str, name: str, *words: str) -> str:
    """Return a shell line that runs a command on this database, with --db if the user gave it."""
    from panic_tda.storage.database import open_database

    source = click.get_current_context().get_parameter_source("database")
    if source is ParameterSource.COMMANDLINE:
        return open_database(database).command(name, *words)
    return shlex.join(["panic-tda", name, *words])
