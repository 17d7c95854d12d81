"""`mqnode users`: the password file. A password comes from a prompt or the standard input, never from an argument."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from node.cli.options import NAME, Unusable, config_option, confirm, json_option, load_config, yes_option
from node.cli.output import printable, printable_lines, show_json, show_table

if TYPE_CHECKING:
    from node.config import Config

_stdin_option = click.option("--password-stdin", is_flag=True, help="Take the first line of the standard input.")


@click.group("users")
def command() -> None:
    """Users in auth.password_file. A running host takes changes over with `mqnode reload`."""


@command.command("list")
@config_option
@json_option
def list_users(config_path: str, as_json: bool) -> None:
    """List the users.

    \b
    Example:
      mqnode users list
    """
    from node.auth import users

    with _errors():
        found = users.list_users(_password_file(load_config(config_path), config_path))
    if as_json:
        show_json([{"user": each.name, "hash": each.hash, "scram": each.scram} for each in found])
    else:
        rows = [(each.name, each.hash, each.scram) for each in found]
        show_table(("USER", "HASH", "SCRAM"), rows, "There are no users.")


@command.command("add")
@click.argument("user", type=NAME)
@_stdin_option
@config_option
@json_option
def add_user(user: str, password_stdin: bool, config_path: str, as_json: bool) -> None:
    """Add a user; the file is made if it is not there.

    \b
    Examples:
      mqnode users add alice
      openssl rand -base64 18 | tee alice.password | mqnode users add alice --password-stdin
    """
    from node.auth import users

    config = load_config(config_path)
    path = _password_file(config, config_path)
    is_new = not path.exists()
    with _errors():
        users.add_user(path, user, _password(password_stdin), config.auth.scram)
        if is_new:
            _give_to_host(path, config)
    _done({"added": user}, f"The user {printable(user)} is added.", as_json)


@command.command("passwd")
@click.argument("user", type=NAME)
@_stdin_option
@config_option
@json_option
def change_password(user: str, password_stdin: bool, config_path: str, as_json: bool) -> None:
    """Give a user a new password.

    \b
    Example:
      mqnode users passwd alice
    """
    from node.auth import users

    with _errors():
        users.change_password(_password_file(load_config(config_path), config_path), user, _password(password_stdin))
    _done({"changed": user}, f"The user {printable(user)} has a new password.", as_json)


@command.command("delete")
@click.argument("user", type=NAME)
@yes_option
@config_option
@json_option
def delete_user(user: str, yes: bool, config_path: str, as_json: bool) -> None:
    """Delete a user. Its sessions stay until they expire.

    \b
    Example:
      mqnode users delete alice
    """
    from node.auth import users

    path = _password_file(load_config(config_path), config_path)
    with _errors():
        users.check_deletable(path, user)
    confirm(f"The user {printable(user)} will be deleted and can no longer log in.", "Delete it?", yes)
    with _errors():
        users.delete_user(path, user)
    _done({"deleted": user}, f"The user {printable(user)} is deleted.", as_json)


def _password_file(config: Config, config_path: str) -> Path:
    if not config.auth.password_file:
        raise Unusable(
            f"{printable(config_path)}: auth.password_file is not set, so there are no users and no place for them. "
            'Write, for example, under [auth]: password_file = "/etc/mqnode/users"; '
            "add the first user; then restart the host."
        )
    return Path(config.auth.password_file)


def _password(from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    try:
        if sys.stdin.isatty():  # else it would be shown as it is typed
            password: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
            return password
    except click.Abort:
        click.echo(err=True)
    raise Unusable("No password was given: nothing was changed. Programs give it with --password-stdin.")


def _give_to_host(path: Path, config: Config) -> None:
    """Root made the file, but the host must be able to read it."""
    data_dir = Path(config.node.data_dir)
    if os.geteuid() == 0 and data_dir.exists():
        owner = data_dir.stat()
        os.chown(path, owner.st_uid, owner.st_gid)


@contextmanager
def _errors() -> Iterator[None]:
    from node.auth.users import UserError
    from node.config import ConfigError

    try:
        yield
    except (UserError, ConfigError) as error:
        raise click.ClickException(printable_lines(str(error))) from error
    except OSError as error:
        raise click.ClickException(
            f"{error.filename}: {error.strerror}: nothing was changed. Run the command as the owner of the file."
        ) from error


def _done(answer: dict[str, str], text: str, as_json: bool) -> None:
    if as_json:
        show_json(answer)
    else:
        click.echo(f"{text} A running host takes it over with: mqnode reload")
