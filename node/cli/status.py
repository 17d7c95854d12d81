"""`mqnode status`: how this host is, on one screen."""

from __future__ import annotations

from typing import Any

import click

from node.cli.options import config_option, json_option
from node.cli.watch import show_once_or_watch, watch_options


@click.command("status")
@config_option
@json_option
@watch_options
def command(config_path: str, as_json: bool, watch: bool, interval: float) -> None:
    """Show this host: is it ready, its processes, clients, sessions and messages.

    \b
    Examples:
      mqnode status
      mqnode status --watch
      mqnode status --json | jq .queued_messages
    """
    from node.cli.api import Api
    from node.cli.output import show_json

    with Api(config_path) as api:
        show_once_or_watch(lambda: api.get("v1", "status"), show_json if as_json else _show, watch, interval)


def _show(status: dict[str, Any]) -> None:
    from node.cli.output import coloured, counted, duration, printable, show_fields, show_table, size

    state = coloured("ready", fg="green") if status["ready"] else coloured("not ready", fg="red")
    click.echo(f"{printable(status['node'])} is {state}, mqnode {printable(status['version'])}")
    for reason in status["reasons"] + status["warnings"]:
        click.echo(f"  {printable(reason)}")
    click.echo()
    show_fields([
        ("clients", status["clients_connected"]),
        ("sessions", status["sessions"]),
        ("queued", f"{counted(status['queued_messages'], 'message')}, {size(status['queued_bytes'])}"),
        ("retained", counted(status["retained_messages"], "message")),
        ("received", counted(status["messages_received"], "message")),
        ("sent", counted(status["messages_sent"], "message")),
        ("dropped", _by_reason(status["dropped"])),
        ("refused", _by_reason(status["refused"])),
        ("store", size(status["store_used_bytes"])),
        ("listeners", ", ".join(status["listeners"])),
    ])  # fmt: skip
    click.echo()
    rows = [
        (name, each["pid"], "runs" if each["alive"] else "does not answer", duration(each["up_s"]))
        for name, each in status["processes"].items()
    ]
    show_table(("PROCESS", "PID", "STATE", "UP"), rows, "no processes")


def _by_reason(counts: dict[str, int]) -> str:
    found = [f"{count} {reason.replace('_', ' ')}" for reason, count in counts.items() if count]
    return ", ".join(found) or "none"
