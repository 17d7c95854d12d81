"""`mqnode cluster links` and `mqnode cluster status`: how the hosts of the cluster are, and what lies between them."""

from __future__ import annotations

from typing import Any

import click

from node.cli.interconnect import ask
from node.cli.options import config_option, json_option
from node.cli.watch import show_once_or_watch, watch_options


@click.command("links")
@config_option
@json_option
def links(config_path: str, as_json: bool) -> None:
    """Show the link from this host to each other one: state, round trip, traffic, and what the other one lacks.

    \b
    Example:
      mqnode cluster links
    """
    from node.cli.output import show_json

    answer = ask(config_path, "links")
    if as_json:
        show_json(answer)
    else:
        _show_links(answer["links"])


@click.command("status")
@config_option
@json_option
@watch_options
def status(config_path: str, as_json: bool, watch: bool, interval: float) -> None:
    """Show the whole cluster on one screen, as this host knows it: hosts, links, copies, warnings.

    \b
    Examples:
      mqnode cluster status
      mqnode cluster status --watch
      mqnode cluster status --json | jq .in_sync
    """
    from node.cli.output import show_json

    show_once_or_watch(lambda: ask(config_path, "status"), show_json if as_json else _show_status, watch, interval)


def _show_status(status: dict[str, Any]) -> None:
    from node.cli.output import coloured, printable, show_table

    state = coloured("in sync", fg="green") if status["in_sync"] else coloured("not in sync", fg="red")
    click.echo(f"Cluster {printable(status['cluster'])} as {printable(status['host'])} knows it: {state}")
    if status["degraded_since_ms"] is not None:
        click.echo(f"  degraded for {_ago(status['degraded_since_ms'])}")
    for warning in status["warnings"]:
        click.echo(f"  {printable(warning)}")
    click.echo()
    rows = [
        (
            node["name"] + (" (this host)" if node["this_host"] else ""), node["address"],
            node["state"] if node["state"] != "up" else "ready" if node["ready"] else "not ready",
            node["workers"], node["clients"], node["sessions"], node["queued_messages"],
            ", ".join(node["in_sync_with"]) or "-",
        )
        for node in status["nodes"]
    ]  # fmt: skip
    show_table(("HOST", "ADDRESS", "STATE", "WORKERS", "CLIENTS", "SESSIONS", "QUEUED", "COPIES AT"), rows, "no hosts")
    if status["links"]:
        click.echo()
        _show_links(status["links"])


def _show_links(links: list[dict[str, Any]]) -> None:
    from node.cli.output import show_table, size

    rows = [
        (
            f"{each['from']} → {each['to']}", each["state"], _ago(each["since_ms"]),
            "" if each["rtt_ms"] is None else f"{each['rtt_ms']:.1f} ms",
            f"{each['frames_out']} / {size(each['bytes_out'])}", f"{each['frames_in']} / {size(each['bytes_in'])}",
            "in sync" if each["in_sync"] else _lacks(each["lag_commits"]), each["trouble"],
        )
        for each in links
    ]  # fmt: skip
    show_table(("LINK", "STATE", "FOR", "ROUND TRIP", "SENT", "RECEIVED", "COPIES", "TROUBLE"), rows, "no other host")


def _lacks(commits: int) -> str:
    return f"lacks {commits} commits" if commits else "not in sync"  # nothing was stored since it went


def _ago(since_ms: int) -> str:
    import time

    from node.cli.output import duration

    return duration(time.time() - since_ms / 1000)
