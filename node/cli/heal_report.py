"""`mqnode cluster heal-report`: what this host merged when hosts that had been apart came together again."""

from __future__ import annotations

from typing import Any

import click

from node.cli.interconnect import ask
from node.cli.options import config_option, json_option


@click.command("heal-report")
@config_option
@json_option
def heal_report(config_path: str, as_json: bool) -> None:
    """List the last twenty times that this host and another one were apart, and what came together afterwards.

    The other host has a report of its own: what it got from this one, and the sessions that it was the first to compare.

    \b
    Examples:
      mqnode cluster heal-report
      mqnode cluster heal-report --json | jq '.heals[0].sessions'
    """
    from node.cli.output import show_json, show_table

    answer = ask(config_path, "heals")
    if as_json:
        show_json(answer)
        return
    rows = [
        (
            each["peer"], _time(each["from_ms"]), _together(each),
            each["entries_received"], each["commits_sent"], each["commits_undone"], each["sessions_taken_over"],
            len(each["sessions"]) + each["sessions_more"],
        )
        for each in answer["heals"]
    ]  # fmt: skip
    headers = ("PEER", "APART SINCE", "TOGETHER", "ENTRIES RECEIVED", "COMMITS SENT", "UNDONE", "TAKEN OVER", "MERGED")
    show_table(headers, rows, "this host has not been apart from another one")
    for each in answer["heals"]:
        _say_more(each)


def _say_more(heal: dict[str, Any]) -> None:
    from node.cli.output import printable

    for client_id, winner in heal["sessions"]:
        whose = "this host's record" if winner == "this host" else f"that of {heal['peer']}"
        click.echo(
            printable(
                f"{client_id}: changed on both, {whose} counts; the messages of both are kept, but those from before a clean start"
            )
        )
    if heal["sessions_more"]:
        click.echo(f"and {heal['sessions_more']} sessions more")
    if heal["sessions_taken_over"]:
        click.echo(
            printable(f"QoS 1 messages that {heal['peer']} had sent and not heard acknowledged may have come twice")
        )


def _together(heal: dict[str, Any]) -> str:
    if heal["until_ms"] is not None:
        return _time(heal["until_ms"])
    return "not yet" if heal["is_member"] else "it has left"


def _time(at_ms: int) -> str:
    import time

    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(at_ms / 1000))
