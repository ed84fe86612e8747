"""A database as a whole, from one place to another."""

from __future__ import annotations

import click

from panic_tda.cli import display, options, terminal


@options.command("copy-database", example="copy-database trajectory_data.sqlite copy.sqlite")
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@options.json_output
@options.common
def copy_database(database: str, source: str, target: str, as_json: bool) -> None:
    """Copy all of a database into a new one, SQLite or PostgreSQL, and compare the two.

    SRC is a path or a URL, upgraded or not, and DST a path where no file is, or the URL of a database
    without tables; --db is not asked. A copy that was stopped goes on when the same command is given again.
    A password is read from PGPASSWORD or ~/.pgpass where the URL has none.
    """
    from panic_tda.cli.rendering import databases as rendering
    from panic_tda.storage.write.copying import copy_database as copy

    with display.make_progress() as progress:
        summary = copy(source, target, progress=progress)
    terminal.print_data(rendering.copy_json(summary) if as_json else rendering.copy_text(summary))
