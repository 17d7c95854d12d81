"""Whether a key can be set for all hosts at once, and what a text means as its value. Errors say why not, and what to do."""

from __future__ import annotations

from typing import Any

from msgspec import Struct, structs

from node.config.cluster import is_own
from node.config.environment import value_of
from node.config.errors import ConfigError
from node.config.keys import Config
from node.config.places import Key
from node.config.read import meant


def key_of(name: str) -> Key:
    """Raises ConfigError if there is no such key."""
    return _find(name)[0]


def parse(name: str, text: str) -> Any:
    """As in an environment variable: TOML where that fits the key, else as it stands. Raises ConfigError."""
    _, kind = _find(name)
    value = value_of(text, kind)
    if is_own(name, value):
        raise ConfigError(
            f"{name}: each host has its own, so it cannot be set for all: nothing was changed. "
            "Write it into the configuration of the host, and restart that one."
        )
    return value


def _find(name: str) -> tuple[Key, Any]:
    kind: Any = Config
    if name.startswith("listeners"):
        return ("listeners",), str
    for part in name.split("."):
        if not _is_struct(kind):
            raise ConfigError(f"{name}: there is no table of that name: nothing was changed.")
        fields = {field.name: field.type for field in structs.fields(kind)}
        if part not in fields:
            raise ConfigError(f"{name}: there is no such key: nothing was changed. {meant(part, kind)}")
        kind = fields[part]
    if _is_struct(kind):
        raise ConfigError(f"{name}: this is a table of keys, not a key: nothing was changed. Name one of its keys.")
    return tuple(name.split(".")), kind


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct)
