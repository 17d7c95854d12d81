"""The bearer token of the admin API: where it is, and how it comes to be. The CLI reads it, so nothing heavy is imported."""

from __future__ import annotations

import os
from pathlib import Path

from node.config import Config


def token_path(config: Config) -> Path:
    return Path(config.admin.token_file or Path(config.node.data_dir) / "admin.token")


def read_token(path: Path) -> str:
    """The token. Raises OSError."""
    return path.read_text(encoding="ascii").strip()


def make_token(path: Path) -> str:
    """The token, made at the first start; only its owner can read it."""
    if not path.exists():
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(os.urandom(32).hex() + "\n")
        temporary.rename(path)
    return read_token(path)
