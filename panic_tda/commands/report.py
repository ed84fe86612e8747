"""A clustering to look at: one page about it, and its map as a figure."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from panic_tda.cli import display, options, terminal
from panic_tda.cli.options import option
from panic_tda.wording import pluralize

if TYPE_CHECKING:
    from panic_tda.storage.database import Database
    from panic_tda.storage.read.results import ClusteringSummary

N_LABELS, WIDTH, MAP_ROWS = 30, 7.2, 50_000

_model = options.model("The latest clustering of this embedding model.")
_map_rows = option(
    "--map-rows",
    type=click.IntRange(min=1),
    default=MAP_ROWS,
    show_default=True,
    help="Embeddings on the map, at most; medoids are there in any case.",
)
_seed = option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of the map.")


def _output(metavar: str, text: str) -> Callable[..., Any]:
    file = options.PATH
    return option("-o", "--output", type=file, required=True, metavar=metavar, help=text)


@options.command("report-clustering", example="report-clustering latest --model MiniLM -o report.html")
@options.reference
@_model
@_output("FILE.html", "Where the page goes; ends in .html or .htm.")
@options.force
@_map_rows
@_seed
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
    from panic_tda.report import making

    making.require_target(output, force=force)
    opened, source = _find(database, reference, model)
    with display.make_progress(ended=logging.DEBUG) as progress:
        size = making.write_report(
            opened, source, output, map_rows=map_rows, seed=seed, force=force, progress=progress
        )
    if as_json:
        terminal.print_data({"clustering": str(source.id), "path": str(output), "bytes": size})
    else:
        terminal.print_data(f"{output}: {size / 1e6:.1f} MB, clustering {source.id}")


@options.command("plot-clustering", example="plot-clustering latest --model MiniLM -o map.png")
@options.reference
@_model
@_output("FILE", "Ends in .png (300 dpi), .svg or .pdf.")
@options.force
@option(
    "--labels",
    type=click.IntRange(0, 100),
    default=N_LABELS,
    show_default=True,
    help="Clusters with a label, the largest: what their medoids say, shortened.",
)
@option("--title", metavar="TEXT", help="An empty one leaves it out.  [default: says the model]")
@option("--dark", is_flag=True, help="On black.")
@option(
    "--width",
    type=click.FloatRange(2, 40),
    default=WIDTH,
    show_default=True,
    help="In inches; the figure is a square. One column of a journal (3.5) has room for some 10 labels.",
)
@_map_rows
@_seed
@options.json_output
@options.common
def plot_clustering(
    database: str,
    reference: str,
    model: str | None,
    output: Path,
    force: bool,
    labels: int,
    title: str | None,
    dark: bool,
    width: float,
    map_rows: int,
    seed: int,
    as_json: bool,
) -> None:
    """Draw the map of a clustering for a paper: its embeddings in two dimensions, its largest places by name.

    Embeddings are sampled evenly over runs and steps, and laid out by UMAP. The same seed gives the same
    picture. ID may be shortened.
    """
    from panic_tda.report import figure
    from panic_tda.report.drawing import Style

    figure.require_target(output, force=force)
    opened, source = _find(database, reference, model)
    style = Style(n_labels=labels, title=title, dark=dark, width=width)
    with display.make_progress() as progress:
        found = figure.plot_clustering(
            opened, source, output, style=style, n_rows=map_rows, seed=seed, force=force, progress=progress
        )
    if as_json:
        terminal.print_data({**vars(found), "file": str(found.file)})
        return
    terminal.print_data(
        f"{found.file}: {found.rows:,} {pluralize(found.rows, 'embedding')} and {found.clusters:,} "
        f"{pluralize(found.clusters, 'cluster')}; {found.method}"
    )


def _find(database: str, reference: str, model: str | None) -> tuple[Database, ClusteringSummary]:
    from panic_tda.storage.database import open_current
    from panic_tda.storage.read.results import find_clustering

    opened = open_current(database)
    with opened.session() as session:
        return opened, find_clustering(session, reference, model=model)
