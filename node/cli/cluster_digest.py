"""`mqnode cluster digest`: do all hosts hold the same?"""

from __future__ import annotations

from typing import Any

import click

from node.cli.interconnect import NO_MEMBER, ask
from node.cli.options import config_option, json_option

RETRY_S, PATIENCE_S = 0.1, 10.0
EQUAL, DIFFERENT, UNKNOWN = 0, 1, 2  # exit codes


@click.command("digest")
@config_option
@json_option
@click.pass_context
def digest(context: click.Context, config_path: str, as_json: bool) -> None:
    """Compare what the hosts hold: sessions, subscriptions, queues, retained messages, wills.

    Each host keeps a digest of every database of its store, and tells it five times a second: what it has told since this command
    began counts. They are compared when the hosts have the same commits; where messages keep coming, this command looks again for
    ten seconds. Exit code 0: equal, 1: different, 2: cannot be compared now.

    \b
    Examples:
      mqnode cluster digest
      mqnode cluster digest --json | jq .equal
    """
    from node.cli.output import show_json

    answer = _compared(config_path)
    if as_json:
        show_json(answer)
    else:
        _show(answer)
    context.exit({True: EQUAL, False: DIFFERENT, None: UNKNOWN}[answer["equal"]])


def _compared(config_path: str) -> dict[str, Any]:
    import time

    began = time.monotonic()
    while True:
        passed_s = time.monotonic() - began
        answer: dict[str, Any] = ask(config_path, "digest", within_s=passed_s)
        are_up = all(each["state"] == "up" for each in answer["hosts"])
        if answer["equal"] is not None or not are_up or passed_s > PATIENCE_S:
            return answer
        time.sleep(RETRY_S)


def _show(answer: dict[str, Any]) -> None:
    from node.cli.output import coloured, show_table

    hosts = answer["hosts"]
    if len(hosts) == 1:
        click.echo("This host is alone: there is no other one to compare with." if answer["equal"] else NO_MEMBER)
        return
    told = [each for each in hosts if each["databases"] is not None]
    names = list(told[0]["databases"]) if told else []
    rows = [
        (
            each["name"], each["state"], _heard(each),
            "-" if each["context"] is None else " ".join(f"{number}:{seq}" for number, seq in each["context"].items()),
            *(_cell(each["databases"], name) for name in names),
        )
        for each in hosts
    ]  # fmt: skip
    show_table(("HOST", "STATE", "HEARD", "COMMITS", *(name.upper() for name in names)), rows, "no hosts")
    click.echo()
    if answer["equal"]:
        click.echo(coloured("Equal: all hosts hold the same.", fg="green"))
    elif answer["equal"] is False:
        click.echo(
            coloured("Different", fg="red")
            + f": {', '.join(_differing(told))}. The hosts have the same commits and not the"
        )
        click.echo(
            "same entries. They repair it within a minute; a message may be delivered twice. Then: mqnode cluster digest"
        )
        click.echo("Check the disks: the log says what differed (stores_differ). If it comes again, report it.")
    else:
        away = [each for each in hosts if each["state"] != "up" or each["heard_s_ago"] is None]
        silent = [f"{each['name']} (last heard: {_heard(each)})" for each in away]
        cause = f"no answer from {', '.join(silent)}" if silent else "commits are on their way between the hosts"
        click.echo(f"Cannot be compared now: {cause}. Next: mqnode cluster status, and this command again")


def _heard(host: dict[str, Any]) -> str:
    from node.cli.output import duration

    ago_s = host["heard_s_ago"]
    return "never" if ago_s is None else f"{duration(ago_s)} ago"


def _cell(databases: dict[str, Any] | None, name: str) -> str:
    return "-" if databases is None else f"{databases[name]['entries']} {databases[name]['digest'][:8]}"


def _differing(told: list[dict[str, Any]]) -> list[str]:
    first = told[0]["databases"]
    return [name for name in first if any(each["databases"][name] != first[name] for each in told)]
