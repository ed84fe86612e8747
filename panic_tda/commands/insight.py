"""Commands that examine clusterings: sweep settings, show densities, compare two."""

from __future__ import annotations

import logging

import click

from panic_tda import parameters, records
from panic_tda.cli import display, options, parsing, terminal
from panic_tda.cli.options import option
from panic_tda.cli.rendering import common

_UNCHANGED = "[default: as in the clustering]"
_EPSILONS = (
    "Distances below which clusters are merged; chord distances with the metric cosine.  "
    "[default: as in the clustering; without any values, 0:1.2:0.1]"
)


@options.command("sweep-clustering", example="sweep-clustering latest --model MiniLM --epsilon 0.2:0.6:0.1")
@options.reference
@options.model("Use the latest clustering of this embedding model.")
@option(
    "--min-samples",
    callback=options.values(int),
    metavar="A:B:STEP|a,b,…",
    help=f"Numbers of neighbours for the core distance, {options.STORED_SAMPLES}.  {_UNCHANGED}",
)
@option("--epsilon", "epsilons", callback=options.values(float), metavar="A:B:STEP|a,b,…", help=_EPSILONS)
@option(
    "--min-cluster-size",
    "sizes",
    callback=options.values(parsing.parse_min_cluster_size),
    metavar="A:B:STEP|a,b,…",
    help=f"Smallest clusters: numbers of rows, or shares of the rows such as 0.1%,1%.  {_UNCHANGED}",
)
@option(
    "--selection-method",
    "methods",
    type=click.Choice(parameters.SELECTION_METHODS),
    multiple=True,
    help=f"Excess of mass, or the leaves of the hierarchy; repeat it for both.  {_UNCHANGED}",
)
@option(
    "--allow-single-cluster/--no-allow-single-cluster",
    default=None,
    help="Whether the root cluster, which holds all rows, may be selected.  "
    "[default: as in the clustering, and the opposite where it gives other clusters]",
)
@options.json_output
@options.common
def sweep_clustering(
    database: str,
    reference: str,
    model: str | None,
    min_samples: list[int] | None,
    epsilons: list[float] | None,
    sizes: list[int | float] | None,
    methods: tuple[str, ...],
    allow_single_cluster: bool | None,
    as_json: bool,
) -> None:
    """Compare other settings without storing results.

    Cuts the spanning tree of a stored clustering with every combination of the values; other values of
    min_samples need stored neighbours. Settings without values stay as in the clustering. Without any values,
    epsilon goes from 0 to 1.2. ID may be shortened.
    """
    from panic_tda.cli.rendering import sweep as rendering
    from panic_tda.insight import sweep
    from panic_tda.storage.read.clusterings import find_stored

    opened, source = find_stored(database, reference, model=model)
    if epsilons is None and min_samples is None and sizes is None and not methods:
        records.require_cosine(source.record, "a sweep without values (epsilon from 0 to 1.2)")
        epsilons = [round(0.1 * number, 1) for number in range(13)]
    grid = sweep.Grid(
        epsilons=epsilons,
        min_samples=min_samples,
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
@options.model("Use the latest clustering of this embedding model.")
@options.json_output
@options.common
def show_density(database: str, reference: str, model: str | None, as_json: bool) -> None:
    """Show whether the outliers are real.

    Shows the core distances: the distance of each embedding to its min_samples-th neighbour. Counts the
    outliers by min_samples, min_cluster_size and epsilon, by length and model of the text, and by output
    step. ID may be shortened.
    """
    from panic_tda.cli.rendering import density as rendering
    from panic_tda.insight import density
    from panic_tda.storage.read.clusterings import find_stored

    opened, source = find_stored(database, reference, model=model)
    with display.make_progress(ended=logging.DEBUG) as progress:
        result = density.examine(opened, source, progress=progress)
    terminal.print_data(
        result.to_dict() if as_json else rendering.density_text(source, result, common.table_width())
    )


@options.command("compare-clusterings", example="compare-clusterings 01a1fbfd-1 01a1fbfd-2 --limit 3")
@options.clustering("first", metavar="A")
@options.clustering("second", metavar="B")
@options.model("Embedding model that latest refers to.")
@options.limit(20, "Largest number of changed clusters in the text; 0 shows all.")
@options.json_output
@options.common
def compare_clusterings(
    database: str, first: str, second: str, model: str | None, limit: int, as_json: bool
) -> None:
    """Compare two clusterings, cluster by cluster.

    Shows how alike they are, and what became of each cluster of A in B. They are compared on the embeddings
    that both contain; if they share none, as with two models, on the invocations. A and B are ids, which
    may be shortened, or latest.
    """
    from panic_tda.cli.rendering import comparison as rendering
    from panic_tda.insight import comparison
    from panic_tda.storage.database import open_current
    from panic_tda.storage.read import results
    from panic_tda.storage.read.clusterings import StoredClustering

    if model is not None and options.LATEST not in (first, second):
        raise click.UsageError(
            "--model applies only to latest; leave it out, an id already belongs to one model"
        )
    opened = open_current(database)
    with opened.session() as session:
        a, b = (
            results.find_clustering(session, reference, model=model if reference == options.LATEST else None)
            for reference in (first, second)
        )
    with display.make_progress(ended=logging.DEBUG) as progress:
        compared = comparison.compare_clusterings(opened, a, b, progress=progress)
    if as_json:
        terminal.print_data(compared.to_dict())
        return
    changed, new = compared.result.changed[: limit or None], compared.result.new[: limit or None]
    concerned = [*(label for cluster in changed for label, _ in cluster.into), *new]
    with opened.reading() as connection:
        texts = (
            StoredClustering(connection, a).read_medoid_texts([cluster.a for cluster in changed]),
            StoredClustering(connection, b).read_medoid_texts(concerned),
        )
    width = common.table_width()
    terminal.print_data(rendering.comparison_text(compared, (a, b), texts, width=width, limit=limit))
