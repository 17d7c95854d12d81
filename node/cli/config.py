"""`mqnode config`: is a configuration usable, and what is in force."""

from __future__ import annotations

import sys

import click

from node.cli.options import config_option, json_option


@click.group("config")
def command() -> None:
    """Check a configuration, or show what is in force.

    \b
    Examples:
      mqnode config check
      mqnode config show --origin
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
    """Every key with the value that a start would use now: file, environment variables and defaults together.

    It holds no secrets; these stand in files of their own.

    \b
    Examples:
      mqnode config show > mqnode.toml
      MQNODE_NODE__WORKERS=4 mqnode config show --origin
    """
    import msgspec

    from node.cli.options import Unusable
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
