"""`mqnode cluster secret`: the file by which hosts that find each other know that they belong together."""

from __future__ import annotations

from pathlib import Path

import click

from node.cli.options import Unusable, config_option, json_option, load_config


@click.group("secret")
def command() -> None:
    """The secret that lets hosts join by discovery."""


@command.command("create")
@click.argument("file", required=False)
@config_option
@json_option
def create(file: str | None, config_path: str, as_json: bool) -> None:
    """Make the cluster secret: in FILE, or where discovery.secret_file is. Once; the other hosts get a copy.

    \b
    Example:
      mqnode cluster secret create /etc/mqnode/cluster.secret
    """
    from mesh import secret
    from node.cli.output import show_json

    path = file or load_config(config_path).discovery.secret_file
    if not path:
        raise Unusable(
            "discovery.secret_file is not set, and no FILE is given: there is no place for it. Nothing was done.\n"
            "Name one: mqnode cluster secret create /etc/mqnode/cluster.secret"
        )
    try:
        secret.create(Path(path))
    except FileExistsError as error:
        raise click.ClickException(
            f"{path} is there already, and other hosts may have it: nothing was done. Copy it to the others; for a new one on "
            "all of them, remove it first."
        ) from error
    except OSError as error:
        raise click.ClickException(
            f"{path} cannot be written: {error.strerror}. Nothing was done. Name another FILE, or run it as the service's user."
        ) from error
    if as_json:
        show_json({"file": path})
    else:
        click.echo(
            f"{path} is made, for this user only. Copy it to the other hosts as it is, readable by the user of the service,"
        )
        click.echo(
            "and set discovery.secret_file and discovery.method on all of them. Who has it can join the cluster."
        )
