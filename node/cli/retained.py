"""`mqnode retained`: the last message of each topic that was published with the retain flag."""

from __future__ import annotations

import sys

import click

from node.cli.options import NAME, Unusable, config_option, confirm, json_option, list_options, yes_option


@click.group("retained")
def command() -> None:
    """Retained messages."""


@command.command("list")
@click.argument("filter", type=NAME, default="#")
@list_options
def list_retained(filter: str, limit: int | None, config_path: str, as_json: bool) -> None:
    """List the topics that FILTER matches and that have a retained message; all but those with $ if none is given.

    \b
    Examples:
      mqnode retained list
      mqnode retained list 'house/+/temperature' --json
    """
    import time

    from node.auth.language import split_filter
    from node.cli.api import Api
    from node.cli.output import duration, printable, show_json, show_table, size

    try:
        split_filter(filter)
    except ValueError as error:
        raise Unusable(f"'{printable(filter)}' is no filter: {error}.") from error
    with Api(config_path) as api:
        found = api.pages("v1", "retained", key="topic", limit=limit, filter=filter)
    if as_json:
        show_json(found)
        return
    now = time.time()
    rows = [
        (each["topic"], each["qos"], size(each["bytes"]), each["user"], duration(now - each["received_at"]))
        for each in found
    ]
    show_table(("TOPIC", "QOS", "BYTES", "USER", "AGE"), rows, "There is no such retained message.")


@command.command("get")
@click.argument("topic", type=NAME)
@config_option
@json_option
def get_retained(topic: str, config_path: str, as_json: bool) -> None:
    """Write the payload of a retained message to the standard output, byte for byte if that is no terminal.

    \b
    Examples:
      mqnode retained get house/kitchen/temperature
      mqnode retained get firmware/latest > firmware.bin
    """
    from base64 import b64decode

    from node.cli.api import Api
    from node.cli.output import printable, show_json

    with Api(config_path) as api:
        found = api.get("v1", "retained", topic)
    if as_json:
        show_json(found)
        return
    payload = b64decode(found["payload_base64"])
    if sys.stdout.isatty():
        click.echo("\n".join(map(printable, payload.decode(errors="backslashreplace").split("\n"))))
    else:
        click.echo(payload, nl=False)


@command.command("delete")
@click.argument("topic", type=NAME)
@yes_option
@config_option
@json_option
def delete_retained(topic: str, yes: bool, config_path: str, as_json: bool) -> None:
    """Delete the retained message of a topic. Nobody is told: new subscribers just get none.

    \b
    Example:
      mqnode retained delete house/kitchen/temperature
    """
    from node.cli.api import Api
    from node.cli.output import printable, show_json, size

    with Api(config_path) as api:
        if not yes:
            found = api.get("v1", "retained", topic)
            loss = (
                f"The retained message of {printable(topic)} ({size(found['bytes'])}, "
                f"published by user {printable(found['user'])}) will be lost."
            )
            confirm(loss, "Delete it?", yes)
        answer = api.delete("v1", "retained", topic)
    if as_json:
        show_json(answer)
    else:
        click.echo(f"The retained message of {printable(topic)} is deleted.")
