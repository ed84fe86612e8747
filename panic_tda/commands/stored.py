"""Stored clusterings: listed, shown, deleted, and saved at last."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from panic_tda.cli import completion, display, options, terminal
from panic_tda.cli.options import option
from panic_tda.cli.rendering import common
from panic_tda.cli.text import shorten_ids


@options.command("list-clusterings", example="list-clusterings --model MiniLM --limit 10")
@options.model("Only clusterings of this embedding model.")
@option("--limit", type=click.IntRange(min=0), default=50, show_default=True, help="Most rows; 0 for all.")
@options.json_output
@options.common
def list_clusterings(database: str, model: str | None, limit: int, as_json: bool) -> None:
    """List the stored clusterings, the latest first.

    Ids are shortened to what no other clustering's begins with; wherever an ID is taken, so is that.
    """
    from panic_tda.cli.rendering import clusterings as rendering
    from panic_tda.storage.database import open_current
    from panic_tda.storage.read import results

    with open_current(database).session() as session:
        readable, unreadable = results.list_all_clusterings(session, model=model)
        names = shorten_ids(results.read_clustering_ids(session))
    shown = readable[: limit or None]
    terminal.print_data(
        rendering.listing_json(shown, unreadable)
        if as_json
        else rendering.listing_text(shown, len(readable), common.table_width(), unreadable, names=names)
    )


@options.command("show-clustering", example="show-clustering latest --model MiniLM --limit 5")
@options.reference
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
    from panic_tda.cli.rendering import clusterings as rendering
    from panic_tda.storage.database import open_current
    from panic_tda.storage.read import results

    quiet_end = display.make_progress(ended=logging.DEBUG)
    with open_current(database).session() as session, quiet_end as progress:
        # The texts of all members of the shown clusters are compared with their medoids'.
        progress.phase("read clusters")
        shown = [
            (found, results.get_cluster_details(found.id, session, limit=limit or None))
            for found in results.find_clusterings(session, [reference], model=model)
        ]
    if as_json:
        terminal.print_data([rendering.details_json(*pair) for pair in shown])
    else:
        width = common.table_width()
        texts = [rendering.details_text(*pair, width, limit=limit) for pair in shown]
        terminal.print_data("\n\n".join(texts) or rendering.NO_CLUSTERINGS)


@options.command("delete-clusterings", example="delete-clusterings 01a1fbfd-1")
@click.argument("references", nargs=-1, metavar="[ID]...", shell_complete=completion.ids)
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
    from panic_tda.cli.rendering import clusterings as rendering
    from panic_tda.storage.database import open_current
    from panic_tda.storage.read import results
    from panic_tda.storage.write import saving

    if sum((bool(references), model is not None, everything)) != 1:
        raise click.UsageError("name ids, or --model, or --all: exactly one of the three")
    opened = open_current(database)
    with opened.session() as session:
        if references:
            readable, unreadable = results.find_all_clusterings(session, references)
        else:
            readable, unreadable = results.list_all_clusterings(session, model=model)
        names = shorten_ids(results.read_clustering_ids(session))
    terminal.print_data(rendering.deletion_text(readable, common.table_width(), unreadable, names=names))
    if not readable and not unreadable:
        return
    if not yes:
        click.confirm("Delete?", abort=True, err=True)
    with display.make_progress() as progress:
        progress.phase("delete")
        saving.delete_clusterings(opened, [summary.id for summary in readable], unreadable)
    terminal.print_data(f"Deleted {len(readable) + len(unreadable)}.")


@options.command("save-pending", example="save-pending --db trajectory_data.sqlite")
@click.argument("files", nargs=-1, type=options.PATH, metavar="[FILE]...")
@options.json_output
@options.common
def save_pending(database: str, files: tuple[Path, ...], as_json: bool) -> None:
    """Save clusterings that were computed but could not be saved.

    Without FILE, those that wait beside the database. Embeddings that have gone since are left out.
    """
    from panic_tda.cli.rendering import clusterings as rendering
    from panic_tda.storage.write import recovery

    saved = recovery.save_pending(database, files)
    terminal.print_data(rendering.saved_json(saved) if as_json else rendering.saved_text(saved))
