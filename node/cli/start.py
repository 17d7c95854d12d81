"""`mqnode start`: the whole host in the foreground."""

from __future__ import annotations

import click


@click.command("start")
@click.option("--config", "path", default="/etc/mqnode/mqnode.toml", show_default=True, metavar="FILE")
def command(path: str) -> None:
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
        config = load(path)
        for warning in check_security(config):
            click.echo(f"mqnode: warning: {warning}", err=True)
        run(path, config)
    except (ConfigError, AuthFileError, StartError) as error:
        raise click.ClickException(str(error)) from error
