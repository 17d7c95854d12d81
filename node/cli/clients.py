"""`mqnode clients`: who is connected to this host."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from node.cli.options import NAME, config_option, confirm, json_option, list_options, yes_option

if TYPE_CHECKING:
    from node.cli.api import Api

_VERSIONS = {3: "3.1", 4: "3.1.1", 5: "5.0"}


@click.group("clients")
def command() -> None:
    """Clients that are connected to this host now."""


@command.command("list")
@click.option("--match", default="*", metavar="GLOB", help="Only client ids like this, with * ? and [abc].")
@list_options
def list_clients(match: str, limit: int | None, config_path: str, as_json: bool) -> None:
    """List connected clients, in the order of their ids.

    \b
    Examples:
      mqnode clients list --match 'sensor-*'
      mqnode clients list --json | jq length
    """
    import time

    from node.cli.api import Api
    from node.cli.output import duration, show_json, show_table

    with Api(config_path) as api:
        found = api.pages("v1", "clients", key="client_id", limit=limit, match=match)
    if as_json:
        show_json(found)
        return
    now = time.time()
    rows = [
        (
            each["client_id"], each["user"], each["address"], _VERSIONS[each["version"]], each["subscriptions"],
            each["inflight"], each["waiting"], duration(now - each["connected_at"]),
        )
        for each in found
    ]  # fmt: skip
    headers = ("CLIENT ID", "USER", "ADDRESS", "MQTT", "SUBSCRIPTIONS", "INFLIGHT", "WAITING", "SINCE")
    show_table(headers, rows, "No client is connected to this host.")


@command.command("show")
@click.argument("client_id", type=NAME)
@config_option
@json_option
def show_client(client_id: str, config_path: str, as_json: bool) -> None:
    """Show one connected client with its subscriptions.

    \b
    Examples:
      mqnode clients show sensor-17
      mqnode clients show -- -odd-
    """
    import time

    from node.cli.api import Api
    from node.cli.output import duration, expiry, show_fields, show_json, show_table, size

    with Api(config_path) as api:
        found = api.get("v1", "clients", client_id)
    if as_json:
        show_json(found)
        return
    show_fields([
        ("client id", found["client_id"]),
        ("user", found["user"]),
        ("address", found["address"]),
        ("listener", found["listener"]),
        ("MQTT", _VERSIONS[found["version"]]),
        ("keep alive", f"{found['keepalive_s']} s"),
        ("connected", f"{duration(time.time() - found['connected_at'])}, to worker {found['worker']}"),
        ("session", f"expires after {expiry(found['expiry_s'])}" if found["durable"] else "ends with the connection"),
        ("in flight", found["inflight"]),
        ("waiting", found["waiting"]),
        ("unsent", size(found["output_bytes"])),
        ("must wait", found["paused"]),
    ])  # fmt: skip
    click.echo()
    rows = [(each["filter"], each["qos"]) for each in found["filters"]]
    show_table(("FILTER", "QOS"), rows, "No subscriptions.")


@command.command("kick")
@click.argument("client_id", type=NAME)
@yes_option
@config_option
@json_option
def kick_client(client_id: str, yes: bool, config_path: str, as_json: bool) -> None:
    """End a client's connection, at whichever host it is. Most clients come back at once.

    \b
    Example:
      mqnode clients kick sensor-17
    """
    from node.cli.api import Api
    from node.cli.output import printable, show_json

    with Api(config_path) as api:
        if not yes:
            confirm(_loss(api, client_id, config_path), "Disconnect it?", yes)
        answer = api.delete("v1", "clients", client_id)
    if as_json:
        show_json(answer)
    else:
        click.echo(f"{printable(client_id)} is disconnected.")


def _loss(api: Api, client_id: str, config_path: str) -> str:
    """What the client and its user lose."""
    from node.cli.api import NotFound
    from node.cli.options import load_config
    from node.cli.output import counted, printable

    try:
        found = api.get("v1", "clients", client_id)
    except NotFound:
        if not load_config(config_path).interconnect.bind:
            raise
        return (
            f"The client {printable(client_id)} is not connected to this host. If another host of the cluster has it, it will be "
            "disconnected there; unless its session is durable, that ends with the connection."
        )
    name = f"The client {printable(client_id)} (user {printable(found['user'])}, {printable(found['address'])})"
    if found["durable"]:
        return f"{name} will be disconnected. Its session with subscriptions and queue stays."
    return (
        f"{name} will be disconnected, and its session ends with the connection: "
        f"{counted(found['subscriptions'], 'subscription')} and "
        f"{counted(found['inflight'] + found['waiting'], 'message')} on the way to it will be lost."
    )
