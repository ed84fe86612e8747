"""Command that assigns new embeddings to the clusters of a stored clustering."""

from __future__ import annotations

import sys

from panic_tda.cli import display, options, parsing, terminal
from panic_tda.cli.options import option
from panic_tda.cli.rendering import common


@options.command("assign-embeddings", example="assign-embeddings latest --model MiniLM")
@options.reference
@options.model("Assign embeddings of this embedding model only.", default="all models")
@options.downsample()
@options.skip_invalid()
@option(
    "--memory-limit",
    metavar="SIZE",
    help="Largest memory of the clustered vectors, such as 8GiB, at least 1MiB; larger ones go to a file.  "
    "[default: no limit]",
)
@options.json_output
@options.common
def assign_embeddings(
    database: str,
    reference: str,
    model: str | None,
    downsample: int,
    skip_invalid: bool,
    memory_limit: str | None,
    as_json: bool,
) -> None:
    """Assign new embeddings to stored clusters.

    Each embedding that the clustering does not hold gets the cluster of its nearest neighbour, or -1, and is
    stored as predicted; the clustering itself stays as it is. The same command goes on after an interruption.
    ID may be shortened; latest means the latest clustering of each model.
    """
    from panic_tda.cli.rendering import assignments as rendering
    from panic_tda.insight import assigning
    from panic_tda.types import FAILED

    limit = None if memory_limit is None else parsing.parse_bytes(memory_limit)
    with display.make_progress() as progress:
        outcomes = assigning.assign_all(
            database,
            [reference],
            model=model,
            downsample=downsample,
            skip_invalid=skip_invalid,
            memory_limit=limit,
            progress=progress,
        )
    terminal.print_data(
        {"results": outcomes} if as_json else rendering.assignments_text(outcomes, common.table_width())
    )
    if any(outcome.status == FAILED for outcome in outcomes):
        sys.exit(terminal.EXIT_FAILED)
