"""What a shell completes: besides commands and options the ids of clusterings and the names of models.

The script that `script` returns has the shell call `panic-tda` with what was typed so far, which Click takes
apart. The functions here answer it from the database that the words name. None of them ever fails: what
they print would land in the middle of the line that is being typed.
"""

from __future__ import annotations

import os
import shlex
import threading
from typing import Any

import click
from click.shell_completion import BashComplete, CompletionItem, add_completion_class, get_completion_class

from panic_tda.cli.text import on_one_line

PROGRAM = "panic-tda"
VARIABLE = "_PANIC_TDA_COMPLETE"
"""Click's name for what tells the program that a shell asks."""
SHELLS = ("bash", "zsh", "fish")
LATEST = "latest"
SECONDS = 5.0
"""After this long nobody waits for a completion any more."""


class _Bash(BashComplete):
    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the one to be completed, and that one."""
        words, incomplete = super().get_completion_args()
        # To bash, the sign in --db=FILE is a word of its own.
        return [word for word in words if word != "="], incomplete

    def format_completion(self, item: CompletionItem) -> str:
        """Return a line for the script: what is to be typed, quoted where bash would take it apart."""
        item.value = shlex.quote(item.value) if item.type == "plain" else item.value
        return super().format_completion(item)


def script(shell: str, group: click.Command) -> str:
    """Return the script that makes a shell complete the commands of a group."""
    found = get_completion_class(shell)
    assert found is not None, shell
    return found(group, {}, PROGRAM, VARIABLE).source()


def is_asked_for() -> bool:
    """Say whether a shell has started this process to complete a line, and if so get ready for it."""
    asked = VARIABLE in os.environ
    if asked:
        add_completion_class(_Bash, "bash")
    return asked


def limit_time() -> None:
    """End this process without an answer after `SECONDS`: a view may take a database for ever."""
    timer = threading.Timer(SECONDS, os._exit, [1])
    timer.daemon = True
    timer.start()


def ids(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the id of a stored clustering."""
    from panic_tda.storage.read.glance import stored_clusterings

    return [
        # No comma: fish's script of Click would end the help there.
        CompletionItem(found.id, help=on_one_line(f"{found.embedding_model} {found.created_at} UTC"))
        for found in stored_clusterings(_database(context))
        if found.id.startswith(incomplete.lower())
    ]


def ids_or_latest(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Complete the id of a stored clustering, or the word `latest`."""
    latest = [CompletionItem(LATEST, help="the latest clustering")] if LATEST.startswith(incomplete) else []
    return latest + ids(context, parameter, incomplete)


def models(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of an embedding model."""
    from panic_tda.storage.read.glance import stored_models

    return [
        CompletionItem(name)
        for name in stored_models(_database(context))
        # The answer is made of lines, and a terminal shows them.
        if name.startswith(incomplete) and on_one_line(name) == name
    ]


def files(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a file, which the shell can itself."""
    return [CompletionItem(incomplete, type="file")]


def _database(context: click.Context) -> str:
    named: Any = context.params.get("database")
    return str(named or "")
