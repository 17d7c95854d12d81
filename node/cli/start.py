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
    from node.config import ConfigError
    from node.preflight import preflight
    from node.supervise import StartError, run

    try:
        loaded, warnings = preflight(config_path)
        for warning in warnings:
            click.echo(f"mqnode: warning: {warning}", err=True)
        run(config_path, loaded.config)
    except (ConfigError, StartError) as error:
        raise click.ClickException(str(error)) from error
