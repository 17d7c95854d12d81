"""`mqnode completion`: the script with which a shell completes commands and options."""

from __future__ import annotations

import click


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script for a shell.

    \b
    Examples:
      mqnode completion bash > ~/.local/share/bash-completion/completions/mqnode
      mqnode completion zsh > "${fpath[1]}/_mqnode"
      mqnode completion fish > ~/.config/fish/completions/mqnode.fish
    """
    from click.shell_completion import get_completion_class

    from node.cli.main import main

    made = get_completion_class(shell)
    assert made is not None
    click.echo(made(main, {}, "mqnode", "_MQNODE_COMPLETE").source())
