"""`mqnode check`: yes or no in the exit code, for load balancers, monitoring and scripts."""

from __future__ import annotations

import sys

import click

from node.cli.options import config_option, json_option


@click.group("check")
def command() -> None:
    """Ask one question about this host: exit code 0 is yes, 1 is no.

    \b
    Examples:
      mqnode check ready && echo "send clients here"
      until mqnode check ready; do sleep 1; done
    """


@command.command("alive")
@config_option
@json_option
def alive(config_path: str, as_json: bool) -> None:
    """Does the host answer at all?

    \b
    Example:
      mqnode check alive
    """
    _check(config_path, as_json, "live")


@command.command("ready")
@config_option
@json_option
def ready(config_path: str, as_json: bool) -> None:
    """Can it take clients now: do store and all workers serve?

    \b
    Example:
      mqnode check ready --json
    """
    _check(config_path, as_json, "ready")


@command.command("insync")
@config_option
@json_option
def insync(config_path: str, as_json: bool) -> None:
    """Have all hosts of the cluster what this one has acknowledged: may the next one be stopped?

    \b
    Example:
      until mqnode check insync; do sleep 1; done
    """
    _check(config_path, as_json, "insync")


def _check(config_path: str, as_json: bool, question: str) -> None:
    from node.cli.api import Api
    from node.cli.output import printable, show_json

    with Api(config_path) as api:
        status, answer = api.ask("GET", question)
    if as_json:
        show_json(answer)
    else:
        look = "cluster status" if question == "insync" else "status"
        reasons = "; ".join(map(printable, answer.get("reasons", ())))
        click.echo(
            f"{question}: yes" if status == 200 else f"{question}: no ({reasons}). Look at it with: mqnode {look}"
        )
    sys.exit(0 if status == 200 else 1)
