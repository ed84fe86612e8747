"""The program `panic-tda`, a group of all commands."""

from __future__ import annotations

import click

from panic_tda.cli import options
from panic_tda.commands import (
    assigning,
    data,
    exports,
    fitting,
    handbook,
    insight,
    planning,
    report,
    shell,
    stored,
    trajectories,
    validation,
)

CHAPTERS: dict[str, tuple[click.Command, ...]] = {
    "Get started": (data.import_embeddings, data.upgrade, handbook.show_help),
    "Cluster": (
        planning.plan_clustering,
        fitting.cluster_embeddings,
        fitting.recut_clustering,
        assigning.assign_embeddings,
        stored.save_pending,
    ),
    "Look": (
        data.info,
        stored.list_clusterings,
        stored.show_clustering,
        trajectories.show_trajectories,
        validation.show_divergence,
        insight.show_density,
        report.report_clustering,
    ),
    "Compare and tune": (
        insight.sweep_clustering,
        insight.compare_clusterings,
        validation.stability_clustering,
        validation.show_merges,
    ),
    "Take along": (
        exports.export_clustering,
        exports.export_trajectories,
        report.plot_clustering,
        data.copy_database,
    ),
    "Maintain": (data.doctor, stored.delete_clusterings, shell.complete),
}
"""All commands, by the chapter of `panic-tda --help` that lists them."""


@click.group(
    cls=options.Group,
    example="--db trajectory_data.sqlite show-clustering latest --model MiniLM",
    context_settings={"max_content_width": 100},
)
@options.version
@options.json_output
@options.before_commands
def main(**_for_the_command: object) -> None:
    """Cluster the embeddings of a database with exact HDBSCAN.

    Clusters all embeddings of each embedding model, and keeps the results in the same database. The common
    options may stand before or after the name of a command.

    Read the handbook with panic-tda help.
    """


for _chapter, _commands in CHAPTERS.items():
    main.add_chapter(_chapter, _commands)
