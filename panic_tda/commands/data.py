"""Commands for databases: upgrade, describe, import, check, repair and copy."""

from __future__ import annotations

import functools
import logging
import sys
from pathlib import Path
from typing import Any

import click

from panic_tda.cli import display, options, terminal
from panic_tda.cli.options import option
from panic_tda.cli.rendering import common


@options.command("upgrade", example="upgrade --db trajectory_data.sqlite")
@options.yes
@options.common
def upgrade(database: str, yes: bool) -> None:
    """Upgrade the database of a generation pipeline.

    Adds the clustering tables of this version. First lists which old clustering tables it drops, then asks.
    No other row changes.
    """
    from panic_tda.storage.database import open_database
    from panic_tda.storage.schema.upgrade import plan_upgrade
    from panic_tda.storage.schema.upgrade import upgrade as apply

    opened = open_database(database)
    plan = plan_upgrade(opened)
    terminal.print_data(plan.describe())
    if plan.is_current:
        return
    if not yes:
        click.confirm("Go on?", abort=True, err=True)
    with display.make_progress() as progress:
        progress.phase("upgrade")
        apply(opened)
    terminal.print_data(f"{opened} is up to date.")


@options.command("info", example="info --db trajectory_data.sqlite")
@options.json_output
@options.common
def info(database: str, as_json: bool) -> None:
    """Show what the database contains.

    Shows its embedding models, embeddings, runs, networks and clusterings. Counts are read from indexes: it
    takes seconds on large databases too.
    """
    from panic_tda.cli.rendering import overview as rendering
    from panic_tda.storage.database import open_current
    from panic_tda.storage.read.overview import read_overview

    with display.make_progress(ended=logging.DEBUG) as progress:
        progress.phase("count")
        overview = read_overview(open_current(database))
    terminal.print_data(
        rendering.overview_json(overview)
        if as_json
        else rendering.overview_text(overview, common.table_width())
    )


_column = functools.partial(option, metavar="NAME", section="Columns of a FILE")


@options.command("import-embeddings", example="import-embeddings panic_tda/sample/captions_minilm.parquet")
@click.argument("files", nargs=-1, required=True, type=options.PATH, metavar="FILE|FOLDER...")
@options.model("Embedding model of the vectors.", default="the column embedding_model")
@_column("--text-column", "text", help="Column of the texts.  [default: text]")
@_column("--vector-column", "vector", help="Column of the vectors.  [default: vector]")
@_column("--run-column", "run", help="Column of the run of each row.  [default: run, else run_id]")
@_column(
    "--sequence-number-column",
    "sequence_number",
    help="Column of the steps of the runs, from 0.  [default: sequence_number]",
)
@_column(
    "--prompt-column", "initial_prompt", help="Column of the initial prompts.  [default: initial_prompt]"
)
@_column(
    "--texts",
    metavar="FILE",
    type=options.PATH,
    help="File with the texts of a .npy or .npz FILE, one per line.  [default: none]",
)
@_column("--no-text", is_flag=True, metavar=None, help="Import vectors without texts.")
@option(
    "--skip-invalid",
    is_flag=True,
    help="Leave out embeddings without a valid vector; their texts stay in the runs.",
)
@options.json_output
@options.common
def import_embeddings(
    database: str,
    files: tuple[Path, ...],
    model: str | None,
    texts: Path | None,
    skip_invalid: bool,
    as_json: bool,
    **names: Any,
) -> None:
    """Import embeddings from files into a database.

    A database that does not exist is created.

    A FILE is Parquet, Arrow (Feather), CSV, NDJSON, or NumPy's .npy or .npz. Its columns: text, vector;
    optional: embedding_model, run (or run_id, as exports call it), sequence_number, initial_prompt, network,
    seed, output_type (text or image; such rows may be without a text). A vector is a list, in CSV a cell such
    as "[0.1, 0.2]". A FOLDER is a dump of the generation pipeline: runs.parquet, invocations.parquet,
    embeddings.parquet and, if it exists, experiments.parquet; its rows keep their ids. An SQLite FILE of the
    pipeline's newer generation is read like its dump.

    Importing the same rows again changes nothing. A source that has grown adds its new rows.
    """
    from panic_tda.cli.rendering import databases as rendering
    from panic_tda.files import importing
    from panic_tda.files.column_choice import Columns
    from panic_tda.storage.database import open_database

    columns = Columns(**names)
    importing.require_files(files, model=model, columns=columns, texts=texts)
    opened = open_database(database, create=True)
    with display.make_progress() as progress:
        summary = importing.import_embeddings(
            files,
            opened,
            model=model,
            columns=columns,
            texts=texts,
            skip_invalid=skip_invalid,
            progress=progress,
        )
    counts = vars(summary) | {"n_present": summary.n_present}
    terminal.print_data(counts if as_json else rendering.import_text(summary))


