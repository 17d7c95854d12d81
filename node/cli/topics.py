"""`mqnode topics`: where a message would go."""

from __future__ import annotations

import click

from node.cli.options import NAME, config_option, json_option


@click.group("topics")
def command() -> None:
    """Topics and who gets their messages."""


@command.command("match")
@click.argument("topic", type=NAME)
@config_option
@json_option
def match(topic: str, config_path: str, as_json: bool) -> None:
    """List the clients that a message of TOPIC would go to: all durable sessions, and who is connected to this host.

    Of a shared subscription all members are shown, one gets it. Other hosts with subscribers: mqnode topics route.

    \b
    Example:
      mqnode topics match house/kitchen/temperature
    """
    from node.cli.api import Api
    from node.cli.output import show_json, show_table

    _check(topic)
    with Api(config_path) as api:
        found = api.get("v1", "topics", "match", topic=topic)
    if as_json:
        show_json(found)
        return
    rows = [
        (each["client_id"], each["qos"], each["durable"], each["connected"], ", ".join(each["shares"]) or None)
        for each in found
    ]
    show_table(("CLIENT ID", "QOS", "DURABLE", "CONNECTED", "SHARED BY"), rows, "Nobody subscribed to it.")


@command.command("route")
@click.argument("topic", type=NAME)
@config_option
@json_option
def route(topic: str, config_path: str, as_json: bool) -> None:
    """List the hosts that a message of TOPIC goes to; every host of the cluster gives the same answer.

    \b
    Example:
      mqnode topics route house/kitchen/temperature
    """
    from node.cli.api import Api
    from node.cli.output import show_json, show_table

    _check(topic)
    with Api(config_path) as api:
        found = api.get("v1", "topics", "route", topic=topic)
    if as_json:
        show_json(found)
        return
    rows = [(each["host"], each["connected"], each["sessions"]) for each in found]
    show_table(("HOST", "SUBSCRIBERS CONNECTED", "DURABLE SESSIONS"), rows, "Nobody subscribed to it.")


def _check(topic: str) -> None:
    from node.cli.options import Unusable
    from node.cli.output import printable

    if not topic or "+" in topic or "#" in topic:
        raise Unusable(f"'{printable(topic)}' is no topic: that is not empty and holds no wildcards (+, #).")
