"""`mqnode reload`: users, access rules and certificates are read anew."""

from __future__ import annotations

import sys

import click

from node.cli.options import config_option, json_option


@click.command("reload")
@config_option
@json_option
def command(config_path: str, as_json: bool) -> None:
    """Let the running host read users, access rules and certificates anew.

    Connections stay, but for those of users who are gone or have a new password.
    A file that cannot be used is refused: the old state stays in force. Other keys of the configuration need a restart.

    \b
    Examples:
      mqnode reload
      mqnode users add alice && mqnode reload
    """
    from node.cli.api import Api
    from node.cli.output import printable, show_json

    with Api(config_path) as api:
        answer = api.post("v1", "reload")
    errors, need_restart = answer["errors"], answer.get("need_restart", [])  # an older host has none
    if as_json:
        show_json(answer)
    elif not errors:
        click.echo("Users, access rules and certificates are read anew.")
    if need_restart and not as_json:
        click.echo(f"Without effect before a restart of the host: {', '.join(need_restart)}")
    for error in [] if as_json else errors:
        click.echo(f"Error: {printable(error)}", err=True)
    if errors and not as_json:
        click.echo("Where it says so, the old state stays in force. Correct that, then: mqnode reload", err=True)
    sys.exit(1 if errors else 0)
