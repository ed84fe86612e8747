"""Command that shows the handbook in the terminal."""

from __future__ import annotations

from collections.abc import Mapping

import click
from click.shell_completion import CompletionItem

from panic_tda.cli import handbook, options, terminal


def _complete_topic(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    names = (*handbook.TOPICS, *_list_commands(context))
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def _list_commands(context: click.Context) -> Mapping[str, click.Command]:
    group = context.find_root().command
    return group.commands if isinstance(group, click.Group) else {}


@options.command("help", example="help choosing-parameters")
@click.argument("words", nargs=-1, metavar="[TOPIC]", shell_complete=_complete_topic)
@options.common
def show_help(database: str, words: tuple[str, ...]) -> None:
    """Read the handbook: list its topics, or show one.

    TOPIC is a page of the handbook, a term such as medoid, or the name of a command.
    """
    context = click.get_current_context()
    commands = _list_commands(context)
    topic = " ".join(words)
    if not topic:
        terminal.print_data(handbook.list_topics())
    elif topic in commands:
        command = commands[topic]
        parent = context.find_root()
        with click.Context(command, parent, info_name=topic) as shown:
            terminal.print_data(command.get_help(shown))
    else:
        handbook.print_page(handbook.find_text(topic, commands))
