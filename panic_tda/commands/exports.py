"""Clusterings as files, for other programs."""

from __future__ import annotations

from pathlib import Path

import click

from panic_tda.cli import display, options, terminal
from panic_tda.cli.options import option

# Another word follows: it cannot be left out.
_reference = options.clustering("reference", metavar="ID|latest")
_file = click.argument("file", type=options.PATH, metavar="FILE")


@options.command("export-clustering", example="export-clustering latest rows.parquet --model MiniLM")
@_reference
@_file
@options.model("The latest clustering of this embedding model.")
@option("--with-vectors", is_flag=True, help="Add the vectors; import-embeddings takes the file.")
@option(
    "--with-map",
    is_flag=True,
    help="Add x and y: where each lies on the map of its report; null where it is not on it.",
)
@options.force
@options.json_output
@options.common
def export_clustering(
    database: str,
    reference: str,
    file: Path,
    model: str | None,
    with_vectors: bool,
    with_map: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Write a clustering into a file, one row an embedding, with its text, run, cluster and medoid.

    FILE ends in .parquet, .arrow (or .feather, .ipc), .csv or .ndjson (or .jsonl), and is written as that.
    """
    from panic_tda.cli.rendering import exports as rendering
    from panic_tda.files import exporting
    from panic_tda.insight import layout
    from panic_tda.storage.database import open_current
    from panic_tda.storage.read.results import find_clustering

    exporting.require_target(file, force=force, with_lists=with_vectors)
    opened = open_current(database)
    with opened.session() as session:
        clustering = find_clustering(session, reference, model=model)
    with display.make_progress() as progress:
        beside = None
        if with_map:
            beside = layout.columns_of(layout.read_map(opened, clustering, progress=progress))
        written = exporting.export_clustering(
            opened,
            clustering,
            file,
            with_vectors=with_vectors,
            beside=beside,
            force=force,
            progress=progress,
        )
    terminal.print_data(rendering.written_json(written) if as_json else rendering.written_text(written))


@options.command("export-trajectories", example="export-trajectories latest steps.parquet --model MiniLM")
@_reference
@_file
@options.model("The latest clustering of this embedding model.")
@option("--with-drift", is_flag=True, help="Add the distances to the run's first step and to the one before.")
@option(
    "--core-probability",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Least membership probability that makes a core; at 0 all members are.",
)
@options.force
@options.json_output
@options.common
def export_trajectories(
    database: str,
    reference: str,
    file: Path,
    model: str | None,
    with_drift: bool,
    core_probability: float,
    force: bool,
    as_json: bool,
) -> None:
    """Write the steps of all runs in a clustering into a file: label, state, flag and visit of each.

    FILE ends in .parquet, .arrow (or .feather, .ipc), .csv or .ndjson (or .jsonl), and is written as that.
    """
    from panic_tda.cli.rendering import exports as rendering
    from panic_tda.files import exporting
    from panic_tda.insight.step_rows import open_steps
    from panic_tda.storage.database import open_current
    from panic_tda.storage.read.results import find_clustering

    exporting.require_target(file, force=force)
    opened = open_current(database)
    with opened.session() as session:
        clustering = find_clustering(session, reference, model=model)
    with (
        display.make_progress() as progress,
        open_steps(
            opened,
            clustering,
            core_probability=core_probability,
            with_drift=with_drift,
            progress=progress,
        ) as rows,
    ):
        written = exporting.write_rows(file, rows, force=force, progress=progress)
    terminal.print_data(rendering.written_json(written) if as_json else rendering.written_text(written))
