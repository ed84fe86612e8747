"""Command that prints the completion script of a shell."""

from __future__ import annotations

import click

from panic_tda.cli import completion, options, terminal


@options.command("completion", example="completion bash")
@click.argument("shell", type=click.Choice(completion.SHELLS))
@options.common
def complete(database: str, shell: str) -> None:
    """Print the script that completes words in your shell.

    The Tab key then completes commands, options, ids and models.

    \b
    bash, in ~/.bashrc:                   eval "$(panic-tda completion bash)"
    zsh, in ~/.zshrc below compinit:      eval "$(panic-tda completion zsh)"
    fish, in ~/.config/fish/config.fish:  panic-tda completion fish | source
    """
    group = click.get_current_context().find_root().command
    terminal.print_data(completion.script(shell, group))
