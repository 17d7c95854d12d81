"""`mqnode join`: become a member by a token or by approval, and wait until this host is in sync."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from node.cli.approval import parse_fingerprint
from node.cli.interconnect import ask
from node.cli.options import Unusable, config_option, json_option, load_config

APPROVAL_S = 600
POLL_S = 0.5
_PORT = 7001  # of the interconnect, as `mqnode init` and the documents have it
SAID_EVERY_S = 5.0  # where it is no terminal


@click.command("join")
@config_option
@json_option
@click.option("--token", "text", metavar="TOKEN", help="As `mqnode cluster token create` printed it on a member.")
@click.option(
    "--peer", metavar="HOST[:PORT]", help="The member. Without a token, an operator approves this host there."
)
@click.option("--fingerprint", metavar="FINGERPRINT", help="The member's, read there by `mqnode cluster pending`.")
@click.option(
    "--timeout", "timeout_s", type=click.IntRange(min=1), default=600, show_default=True, metavar="SECONDS",
    help="For how long to wait until this host is in sync.",
)  # fmt: skip
def command(
    config_path: str, as_json: bool, text: str | None, peer: str | None, fingerprint: str | None, timeout_s: int
) -> None:
    """Make this host a member of a cluster; its sessions come along. Ends when it is in sync, and shows the hosts.

    \b
    Examples:
      mqnode join --peer 10.9.0.1 --token mqn1-...
      mqnode join --peer 10.9.0.1        # then, on the member: mqnode cluster pending
    """
    from node.cli.cluster import show

    if text:
        _by_token(config_path, text, peer)
    elif peer:
        _by_approval(config_path, peer, fingerprint, as_json)
    else:
        raise Unusable("whom to join? Run on a member: mqnode cluster token create, and here the line that it prints.")
    _until_in_sync(config_path, timeout_s)
    show(ask(config_path, "nodes"), as_json)


def _by_token(config_path: str, text: str, peer: str | None) -> None:
    from mesh.token import Token, TokenError

    try:
        parsed = Token.parse(text)
    except TokenError as error:
        raise click.ClickException(str(error)) from error
    if peer and not _addresses(peer) & _addresses(parsed.address):
        raise click.ClickException(
            f"the token is of {parsed.address}, not of {peer}: nothing was done. Take a token that was made on {peer}: "
            "mqnode cluster token create"
        )
    ask(config_path, "join", token=text)


def _host(place: str) -> str:
    """Of HOST, HOST:PORT or [HOST]:PORT."""
    return (place.rpartition(":")[0] if place.count(":") == 1 or "]:" in place else place).strip("[]")


def _look_up(host: str) -> set[str]:
    """Its addresses. OSError: the name has none."""
    import socket

    try:
        return {str(found[4][0]) for found in socket.getaddrinfo(host, None)}
    except UnicodeError as error:  # a part of it is empty, or longer than 63 letters
        raise OSError(0, "no host can be named so") from error


def _addresses(place: str) -> set[str]:
    """Of the host there. Its name counts, too: here it may have no address."""
    host = _host(place)
    try:
        return {host} | _look_up(host)
    except OSError:
        return {host}


def _check_name(host: str) -> None:
    try:
        _look_up(host)
    except OSError as error:
        raise click.ClickException(
            f"{host}: the name has no address ({error.strerror}): nothing was done. Take the member's address, as "
            "`mqnode cluster nodes` shows it there"
        ) from error


# -- approval --------------------------------------------------------------------------------------------------------------------


def _by_approval(config_path: str, peer: str, fingerprint: str | None, as_json: bool) -> None:
    wanted = parse_fingerprint(fingerprint) if fingerprint else None
    deadline = time.monotonic() + APPROVAL_S
    _check_name(_host(peer))
    found = _knock(config_path, _places(peer, load_config(config_path).interconnect.bind), deadline)
    place = found["member"]["address"]
    click.echo(f"This host  {found['fingerprint']}\nThe member {found['member_fingerprint']} at {place}", err=True)
    _compare(found["member_fingerprint"], wanted, ask_for_it=not as_json and sys.stdin.isatty())
    line = _Line()
    while not ask(config_path, "request", **found["member"]):
        line.say(f"waiting for approval; on the member: mqnode cluster approve {found['fingerprint']}")
        if time.monotonic() > deadline:
            raise click.ClickException(
                f"nobody approved this host within {APPROVAL_S // 60} minutes: it is no member. Run this again, and on the member: "
                f"mqnode cluster approve {found['fingerprint']}"
            )
        time.sleep(POLL_S)
    line.end()


def _places(peer: str, bind: str) -> list[str]:
    """Where the member may let hosts join: at the port above that of its interconnect, which is as ours or as in all examples. Who
    names a port means the one or the other."""
    host, colon, port = peer.rpartition(":")
    if colon and port.isdigit() and (not host.count(":") or host.startswith("[")):
        return [peer, f"{host}:{int(port) + 1}"]
    host = f"[{peer}]" if ":" in peer and not peer.startswith("[") else peer
    ports = {int(bind.rpartition(":")[2] or _PORT), _PORT}
    return [f"{host}:{port + 1}" for port in sorted(ports)]


def _knock(config_path: str, places: list[str], deadline: float) -> dict[str, Any]:
    line = _Line()
    while time.monotonic() < deadline:
        for place in places:
            found: dict[str, Any] | None = ask(config_path, "knock", peer=place)
            if found is not None:
                line.end()
                return found
        line.say(f"nobody at {' or '.join(places)} lets hosts ask yet; on the member: mqnode cluster pending")
    raise click.ClickException(
        f"no answer from {' or '.join(places)}: this host is no member. Does mqnode run there, and was `mqnode cluster pending` "
        "run? Otherwise a firewall may be between, for the port and the second one above it."
    )


def _compare(found: str, wanted: str | None, ask_for_it: bool) -> None:
    """Anybody may have answered: the operator knows the member's fingerprint from the member itself."""
    if wanted is None and not ask_for_it:
        raise Unusable(
            "whether this is the member, and nobody between, was not said: nothing was done. Read its fingerprint on the member "
            f"(mqnode cluster pending). If it is {found}, run this again with --fingerprint {found}"
        )
    if wanted is None:
        click.echo(
            "Does `mqnode cluster pending` show these two on the member? If not, somebody stands between.", err=True
        )
        if not click.confirm("They are the same", err=True):
            raise click.ClickException("Nothing was done. Use a token: mqnode cluster token create")
    elif wanted != found:
        raise click.ClickException(
            f"the member's fingerprint should be {wanted}, and who answers has {found}: nothing was done. Is it the right address? "
            "If so, somebody stands between. Look on the member: mqnode cluster pending"
        )


