"""The `mqnode` command. Each command lives in a module of its own, imported only when it is called: a call must stay quick."""

from __future__ import annotations

import difflib
import re
import sys
from importlib import import_module
from io import TextIOWrapper

import click

from node import __version__

# name -> module of node.cli that defines it, as `command` or the name behind the colon; in the order of --help
_COMMANDS = {
    "init": "init",
    "start": "start",
    "check": "check",
    "status": "status",
    "clients": "clients",
    "sessions": "sessions",
    "retained": "retained",
    "topics": "topics",
    "cluster": "cluster",
    "join": "join",
    "leave": "leave",
    "keys": "keys",
    "users": "users",
    "acl": "acl",
    "config": "config",
    "reload": "reload",
    "backup": "backup",
    "bench": "bench",
    "completion": "completion",
}


class _Lazy(click.Group):
    def list_commands(self, context: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[name].partition(":")
        command: click.Command = getattr(import_module(f"node.cli.{module}"), attribute or "command")
        return command

    def invoke(self, context: click.Context) -> object:
        try:
            return super().invoke(context)
        except click.UsageError as error:
            error.message += _meant(error)
            raise


def _meant(error: click.UsageError) -> str:
    """Which command was, in the group that does not have it, or above."""
    found = re.fullmatch("No such command '(.*)'.", error.message)
    if found is None or error.ctx is None or not isinstance(error.ctx.command, click.Group):
        return ""
    close = difflib.get_close_matches(found[1], error.ctx.command.list_commands(error.ctx), 1, 0.6)
    if close:
        return f" Did you mean: {error.ctx.command_path} {close[0]}?"
    return f" Did you mean: mqnode {found[1]}?" if found[1] in _COMMANDS else ""


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="mqnode")
def main() -> None:
    """A highly available MQTT broker.

    \b
    Exit codes: 0 yes or done, 1 no or not found, 2 not understood.
    """
    if isinstance(sys.stdout, TextIOWrapper):  # a terminal that knows not all characters still gets an answer
        sys.stdout.reconfigure(errors="backslashreplace")
