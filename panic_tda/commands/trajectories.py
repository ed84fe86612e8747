"""Command that shows how runs move between clusters."""

from __future__ import annotations

import logging

import click

from panic_tda import parameters
from panic_tda.cli import display, options, terminal
from panic_tda.cli.options import option
from panic_tda.cli.rendering import common


@options.command("show-trajectories", example="show-trajectories latest --model MiniLM --by network,prompt")
@options.reference
@options.model("Use the latest clustering of this embedding model.")
@option(
    "--by",
    type=click.Choice(parameters.GROUPINGS),
    default=parameters.GROUPINGS[0],
    show_default=True,
    help="Group the runs; model is the model that generated the embedded outputs; t2i and i2t are the "
    "text-to-image and the image-to-text models of the network.",
)
@option("--runs", "all_runs", is_flag=True, help="Show every run too.")
@option(
    "--run",
    "run_id",
    metavar="RUN_ID",
    help="Show this run and its path too; the id may be shortened.  [default: none]",
)
@option(
    "--lag",
    type=click.IntRange(min=1),
    help="Output steps between the two states of a transition.  [default: one sampled step]",
)
@option(
    "--markov",
    "with_markov",
    is_flag=True,
    help="Also fit a Markov model of the clusters, and validate it; takes some seconds.",
)
@options.core_probability
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
    with_markov: bool,
    core_probability: float,
    as_json: bool,
) -> None:
    """Show how runs move between the clusters.

    Shows dwell times, transitions and repeated texts. A step in no cluster counts for the cluster visited
    last. Repeats are found in the texts only. Intervals are 95 % bootstrap intervals over runs. ID may be
    shortened.
    """
    from panic_tda.cli.rendering import trajectories as rendering
    from panic_tda.insight import trajectories
    from panic_tda.insight.run_groups import compare_runs
    from panic_tda.storage.read.clusterings import find_stored, open_clustering

    opened, clustering = find_stored(database, reference, model=model)
    with display.make_progress(ended=logging.DEBUG) as progress:
        study = trajectories.study_trajectories(
            opened,
            clustering,
            by=by,
            lag=lag,
            core_probability=core_probability,
            with_markov=with_markov,
            progress=progress,
        )
        progress.phase("compare networks")
        compared = compare_runs(study.runs)
    run = None if run_id is None else trajectories.find_run(study, run_id)
    runs = study.runs if all_runs else None if run is None else (run,)
    if as_json:
        listed = {} if runs is None else {"runs": [summary.to_dict() for summary in runs]}
        terminal.print_data(study.to_dict() | {"networks": compared.to_dict()} | listed)
        return
    with open_clustering(opened, clustering) as stored:
        texts = stored.read_medoid_texts(rendering.shown_states(study, run))
    width = common.table_width()
    parts = [rendering.trajectories_text(study, clustering, texts, width=width)]
    parts += filter(None, [rendering.comparison_text(compared, width)])
    if all_runs:
        parts.append(rendering.runs_text(study.runs, width))
    if run is not None:
        parts.append(rendering.run_text(run, texts, width))
    terminal.print_data("\n\n".join(parts))
