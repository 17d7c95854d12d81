"""A configuration written out again: as TOML with the origin of each value, as plain data, and compared with another.

There is nothing to hide in it: secrets stand in files (keys.py), and only the paths of these are shown.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Struct

from node.config.keys import Config
from node.config.places import Key, dotted

Origin = Callable[[Key], str]


def values(config: Config) -> dict[Key, Any]:
    """Each key and its value; None: not set."""
    found: dict[Key, Any] = {}
    for section in config.__struct_fields__:
        value = getattr(config, section)
        tables = [((section,), value)] if isinstance(value, Struct) else _numbered(section, value)
        for key, table in tables:
            found |= _table(key, table)
    return found


def _table(key: Key, table: Struct) -> dict[Key, Any]:
    found: dict[Key, Any] = {}
    for name in table.__struct_fields__:
        value = getattr(table, name)
        found |= _table((*key, name), value) if isinstance(value, Struct) else {(*key, name): value}
    return found


def _numbered(section: str, tables: tuple[Struct, ...]) -> list[tuple[Key, Struct]]:
    return [((section, index), table) for index, table in enumerate(tables)]


def to_toml(config: Config, origin: Origin | None = None) -> str:
    """Every key, in the order of keys.py; what is not set stands there as a comment."""
    lines: list[str] = []
    table: Key = ()
    for key, value in values(config).items():
        if key[:-1] != table:
            table = key[:-1]
            lines += ["", f"[[{table[0]}]]" if isinstance(table[-1], int) else f"[{dotted(table)}]"]
        line = f"# {key[-1]} is not set" if value is None else f"{key[-1]} = {in_toml(value)}"
        lines.append(f"{line:<46} # {origin(key)}" if origin else line)
    return "\n".join(lines[1:]) + "\n"


def in_toml(value: Any) -> str:
    """JSON's texts, numbers, booleans and lists are TOML's, too."""
    if isinstance(value, dict):
        inner = ", ".join(f"{in_toml(name)} = {in_toml(each)}" for name, each in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, tuple):
        return f"[{', '.join(map(in_toml, value))}]"
    return msgspec.json.encode(value).decode()


def changed_keys(before: Config, now: Config) -> list[str]:
    """The keys whose values differ, as the operator writes them."""
    if len(before.listeners) != len(now.listeners):
        return ["listeners", *changed_keys(before, msgspec.structs.replace(now, listeners=before.listeners))]
    new = values(now)
    return [dotted(key) for key, value in values(before).items() if value != new[key]]
