"""`mqnode acl`: what the access rules say, and which line of them says it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from node.cli.options import NAME, Unusable, config_option, json_option, load_config
from node.cli.output import coloured, printable, printable_lines, show_json

if TYPE_CHECKING:
    from node.auth.acl import Rule, Rules
    from node.auth.authorize import Decision


@click.group("acl")
def command() -> None:
    """Access rules: in the file auth.acl_file or, if that is "cluster", the same on all hosts.

    \b
    Examples:
      mqnode acl load /etc/mqnode/acl
      mqnode acl show
    """


@command.command("load")
@click.argument("file", type=click.Path())
@config_option
@json_option
def load(file: str, config_path: str, as_json: bool) -> None:
    """Put the access rules of FILE into the store of all hosts, in the place of those that are there.

    They are checked before; rules with an error change nothing. It works before auth.acl_file is "cluster", too.

    \b
    Example:
      mqnode acl load /etc/mqnode/acl
    """
    from node.auth import acl
    from node.auth.files import AuthFileError, read_lines
    from node.cli.api import Api

    try:
        lines = read_lines(file, "Nothing was changed.")
        acl.parse(lines, file, f"Nothing was changed. Correct the line, then: mqnode acl load {file}")
    except AuthFileError as error:
        raise click.ClickException(printable_lines(str(error))) from error
    with Api(config_path) as api:
        answer = api.post("v1", "acl", content={"text": "".join(f"{line}\n" for line in lines)})
    if as_json:
        show_json({"loaded": file, "in_force": answer["in_force"]})
    else:
        waits = 'They are in force once auth.acl_file = "cluster" is in the configuration of each host, from its next start on.'
        click.echo(f"The rules are loaded. {'They hold on all hosts.' if answer['in_force'] else waits}")


@command.command("show")
@config_option
@json_option
def show(config_path: str, as_json: bool) -> None:
    """Write the rules that all hosts have to the standard output.

    \b
    Example:
      mqnode acl show > acl
    """
    from node.cli.api import Api

    with Api(config_path) as api:
        answer = api.get("v1", "acl")
    text = answer["text"]
    if as_json:
        show_json(answer)
    elif text is None:
        raise click.ClickException(
            'There are none yet: where auth.acl_file = "cluster", nothing is allowed. Load some: mqnode acl load FILE'
        )
    else:
        click.echo("\n".join(map(printable, text.splitlines())))


@command.command("test")
@click.argument("user", type=NAME)
@click.argument("topic", type=NAME)
@click.option("--write", is_flag=True, help="Only: may it publish to TOPIC?")
@click.option("--read", is_flag=True, help="Only: may it subscribe to TOPIC, which may be a filter?")
@click.option("--client-id", type=NAME, help="For %c in patterns. [default: USER]")
@click.option("--qos", type=click.IntRange(0, 2), default=0, show_default=True)
@click.option("--retain", is_flag=True, help="Publish with the retain flag.")
@config_option
@json_option
def test(
    user: str, topic: str, write: bool, read: bool, client_id: str | None, qos: int, retain: bool,
    config_path: str, as_json: bool,
) -> None:  # fmt: skip
    """May USER publish and subscribe to TOPIC, and which rule decides? Exit code 1: something of it is denied.

    A file is read as it is on disk; a running host has it since its start or its last `mqnode reload`. The rules of the
    cluster are asked of the running host.
    An empty USER ('') is the anonymous client.

    \b
    Examples:
      mqnode acl test alice house/kitchen/temperature
      mqnode acl test alice 'house/#' --read --client-id phone
    """
    from node.auth.authorize import Authorizer
    from node.config import ConfigError
    from node.config.keys import CLUSTER

    try:
        config = load_config(config_path)
        authorizer = Authorizer(config.auth)
        if config.auth.acl_file == CLUSTER:
            authorizer.use(_cluster_rules(config_path))
    except ConfigError as error:
        raise Unusable(printable_lines(str(error))) from error
    decisions: dict[str, Decision] = {}
    for word, wanted in (("write", write or not read), ("read", read or not write)):
        if wanted:
            name = client_id if client_id is not None else user or "anonymous"
            decisions[word] = authorizer.explain(
                "publish" if word == "write" else "subscribe", user or None, name, topic, qos, retain
            )
    if as_json:
        show_json({word: _describe(decision) for word, decision in decisions.items()})
    else:
        for word, decision in decisions.items():
            _show(word, decision)
    sys.exit(0 if all(decision.allowed for decision in decisions.values()) else 1)


def _cluster_rules(config_path: str) -> Rules:
    from node.auth import acl
    from node.auth.files import to_lines
    from node.cli.api import Api

    with Api(config_path) as api:
        text = api.get("v1", "acl")["text"]
    return acl.NO_RULES if text is None else acl.parse(to_lines(text.encode(), "rules", ""), "rules")


def _describe(decision: Decision) -> dict[str, Any]:
    return {
        "allowed": decision.allowed,
        "reason": decision.reason,
        "rule": _rule(decision.rule) if decision.rule else None,
        "withheld": [_rule(rule) for rule in decision.withheld],
    }


def _rule(rule: Rule) -> dict[str, Any]:
    return {"line": rule.line, "text": rule.text}


def _show(word: str, decision: Decision) -> None:
    answer = coloured("allowed", fg="green") if decision.allowed else coloured("denied", fg="red")
    click.echo(f"{word}: {answer}, {printable(decision.reason)}")
    if decision.rule:
        click.echo(f"  line {decision.rule.line}: {printable(decision.rule.text)}")
    for rule in decision.withheld:
        click.echo(f"  but what this matches is withheld, line {rule.line}: {printable(rule.text)}")
