"""Asks the interconnect process of this host."""

from __future__ import annotations

from typing import Any

import click

from node.cli.options import load_config

NO_MEMBER = "This host is no member of its cluster any more, and serves nobody. To be one again: mqnode join"


def ask(config_path: str, method: str, timeout_s: float = 20.0, **arguments: Any) -> Any:
    """The answer of this host's interconnect process."""
    from node.admin.link import LinkError
    from node.admin.link import ask as ask_link
    from node.config import run_dir

    config = load_config(config_path)
    if not config.interconnect.bind:
        raise click.ClickException(
            "this host is alone: it has no interconnect, so there is no cluster to ask. In its configuration, write\n"
            '  [interconnect]\n  bind = "ADDRESS:7001"\nand restart it.'
        )
    try:
        return ask_link(run_dir(config) / "interconnect.sock", method, arguments, timeout_s)
    except LinkError as error:
        text = str(error)
        if text.startswith("interconnect: "):  # it refused
            raise click.ClickException(text.removeprefix("interconnect: ")) from error
        raise click.ClickException(
            f"The {text}. Is the host running, and is this the user of its service (sudo -u mqnode mqnode …)? Look with: "
            "mqnode status"
        ) from error
