"""The commands: each parses its options, calls one function of the library and prints what came back."""

from __future__ import annotations

import functools
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from panic_tda import parameters
from panic_tda.cli import terminal

DEFAULT_DATABASE = "db/trajectory_data.sqlite"
# Named here so that --help need not import them; a test holds them against the registry.
BACKENDS = ("auto", "cuml", "sklearn", "tiled")


def _command(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options all commands have, and the one translation of errors to exit codes."""

    @functools.wraps(function)
    def run(*, verbose: bool, quiet: bool, log_file: Path | None, **options: Any) -> None:
        with terminal.exit_codes(as_json=options.get("as_json", False)):
            terminal.configure_logging(verbose=verbose, quiet=quiet, log_file=log_file)
            function(**options)

    for option in (
        click.option(
            "--log-file", type=click.Path(path_type=Path), help="Also write the full log to this file."
        ),
        click.option("-q", "--quiet", is_flag=True, help="Log warnings and errors only."),
        click.option("-v", "--verbose", is_flag=True, help="Log everything, tracebacks included."),
        click.option(
            "--db",
            "database",
            envvar="PANIC_TDA_DB",
            default=DEFAULT_DATABASE,
            show_default=True,
            show_envvar=True,
            help="Path of an SQLite file, or an SQLAlchemy URL.",
        ),
    ):
        run = option(run)
    return run


_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
_yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


def _model_option(text: str) -> Callable[..., Any]:
    return click.option("--model", metavar="NAME", help=text)


class _Group(click.Group):
    """Answers wrong options with a JSON object too, where JSON was asked for."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        context.obj = "--json" in args
        return super().parse_args(context, args)

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except click.UsageError as error:
            terminal.print_error(type(error).__name__, error.format_message(), as_json=context.obj)
            raise


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="panic_tda")
def main() -> None:
    """Find the places in meaning-space that generative trajectories visit.

    Clusters all embeddings of a database, per embedding model, and keeps the result in the same database.
    """


@main.command()
@_yes_option
@_command
def upgrade(database: str, yes: bool) -> None:
    """Bring a database of the generation pipeline to the tables of this version.

    Says first which old clustering tables go, and asks. No other row changes.
    """
    from panic_tda.storage.database import open_database
    from panic_tda.storage.upgrade import plan_upgrade
    from panic_tda.storage.upgrade import upgrade as apply

    opened = open_database(database)
    plan = plan_upgrade(opened)
    click.echo(plan.describe())
    if plan.is_current:
        return
    if not yes:
        click.confirm("Go on?", abort=True, err=True)
    with terminal.make_progress() as progress:
        progress.phase("upgrade")
        apply(opened)
    click.echo(f"{opened} is up to date.")


@main.command("import-embeddings")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@_model_option("Name of the embedding model, where the files have no column embedding_model.")
@_json_option
@_command
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
    with terminal.make_progress() as progress:
        summary = importing.import_embeddings(files, opened, model=model, progress=progress)
    _print(rendering.import_json(summary) if as_json else rendering.import_text(summary))


@main.command("cluster-embeddings")
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option(
    "--downsample", type=int, default=1, show_default=True, metavar="N", help="Keep every N-th output."
)
@click.option(
    "--epsilon",
    type=float,
    default=parameters.EPSILON,
    show_default=True,
    help="Chord distance below which clusters are not split (cosine distance epsilon²/2).",
)
@click.option(
    "--min-cluster-size", metavar="N|P%", help="Fewest members, or a share of the rows such as 0.1%."
)
@click.option("--min-samples", type=int, help="Neighbours that make a row dense, itself counted.")
@click.option(
    "--allow-single-cluster/--no-allow-single-cluster",
    default=True,
    show_default=True,
    help="Whether all rows may be one cluster.",
)
@click.option(
    "--selection-method",
    type=click.Choice(parameters.SELECTION_METHODS),
    default="eom",
    show_default=True,
    help="Excess of mass, or the leaves of the hierarchy.",
)
@click.option("--max-cluster-size", type=int, help="Split larger clusters further (eom only).")
@click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    default="auto",
    show_default=True,
    help="What builds the spanning tree; a backend that is named never gives way to another.",
)
@click.option("--exact", is_flag=True, help="No approximate tree: auto takes tiled, also on a CUDA device.")
@click.option(
    "--memory-limit",
    metavar="SIZE",
    help="Bytes above the vectors, such as 2GiB; what exceeds it goes into files (tiled only).",
)
@click.option(
    "--devices",
    metavar="N,…|none",
    help="CUDA devices by number, one model on each at a time, or none.  [default: all]",
)
@click.option(
    "--work-dir",
    type=click.Path(path_type=Path),
    help="Where unfinished work is kept.  [default: NAME.panic-tda beside the database]",
)
@click.option("--no-checkpoint", is_flag=True, help="Keep no state: a killed run starts afresh.")
@click.option(
    "--skip-invalid", is_flag=True, help="Leave invalid vectors out instead of failing their model."
)
@_json_option
@_command
def cluster_embeddings(
    database: str,
    models: tuple[str, ...],
    downsample: int,
    skip_invalid: bool,
    memory_limit: str | None,
    devices: str | None,
    work_dir: Path | None,
    no_checkpoint: bool,
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
        devices=None if devices is None else parameters.parse_devices(devices),
    )
    with terminal.make_progress() as progress:
        outcomes = clustering_manager.cluster_all_data(
            database,
            models,
            parameters=wanted,
            downsample=downsample,
            skip_invalid=skip_invalid,
            resources=resources,
            progress=progress,
        )
    _print(rendering.outcomes_json(outcomes) if as_json else rendering.outcomes_text(outcomes))
    if any(outcome.status == FAILED for outcome in outcomes):
        sys.exit(terminal.EXIT_FAILED)


