"""What all commands share: --config, --json, --yes, names as arguments, and the refusal to go on without a usable configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from node.cli.output import printable, printable_lines

if TYPE_CHECKING:
    from node.config import Config

DEFAULT_CONFIG = "/etc/mqnode/mqnode.toml"
Command = TypeVar("Command", bound=Callable[..., Any])


def config_option(command: Command) -> Command:
    return click.option(
        "--config", "config_path", default=DEFAULT_CONFIG, envvar="MQNODE_CONFIG", metavar="FILE",
        show_default=True, show_envvar=True, help="Configuration of the host.",
    )(command)  # fmt: skip


def json_option(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="Answer in JSON, for programs.")(command)


def yes_option(command: Command) -> Command:
    return click.option("--yes", is_flag=True, help="Do it without asking.")(command)


def list_options(command: Command) -> Command:
    option = click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most N of them.")
    return json_option(config_option(option(command)))


class _Name(click.ParamType):
    """A client id, topic, filter or user: any text that MQTT can carry."""

    name = "name"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        try:
            text.encode()
        except UnicodeEncodeError:
            self.fail(f"{printable(text)} is not UTF-8, but all names in MQTT are.", param, ctx)
        return text


NAME = _Name()


class Unusable(click.ClickException):
    """The command cannot be carried out as it was given: neither yes nor no."""

    exit_code = 2


def load_config(path: str) -> Config:
    """Raises Unusable: a check must not say `no` because of a wrong path."""
    from node.config import ConfigError, load

    try:
        return load(path)
    except ConfigError as error:
        raise Unusable(
            f"{printable_lines(str(error))}\nWithout a configuration that can be used this host cannot be found: nothing was done. "
            "Correct it, or name another file with --config FILE or in MQNODE_CONFIG; then look with: mqnode config check"
        ) from error


def confirm(loss: str, question: str, yes: bool) -> None:
    """Say what will be lost, and go on only if that is wanted. Exits with 1 if not."""
    if yes:
        return
    click.echo(loss, err=True)
    try:
        wanted = click.confirm(question, err=True)
    except click.Abort:
        click.echo(err=True)
        raise Unusable("Nobody answered: nothing was done. To do it without being asked, add --yes.") from None
    if not wanted:
        raise click.ClickException("Nothing was done.")
