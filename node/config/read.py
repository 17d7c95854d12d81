"""A configuration from a TOML file, the cluster and the environment: every value checked, every fault reported at once.

MQNODE_SECTION__KEY sets one key (MQNODE_NODE__WORKERS=4, MQNODE_LISTENERS__0__BIND=0.0.0.0:1883) and wins over what the cluster
has set (node/config/cluster.py), which wins over the file. What the cluster has set and cannot be used here is left out.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec
from msgspec import Struct, structs

from node.config import cluster as cluster_values
from node.config.check import check, host_name
from node.config.describe import describe, shown
from node.config.environment import override
from node.config.errors import ConfigError
from node.config.keys import Config, Node
from node.config.places import Key, Places, dotted


@dataclass(frozen=True)
class Loaded:
    """A configuration, and where each of its values comes from."""

    config: Config
    places: Places
    cluster: frozenset[str] = frozenset()  # keys that the cluster has set
    unusable: tuple[tuple[str, str], ...] = ()  # of these, what is left out, and why


def load(path: str | Path | None, environ: dict[str, str] | None = None) -> Config:
    """The configuration of the file at `path` (None: the defaults), of the cluster and the environment. Raises ConfigError."""
    return read(path, environ).config


def load_copy(path: str | Path) -> Config:
    """That of a running host, of the copy that it has made at its start, whatever the cluster has set since."""
    return read(path, cluster={}).config


def read(
    path: str | Path | None, environ: dict[str, str] | None = None, cluster: Mapping[str, Any] | None = None
) -> Loaded:
    """As `load`, with the origin of each value. `cluster`: what it has set; None: what the keeper has left in data_dir."""
    name = None if path is None else str(path)
    text = "" if name is None else _text(name)
    source = name, text, dict(os.environ) if environ is None else environ
    if cluster is None:
        cluster = cluster_values.load(_data_dir(*source))
    try:
        return _read(*source, cluster)
    except ConfigError as error:
        try:
            _read(*source, {})
        except ConfigError:
            raise error from None
        return _without_unusable(source, cluster)


def _without_unusable(source: tuple[str | None, str, dict[str, str]], cluster: Mapping[str, Any]) -> Loaded:
    usable: dict[str, Any] = {}
    unusable = []
    for key, value in cluster.items():
        try:
            _read(*source, usable | {key: value})
            usable[key] = value
        except ConfigError as error:
            unusable.append((key, str(error)))
    return replace(_read(*source, usable), unusable=tuple(unusable))


def _data_dir(name: str | None, text: str, environ: dict[str, str]) -> str:
    """Whatever else is wrong."""
    document = _document(name, text)
    override(document, environ)
    node = document.get("node")
    found = node.get("data_dir") if isinstance(node, dict) else None
    return found if isinstance(found, str) and "\0" not in found else Node().data_dir


def _document(name: str | None, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, and an integer of thousands of digits
        raise ConfigError(_syntax(f"{name}", str(error))) from None
    except RecursionError:
        raise ConfigError(f"{name}: brackets within brackets without end. Look for one that is not closed.") from None


def _read(name: str | None, text: str, environ: dict[str, str], cluster: Mapping[str, Any]) -> Loaded:
    document = _document(name, text)
    cluster_values.lay(document, cluster)
    variables, faults = override(document, environ)
    places = Places(name, text, variables, frozenset(tuple(key.split(".")) for key in cluster))
    values = _Values()
    config = values.table(Config, document, ())
    found = values.faults
    if isinstance(config, Config) and not found and not faults:
        if not config.node.name:
            config = structs.replace(config, node=structs.replace(config.node, name=host_name()))
        found = list(check(config))
    faults += [f"{places.nearest(key)}: {dotted(key)}: {text}" for key, text in found]
    if faults or not isinstance(config, Config):
        raise ConfigError("\n".join(faults))
    return Loaded(config, places, frozenset(cluster))


def _text(path: str) -> str:
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: not UTF-8 (byte {error.start}). Save the file as UTF-8.") from None
    except (OSError, ValueError) as error:
        cause = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(
            f"{path}: the configuration cannot be read: {cause}. Name another file with --config, "
            "or make one: mqnode init; docs/configuration.md shows every key."
        ) from None


def _syntax(path: str, error: str) -> str:
    found = re.search(r" \(at line (\d+), column (\d+)\)$", error)
    place = f"{path}:{found[1]}" if found else path
    cause = error[: found.start()] if found else error.replace(" (at end of document)", ", and the file ends")
    column = f" at column {found[2]}" if found else ""
    if cause.startswith(("Cannot overwrite", "Cannot declare", "Cannot mutate")):
        cause += ": the same key or table stands there twice"
    return f"{place}: not TOML{column}: {cause}. Correct the line, then: mqnode config check --config {path}"


class _Values:
    """Reads tables into structs and collects what is wrong: [(key, sentence)]."""

    def __init__(self) -> None:
        self.faults: list[tuple[Key, str]] = []

    def table(self, kind: type[Struct], table: Any, key: Key) -> Struct | None:
        """None if there is any fault in it."""
        if not isinstance(table, dict):
            self._fault(key, f"this is a table of keys, not {shown(table)}. Write [{dotted(key)}] above its keys.")
            return None
        before = len(self.faults)
        fields = structs.fields(kind)
        for name in table:
            if name not in kind.__struct_fields__:
                self._fault((*key, name), unknown(name, kind))
        values = {}
        for field in fields:
            if field.name in table:
                values[field.name] = self._value(field.type, table[field.name], (*key, field.name))
            elif field.required:
                self._fault((*key, field.name), f"the key is missing. Write {field.name} = {describe(field.type)}.")
        return kind(**values) if len(self.faults) == before else None

    def _value(self, kind: Any, value: Any, key: Key) -> Any:
        if isinstance(kind, type) and issubclass(kind, Struct):
            return self.table(kind, value, key)
        arguments = get_args(kind)
        if get_origin(kind) is tuple and isinstance(arguments[0], type) and issubclass(arguments[0], Struct):
            if not isinstance(value, list):
                self._fault(key, f"this is a list of tables. Write [[{dotted(key)}]] above the keys of each.")
                return ()
            return tuple(self.table(arguments[0], each, (*key, index)) for index, each in enumerate(value))
        try:
            if _is_wild(value):
                raise msgspec.ValidationError
            return msgspec.convert(value, kind)
        except (msgspec.ValidationError, OverflowError):
            text = " Control characters, infinity and nan are never allowed." if _is_wild(value) else ""
            self._fault(key, f"{shown(value)} is not possible. It takes: {describe(kind)}.{text}")
            return None

    def _fault(self, key: Key, text: str) -> None:
        self.faults.append((key, text))


def _is_wild(value: Any) -> bool:
    """Is there something in it that no key wants: not a number, infinity, a control character?"""
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, str):
        return any(ord(letter) < 32 or letter == "\x7f" for letter in value)
    inner = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    return any(map(_is_wild, inner))


def unknown(name: str, kind: type[Struct]) -> str:
    """What to do about a key that `kind` does not have. The value is not repeated: it might be a secret."""
    return f"unknown key; mqnode does not start with a key that it would ignore. {meant(name, kind)}"


def meant(name: str, kind: type[Struct]) -> str:
    """Which key could it be?"""
    sections = {field.name: field.type for field in structs.fields(Config)}
    home = [section for section, each in sections.items() if name in _names(each) and each is not kind]
    names = kind.__struct_fields__
    close = difflib.get_close_matches(name, names, 1, 0.6) or _longer_or_shorter(name, names)
    if close:
        return f"Did you mean {close[0]}?"
    if home:
        return f"It belongs into {' or '.join(f'[[{each}]]' if each == 'listeners' else f'[{each}]' for each in home)}."
    return f"Known are: {', '.join(names)}."


def _longer_or_shorter(name: str, names: tuple[str, ...]) -> list[str]:
    """acl for acl_file, key_file for key."""
    return [each for each in names if name.startswith(f"{each}_") or (len(name) > 2 and each.startswith(name))]


def _names(section: Any) -> tuple[str, ...]:
    kind = get_args(section)[0] if get_origin(section) is tuple else section
    names: tuple[str, ...] = kind.__struct_fields__
    return names
