"""One page about one clustering."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from panic_tda.cli import display, options, terminal
from panic_tda.cli.options import option

MAP_ROWS = 50_000


@options.command("report-clustering", example="report-clustering latest --model MiniLM -o report.html")
@options.reference
@options.model("The latest clustering of this embedding model.")
@option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE.html",
    help="Where the page goes.",
)
@option("--force", is_flag=True, help="Replace a file that exists, once the new one is complete.")
@option(
    "--map-rows",
    type=click.IntRange(min=1),
    default=MAP_ROWS,
    show_default=True,
    help="Embeddings on the map, at most; medoids are there in any case.",
)
@option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of the map.")
@options.json_output
@options.common
def report_clustering(
    database: str,
    reference: str,
    model: str | None,
    output: Path,
    force: bool,
    map_rows: int,
    seed: int,
    as_json: bool,
) -> None:
    """Write one page about a clustering that works without a network: map, clusters, runs, settings.

    One self-contained HTML file, to be opened in a browser or sent as an attachment. The database is only
    read.
    """
    from panic_tda.files.replacing import require_place
    from panic_tda.report import making
    from panic_tda.storage.database import open_current
    from panic_tda.storage.results import find_clustering

    require_place(output, force=force)
    opened = open_current(database)
    with opened.session() as session:
        source = find_clustering(session, reference, model=model)
    with display.make_progress(ended=logging.DEBUG) as progress:
        size = making.write_report(
            opened, source, output, map_rows=map_rows, seed=seed, force=force, progress=progress
        )
    if as_json:
        terminal.print_data({"clustering": str(source.id), "path": str(output), "bytes": size})
    else:
        terminal.print_data(f"{output}: {size / 1e6:.1f} MB, clustering {source.id}")
