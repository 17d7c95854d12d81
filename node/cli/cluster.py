"""`mqnode cluster`: who belongs to it, who may join, who is removed; and `mqnode join`."""

from __future__ import annotations

from typing import Any

import click

from node.cli import secret
from node.cli.leave import drain, remove
from node.cli.options import config_option, json_option, load_config

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class _Duration(click.ParamType):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value)
        if text[:-1].isdigit() and text[-1] in _UNITS and int(text[:-1]):
            return int(text[:-1]) * _UNITS[text[-1]]
        return self.fail(f"{text} is no duration: write a number and s, m, h or d, for example 1h.", param, ctx)


def ask(config_path: str, method: str, timeout_s: float = 20.0, **arguments: Any) -> Any:
    """The answer of this host's interconnect process."""
    from node.admin.link import LinkError
    from node.admin.link import ask as ask_link
    from node.config import run_dir

    config = load_config(config_path)
    if not config.interconnect.bind:
        raise click.ClickException(
            "this host is alone: it has no interconnect, so there is no cluster to ask. In its configuration, write\n"
            '  [interconnect]\n  bind = "ADDRESS:7001"\nand restart it.'
        )
    try:
        return ask_link(run_dir(config) / "interconnect.sock", method, arguments, timeout_s)
    except LinkError as error:
        raise click.ClickException(str(error).removeprefix("interconnect: ")) from error


@click.group("cluster")
def command() -> None:
    """The hosts of this cluster."""


command.add_command(secret.command)


@command.command("nodes")
@config_option
@json_option
def nodes(config_path: str, as_json: bool) -> None:
    """List the hosts of the cluster, as this one sees them.

    \b
    Example:
      mqnode cluster nodes
    """
    show(ask(config_path, "nodes"), as_json)


def show(answer: dict[str, Any], as_json: bool) -> None:
    from node.cli.output import show_json, show_table

    if as_json:
        show_json(answer)
        return
    rows = [
        (
            each["name"] + (" (this host)" if each["this_host"] else ""), each["address"], each["state"],
            "" if each["rtt_ms"] is None else f"{each['rtt_ms']:.1f} ms", each["node_id"][:8],
        )
        for each in answer["nodes"]
    ]  # fmt: skip
    show_table(("HOST", "ADDRESS", "STATE", "ROUND TRIP", "ID"), rows, "no hosts")


@command.group("token")
def token() -> None:
    """Tokens that let one more host in."""


@token.command("create")
@config_option
@json_option
@click.option("--ttl", type=_Duration(), default="1h", show_default=True, help="For how long it may be used.")
def create(config_path: str, as_json: bool, ttl: int) -> None:
    """Let one more host in, once; prints the line to run on it.

    \b
    Example:
      mqnode cluster token create --ttl 10m
    """
    from node.cli.output import show_json

    answer = ask(config_path, "token", ttl_s=ttl)
    if as_json:
        show_json(answer)
    else:
        click.echo("On the host that is to join, with its own [interconnect] bind and node.name, run:")
        click.echo(f"  mqnode join --peer {answer['address']} --token {answer['token']}")


command.add_command(drain)
command.add_command(remove)


@click.command("join")
@config_option
@json_option
@click.option("--token", "text", required=True, help="As `mqnode cluster token create` printed it on a member.")
@click.option("--peer", metavar="HOST[:PORT]", help="The member; it must be the one in the token.")
def join(config_path: str, as_json: bool, text: str, peer: str | None) -> None:
    """Make this host a member of a cluster; its sessions come along.

    \b
    Example:
      mqnode join --peer 10.9.0.1 --token mqn1-...
    """
    from mesh.token import Token, TokenError

    try:
        parsed = Token.parse(text)
    except TokenError as error:
        raise click.ClickException(str(error)) from error
    if peer and parsed.address.rpartition(":")[0] != (peer.rpartition(":")[0] or peer) and parsed.address != peer:
        raise click.ClickException(f"the token is of {parsed.address}, not of {peer}. Nothing was done.")
    show(ask(config_path, "join", token=text), as_json)
