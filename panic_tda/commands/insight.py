"""What clusterings say: how they depend on their settings, and how they differ."""

from __future__ import annotations

import logging

import click

from panic_tda import parameters
from panic_tda.cli import display, options, parsing, terminal
from panic_tda.cli.options import option
from panic_tda.cli.rendering import common


@options.command("sweep-clustering", example="sweep-clustering latest --model MiniLM --epsilon 0.2:0.6:0.1")
@options.reference
@options.model("The latest clustering of this embedding model.")
@option("--epsilon", "epsilons", callback=options.values(float), metavar="A:B:STEP|a,b,…", help="Chords.")
@option(
    "--min-cluster-size",
    "sizes",
    callback=options.values(parsing.parse_min_cluster_size),
    metavar="A:B:STEP|a,b,…",
    help="Counts, or shares of the rows such as 0.1%,1%.",
)
@option(
    "--selection-method",
    "methods",
    type=click.Choice(parameters.SELECTION_METHODS),
    multiple=True,
    help="May be given twice, for both.",
)
@option(
    "--allow-single-cluster/--no-allow-single-cluster",
    default=None,
    help="Whether all rows may be one cluster.",
)
@options.json_output
@options.common
def sweep_clustering(
    database: str,
    reference: str,
    model: str | None,
    epsilons: list[float] | None,
    sizes: list[int | float] | None,
    methods: tuple[str, ...],
    allow_single_cluster: bool | None,
    as_json: bool,
) -> None:
    """Show what other settings would give, from the tree of a stored clustering; nothing is stored.

    Every combination of the values is a row; what is not given stays as in the clustering. Without any
    values, epsilon goes from 0 to 1.2.
    """
    from panic_tda.cli.rendering import sweep as rendering
    from panic_tda.insight import sweep
    from panic_tda.storage.read.clusterings import find_stored

    if epsilons is None and sizes is None and not methods:
        epsilons = [round(0.1 * number, 1) for number in range(13)]
    opened, source = find_stored(database, reference, model=model)
    grid = sweep.Grid(
        epsilons=epsilons,
        min_cluster_sizes=sizes,
        selection_methods=methods,
        allow_single_cluster=allow_single_cluster,
    )
    with display.make_progress(ended=logging.DEBUG) as progress:
        settings = sweep.sweep_clustering(opened, source, grid, progress=progress)
    terminal.print_data(
        {"clustering": str(source.id), "settings": [setting.to_dict() for setting in settings]}
        if as_json
        else rendering.sweep_text(source, settings, common.table_width())
    )


@options.command("show-density", example="show-density latest --model MiniLM")
@options.reference
@options.model("The latest clustering of this embedding model.")
@options.json_output
@options.common
def show_density(database: str, reference: str, model: str | None, as_json: bool) -> None:
    """Show whether the outliers are real: core distances, and on what the outliers depend.

    The core distance of an embedding is the distance to its min_samples-th neighbour; outliers are counted
    by min_cluster_size and epsilon, by length and writer of the text, and by output step.
    """
    from panic_tda.cli.rendering import density as rendering
    from panic_tda.insight import density
    from panic_tda.storage.read.clusterings import find_stored

    opened, source = find_stored(database, reference, model=model)
    with display.make_progress(ended=logging.DEBUG) as progress:
        found = density.examine(opened, source, progress=progress)
    terminal.print_data(
        found.to_dict() if as_json else rendering.density_text(source, found, common.table_width())
    )


@options.command("compare-clusterings", example="compare-clusterings 01a1fbfd-1 01a1fbfd-2 --limit 3")
@options.clustering("first", metavar="A")
@options.clustering("second", metavar="B")
@options.model("The model whose latest clustering latest means.")
@option(
    "--limit",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Most changed clusters as text; 0 for all.",
)
@options.json_output
@options.common
def compare_clusterings(
    database: str, first: str, second: str, model: str | None, limit: int, as_json: bool
) -> None:
    """Compare two clusterings: how alike they are, and what became of each cluster of A in B.

    On the embeddings that both contain; of two models, or of samples that share none, on the invocations. A
    and B are ids, which may be shortened, or latest.
    """
    from panic_tda.cli.rendering import comparison as rendering
    from panic_tda.insight import comparison
    from panic_tda.storage.database import open_current
    from panic_tda.storage.read import results
    from panic_tda.storage.read.clusterings import StoredClustering

    if model is not None and options.LATEST not in (first, second):
        raise click.UsageError("--model is for latest: ids are of one model each")
    opened = open_current(database)
    with opened.session() as session:
        a, b = (
            results.find_clustering(session, one, model=model if one == options.LATEST else None)
            for one in (first, second)
        )
    with display.make_progress(ended=logging.DEBUG) as progress:
        compared = comparison.compare_clusterings(opened, a, b, progress=progress)
    if as_json:
        terminal.print_data(compared.to_dict())
        return
    changed, new = compared.result.changed[: limit or None], compared.result.new[: limit or None]
    concerned = [*(label for one in changed for label, _ in one.into), *new]
    with opened.reading() as connection:
        texts = (
            StoredClustering(connection, a).read_medoid_texts([one.a for one in changed]),
            StoredClustering(connection, b).read_medoid_texts(concerned),
        )
    width = common.table_width()
    terminal.print_data(rendering.comparison_text(compared, (a, b), texts, width=width, limit=limit))
