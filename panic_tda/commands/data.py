"""What is in a database: bringing it up to date, filling it, and what is wrong in it."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click

from panic_tda.cli import display, options, terminal
from panic_tda.cli.options import option
from panic_tda.cli.rendering import common


@options.command("upgrade", example="upgrade --db trajectory_data.sqlite")
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
    terminal.print_data(plan.describe())
    if plan.is_current:
        return
    if not yes:
        click.confirm("Go on?", abort=True, err=True)
    with display.make_progress() as progress:
        progress.phase("upgrade")
        apply(opened)
    terminal.print_data(f"{opened} is up to date.")


@options.command("import-embeddings", example="import-embeddings panic_tda/sample/captions_minilm.parquet")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE|FOLDER...")
@options.model("Name of the embedding model, where the files have no column embedding_model.")
@options.json_output
@options.common
def import_embeddings(database: str, files: tuple[Path, ...], model: str | None, as_json: bool) -> None:
    """Read embeddings from Parquet or Arrow files; makes the database where there is none.

    Columns of a FILE: text, vector; optional: embedding_model, run (or run_id, as exports call it),
    sequence_number, initial_prompt, network, seed. A FOLDER is a dump of the generation pipeline:
    runs.parquet, invocations.parquet, embeddings.parquet and, where it is there, experiments.parquet; what is
    in it keeps its ids.

    Importing the same rows again changes nothing, and what has grown adds what is new.
    """
    from panic_tda.cli.rendering import databases as rendering
    from panic_tda.files import importing
    from panic_tda.storage.database import open_database

    importing.require_files(files, model=model)
    opened = open_database(database, create=True)
    with display.make_progress() as progress:
        summary = importing.import_embeddings(files, opened, model=model, progress=progress)
    terminal.print_data(rendering.import_json(summary) if as_json else rendering.import_text(summary))


@options.command("doctor", example="doctor --environment")
@option("--environment", is_flag=True, help="The machine: libraries, devices, and backends that run.")
@options.json_output
@options.common
def doctor(database: str, environment: bool, as_json: bool) -> None:
    """Say what is wrong in the database, and what waits beside it.

    Exits 1 where something is found. Reads indexes and assignments, no vectors, and changes nothing. With
    --environment: what this machine has to work with, and what is missing for more.
    """
    from panic_tda.cli.rendering import databases as rendering

    if environment:
        from panic_tda.clustering import backends
        from panic_tda.devices.doctor import examine_environment
        from panic_tda.storage.database import sqlite_version

        found = examine_environment(backends=backends.reasons(), sqlite=sqlite_version())
        terminal.print_data(
            rendering.environment_json(found)
            if as_json
            else rendering.environment_text(found, common.table_width())
        )
        return
    from panic_tda.storage.database import open_current
    from panic_tda.storage.doctor import examine_database

    with display.make_progress(ended=logging.DEBUG) as progress:
        progress.phase("examine")
        examined = examine_database(open_current(database))
    terminal.print_data(
        rendering.examination_json(examined)
        if as_json
        else rendering.examination_text(examined, common.table_width())
    )
    if examined.findings:
        sys.exit(terminal.EXIT_FAILED)