# -- in sync ---------------------------------------------------------------------------------------------------------------------


def _until_in_sync(config_path: str, timeout_s: int) -> None:
    """Both ways with every host that is up, and at least with one."""
    line = _Line()
    deadline = time.monotonic() + timeout_s
    while True:
        status = ask(config_path, "status")
        lacking = _lacking(status) or [status["joining"]] * bool(status["joining"])
        if not lacking:
            line.end()
            return
        line.say(f"member of {status['cluster']}, not in sync yet: " + "; ".join(lacking))
        if time.monotonic() > deadline:
            line.end()
            raise click.ClickException(
                f"this host is a member, but not in sync after {timeout_s} s ({'; '.join(lacking)}). It goes on by itself; look "
                "with: mqnode cluster status. Who is not reached does not run, or a firewall of the two keeps the port"
            )
        time.sleep(POLL_S)


def _lacking(status: dict[str, Any]) -> list[str]:
    own = status["host"]
    links = {(each["from"], each["to"]): each for each in status["links"]}
    others = [node for node in status["nodes"] if not node["this_host"]]
    up = [node["name"] for node in others if node["state"] == "up"]
    if not up:
        return [f"{node['name']} is not reached at {node['address']}" for node in others] or ["no other host"]
    found = []
    for name in up:
        there, here = links.get((name, own)), links[own, name]
        if there is None or not there["in_sync"]:
            found.append(f"from {name} " + (f"{there['lag_commits']} commits to come" if there else "nothing yet"))
        elif not here["in_sync"]:
            found.append(f"to {name} {here['lag_commits']} commits to go")
    return found


class _Line:
    """One line of progress on standard error, written over on a terminal."""

    def __init__(self) -> None:
        self._said, self._said_at = "", 0.0
        self._terminal = sys.stderr.isatty()

    def say(self, text: str) -> None:
        if self._terminal:
            click.echo(f"\r\x1b[K{text}", err=True, nl=False)
        elif text != self._said and time.monotonic() - self._said_at > SAID_EVERY_S:
            click.echo(text, err=True)
            self._said_at = time.monotonic()
        self._said = text

    def end(self) -> None:
        if self._said and self._terminal:
            click.echo("\r\x1b[K", err=True, nl=False)
