"""Files of users, rules, keys and secrets: read whole or refused whole, written whole or not at all.

Owns the one error of these files and the way they are replaced: temporary file, fsync, rename, under a lock, mode 0600.
An error names file and line, never the text of the line: that might be somebody's password.
"""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from node.config import ConfigError

_BYTES_MAX = 1_048_576  # of keys and secrets


class AuthFileError(ConfigError):
    """A file of users, rules, keys or a secret cannot be used; the text names file, line, effect and the way out."""

    def __init__(self, path: str | Path, line: int | None, cause: str, remedy: str) -> None:
        place = f"{path}:{line}" if line else f"{path}"
        super().__init__(f"{place}: {cause}: the whole file is refused. {remedy}")


def read_lines(path: str | Path, remedy: str) -> list[str]:
    """The lines of the file, without their ends. Raises AuthFileError."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise AuthFileError(path, None, f"it cannot be read ({error.strerror})", remedy) from error
    return to_lines(content, path, remedy)


def to_lines(content: bytes, path: str | Path, remedy: str) -> list[str]:
    """The same of what was in the file."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise AuthFileError(path, None, f"it is not UTF-8 (byte {error.start})", remedy) from error
    if "\0" in text:
        raise AuthFileError(path, text[: text.index("\0")].count("\n") + 1, "it holds a NUL", remedy)
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]


def read_secret(path: str) -> bytes:
    """A secret without the newline at its end. Raises AuthFileError, also if others than its owner can read it."""
    content = read_bytes(path)
    if stat.S_IMODE(os.stat(path).st_mode) & 0o077:
        text = "others than its owner can read it: they could pass for somebody else"
        raise AuthFileError(path, None, text, f"Run: chmod 0600 {path}")
    secret = content.removesuffix(b"\n").removesuffix(b"\r")
    if not secret:
        raise AuthFileError(path, None, "it is empty", "Put the secret into it.")
    return secret


def read_bytes(path: str) -> bytes:
    """The content of a small file. Raises AuthFileError."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(_BYTES_MAX + 1)
    except OSError as error:
        remedy = "The user of the service must be able to read it."
        raise AuthFileError(path, None, f"it cannot be read ({error.strerror})", remedy) from error
    if len(content) > _BYTES_MAX:
        raise AuthFileError(path, None, f"it is larger than {_BYTES_MAX} bytes", "Name the right one.")
    return content


@contextmanager
def locked(path: str | Path) -> Iterator[Path]:
    """Nobody else edits the file meanwhile. Yields what `path` leads to, so that a symbolic link stays one."""
    target = Path(os.path.realpath(path))
    descriptor = os.open(f"{target}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if os.geteuid() == 0:  # who may replace the file, as the host's user may, must be able to lock it later
            folder = target.parent.stat()
            os.fchown(descriptor, folder.st_uid, folder.st_gid)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield target
    finally:
        os.close(descriptor)


def replace(target: Path, lines: list[str]) -> None:
    """Put `lines` in the place of the file, durably; its owner stays. Hold `locked` meanwhile."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as file:
            if target.exists():
                before = target.stat()
                if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(file.fileno(), before.st_uid, before.st_gid)
            file.writelines(f"{line}\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
    directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
