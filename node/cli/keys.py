"""`mqnode keys`: the keys by which hosts know each other."""

from __future__ import annotations

import click

from node.cli.interconnect import ask
from node.cli.options import config_option, json_option

TIMEOUT_S = 30.0  # more than node/interconnect/key_rotation.py waits


@click.group("keys")
def command() -> None:
    """The key by which the other hosts know this one."""


@command.command("rotate")
@config_option
@json_option
def rotate(config_path: str, as_json: bool) -> None:
    """Give this host another key pair while it runs. All other hosts have to be up; clients notice nothing.

    Join tokens that were made on this host and are not used yet become worthless.

    \b
    Example:
      mqnode keys rotate
    """
    from node.cli.output import show_json

    answer = ask(config_path, "rotate_key", TIMEOUT_S)
    if as_json:
        show_json(answer)
    else:
        click.echo(
            f"The key of this host is {answer['fingerprint']} now; {answer['before']} is accepted nowhere any more."
        )
