"""`mqnode start`: the whole host in the foreground."""

from __future__ import annotations

import click

from node.cli.options import config_option


@click.command("start")
@config_option
def command(config_path: str) -> None:
    """Run the broker on this host, in the foreground, until SIGTERM.

    \b
    Example:
      mqnode start --config deploy/mqnode.toml
    """
    from node.auth.files import AuthFileError
    from node.auth.security import check_security
    from node.config import ConfigError, load
    from node.supervise import StartError, run

    try:
        config = load(config_path)
        for warning in check_security(config):
            click.echo(f"mqnode: warning: {warning}", err=True)
        run(config_path, config)
    except (ConfigError, AuthFileError, StartError) as error:
        raise click.ClickException(str(error)) from error
