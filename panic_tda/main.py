"""The commands: each parses its options, calls one function of the library and prints what came back."""

from __future__ import annotations

import functools
import logging
import sys
from pathlib import Path
from typing import Any

import click

from panic_tda import parameters
from panic_tda.cli import display, options, terminal
from panic_tda.cli.options import option

# Named here so that --help need not import them; a test holds them against the registry.
BACKENDS = ("auto", "cuml", "sklearn", "tiled")
_what, _clustering, _machine = (
    functools.partial(option, section=section) for section in ("What to cluster", "Clustering", "Machine")
)


@click.group(
    cls=options.Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="panic_tda")
def main() -> None:
    """Find the places in meaning-space that generative trajectories visit.

    Clusters all embeddings of a database, per embedding model, and keeps the result in the same database.
    """


@main.command()
@options.yes
@options.common
def upgrade(database: str, yes: bool) -> None:
    """Bring a database of the generation pipeline to the tables of this version.

    Says first which old clustering tables go, and asks. No other row changes.
    """
    from panic_tda.storage.database import open_database
    from panic_tda.storage.upgrade import plan_upgrade
    from panic_tda.storage.upgrade import upgrade as apply

    opened = open_database(database)
    plan = plan_upgrade(opened)
    _print(plan.describe())
    if plan.is_current:
        return
    if not yes:
        click.confirm("Go on?", abort=True, err=True)
    with display.make_progress() as progress:
        progress.phase("upgrade")
        apply(opened)
    _print(f"{opened} is up to date.")


@main.command("import-embeddings")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@options.model("Name of the embedding model, where the files have no column embedding_model.")
@options.json_output
@options.common
def import_embeddings(database: str, files: tuple[Path, ...], model: str | None, as_json: bool) -> None:
    """Read texts and their vectors from Parquet or Arrow files; makes the database where there is none.

    Columns: text, vector; optional: embedding_model, run, sequence_number, initial_prompt, network, seed.
    Importing the same rows again changes nothing.
    """
    from panic_tda.cli import rendering
    from panic_tda.files import importing
    from panic_tda.storage.database import open_database

    importing.require_files(files, model=model)
    opened = open_database(database, create=True)
    with display.make_progress() as progress:
        summary = importing.import_embeddings(files, opened, model=model, progress=progress)
    _print(rendering.import_json(summary) if as_json else rendering.import_text(summary))


@main.command("cluster-embeddings")
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@_what("--downsample", type=int, default=1, show_default=True, metavar="N", help="Keep every N-th output.")
@_what("--skip-invalid", is_flag=True, help="Leave invalid vectors out instead of failing their model.")
@_clustering(
    "--epsilon",
    type=float,
    default=parameters.EPSILON,
    show_default=True,
    help="Chord distance below which clusters are not split (cosine distance epsilon²/2).",
)
@_clustering(
    "--min-cluster-size", metavar="N|P%", help="Fewest members, or a share of the rows such as 0.1%."
)
@_clustering("--min-samples", type=int, help="Neighbours that make a row dense, itself counted.")
@_clustering(
    "--allow-single-cluster/--no-allow-single-cluster",
    default=True,
    show_default=True,
    help="Whether all rows may be one cluster.",
)
@_clustering(
    "--selection-method",
    type=click.Choice(parameters.SELECTION_METHODS),
    default="eom",
    show_default=True,
    help="Excess of mass, or the leaves of the hierarchy.",
)
@_clustering("--max-cluster-size", type=int, help="Split larger clusters further (eom only).")
@_machine(
    "--backend",
    type=click.Choice(BACKENDS),
    default="auto",
    show_default=True,
    help="What builds the spanning tree; a backend that is named never gives way to another.",
)
@_machine("--exact", is_flag=True, help="No approximate tree: auto takes tiled, also on a CUDA device.")
@_machine(
    "--memory-limit",
    metavar="SIZE",
    help="Bytes above the vectors, such as 2GiB; what exceeds it goes into files (tiled only).",
)
@_machine(
    "--devices",
    metavar="N,…|none",
    help="CUDA devices by number, one model on each at a time, or none.  [default: all]",
)
@_machine(
    "--work-dir",
    type=click.Path(path_type=Path),
    help="Where unfinished work is kept.  [default: NAME.panic-tda beside the database]",
)
@_machine("--no-checkpoint", is_flag=True, help="Keep no state: a killed run starts afresh.")
@_machine("--discard-checkpoints", is_flag=True, help="Remove what earlier runs of these models kept.")
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
    as_json: bool,
    **asked: Any,
) -> None:
    """Cluster all embeddings of the named embedding models, or of all models, and save the results."""
    from panic_tda import clustering_manager
    from panic_tda.cli import rendering
    from panic_tda.types import FAILED

    wanted = parameters.from_options(**asked)
    resources = parameters.Resources(
        memory_limit=None if memory_limit is None else parameters.parse_bytes(memory_limit),
        work_dir=work_dir,
        checkpoints=not no_checkpoint,
        discard_checkpoints=discard_checkpoints,
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
        )
    _print(
        rendering.outcomes_json(outcomes)
        if as_json
        else rendering.outcomes_text(outcomes, rendering.table_width())
    )
    if any(outcome.status == FAILED for outcome in outcomes):
        sys.exit(terminal.EXIT_FAILED)


