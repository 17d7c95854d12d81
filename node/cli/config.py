"""`mqnode config`: is a configuration usable, and what is in force."""

from __future__ import annotations

import sys

import click

from node.cli.options import NAME, Unusable, config_option, json_option


@click.group("config")
def command() -> None:
    """Check a configuration, show what is in force, or set a key for all hosts.

    \b
    Examples:
      mqnode config check
      mqnode config show --origin
      mqnode config set limits.max_queued_messages 50000 --all
    """


@command.command("check")
@config_option
@json_option
def check(config_path: str, as_json: bool) -> None:
    """Would the broker start with this configuration? All that is wrong, and what is risky.

    The very checks of `mqnode start`, environment variables included: keys, files, users, rules, certificates.
    Run by root, it also warns of files that the user of the service, the owner of data_dir, cannot read.

    \b
    Example:
      mqnode config check --config /etc/mqnode/mqnode.toml && systemctl restart mqnode
    """
    from node.cli.output import printable, show_json
    from node.config import ConfigError
    from node.preflight import preflight
    from node.service_user import unreadable

    errors: list[str] = []
    warnings: list[str] = []
    try:
        loaded, warnings = preflight(config_path)
        warnings += unreadable(config_path, loaded.config)
    except ConfigError as error:
        errors = str(error).splitlines()
    if as_json:
        show_json({"usable": not errors, "errors": errors, "warnings": warnings})
    else:
        for kind, texts in (("error", errors), ("warning", warnings)):
            for text in texts:
                click.echo(f"{kind}: {printable(text)}", err=True)
        if not errors:
            click.echo(f"{printable(config_path)}: usable")
    sys.exit(1 if errors else 0)


@command.command("show")
@config_option
@json_option
@click.option("--origin", "with_origin", is_flag=True, help="Also tell where each value comes from.")
def show(config_path: str, as_json: bool, with_origin: bool) -> None:
    """Every key with the value that a start would use now: file, cluster, environment variables and defaults together.

    It holds no secrets; these stand in files of their own.

    \b
    Examples:
      mqnode config show > mqnode.toml
      MQNODE_NODE__WORKERS=4 mqnode config show --origin
    """
    import msgspec

    from node.cli.output import printable, show_json
    from node.config import ConfigError, read
    from node.config.places import Key, dotted
    from node.config.show import to_toml, values

    try:
        loaded = read(config_path)
    except ConfigError as error:
        raise Unusable("\n".join(map(printable, str(error).splitlines()))) from error

    def origin(key: Key) -> str:
        return loaded.places.origin(key) or "default"

    if not as_json:
        click.echo(to_toml(loaded.config, origin if with_origin else None), nl=False)
    elif with_origin:
        found = values(loaded.config).items()
        show_json({dotted(key): {"value": value, "origin": origin(key)} for key, value in found})
    else:
        show_json(msgspec.to_builtins(loaded.config))


_all_option = click.option("--all", "for_all", is_flag=True, help="On all hosts of the cluster.")


@command.command("set")
@click.argument("key", type=NAME)
@click.argument("value", type=NAME)
@_all_option
@config_option
@json_option
def set_value(key: str, value: str, for_all: bool, config_path: str, as_json: bool) -> None:
    """Set KEY to VALUE on all hosts, from their next start on. It wins over their files; environment variables win over it.

    It is checked before, and kept in the store: a host that is down gets it when it is back.

    \b
    Examples:
      mqnode config set limits.max_queued_messages 50000 --all
      mqnode config set cluster.allow_during_split '["connect", "publish"]' --all
    """
    _set(key, value, for_all, config_path, as_json)


@command.command("unset")
@click.argument("key", type=NAME)
@_all_option
@config_option
@json_option
def unset_value(key: str, for_all: bool, config_path: str, as_json: bool) -> None:
    """Let each host have its own value of KEY again, from its next start on.

    \b
    Example:
      mqnode config unset limits.max_queued_messages --all
    """
    _set(key, None, for_all, config_path, as_json)


def _set(key: str, text: str | None, for_all: bool, config_path: str, as_json: bool) -> None:
    import getpass
    import os

    from node.cli.api import Api
    from node.cli.output import printable, show_json
    from node.config.show import in_toml

    if not for_all:
        raise Unusable(
            f"Nothing was changed: keys of this host alone stand in {printable(config_path)}. Edit that, then: mqnode config check "
            "&& systemctl restart mqnode. To set it on all hosts add --all."
        )
    with Api(config_path) as api:
        by = os.environ.get("SUDO_USER") or getpass.getuser()
        answer = api.post("v1", "config", content={"key": key, "text": text, "by": by})
    if as_json:
        show_json(answer)
        return
    before, after = (in_toml(each) if each is not None else "not set" for each in (answer["before"], answer["after"]))
    click.echo(f"{key} was {before} on this host, and will be {after}.")
    if answer["overridden_here_by"]:
        click.echo(f"On this host {printable(answer['overridden_here_by'])} wins over what is set for all.")
    for warning in answer["warnings"]:
        click.echo(f"warning: {printable(warning)}", err=True)
    click.echo(f"Without effect before a restart of each host: {key}")
