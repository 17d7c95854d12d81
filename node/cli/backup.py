"""`mqnode backup`: copies of the store of this host. They hold sessions, queues, retained messages and wills, not the files
of users, rules and keys."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from node.cli.options import config_option, json_option, load_config
from node.cli.output import show_json

_FILE = click.argument("file", type=click.Path(path_type=Path))


@click.group("backup")
def command() -> None:
    """Make, check and bring back copies of this host's store."""


@command.command("create")
@_FILE
@config_option
@json_option
def create(file: Path, config_path: str, as_json: bool) -> None:
    """Copy the store to FILE while the host runs (or stands still), then verify the copy.

    \b
    Example:
      mqnode backup create /backup/mqnode-$(date +%F).mdb
    """
    from storage import backup, verify

    def run() -> dict[str, Any]:
        size = backup.create(_store(config_path), file)
        return {"file": str(file), "bytes": size, "records": verify.verify(file)}

    _tell(run, "{file}: {bytes} bytes; verified: ", as_json)


@command.command("verify")
@_FILE
@json_option
def verify(file: Path, as_json: bool) -> None:
    """Read every record of the backup FILE and check it.

    \b
    Example:
      mqnode backup verify /backup/mqnode-2026-11-21.mdb
    """
    from storage.verify import verify

    _tell(lambda: {"file": str(file), "records": verify(file)}, "{file}: whole: ", as_json)


@command.command("restore")
@_FILE
@click.option("--force", is_flag=True, help="Move a store that is there aside; it is kept.")
@config_option
@json_option
def restore(file: Path, force: bool, config_path: str, as_json: bool) -> None:
    """Make the backup FILE this host's store. mqnode must not run.

    Clients get what their sessions held when the backup was made: what was delivered since comes again, unless another host of
    the cluster knows better.

    \b
    Example:
      systemctl stop mqnode
      mqnode backup restore --force /backup/mqnode-2026-11-21.mdb
      systemctl start mqnode
    """
    from storage import backup

    def run() -> dict[str, Any]:
        aside = backup.restore(file, _store(config_path), force, int(time.time()))
        return {"file": str(file), "moved_aside": None if aside is None else str(aside)}

    _tell(run, "{file}: restored; the store that was there: {moved_aside}", as_json)


def _store(config_path: str) -> Path:
    from storage.layout import store_path

    return store_path(load_config(config_path).node.data_dir)


def _tell(run: Callable[[], dict[str, Any]], text: str, as_json: bool) -> None:
    """Run it and print what it returns, `text` with its values for people."""
    from storage.layout import StoreError

    try:
        result = run()
    except StoreError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        show_json(result)
    else:
        records = result.get("records", {})
        click.echo(text.format(**result) + ", ".join(f"{count} {name}" for name, count in records.items()))
