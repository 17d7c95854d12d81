"""`mqnode cluster pending` and `approve`: hosts that join without a token."""

from __future__ import annotations

import re

import click

from node.cli.interconnect import ask
from node.cli.options import Unusable, config_option, json_option, load_config

_FINGERPRINT = re.compile(r"[A-Z2-7]{16}")


def parse_fingerprint(text: str) -> str:
    """As it is shown: XXXX-XXXX-XXXX-XXXX."""
    letters = re.sub(r"[\s-]", "", text).upper()
    if not _FINGERPRINT.fullmatch(letters):
        raise Unusable(
            "this is no fingerprint: 16 letters and digits, as `mqnode join --peer` shows them on the host that joins"
        )
    return "-".join(letters[at : at + 4] for at in range(0, 16, 4))


@click.command("pending")
@config_option
@json_option
def pending(config_path: str, as_json: bool) -> None:
    """List the hosts that ask to join without a token, and let hosts ask for the next ten minutes.

    \b
    Example:
      mqnode cluster pending
    """
    from node.cli.output import show_json, show_table

    answer = ask(config_path, "pending")
    if as_json:
        show_json(answer)
        return
    interconnect = load_config(config_path).interconnect
    click.echo(f"This host is {answer['fingerprint']}. For ten minutes others may ask to join:")
    click.echo(f"  mqnode join --peer {interconnect.advertise or interconnect.bind}")
    rows = [(each["fingerprint"], each["name"], each["address"], each["from"]) for each in answer["pending"]]
    show_table(("FINGERPRINT", "HOST", "ADDRESS", "ASKED FROM"), rows, "nobody has asked yet")
    if answer["found"]:
        click.echo("\nFound by discovery:")
        found = [(each["name"], each["address"], each["cause"]) for each in answer["found"]]
        show_table(("HOST", "ADDRESS", "WHY IT IS NO MEMBER"), found, "")
    if rows:
        click.echo("Compare both fingerprints with what that host shows; then: mqnode cluster approve FINGERPRINT")


@click.command("approve")
@click.argument("fingerprint")
@config_option
@json_option
def approve(fingerprint: str, config_path: str, as_json: bool) -> None:
    """Let the host of this fingerprint join, once, within ten minutes.

    Read the fingerprint on that host itself: `mqnode join --peer` shows it there. Who stands between the two has another one.

    \b
    Example:
      mqnode cluster approve QK3A-7FZ2-M5TC-XWLB
    """
    from node.cli.output import printable, show_json

    shown = parse_fingerprint(fingerprint)
    answer = ask(config_path, "approve", fingerprint=shown)
    if as_json:
        show_json(answer)
        return
    asking = [each for each in answer["pending"] if each["fingerprint"] == shown]
    if asking:
        click.echo(f"{printable(asking[0]['name'])} at {printable(asking[0]['address'])} may join.")
    else:
        click.echo("No host with this fingerprint has asked yet. It may join within ten minutes.")
    click.echo(f"On it, the member's fingerprint must be {answer['fingerprint']}.")
