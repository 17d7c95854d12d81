"""Keys that the cluster has set for all its hosts: the file in data_dir in which the keeper leaves them for the next start, as the
configuration is read before the store is open."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from node.config.keys import CLUSTER

_OWN = ("node", "listeners", "interconnect", "discovery", "admin")


def is_own(name: str, value: Any = None) -> bool:
    """Does each host have its own value of this key, as of addresses, of its place in the cluster, and of paths?"""
    return re.split(r"[.\[]", name)[0] in _OWN or name == "cluster.name" or (
        name.endswith("_file") and (value != CLUSTER or name not in ("auth.password_file", "auth.acl_file"))
    )  # fmt: skip


def file_in(data_dir: str | os.PathLike[str]) -> Path:
    return Path(data_dir) / "set-for-all.json"


def load(data_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """Key -> value. None where there is no file; where it cannot be read, which the keeper then mends."""
    try:
        found = msgspec.json.decode(file_in(data_dir).read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError):
        return {}
    return {name: value for name, value in found.items() if not is_own(name, value)}


def save(data_dir: str | os.PathLike[str], values: Mapping[str, Any]) -> None:
    """Durably, whole or not at all."""
    partial = file_in(data_dir).with_suffix(".partial")
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(values)) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    partial.rename(file_in(data_dir))


def lay(document: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Over what a file says. Where that is no table, it is told later."""
    for name, value in values.items():
        *sections, key = name.split(".")
        table: Any = document
        for section in sections:
            table = table.setdefault(section, {}) if isinstance(table, dict) else None
        if isinstance(table, dict):
            table[key] = value
