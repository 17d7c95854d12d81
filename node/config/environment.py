"""MQNODE_SECTION__KEY variables, laid over the document of the file before anything is checked."""

from __future__ import annotations

import difflib
import tomllib
from typing import Any, get_args, get_origin

import msgspec
from msgspec import Struct, structs

from node.config.keys import Config
from node.config.places import Key

PREFIX = "MQNODE_"


class _Unknown(Exception):
    """No key has that name; the text is a sentence that helps."""


def override(document: dict[str, Any], environ: dict[str, str]) -> tuple[dict[Key, str], list[str]]:
    """Set in `document` what the variables say. The variable of each key set, and the faults."""
    variables: dict[Key, str] = {}
    faults = []
    wanted: list[tuple[Key, Any, str]] = []
    for name in environ:
        if name.startswith(PREFIX) and "__" in name:
            try:
                key, kind = _key(name)
                wanted.append((key, kind, name))
            except _Unknown as error:
                faults.append(f"{name}: environment variable: {error}")
    for key, kind, name in sorted(wanted, key=lambda each: each[0][:-1]):  # listeners by their number
        try:
            _set(document, key, value_of(environ[name], kind))
            variables[key] = name
        except _Unknown as error:
            faults.append(f"{name}: environment variable: {error}")
    return variables, faults


def _key(name: str) -> tuple[Key, Any]:
    """The key that `name` sets, and its type. Raises _Unknown."""
    parts = name.removeprefix(PREFIX).lower().split("__")
    key: Key = ()
    kind: Any = Config
    for part in parts:
        if get_origin(kind) is tuple and _is_struct(get_args(kind)[0]):
            if not (part.isascii() and part.isdigit()):
                raise _Unknown(f"{part.upper()} is not the number of a listener. Write 0 for the first.")
            key, kind = (*key, int(part)), get_args(kind)[0]
            continue
        names = kind.__struct_fields__ if _is_struct(kind) else ()
        if part not in names:
            raise _Unknown(f"there is no such key. {_similar(part, key, names)}")
        key = (*key, part)
        kind = next(field.type for field in structs.fields(kind) if field.name == part)
    if _is_struct(kind) or _is_struct(next(iter(get_args(kind)), None)):
        raise _Unknown("it names a table. A variable sets one key, such as MQNODE_NODE__WORKERS.")
    return key, kind


def _similar(part: str, key: Key, names: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(part, names, 1, 0.6)
    if not close:
        return f"Unset it; `mqnode config show` lists the keys{f' of {key[0]}' if key else ''}."
    return f"Did you mean {PREFIX}{'__'.join(str(each).upper() for each in (*key, close[0]))}?"


def _is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Struct)


def _set(document: Any, key: Key, value: Any) -> None:
    """Raises _Unknown for a listener that does not follow those there are. Where the file is no table, it is told later."""
    if key[0] == "listeners":
        first = [{"type": each.type, "bind": each.bind} for each in Config().listeners]  # those of a file without any
        listeners = document.setdefault("listeners", first)
        if not isinstance(listeners, list):
            return
        if int(key[1]) > len(listeners):
            raise _Unknown(f"there are {len(listeners)} listeners; the next is MQNODE_LISTENERS__{len(listeners)}__….")
        if int(key[1]) == len(listeners):
            listeners.append({})
        table = listeners[int(key[1])]
    else:
        table = document
        for part in key[:-1]:
            table = table.setdefault(part, {}) if isinstance(table, dict) else None
    if isinstance(table, dict):
        table[key[-1]] = value


def value_of(text: str, kind: Any) -> Any:
    """`text` as a TOML value; what is none, or names a text, is taken as it stands."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    if parsed.keys() != {"value"}:
        return text
    try:
        msgspec.convert(parsed["value"], kind)
    except msgspec.ValidationError:
        try:
            return msgspec.convert(text, kind)
        except msgspec.ValidationError:
            pass
    return parsed["value"]
