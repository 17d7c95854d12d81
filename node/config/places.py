"""Where each value of a configuration comes from: a line of the file, an environment variable, or our default.

The lines are only asked for when something is wrong or shown, so they are found then, by reading statement after
statement of a document that is known to be TOML.
"""

from __future__ import annotations

import re
import tomllib
from functools import cached_property
from typing import Any

_BARE = re.compile(r"[A-Za-z0-9_-]+")
Key = tuple[str | int, ...]  # ("listeners", 0, "bind")


def dotted(key: Key) -> str:
    """As the operator writes it: listeners[0].bind."""
    parts = [
        f"[{part}]" if isinstance(part, int) else f".{part}" if _BARE.fullmatch(part) else f".{part!r}" for part in key
    ]
    return "".join(parts).removeprefix(".")


class Places:
    """`variables`: the keys that come from the environment, and the name of their variable. `cluster`: those that it has set."""

    def __init__(
        self, path: str | None, text: str, variables: dict[Key, str], cluster: frozenset[Key] = frozenset()
    ) -> None:
        self._path = path
        self._text = text
        self._variables = variables
        self._cluster = cluster

    def origin(self, key: Key) -> str | None:
        """FILE:LINE, `cluster` or the variable that sets `key`; None: it has its default."""
        if key in self._variables:
            return self._variables[key]
        if key in self._cluster:
            return "cluster"
        return f"{self._path}:{self._lines[key]}" if key in self._lines else None

    def nearest(self, key: Key) -> str:
        """What an error about `key` points to: its origin, or that of the table in which it is missing."""
        for length in range(len(key), 0, -1):
            if origin := self.origin(key[:length]):
                return origin
        return self._path or "the defaults"

    @cached_property
    def _lines(self) -> dict[Key, int]:
        return key_lines(self._text)


def key_lines(text: str) -> dict[Key, int]:
    """The line of each key and table of a TOML document."""
    found: dict[Key, int] = {}
    tables: dict[Key, int] = {}  # path of an array of tables -> index of its last one
    table: Key = ()
    lines = text.replace("\r\n", "\n").split("\n")
    at = 0
    while at < len(lines):
        start = at
        at += 1
        if lines[start].strip().startswith("["):
            table = _header(tomllib.loads(lines[start]), tables)
            found.setdefault(table, start + 1)
            continue
        while (statement := _parse("\n".join(lines[start:at]))) is None and at < len(lines):
            at += 1
        for key in _keys(statement or {}):
            found.setdefault(table + key, start + 1)
    found.pop((), None)
    return found


def _header(header: Any, tables: dict[Key, int]) -> Key:
    """The path that `[a.b]` or `[[a.b]]` opens."""
    path: Key = ()
    while isinstance(header, dict) and header:
        ((name, header),) = header.items()
        path = (*path, name)
        if isinstance(header, list):
            tables[path] = tables.get(path, -1) + 1
            header = header[0]
        if path in tables:
            path = (*path, tables[path])
    return path


def _parse(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _keys(value: Any, path: Key = ()) -> list[Key]:
    """The path of `value` and of all that is in it."""
    inner: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(key for part, each in inner for key in _keys(each, (*path, part)))]
