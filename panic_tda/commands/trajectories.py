"""What runs do between the clusters."""

from __future__ import annotations

import logging

import click

from panic_tda.cli import display, options, terminal
from panic_tda.cli.options import option
from panic_tda.cli.rendering import common

GROUPINGS = ("network", "prompt", "model", "network,prompt")


@options.command("show-trajectories", example="show-trajectories latest --model MiniLM --by network,prompt")
@options.reference
@options.model("The model whose latest clustering latest means.")
@option(
    "--by",
    type=click.Choice(GROUPINGS),
    default=GROUPINGS[0],
    show_default=True,
    help="What runs are grouped by; the model is that which wrote what was embedded.",
)
@option("--runs", "all_runs", is_flag=True, help="Also every run.")
@option("--run", "run_id", metavar="RUN_ID", help="Also this run, with its path; the id may be shortened.")
@option(
    "--lag",
    type=click.IntRange(min=1),
    help="Output steps between the two states of a transition.  [default: from one sampled step to the next]",
)
@option(
    "--core-probability",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Least membership probability that makes a core; at 0 all members are.",
)
@options.json_output
@options.common
def show_trajectories(
    database: str,
    reference: str,
    model: str | None,
    by: str,
    all_runs: bool,
    run_id: str | None,
    lag: int | None,
    core_probability: float,
    as_json: bool,
) -> None:
    """Show what runs do between the clusters: dwells, transitions, fixed points and loops.

    A step between two clusters counts to the one visited last. Fixed points and loops are those of the texts
    alone. ID may be shortened.
    """
    from panic_tda.cli.rendering import trajectories as rendering
    from panic_tda.insight import trajectories
    from panic_tda.storage.database import open_current
    from panic_tda.storage.read import results
    from panic_tda.storage.read.trajectories import read_medoid_texts

    opened = open_current(database)
    with opened.session() as session:
        clustering = results.find_clustering(session, reference, model=model)
    with display.make_progress(ended=logging.DEBUG) as progress:
        study = trajectories.study_trajectories(
            opened, clustering, by=by, lag=lag, core_probability=core_probability, progress=progress
        )
    run = None if run_id is None else trajectories.find_run(study, run_id)
    runs = study.runs if all_runs else None if run is None else (run,)
    if as_json:
        terminal.print_data(rendering.trajectories_json(study, runs))
        return
    with opened.reading() as connection:
        texts = read_medoid_texts(connection, clustering.id, rendering.shown_states(study, run))
    width = common.table_width()
    parts = [rendering.trajectories_text(study, clustering, texts, width=width)]
    if all_runs:
        parts.append(rendering.runs_text(study.runs, width))
    if run is not None:
        parts.append(rendering.run_text(run, texts, width))
    terminal.print_data("\n\n".join(parts))
