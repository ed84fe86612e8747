"""The program `panic-tda`, a group of all commands."""

from __future__ import annotations

import click

from panic_tda.cli import options
from panic_tda.commands import (
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
)

COMMANDS = (
    data.upgrade,
    data.import_embeddings,
    planning.plan_clustering,
    fitting.cluster_embeddings,
    fitting.recut_clustering,
    stored.list_clusterings,
    stored.show_clustering,
    trajectories.show_trajectories,
    insight.compare_clusterings,
    stored.delete_clusterings,
    stored.save_pending,
    insight.sweep_clustering,
    insight.show_density,
    report.report_clustering,
    exports.export_clustering,
    exports.export_trajectories,
    report.plot_clustering,
    data.copy_database,
    data.doctor,
    shell.complete,
    handbook.show_help,
)


@click.group(
    cls=options.Group,
    example="--db trajectory_data.sqlite show-clustering latest --model MiniLM",
    context_settings={"help_option_names": options.HELP_NAMES, "max_content_width": 100},
)
@options.version
@options.json_output
@options.before_commands
def main(**_for_the_command: object) -> None:
    """Find the places in meaning-space that generative trajectories visit.

    Clusters all embeddings of a database, per embedding model, and keeps the result in the same database.
    The common options may stand before the name of a command or behind it.

    Read the handbook with panic-tda help.
    """


for _command in COMMANDS:
    main.add_command(_command)
