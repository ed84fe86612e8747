"""Commands that draw a clustering: an HTML report, and its map as a figure."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from panic_tda import parameters
from panic_tda.cli import browser, display, options, terminal
from panic_tda.cli.options import option
from panic_tda.wording import pluralize

_log = logging.getLogger(__name__)
_model = options.model("Use the latest clustering of this embedding model.")
_map_rows = option(
    "--map-rows",
    type=click.IntRange(min=1),
    default=parameters.MAP_ROWS,
    show_default=True,
    help="Largest number of embeddings on the map; medoids are added.",
)
_seed = option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Seed of the map."
)


def _make_output_option(metavar: str, text: str, *, required: bool) -> Callable[..., Any]:
    file = options.PATH
    return option("-o", "--output", type=file, required=required, metavar=metavar, help=text)


@options.command("report-clustering", example="report-clustering latest --model MiniLM -o report.html")
@options.reference
@_model
@_make_output_option(
    "FILE.html",
    "File of the page; ends in .html or .htm.  [default: report-MODEL-ID.html in this folder]",
    required=False,
)
@options.force
@option("--open", "show_page", is_flag=True, help="Open the page in a browser.")
@_map_rows
@_seed
@options.json_output
@options.common
def report_clustering(
    database: str,
    reference: str,
    model: str | None,
    output: Path | None,
    force: bool,
    show_page: bool,
    map_rows: int,
    seed: int,
    as_json: bool,
) -> None:
    """Write a clustering as one HTML page for the browser.

    The page has the map, clusters, runs and settings. It is one self-contained file that needs no network
    and can be sent as an attachment. ID may be shortened.
    """
    from panic_tda.report import making
    from panic_tda.storage.read.clusterings import find_stored

    if output is not None:
        making.require_target(output, force=force)
    opened, source = find_stored(database, reference, model=model)
    output = output or making.choose_name(opened, source)
    with display.make_progress(ended=logging.DEBUG) as progress:
        size = making.write_report(
            opened, source, output, map_rows=map_rows, seed=seed, force=force, progress=progress
        )
    if as_json:
        terminal.print_data({"clustering": str(source.id), "path": str(output), "bytes": size})
    else:
        terminal.print_data(f"{output}: {size / 1e6:.1f} MB, clustering {source.id}")
    if show_page and (reason := browser.open_page(output)):
        _log.warning("%s", reason)


@options.command("plot-clustering", example="plot-clustering latest --model MiniLM -o map.png")
@options.reference
@_model
@_make_output_option("FILE", "File of the figure; ends in .png (300 dpi), .svg or .pdf.", required=True)
@options.force
@option(
    "--labels",
    type=click.IntRange(0, 100),
    default=parameters.N_LABELS,
    show_default=True,
    help="Number of the largest clusters that get a label, their medoid's text.",
)
@option(
    "--words",
    "with_words",
    is_flag=True,
    help="Label clusters by the words that set them apart, not by their medoids; all texts are read.",
)
@option("--title", metavar="TEXT", help="Title; an empty one leaves it out.  [default: names the model]")
@option("--dark", is_flag=True, help="Draw on a black background.")
@option(
    "--width",
    type=click.FloatRange(2, 40),
    default=parameters.FIGURE_WIDTH,
    show_default=True,
    help="Width and height in inches. A journal's column (3.5) has room for about 10 labels.",
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
    with_words: bool,
    title: str | None,
    dark: bool,
    width: float,
    map_rows: int,
    seed: int,
    as_json: bool,
) -> None:
    """Draw the map of a clustering for a paper.

    Shows its embeddings in two dimensions, with labels on the largest clusters. Embeddings are sampled evenly
    over runs and steps, and laid out by UMAP. The same seed gives the same picture. ID may be shortened.
    """
    from panic_tda.report import figure
    from panic_tda.report.drawing import Style
    from panic_tda.storage.read.clusterings import find_stored

    figure.require_target(output, force=force)
    opened, source = find_stored(database, reference, model=model)
    style = Style(n_labels=labels, title=title, dark=dark, width=width, with_words=with_words)
    with display.make_progress() as progress:
        plot = figure.plot_clustering(
            opened, source, output, style=style, n_rows=map_rows, seed=seed, force=force, progress=progress
        )
    if as_json:
        terminal.print_data(plot.to_dict())
        return
    terminal.print_data(
        f"{plot.file}: {plot.rows:,} {pluralize(plot.rows, 'embedding')} and {plot.clusters:,} "
        f"{pluralize(plot.clusters, 'cluster')}; {plot.method}"
    )
