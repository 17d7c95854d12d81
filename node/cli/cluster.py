"""`mqnode cluster`: who belongs to it, who may join, who is removed."""

from __future__ import annotations

from typing import Any

import click

from node.cli import secret
from node.cli.approval import approve, pending
from node.cli.cluster_digest import digest
from node.cli.cluster_state import links, status
from node.cli.heal_report import heal_report
from node.cli.interconnect import NO_MEMBER, ask
from node.cli.leave import drain, remove
from node.cli.options import config_option, json_option
from node.cli.rebalance import rebalance

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class _Duration(click.ParamType):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value)
        if text[:-1].isdigit() and text[-1] in _UNITS and int(text[:-1]):
            return int(text[:-1]) * _UNITS[text[-1]]
        return self.fail(f"{text} is no duration: write a number and s, m, h or d, for example 1h.", param, ctx)


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
    Examples:
      mqnode cluster nodes
      mqnode cluster show
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
            "" if each["rtt_ms"] is None else f"{each['rtt_ms']:.1f} ms", each["release"] or "", each["node_id"][:8],
            each["trouble"],
        )
        for each in answer["nodes"]
    ]  # fmt: skip
    show_table(("HOST", "ADDRESS", "STATE", "ROUND TRIP", "RELEASE", "ID", "TROUBLE"), rows, "no hosts")
    if not any(each["this_host"] for each in answer["nodes"]):
        click.echo(NO_MEMBER)


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


for each in (drain, rebalance, remove, links, status, digest, heal_report, pending, approve):
    command.add_command(each)
command.add_command(nodes, "show")
