"""`mqnode cluster rebalance`: clients that this host has above its share go to the other hosts."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from node.cli.options import config_option, json_option

ASK_S = 0.2
TOLD_S = 5.0  # between two lines of progress


@click.command("rebalance")
@config_option
@json_option
@click.option(
    "--rate",
    type=click.IntRange(1),
    default=500,
    show_default=True,
    metavar="N",
    help="Clients to send away in a second.",
)
def rebalance(config_path: str, as_json: bool, rate: int) -> None:
    """Send clients that this host has above its share to the other hosts, which have fewer; it serves all the while.

    Run it on the host that has most, after another one has come back or was added. A load balancer that hashes client ids sends
    them back to where they were.

    \b
    Example:
      mqnode cluster rebalance --rate 200
    """
    from node.cli.api import Api
    from node.cli.output import show_json

    with Api(config_path) as api:
        state = api.post("v1", "rebalance", rate=rate)
        if "error" in state:
            raise click.ClickException(state["error"])
        if not as_json:
            click.echo(_plan(state, rate))
        told_s = time.monotonic()
        while state["runs"]:
            if not as_json and time.monotonic() - told_s >= TOLD_S:
                told_s = time.monotonic()
                click.echo(_moved(state))
            time.sleep(ASK_S)
            state = api.get("v1", "rebalance")
        name = api.get("v1", "status")["node"]
    if as_json:
        show_json(state)
    elif state["surplus"]:
        click.echo(f"{_moved(state)}. {name} has {state['clients']} clients now.")
    if state["failure"]:
        click.echo(f"Not all were sent away: {state['failure']}. Again: mqnode cluster rebalance", err=True)
        sys.exit(1)


def _plan(state: dict[str, Any], rate: int) -> str:
    from node.cli.output import printable

    hosts = sorted(state["hosts"].items(), key=lambda each: -each[1])
    counts = ", ".join(
        f"{printable(name)} has {count}{' clients' if not i else ''}" for i, (name, count) in enumerate(hosts)
    )
    share = f"{counts}: {state['share']} each if all had as many."
    if state["surplus"]:
        return f"{share} {state['surplus']} go, {rate} a second."
    return f"{share} This host has no more than that: nothing to do here."


def _moved(state: dict[str, Any]) -> str:
    return f"moved: {state['moved']} of {state['surplus']}"
