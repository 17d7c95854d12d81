"""`mqnode init`: a host's first configuration and identity, and what to do next. Running it again changes nothing."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.cli.options import Unusable, config_option, json_option, load_config

if TYPE_CHECKING:
    from node.config import Config

TEMPLATE = """\
# Configuration of this mqnode host, as `mqnode init` made it. Every key, with its default: docs/configuration.md.
# After a change: mqnode config check, then a restart.

[node]
name = "{name}"          # in logs, metrics and the cluster, where no other host may have it
data_dir = "{data_dir}"

# Clients connect here. 127.0.0.1: only those of this machine; "0.0.0.0:1883" is every address of it, and then users are
# needed: auth.password_file, mqnode users add.
[[listeners]]
type = "tcp"             # tcp, tls, ws, wss, unix
bind = "127.0.0.1:1883"

# An address at which the other hosts of the cluster reach this one, on a network of their own if there is one.
# The four ports above this one are used, too: docs/operating.md, "Ports".
[interconnect]
{interconnect}

# The command line, GET /live, /ready and /metrics.
[admin]
bind = "127.0.0.1:8081"
"""


@click.command("init")
@config_option
@json_option
@click.option(
    "--name", default="", metavar="NAME", help="Of this host, in a new configuration. [default: the machine's]"
)
@click.option("--data-dir", default="/var/lib/mqnode", show_default=True, metavar="DIR", help="In a new configuration.")
@click.option("--interconnect", default="", metavar="ADDRESS:PORT", help="For other hosts, in a new configuration.")
def command(config_path: str, as_json: bool, name: str, data_dir: str, interconnect: str) -> None:
    """Prepare this host: a commented configuration if there is none, an identity, and what to do next.

    On a host that runs it also prints the line with which the next one joins.

    \b
    Examples:
      mqnode init --name n1 --interconnect 10.9.0.1:7001
      mqnode init
    """
    from node.cli.output import show_json

    made = _write(Path(config_path), name, data_dir, interconnect)
    try:
        config = load_config(config_path)
    except Unusable:
        if made:  # the mistake is in an option: the corrected command must not find it again
            Path(config_path).unlink()
        raise
    answer = {"config": config_path, "config_made": made} | _describe(config_path, config)
    if as_json:
        show_json(answer)
    else:
        _show(answer)


def _write(path: Path, name: str, data_dir: str, interconnect: str) -> bool:
    """True: there was none."""
    from node.config.check import host_name

    line = f'bind = "{interconnect}"' if interconnect else '# bind = "10.9.0.1:7001"'
    text = TEMPLATE.format(name=name or host_name(), data_dir=os.path.abspath(data_dir), interconnect=line)
    if path.exists():
        return False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise click.ClickException(
            f"{path}: cannot be written ({error.strerror}): nothing was made. Run this as a user who may, or name another file "
            "with --config."
        ) from error
    return True


def _describe(config_path: str, config: Config) -> dict[str, Any]:
    from mesh.identity import FILE_NAME, IdentityError, fingerprint, load_or_create

    data = Path(config.node.data_dir)
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        identity = load_or_create(data / FILE_NAME)
        owner = data.stat()
        os.chown(data / FILE_NAME, owner.st_uid, owner.st_gid)  # the service's user, if root runs this
    except (OSError, IdentityError) as error:
        raise click.ClickException(
            f"this host has no identity: {error}. Run this as the user of the service, for example `sudo -u mqnode mqnode init`."
        ) from error
    runs = _runs(config_path)
    join, following = _next(config_path, config, runs)
    return {
        "node": config.node.name,
        "node_id": identity.node_id.hex(),
        "fingerprint": fingerprint(identity.public_key),
        "running": runs,
        "listeners": [f"{each.type} {each.bind}" for each in config.listeners],
        "admin": f"http://{config.admin.bind}",
        "try": _first_messages(config),
        "join": join,
        "next": following,
    }


def _runs(config_path: str) -> bool:
    from node.cli.api import Api

    with Api(config_path) as api:
        try:
            return api.is_ours()
        except click.ClickException:
            return False


def _next(config_path: str, config: Config, runs: bool) -> tuple[str | None, str | None]:
    """The line for the next host, or what is to be done before there can be one."""
    from node.cli.interconnect import ask

    given = f"--config {shlex.quote(config_path)}"
    if not runs:
        return (
            None,
            f"start it: systemctl start mqnode, or mqnode start {given}. Then for the next host: mqnode init {given}",
        )
    if not config.interconnect.bind:
        return None, (
            f'for a second host: in {config_path}, [interconnect], set bind to "ADDRESS:7001" and restart; '
            f"then: mqnode init {given}"
        )
    try:
        answer = ask(config_path, "token", ttl_s=3600)
    except click.ClickException as error:  # it has left its cluster
        return None, error.message
    return f"mqnode join --peer {answer['address']} --token {answer['token']}", None


def _first_messages(config: Config) -> list[str]:
    """Two lines for two terminals, if a listener takes stock clients as they are."""
    from node.config import split_bind

    found = next((each for each in config.listeners if each.type == "tcp" and each.proxy_protocol == "off"), None)
    if found is None:
        return []
    host, port = split_bind(found.bind)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    anonymous = config.auth.allow_anonymous if found.allow_anonymous is None else found.allow_anonymous
    needs_user = not anonymous and (anonymous is False or bool(config.auth.password_file))
    where = f"-h {host} -p {port}" + (" -u USER -P PASSWORD" if needs_user else "")
    return [f"mosquitto_sub {where} -t 'greetings/#' -v", f"mosquitto_pub {where} -t greetings/world -m hello -q 1"]


def _show(answer: dict[str, Any]) -> None:
    from node.cli.output import printable, show_fields

    made = "made" if answer["config_made"] else "kept as it is"
    show_fields([
        ("configuration", f"{answer['config']} ({made})"),
        ("host", f"{answer['node']}, {'runs' if answer['running'] else 'does not run'}"),
        ("fingerprint", answer["fingerprint"]),
        ("listeners", ", ".join(answer["listeners"])),
        ("admin", answer["admin"]),
    ])  # fmt: skip
    if answer["try"]:
        click.echo("\nFirst messages, in two terminals:")
    for line in answer["try"]:
        click.echo(f"  {printable(line)}")
    if answer["join"]:
        click.echo("\nOn the next host, within an hour, with a node.name and an [interconnect] bind of its own:")
        click.echo(f"  {answer['join']}")
    else:
        click.echo(f"\nNext, {printable(answer['next'])}")
