"""`mqnode leave`: this host gives clients and sessions to the others, and is no member then. `cluster drain`, `cluster remove`."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from node.cli.options import config_option, confirm, json_option, yes_option

if TYPE_CHECKING:
    from node.cli.api import Api

ASK_S = 0.2
ANEW_S = 10.0  # in which a process that died is started anew
_ENDS = ("drained", "left", "removed", "serving")
NAMED = 20  # sessions at risk
CANCELLED = "cancelled"  # as node/admin/drain.py says


def pace_options(command: Any) -> Any:
    for option in (
        click.option("--grace", type=click.FloatRange(0), default=5, show_default=True, metavar="SECONDS",
                     help="For clients that go by themselves, and for load balancers to notice."),
        click.option("--rate", type=click.IntRange(1), default=500, show_default=True, metavar="N",
                     help="Clients to send away in a second."),
        click.option("-t", "--timeout", type=click.FloatRange(0, min_open=True), default=600, show_default=True,
                     metavar="SECONDS", help="Give up then."),
        click.option("-i", "--interval", type=click.FloatRange(0, min_open=True), default=5, show_default=True,
                     metavar="SECONDS", help="Between two lines of progress."),
        click.option("--cancel", is_flag=True, help="Stop it, from another shell: the host serves again."),
    ):  # fmt: skip
        command = option(command)
    return command


@click.command("leave")
@config_option
@json_option
@yes_option
@click.option(
    "--node", metavar="NAME", help="Of another host, which is dead for good: as `mqnode cluster remove NAME`."
)
@pace_options
def command(config_path: str, as_json: bool, yes: bool, node: str | None, cancel: bool, **pace: Any) -> None:
    """Leave the cluster, and lose nothing.

    The host accepts no more clients, waits for the grace time, sends its clients to the other hosts, gives its sessions to
    them, and is a member until all that it has is on all of them. If that does not come about in time, or is cancelled, it serves
    again. A command that is interrupted changes nothing of that: run it again to watch.

    \b
    Examples:
      mqnode leave -i 2 -t 300 --rate 1000
      mqnode leave --cancel
      mqnode leave --node n3
    """
    if node is not None:
        _remove(config_path, node, as_json, yes)
    elif cancel:
        _cancel(config_path, as_json)
    else:
        _drain(config_path, as_json, True, **pace)


@click.command("drain")
@config_option
@json_option
@pace_options
def drain(config_path: str, as_json: bool, cancel: bool, **pace: Any) -> None:
    """Send the clients of this host to the others; it stays a member.

    \b
    Examples:
      mqnode cluster drain --rate 1000 && systemctl restart mqnode
      mqnode cluster drain --cancel
    """
    if cancel:
        _cancel(config_path, as_json)
    else:
        _drain(config_path, as_json, False, **pace)


@click.command("remove")
@click.argument("name")
@config_option
@json_option
@yes_option
def remove(name: str, config_path: str, as_json: bool, yes: bool) -> None:
    """Remove a host that is dead for good: its sessions go on here, its key is worth nothing any more.

    \b
    Example:
      mqnode cluster remove n2
    """
    _remove(config_path, name, as_json, yes)


def _drain(
    config_path: str, as_json: bool, leave: bool, grace: float, rate: int, timeout: float, interval: float
) -> None:
    from node.cli.api import Api
    from node.cli.output import show_json

    with Api(config_path) as api:
        state = api.post("v1", "drain", leave=leave, rate=rate, grace_s=grace, timeout_s=timeout)
        if "error" in state:
            raise click.ClickException(state["error"])
        told_s = 0.0
        while state["phase"] not in _ENDS:
            if not as_json and time.monotonic() - told_s >= interval:
                told_s = time.monotonic()
                click.echo(_line(state))
            time.sleep(ASK_S)
            state = _look(api)
    if as_json:
        show_json(state)
    elif state["phase"] == "left":
        click.echo(
            "left: this host is no member any more; all that it had is on the others. It may be stopped for good."
        )
        click.echo("If it is to be a member again: mqnode join")
    elif state["phase"] == "drained":
        click.echo(
            f"drained: {state['clients']} clients are left. It may be stopped, or: mqnode cluster drain --cancel"
        )
    done = state["phase"] == "left" or (not leave and state["phase"] == "drained" and not state["clients"])
    if not done and not as_json:
        why = _why(state, "leave" if leave else "cluster drain")
        click.echo(f"It has not {'left' if leave else 'been drained'}: {why}", err=True)
    sys.exit(0 if done else 1)


def _look(api: Api) -> dict[str, Any]:
    """How far it is; of the next admin process if this one has died."""
    deadline_s = time.monotonic() + ANEW_S
    while True:
        try:
            return dict(api.get("v1", "drain"))
        except click.ClickException:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(ASK_S)


def _line(state: dict[str, Any]) -> str:
    """One line of progress."""
    from node.cli.output import counted

    sessions = "" if state["sessions"] is None else f", {counted(state['sessions'], 'session')} to hand over"
    behind = f", waiting for {', '.join(state['behind'])}" if state["behind"] else ""
    return f"{state['phase']}: {counted(state['clients'], 'client')}{sessions}{behind}"


def _why(state: dict[str, Any], command: str) -> str:
    from node.cli.output import counted

    if state["phase"] == "removed":
        return f"{state['failure']}."
    parts = [state["failure"] or "the admin process was started anew", f"{counted(state['clients'], 'client')} here"]
    if state["sessions"]:
        parts.append(f"{counted(state['sessions'], 'session')} to hand over")
    if state["behind"]:
        parts.append(f"waiting for {', '.join(state['behind'])}")
    stays = "; the host serves" if state["phase"] == "serving" else ""
    again = f" Again, with more time: mqnode {command} -t SECONDS" if state["failure"] else f" Again: mqnode {command}"
    return f"{', '.join(parts)}{stays}.{'' if state['failure'] == CANCELLED else again}"


def _cancel(config_path: str, as_json: bool) -> None:
    from node.cli.api import Api
    from node.cli.output import show_json

    with Api(config_path) as api:
        state = api.delete("v1", "drain")
    if "error" in state:
        raise click.ClickException(f"{state['error']}. Nothing was done.")
    if as_json:
        show_json(state)
    else:
        click.echo("cancelled: this host serves again")


def _remove(config_path: str, name: str, as_json: bool, yes: bool) -> None:
    from node.cli.api import Api
    from node.cli.output import show_json

    with Api(config_path) as api:
        found = api.get("v1", "hosts", name)
        confirm(_loss(found), f"Remove {name}?", yes)
        done = api.delete("v1", "hosts", name)
    if as_json:
        show_json(done)
    else:
        click.echo(f"{name} is no member any more; its sessions ({done['sessions']}) go on at this host")


def _loss(found: dict[str, Any]) -> str:
    """What may be lost, as far as this host can know."""
    from node.cli.output import printable

    name, sessions = printable(found["name"]), found["sessions"]
    lines = []
    if found["state"] == "up":
        lines.append(
            f"{name} is up, and would serve nobody from then on: `mqnode leave` on it does the same and loses nothing."
        )
    elif not found["is_known"]:
        lines.append(
            f"This host has never been in sync with {name}: none of what only {name} has is here, nor which sessions it has."
        )
    elif found["was_in_sync"]:
        lines += [
            f"{name} was in sync when it went: its sessions ({sessions}) lack nothing that it had acknowledged by then.",
            "What it acknowledged after that, alone, nobody here can know.",
        ]
    else:
        lines.append(
            f"{name} was not in sync when it went: what it acknowledged alone, for any session, may be on its disk only."
        )
    lines += _at_risk(found["at_risk"], name)
    lines.append(f"What only {name} has comes back if it joins again with its disk.")
    return "\n".join(lines)


def _at_risk(sessions: list[dict[str, Any]], name: str) -> list[str]:
    """Those that are most likely to lack messages."""
    from node.cli.output import counted, printable

    if not sessions:
        return []
    here = sum(each["queued_messages"] for each in sessions)
    lines = [f"At risk: {counted(len(sessions), 'session')} that it had ({counted(here, 'message')} of them here):"]
    lines += [
        f"  {printable(each['client_id'])}: {counted(each['queued_messages'], 'message')} here"
        for each in sessions[:NAMED]
    ]
    if len(sessions) > NAMED:
        lines.append(f"  … and {len(sessions) - NAMED} more: mqnode sessions list --node {name}")
    return lines
