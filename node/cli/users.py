"""`mqnode users`: in the password file, or in the store of all hosts. A password comes from a prompt or the standard input, never
from an argument."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from node.cli.options import NAME, Unusable, config_option, confirm, json_option, load_config, yes_option
from node.cli.output import printable, printable_lines, show_json, show_table

if TYPE_CHECKING:
    from node.auth.passwords import Password

_stdin_option = click.option("--password-stdin", is_flag=True, help="Take the first line of the standard input.")
_generate_option = click.option("--generate", is_flag=True, help="Make a random one, and print it: for devices.")


@click.group("users")
def command() -> None:
    """Users: in the file auth.password_file or, if that is "cluster", the same on all hosts.

    A running host takes changes of a file over with `mqnode reload`; those of the cluster hold at once.
    """


@command.command("list")
@config_option
@json_option
def list_users(config_path: str, as_json: bool) -> None:
    """List the users.

    \b
    Example:
      mqnode users list
    """
    from node.cli.user_places import place

    with _errors():
        found = place(config_path).all()
    if as_json:
        show_json([{"user": each.name, "hash": each.hash, "scram": each.scram} for each in found])
    else:
        rows = [(each.name, each.hash, each.scram) for each in found]
        show_table(("USER", "HASH", "SCRAM"), rows, "There are no users.")


@command.command("add")
@click.argument("user", type=NAME)
@_stdin_option
@_generate_option
@config_option
@json_option
def add_user(user: str, password_stdin: bool, generate: bool, config_path: str, as_json: bool) -> None:
    """Add a user; the file is made if it is not there.

    \b
    Examples:
      mqnode users add alice
      mqnode users add sensor1 --generate
    """
    from node.cli.user_places import place

    users, password = place(config_path), _password(password_stdin, generate)
    with _errors():
        users.add(user, password)
    _done({"added": user}, f"The user {printable(user)} is added. {users.last_words}", as_json, password)


@command.command("passwd")
@click.argument("user", type=NAME)
@_stdin_option
@_generate_option
@config_option
@json_option
def change_password(user: str, password_stdin: bool, generate: bool, config_path: str, as_json: bool) -> None:
    """Give a user a new password.

    \b
    Example:
      mqnode users passwd alice
    """
    from node.cli.user_places import place

    users, password = place(config_path), _password(password_stdin, generate)
    with _errors():
        users.change_password(user, password)
    _done({"changed": user}, f"The user {printable(user)} has a new password. {users.last_words}", as_json, password)


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
    from node.cli.user_places import place

    users = place(config_path)
    with _errors():
        users.check_deletable(user)
    confirm(f"The user {printable(user)} will be deleted and can no longer log in.", "Delete it?", yes)
    with _errors():
        users.delete(user)
    _done({"deleted": user}, f"The user {printable(user)} is deleted. {users.last_words}", as_json)


@command.command("import")
@click.argument("file", type=click.Path())
@click.option("--replace", is_flag=True, help="Give users that are there already what FILE says.")
@config_option
@json_option
def import_users(file: str, replace: bool, config_path: str, as_json: bool) -> None:
    """Put the users of a password file, ours or mosquitto's, into the store of all hosts: all of them or none.

    It works before auth.password_file is "cluster", too: import, then change that on each host, and restart it.

    \b
    Example:
      mqnode users import /etc/mqnode/users
    """
    from node.auth import passwords
    from node.auth.files import read_lines
    from node.cli.user_places import InCluster

    users = InCluster(config_path, load_config(config_path))
    with _errors():
        passwords.load(file)
        lines = [line for line in read_lines(file, "") if not passwords.is_comment(line)]
        count = users.put(lines, None if replace else True, "To give them what FILE says: --replace")
    _done(
        {"imported": count}, f"{count} {'user is' if count == 1 else 'users are'} imported. {users.last_words}", as_json
    )


def _password(from_stdin: bool, random: bool) -> Password:
    from node.auth.passwords import Password, generate

    if from_stdin and random:
        raise Unusable("A password is given or generated: take --password-stdin or --generate. Nothing was changed.")
    if random:
        return generate()
    if from_stdin:
        return Password(sys.stdin.readline().rstrip("\r\n"))
    try:
        if sys.stdin.isatty():  # else it would be shown as it is typed
            return Password(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
    except click.Abort:
        click.echo(err=True)
    raise Unusable(
        "No password was given: nothing was changed. Programs give it with --password-stdin, or "
        "have it made with --generate."
    )


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


def _done(answer: dict[str, Any], text: str, as_json: bool, password: Password | None = None) -> None:
    """With the password, if nobody knows it yet."""
    made = {"password": password.text} if password is not None and password.is_random else {}
    if as_json:
        show_json(answer | made)
        return
    click.echo(text)
    for each in made.values():
        click.echo(f"Its password, which is shown only now: {each}")