@options.command("doctor", example="doctor --db trajectory_data.sqlite")
@click.argument("kinds", nargs=-1, metavar="[KIND]...")
@options.limit(10, "Largest number of ids per finding; 0 shows all.")
@option("--fix", is_flag=True, help="Repair what can be repaired without losing data.")
@options.yes
@option("--environment", is_flag=True, help="Check the libraries, devices and backends of this machine.")
@options.json_output
@options.common
def doctor(
    database: str, kinds: tuple[str, ...], limit: int, fix: bool, yes: bool, environment: bool, as_json: bool
) -> None:
    """Check the database, or the machine (--environment).

    Reports damaged or contradictory rows, and unfinished work beside the database. Takes databases of the
    generation pipeline before and after their upgrade. Exits 1 if there are findings. Reads every vector
    once and no image, and changes nothing. KIND limits the check to these kinds of findings.

    With --fix: deletes exact duplicates, orphaned assignments, broken clusterings and damaged trees (or only
    KIND). It shows the counts first, and asks. With --environment: shows the libraries and devices of this
    machine, which backends run on it, and what the others need.
    """
    if environment:
        _check_environment(as_json=as_json)
    elif fix:
        _repair_database(database, kinds, yes=yes, as_json=as_json)
    else:
        _check_database(database, kinds, limit=limit, as_json=as_json)


def _check_environment(*, as_json: bool) -> None:
    from panic_tda.cli.rendering import databases as rendering
    from panic_tda.clustering import backends
    from panic_tda.clustering.tiled.microkernels import describe_kernel
    from panic_tda.devices.doctor import examine_environment
    from panic_tda.storage.database import sqlite_version

    environment = examine_environment(
        backends=backends.unavailable_reasons(), sqlite=sqlite_version(), kernel=describe_kernel()
    )
    terminal.print_data(
        environment if as_json else rendering.environment_text(environment, common.table_width())
    )


def _check_database(database: str, kinds: tuple[str, ...], *, limit: int, as_json: bool) -> None:
    from panic_tda.cli.rendering import databases as rendering
    from panic_tda.storage.database import open_database
    from panic_tda.storage.doctor import examine_database

    with display.make_progress(ended=logging.DEBUG) as progress:
        examined = examine_database(open_database(database), kinds, limit=limit, progress=progress)
    terminal.print_data(examined if as_json else rendering.examination_text(examined, common.table_width()))
    if examined.findings:
        sys.exit(terminal.EXIT_FAILED)


def _repair_database(database: str, kinds: tuple[str, ...], *, yes: bool, as_json: bool) -> None:
    from panic_tda.cli.rendering import databases as rendering
    from panic_tda.storage.database import open_database
    from panic_tda.storage.doctor import plan_repairs, repair

    if as_json and not yes:
        raise click.UsageError("--fix --json cannot ask for confirmation: add --yes, or leave out --json")
    opened = open_database(database)
    with display.make_progress(ended=logging.DEBUG) as progress:
        planned = plan_repairs(opened, kinds, progress=progress)
    if not as_json:
        terminal.print_data(rendering.repairs_text(planned, common.table_width()))
    is_needed = any(repair.count for repair in planned)
    if is_needed and not yes:
        click.confirm("Delete?", abort=True, err=True)
    with display.make_progress() as progress:
        removed = repair(opened, planned, progress=progress)
    if as_json:
        terminal.print_data(rendering.repairs_json(str(opened), planned, removed))
    elif is_needed:
        terminal.print_data(f"Deleted {sum(removed):,}.")


@options.command("copy-database", example="copy-database trajectory_data.sqlite copy.sqlite")
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@options.json_output
@options.common
def copy_database(database: str, source: str, target: str, as_json: bool) -> None:
    """Copy a database into a new one, SQLite or PostgreSQL.

    Copies all rows and compares both databases. SRC is a path or a URL, upgraded or not. DST is the path of
    a new file, or the URL of a database without tables; --db is ignored. Give the same command again to
    continue a copy that was stopped. If the URL has no password, PGPASSWORD or ~/.pgpass is used.
    """
    from panic_tda.cli.rendering import databases as rendering
    from panic_tda.storage.write.copying import copy_database as copy

    with display.make_progress() as progress:
        summary = copy(source, target, progress=progress)
    terminal.print_data(summary if as_json else rendering.copy_text(summary))
