"""`mqnode sessions`: what outlives connections, with the queues that hold messages for it."""

from __future__ import annotations

import click

from node.cli.options import NAME, config_option, confirm, json_option, list_options, yes_option


@click.group("sessions")
def command() -> None:
    """Durable sessions: they, their subscriptions and queues outlive a connection."""


@command.command("list")
@click.option("--match", default="*", metavar="GLOB", help="Only client ids like this, with * ? and [abc].")
@click.option("--node", metavar="NAME", help="Only those of that host.")
@list_options
def list_sessions(match: str, node: str | None, limit: int | None, config_path: str, as_json: bool) -> None:
    """List durable sessions with the length of their queues: the same on every host. Who is connected has a worker.

    \b
    Examples:
      mqnode sessions list --match 'sensor-*'
      mqnode sessions list --json | jq 'max_by(.queued_messages)'
    """
    from node.cli.api import Api
    from node.cli.output import expiry, show_json, show_table, size

    with Api(config_path) as api:
        found = api.pages("v1", "sessions", key="client_id", limit=None if node else limit, match=match)
    if node:
        found = [each for each in found if each["node"] == node][:limit]
    found.sort(key=lambda each: each["client_id"])
    if as_json:
        show_json(found)
        return
    rows = [
        (
            each["client_id"], each["user"], each["node"], each["worker"], each["queued_messages"],
            size(each["queued_bytes"]), expiry(each["expiry_s"]),
        )
        for each in found
    ]  # fmt: skip
    show_table(
        ("CLIENT ID", "USER", "HOST", "WORKER", "QUEUED", "BYTES", "EXPIRY"), rows, "There is no durable session."
    )


@command.command("show")
@click.argument("client_id", type=NAME)
@config_option
@json_option
def show_session(client_id: str, config_path: str, as_json: bool) -> None:
    """Show one durable session with its subscriptions.

    \b
    Example:
      mqnode sessions show sensor-17
    """
    import time

    from node.cli.api import Api
    from node.cli.output import counted, duration, expiry, show_fields, show_json, show_table, size

    with Api(config_path) as api:
        found = api.get("v1", "sessions", client_id)
    if as_json:
        show_json(found)
        return
    now = time.time()
    if found["connected"]:
        connected = f"yes, to worker {found['worker']} of {found['node']}"
    else:
        connected = f"no, since {duration(now - found['disconnected_at'])}"
    show_fields([
        ("client id", found["client_id"]),
        ("user", found["user"]),
        ("host", found["node"]),
        ("connected", connected),
        ("age", duration(now - found["created_at"])),
        ("expiry", expiry(found["expiry_s"])),
        ("queue", f"{counted(found['queued_messages'], 'message')}, {size(found['queued_bytes'])}"),
    ])  # fmt: skip
    click.echo()
    rows = [(each["filter"], each["qos"], each["identifier"]) for each in found["subscriptions"]]
    show_table(("FILTER", "QOS", "IDENTIFIER"), rows, "No subscriptions.")


@command.command("delete")
@click.argument("client_id", type=NAME)
@yes_option
@config_option
@json_option
def delete_session(client_id: str, yes: bool, config_path: str, as_json: bool) -> None:
    """Delete a session with its subscriptions and its queue, and end its connection.

    \b
    Examples:
      mqnode sessions delete sensor-17
      mqnode sessions delete --yes sensor-17
    """
    from node.cli.api import Api
    from node.cli.output import counted, printable, show_json, size

    with Api(config_path) as api:
        if not yes:
            found = api.get("v1", "sessions", client_id)
            loss = (
                f"The session {printable(client_id)} (user {printable(found['user'])}) will be deleted: "
                f"{counted(len(found['subscriptions']), 'subscription')} and "
                f"{counted(found['queued_messages'], 'queued message')} ({size(found['queued_bytes'])}) will be lost."
            )
            if found["connected"]:
                loss += " Its client is connected and will be disconnected."
            confirm(loss, "Delete it?", yes)
        answer = api.delete("v1", "sessions", client_id)
    if as_json:
        show_json(answer)
    else:
        click.echo(f"The session {printable(client_id)} is deleted.")
