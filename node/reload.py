"""What a reload does not do: a key of mqnode.toml has its effect at the next start of the host, so a change is told.

The files that keys name (users, rules, certificates) are read anew; their owners do that.
"""

from __future__ import annotations

import os
from typing import Any

from node.config import Config, ConfigError, load
from node.config.show import changed_keys
from node.process import CONFIG_FILE


def waiting_keys(running: Config) -> list[str]:
    """Those that the operator's file has changed since the start; none if it cannot be used."""
    path = os.environ.get(CONFIG_FILE)
    try:
        return [] if path is None else changed_keys(running, load(path))
    except ConfigError:
        return []


def tell_changes(running: Config, log: Any) -> list[str]:
    """Log a warning for each key that the operator's file has changed since the start. Returns what is wrong with it."""
    path = os.environ.get(CONFIG_FILE)
    if path is None:  # not started by `mqnode start`
        return []
    try:
        edited = load(path)
    except ConfigError as error:
        log.error(
            "config_unusable", cause=str(error), effect="the host goes on as it is, but would not start again",
            next=f"mqnode config check --config {path}",
        )  # fmt: skip
        return str(error).splitlines()
    for key in changed_keys(running, edited):
        log.warning(
            "config_change_waits", key=key, file=path, effect="none before a restart", next="systemctl restart mqnode"
        )
    return []
