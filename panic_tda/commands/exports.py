"""Commands that export clusterings and trajectories to files."""

from __future__ import annotations

from pathlib import Path

import click

from panic_tda.cli import display, options, terminal
from panic_tda.cli.options import option

# The file follows, so the clustering cannot be optional.
_reference = options.clustering("reference", metavar="ID|latest")
_file = click.argument("file", type=options.PATH, metavar="FILE")


@options.command("export-clustering", example="export-clustering latest rows.parquet --model MiniLM")
@_reference
@_file
@options.model("Use the latest clustering of this embedding model.")
@option("--with-vectors", is_flag=True, help="Add the vectors; import-embeddings reads such a file.")
@option(
    "--with-map",
    is_flag=True,
    help="Add x and y, the coordinates on the map of the report; null for rows that are not on it.",
)
@option(
    "--with-words",
    is_flag=True,
    help="Add cluster_words, the words that set the cluster apart; all texts are read twice.",
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
    with_words: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Write a clustering, one row per embedding.

    A row has the text, run, cluster and medoid. outlier_score is 0 in the densest part of a cluster and
    near 1 far from it (GLOSH); nearest_cluster is the cluster that an outlier is nearest to in the tree, and
    nearest_cluster_distance the distance at which it joins; its label stays -1. FILE ends in .parquet, .arrow
    (or .feather, .ipc), .csv or .ndjson (or .jsonl), which chooses the format.
    """
    from panic_tda.cli.rendering import exports as rendering
    from panic_tda.files import exporting
    from panic_tda.insight import layout, origins, outlier_scores
    from panic_tda.storage.read.clusterings import find_stored

    exporting.require_target(file, force=force, with_lists=with_vectors)
    opened, clustering = find_stored(database, reference, model=model)
    with display.make_progress() as progress:
        batches = [outlier_scores.read_columns(opened, clustering, progress=progress)]
        if with_words:
            batches.append(origins.read_word_column(opened, clustering, progress=progress))
        if with_map:
            batches.append(layout.columns_of(layout.read_map(opened, clustering, progress=progress)))
        extra_columns = exporting.join_columns(batches)
        written = exporting.export_clustering(
            opened,
            clustering,
            file,
            with_vectors=with_vectors,
            extra_columns=extra_columns,
            force=force,
            progress=progress,
        )
    terminal.print_data(written.to_dict() if as_json else rendering.written_text(written))


@options.command("export-trajectories", example="export-trajectories latest steps.parquet --model MiniLM")
@_reference
@_file
@options.model("Use the latest clustering of this embedding model.")
@option("--with-drift", is_flag=True, help="Add the distances to the run's first step and to the one before.")
@options.core_probability
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
    """Write the steps of all runs, one row per step.

    A row has the label, state, flag and visit. FILE ends in .parquet, .arrow (or .feather, .ipc), .csv or
    .ndjson (or .jsonl), which chooses the format.
    """
    from panic_tda.cli.rendering import exports as rendering
    from panic_tda.files import exporting
    from panic_tda.insight.step_rows import open_steps
    from panic_tda.storage.read.clusterings import find_stored

    exporting.require_target(file, force=force)
    opened, clustering = find_stored(database, reference, model=model)
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
    terminal.print_data(written.to_dict() if as_json else rendering.written_text(written))