@main.command("list-clusterings")
@_model_option("Only clusterings of this embedding model.")
@click.option(
    "--limit", type=click.IntRange(min=0), default=50, show_default=True, help="Most rows; 0 for all."
)
@_json_option
@_command
def list_clusterings(database: str, model: str | None, limit: int, as_json: bool) -> None:
    """List the stored clusterings, the latest first."""
    from panic_tda import clustering_manager
    from panic_tda.cli import rendering
    from panic_tda.storage.database import open_current

    with open_current(database).session() as session:
        found = clustering_manager.list_clusterings(session, model=model)
    shown = found[: limit or None]
    _print(rendering.listing_json(shown) if as_json else rendering.listing_text(shown, len(found)))


@main.command("show-clustering")
@click.argument("reference", metavar="[ID|latest]", default="latest")
@_model_option("Only clusterings of this embedding model.")
@click.option(
    "--limit", type=click.IntRange(min=0), default=20, show_default=True, help="Most clusters; 0 for all."
)
@_json_option
@_command
def show_clustering(database: str, reference: str, model: str | None, limit: int, as_json: bool) -> None:
    """Show a clustering: its parameters, then its clusters with their medoids, the largest first.

    ID may be shortened; latest means the latest clustering of each model.
    """
    from panic_tda import clustering_manager
    from panic_tda.cli import rendering
    from panic_tda.storage.database import open_current

    quiet_end = terminal.make_progress(ended=logging.DEBUG)
    with open_current(database).session() as session, quiet_end as progress:
        # The texts of all members of the shown clusters are compared with their medoids'.
        progress.phase("read clusters")
        shown = [
            (found, clustering_manager.get_cluster_details(found.id, session, limit=limit or None))
            for found in clustering_manager.find_clusterings(session, [reference], model=model)
        ]
    if as_json:
        _print([rendering.details_json(*pair) for pair in shown])
    else:
        width = rendering.terminal_width()
        texts = [rendering.details_text(*pair, width, limit=limit) for pair in shown]
        _print("\n\n".join(texts) or rendering.NO_CLUSTERINGS)


@main.command("delete-clusterings")
@click.argument("references", nargs=-1, metavar="[ID]...")
@_model_option("All clusterings of this embedding model.")
@click.option("--all", "everything", is_flag=True, help="All clusterings.")
@_yes_option
@_command
def delete_clusterings(
    database: str, references: tuple[str, ...], model: str | None, everything: bool, yes: bool
) -> None:
    """Delete clusterings with their clusters and assignments; embeddings stay.

    Says what goes, and asks.
    """
    from panic_tda import clustering_manager
    from panic_tda.cli import rendering
    from panic_tda.storage.database import open_current

    if sum((bool(references), model is not None, everything)) != 1:
        raise click.UsageError("name ids, or --model, or --all: exactly one of the three")
    opened = open_current(database)
    with opened.session() as session:
        if references:
            found = clustering_manager.find_clusterings(session, references)
        else:
            found = clustering_manager.list_clusterings(session, model=model)
    click.echo(rendering.deletion_text(found))
    if not found:
        return
    if not yes:
        click.confirm("Delete?", abort=True, err=True)
    with terminal.make_progress() as progress:
        progress.phase("delete")
        clustering_manager.delete_clusterings(opened, [summary.id for summary in found])
    click.echo(f"Deleted {len(found)}.")


@main.command("save-pending")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="[FILE]...")
@_json_option
@_command
def save_pending(database: str, files: tuple[Path, ...], as_json: bool) -> None:
    """Save clusterings that were computed but could not be saved.

    Without FILE, those that wait beside the database. Embeddings that have gone since are left out.
    """
    from panic_tda.cli import rendering
    from panic_tda.storage import recovery

    saved = recovery.save_pending(database, files)
    _print(rendering.saved_json(saved) if as_json else rendering.saved_text(saved))


@main.command()
@click.option("--environment", is_flag=True, help="The machine: libraries, devices, and backends that run.")
@_json_option
@_command
def doctor(database: str, environment: bool, as_json: bool) -> None:
    """Say what is there to work with, and what is missing for more."""
    from panic_tda.cli import rendering
    from panic_tda.clustering import backends
    from panic_tda.devices.doctor import examine_environment
    from panic_tda.storage.database import sqlite_version

    if not environment:
        raise click.UsageError("say what to examine: --environment looks at libraries, devices and backends")
    found = examine_environment(backends=backends.reasons(), sqlite=sqlite_version())
    _print(rendering.environment_json(found) if as_json else rendering.environment_text(found))


def _print(data: object) -> None:
    if not isinstance(data, str):
        data = json.dumps(data, indent=2, ensure_ascii=not terminal.stdout_takes_all_scripts())
    click.echo(data)
