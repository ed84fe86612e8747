"""The map of a clustering as a figure."""

from __future__ import annotations

from pathlib import Path

import click

from panic_tda.cli import display, options, terminal
from panic_tda.cli.options import option

N_LABELS, WIDTH, N_ROWS = 30, 7.2, 50_000


@options.command("plot-clustering", example="plot-clustering latest --model MiniLM -o map.png")
@options.reference
@options.model("The latest clustering of this embedding model.")
@option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE",
    help="Ends in .png (300 dpi), .svg or .pdf.",
)
@option("--force", is_flag=True, help="Replace a file that exists, once the new one is complete.")
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
@option(
    "--map-rows",
    type=click.IntRange(min=1),
    default=N_ROWS,
    show_default=True,
    help="Embeddings on the map, at most; medoids are there in any case.",
)
@option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of the map.")
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
    from panic_tda.storage.database import open_current
    from panic_tda.storage.results import find_clustering

    figure.require_target(output, force=force)
    opened = open_current(database)
    with opened.session() as session:
        source = find_clustering(session, reference, model=model)
    style = Style(n_labels=labels, title=title, dark=dark, width=width)
    with display.make_progress() as progress:
        found = figure.plot_clustering(
            opened, source, output, style=style, n_rows=map_rows, seed=seed, force=force, progress=progress
        )
    if as_json:
        terminal.print_data({**vars(found), "file": str(found.file)})
        return
    terminal.print_data(
        f"{found.file}: {found.rows:,} embeddings and {found.clusters:,} clusters; {found.method}"
    )
