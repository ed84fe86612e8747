"""Shell completion of commands, options, clustering ids and model names.

The shell script of `script` calls `panic-tda` with the line typed so far; Click parses the line. The
functions here read ids and names from the database that the line names. They never raise an error: its
message would appear in the middle of the line that the user is typing.
"""

from __future__ import annotations

import os
import shlex
import threading
from typing import Any

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class, get_completion_class

from panic_tda.wording import on_one_line

PROGRAM = "panic-tda"
VARIABLE = "_PANIC_TDA_COMPLETE"
"""Environment variable that a shell sets to ask Click for completions."""
SHELLS = ("bash", "zsh", "fish")
LATEST = "latest"
SECONDS = 5.0
"""Time after which a completion ends without an answer."""


class _Bash(BashComplete):
    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the incomplete word, and the incomplete word."""
        words, incomplete = super().get_completion_args()
        # bash treats the = of --db=FILE as a separate word.
        return [word for word in words if word != "="], incomplete

    def format_completion(self, item: CompletionItem) -> str:
        """Return a completion as a line for the script, quoted where bash would split it."""
        item.value = shlex.quote(item.value) if item.type == "plain" else item.value
        return super().format_completion(item)


def script(shell: str, group: click.Command) -> str:
    """Return the script that makes a shell complete the commands of a group."""
    completion_class = get_completion_class(shell)
    assert completion_class is not None, shell
    return completion_class(group, {}, PROGRAM, VARIABLE).source()


def is_requested() -> bool:
    """Return whether a shell started this process to complete a line, and if so prepare for bash."""
    is_completion = VARIABLE in os.environ
    if is_completion:
        add_completion_class(_Bash, "bash")
    return is_completion


def limit_time() -> None:
    """End this process without an answer after `SECONDS`; a view may keep a database busy for hours.

    The exit code is 0, because a shell may show another one.
    """
    timer = threading.Timer(SECONDS, os._exit, [0])
    timer.daemon = True
    timer.start()


def ids(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the id of a stored clustering."""
    from panic_tda.storage.read.completions import read_clustering_entries

    return [
        # No comma: Click's script for fish would end the help text there.
        CompletionItem(
            clustering.id, help=on_one_line(f"{clustering.embedding_model} {clustering.created_at} UTC")
        )
        for clustering in read_clustering_entries(_get_database(context))
        if clustering.id.startswith(incomplete.lower())
    ]


def ids_or_latest(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete the id of a stored clustering, or the word `latest`."""
    latest = [CompletionItem(LATEST, help="the latest clustering")] if LATEST.startswith(incomplete) else []
    return latest + ids(context, parameter, incomplete)


def models(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of an embedding model."""
    from panic_tda.storage.read.completions import read_model_names

    return [
        CompletionItem(name)
        for name in read_model_names(_get_database(context))
        # Each line of the answer is a completion: a name with a line break would give two.
        if name.startswith(incomplete) and on_one_line(name) == name
    ]


def files(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Ask the shell to complete the name of a file."""
    return [CompletionItem(incomplete, type="file")]


def _get_database(context: click.Context) -> str:
    named: Any = context.params.get("database")
    return str(named or "")