@main.command("list-clusterings")
@options.model("Only clusterings of this embedding model.")
@option("--limit", type=click.IntRange(min=0), default=50, show_default=True, help="Most rows; 0 for all.")
@options.json_output
@options.common
def list_clusterings(database: str, model: str | None, limit: int, as_json: bool) -> None:
    """List the stored clusterings, the latest first."""
    from panic_tda.cli import rendering
    from panic_tda.storage import results
    from panic_tda.storage.database import open_current

    with open_current(database).session() as session:
        found = results.list_clusterings(session, model=model)
    shown = found[: limit or None]
    _print(
        rendering.listing_json(shown)
        if as_json
        else rendering.listing_text(shown, len(found), rendering.table_width())
    )


@main.command("show-clustering")
@click.argument("reference", metavar="[ID|latest]", default="latest")
@options.model("Only clusterings of this embedding model.")
@option(
    "--limit", type=click.IntRange(min=0), default=20, show_default=True, help="Most clusters; 0 for all."
)
@options.json_output
@options.common
def show_clustering(database: str, reference: str, model: str | None, limit: int, as_json: bool) -> None:
    """Show a clustering: its parameters, then its clusters with their medoids, the largest first.

    ID may be shortened; latest means the latest clustering of each model.
    """
    from panic_tda.cli import rendering
    from panic_tda.storage import results
    from panic_tda.storage.database import open_current

    quiet_end = display.make_progress(ended=logging.DEBUG)
    with open_current(database).session() as session, quiet_end as progress:
        # The texts of all members of the shown clusters are compared with their medoids'.
        progress.phase("read clusters")
        shown = [
            (found, results.get_cluster_details(found.id, session, limit=limit or None))
            for found in results.find_clusterings(session, [reference], model=model)
        ]
    if as_json:
        _print([rendering.details_json(*pair) for pair in shown])
    else:
        width = rendering.terminal_width()
        texts = [rendering.details_text(*pair, width, limit=limit) for pair in shown]
        _print("\n\n".join(texts) or rendering.NO_CLUSTERINGS)


@main.command("delete-clusterings")
@click.argument("references", nargs=-1, metavar="[ID]...")
@options.model("All clusterings of this embedding model.")
@option("--all", "everything", is_flag=True, help="All clusterings.")
@options.yes
@options.common
def delete_clusterings(
    database: str, references: tuple[str, ...], model: str | None, everything: bool, yes: bool
) -> None:
    """Delete clusterings with their clusters and assignments; embeddings stay.

    Says what goes, and asks.
    """
    from panic_tda.cli import rendering
    from panic_tda.storage import results, saving
    from panic_tda.storage.database import open_current

    if sum((bool(references), model is not None, everything)) != 1:
        raise click.UsageError("name ids, or --model, or --all: exactly one of the three")
    opened = open_current(database)
    with opened.session() as session:
        if references:
            found = results.find_clusterings(session, references)
        else:
            found = results.list_clusterings(session, model=model)
    _print(rendering.deletion_text(found, rendering.table_width()))
    if not found:
        return
    if not yes:
        click.confirm("Delete?", abort=True, err=True)
    with display.make_progress() as progress:
        progress.phase("delete")
        saving.delete_clusterings(opened, [summary.id for summary in found])
    _print(f"Deleted {len(found)}.")


@main.command("save-pending")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[FILE]...")
@options.json_output
@options.common
def save_pending(database: str, files: tuple[Path, ...], as_json: bool) -> None:
    """Save clusterings that were computed but could not be saved.

    Without FILE, those that wait beside the database. Embeddings that have gone since are left out.
    """
    from panic_tda.cli import rendering
    from panic_tda.storage import recovery

    saved = recovery.save_pending(database, files)
    _print(rendering.saved_json(saved) if as_json else rendering.saved_text(saved))


@main.command()
@option("--environment", is_flag=True, help="The machine: libraries, devices, and backends that run.")
@options.json_output
@options.common
def doctor(database: str, environment: bool, as_json: bool) -> None:
    """Say what is wrong in the database, and what waits beside it.

    Exits 1 where something is found. Reads indexes and assignments, no vectors, and changes nothing. With
    --environment: what this machine has to work with, and what is missing for more.
    """
    from panic_tda.cli import rendering

    if environment:
        from panic_tda.clustering import backends
        from panic_tda.devices.doctor import examine_environment
        from panic_tda.storage.database import sqlite_version

        found = examine_environment(backends=backends.reasons(), sqlite=sqlite_version())
        _print(rendering.environment_json(found) if as_json else rendering.environment_text(found))
        return
    from panic_tda.storage.database import open_current
    from panic_tda.storage.doctor import examine_database

    with display.make_progress(ended=logging.DEBUG) as progress:
        progress.phase("examine")
        examined = examine_database(open_current(database))
    _print(
        rendering.examination_json(examined)
        if as_json
        else rendering.examination_text(examined, rendering.terminal_width())
    )
    if examined.findings:
        sys.exit(terminal.EXIT_FAILED)


def _print(data: object) -> None:
    if isinstance(data, str):
        terminal.print_text(data)
    else:
        terminal.print_json(data)
