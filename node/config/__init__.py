"""The configuration: TOML and environment into strict structs. Must not know any process, socket or store."""

from __future__ import annotations

import os
from pathlib import Path

from node.config.binds import is_loopback, split_bind
from node.config.errors import ConfigError
from node.config.keys import Admin, Auth, Config, Introspection, Jwt, Limits, Listener, Log, Node, Shared, Store, Sys
from node.config.read import Loaded, load, load_copy, read

__all__ = [
    "Admin", "Auth", "Config", "ConfigError", "Introspection", "Jwt", "Limits", "Listener", "Loaded", "Log", "Node", "Shared",
    "Store", "Sys", "is_loopback", "load", "load_copy", "read", "run_dir", "split_bind", "worker_count",
]  # fmt: skip


def worker_count(config: Config) -> int:
    return config.node.workers or len(os.sched_getaffinity(0))


def run_dir(config: Config) -> Path:
    return Path(config.node.run_dir or Path(config.node.data_dir) / "run")
