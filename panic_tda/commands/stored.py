"""Commands for stored clusterings: list, show, delete, and save pending results."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from panic_tda.cli import completion, display, options, terminal
from panic_tda.cli.options import option
from panic_tda.cli.rendering import common
from panic_tda.wording import pluralize, shorten_ids


@options.command("list-clusterings", example="list-clusterings --model MiniLM --limit 10")
@options.model("List the clusterings of this embedding model only.", default="all models")
@options.limit(50, "Largest number of rows; 0 lists all.")
@options.json_output
@options.common
def list_clusterings(database: str, model: str | None, limit: int, as_json: bool) -> None:
    """List the stored clusterings, the latest first.

    Ids are shortened as far as they stay unique. Commands take these short ids.
    """
    from panic_tda.cli.rendering import listings as rendering
    from panic_tda.storage.database import open_current
    from panic_tda.storage.read import results
    from panic_tda.storage.read.predictions import count_all_predictions

    with open_current(database).session() as session:
        readable, unreadable = results.list_all_clusterings(session, model=model)
        names = shorten_ids(results.read_clustering_ids(session))
        predicted = count_all_predictions(session.connection())
    shown = readable[: limit or None]
    width = common.table_width()
    terminal.print_data(
        rendering.listing_json(shown, unreadable, predicted=predicted)
        if as_json
        else rendering.listing_text(shown, len(readable), width, unreadable, names=names, predicted=predicted)
    )


@options.command("show-clustering", example="show-clustering latest --model MiniLM --limit 5")
@options.reference
@options.model("Show a clustering of this embedding model only.", default="all models")
@options.limit(20, "Largest number of clusters; 0 shows all.")
@option(
    "--origins/--no-origins",
    "with_origins",
    default=None,
    help="Whether to count the runs and prompts that the members of each cluster come from; the indexes of "
    "all embeddings of the model are read.  [default: if the model has at most 50,000 embeddings]",
)
@option(
    "--words",
    "with_words",
    is_flag=True,
    help="Show also the words that set each cluster apart; all texts are read.",
)
@options.json_output
@options.common
def show_clustering(
    database: str,
    reference: str,
    model: str | None,
    limit: int,
    with_origins: bool | None,
    with_words: bool,
    as_json: bool,
) -> None:
    """Show a clustering and its largest clusters.

    Shows its parameters, then its clusters with their medoids and the number of runs and prompts that their
    members come from, the largest first. ID may be shortened; latest means the latest clustering of each
    model.
    """
    from panic_tda.cli.rendering import clusterings as rendering
    from panic_tda.insight.origins import MOST_COUNTED, read_origins
    from panic_tda.storage.database import open_current
    from panic_tda.storage.read import results
    from panic_tda.storage.read.predictions import count_predictions

    opened = open_current(database)
    quiet_end = display.make_progress(ended=logging.DEBUG)
    with opened.session() as session, quiet_end as progress:
        progress.phase("read clusters")
        shown = [
            (summary, results.get_cluster_details(summary.id, session, limit=limit or None))
            for summary in results.find_clusterings(session, [reference], model=model)
        ]
        predicted = [count_predictions(session.connection(), summary.id) for summary, _ in shown]
        origins = []
        for summary, _ in shown:
            record = summary.record
            is_small = (record.n_total or record.n_embeddings) <= MOST_COUNTED
            counted = with_words or (is_small if with_origins is None else with_origins)
            origins.append(
                read_origins(opened, summary, with_words=with_words, progress=progress) if counted else None
            )
    if as_json:
        described = zip(shown, origins, predicted, strict=True)
        terminal.print_data(
            [rendering.details_json(*pair, origin, n_predicted=n) for pair, origin, n in described]
        )
    else:
        width = common.table_width()
        texts = [
            rendering.details_text(*pair, width, limit=limit, origins=origin, n_predicted=n)
            + (rendering.uncounted_text(pair[0], width) if origin is None and with_origins is None else "")
            for pair, origin, n in zip(shown, origins, predicted, strict=True)
        ]
        terminal.print_data("\n\n".join(texts) or rendering.NO_CLUSTERINGS)


@options.command("delete-clusterings", example="delete-clusterings 01a1fbfd-1")
@click.argument("references", nargs=-1, metavar="[ID]...", shell_complete=completion.ids)
@options.model("Delete all clusterings of this embedding model.", default="none")
@option("--all", "everything", is_flag=True, help="Delete all clusterings.")
@options.yes
@options.common
def delete_clusterings(
    database: str, references: tuple[str, ...], model: str | None, everything: bool, yes: bool
) -> None:
    """Delete clusterings; the embeddings stay.

    Deletes the clusters and assignments too. First lists what it deletes, then asks.
    """
    from panic_tda.cli.rendering import listings as rendering
    from panic_tda.storage.database import open_current
    from panic_tda.storage.read import results
    from panic_tda.storage.read.predictions import count_all_predictions
    from panic_tda.storage.write import saving

    if sum((bool(references), model is not None, everything)) != 1:
        raise click.UsageError("give exactly one of the three: ids, --model, or --all")
    opened = open_current(database)
    with opened.session() as session:
        if references:
            readable, unreadable = results.find_all_clusterings(session, references)
        else:
            readable, unreadable = results.list_all_clusterings(session, model=model)
        names = shorten_ids(results.read_clustering_ids(session))
        predicted = count_all_predictions(session.connection())
    width = common.table_width()
    terminal.print_data(
        rendering.deletion_text(readable, width, unreadable, names=names, predicted=predicted)
    )
    if not readable and not unreadable:
        return
    if not yes:
        click.confirm("Delete?", abort=True, err=True)
    with display.make_progress() as progress:
        progress.phase("delete")
        saving.delete_clusterings(opened, [summary.id for summary in readable], unreadable)
    n_deleted = len(readable) + len(unreadable)
    terminal.print_data(f"Deleted {n_deleted} {pluralize(n_deleted, 'clustering')}.")


@options.command("save-pending", example="save-pending --db trajectory_data.sqlite")
@click.argument("files", nargs=-1, type=options.PATH, metavar="[FILE]...")
@options.json_output
@options.common
def save_pending(database: str, files: tuple[Path, ...], as_json: bool) -> None:
    """Save results whose saving failed earlier.

    A computed clustering that cannot be saved is kept in a file beside the database. Without FILE, all such
    files of the database are saved. Embeddings that were deleted since are left out.
    """
    from panic_tda.cli.rendering import clusterings as rendering
    from panic_tda.storage.write import recovery

    saved = recovery.save_pending(database, files)
    terminal.print_data({"saved": saved} if as_json else rendering.saved_text(saved))
