"""The cluster secret: who has it may join without a token. 32 random bytes in a file of each host, mode 0600.

It never crosses the network. From it come the key pair of the place where hosts meet (mesh/meeting.py), so that only who has it can
answer there or ask, and the keys that sign meetings and beacons.
"""

from __future__ import annotations

import base64
import hmac
import os
import secrets
import stat
from pathlib import Path

import zmq
from zmq.utils import z85

PREFIX = "mqs1-"
SECRET_BYTES = 32


class SecretError(Exception):
    """The file cannot be used; the text says why and what to do."""


class ClusterSecret:
    def __init__(self, content: bytes) -> None:
        self._content = content
        self.meeting_secret_key = z85.encode(self._key(b"mqnode meeting")).decode()
        self.meeting_public_key = zmq.curve_public(self.meeting_secret_key.encode()).decode()
        self.proof_key = self._key(b"mqnode meeting proof")
        self.beacon_key = self._key(b"mqnode beacon")

    def _key(self, purpose: bytes) -> bytes:
        return hmac.digest(self._content, purpose, "sha256")


def create(path: Path) -> None:
    """A new secret in a new file. FileExistsError: there is one, which other hosts may have."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(PREFIX + base64.urlsafe_b64encode(secrets.token_bytes(SECRET_BYTES)).decode().rstrip("=") + "\n")
        file.flush()
        os.fsync(file.fileno())


def load(path: Path) -> ClusterSecret:
    try:
        with path.open("rb") as file:
            if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                raise SecretError(f"{path} can be read by others than its owner: they can join. chmod 600 {path}")
            text = file.read(1024).decode("ascii", "replace").strip()
    except OSError as error:
        raise SecretError(
            f"{path}: the cluster secret cannot be read: {error.strerror}. Copy it from another host, or make the first one: "
            f"mqnode cluster secret create {path}"
        ) from error
    try:
        content = base64.b64decode(text.removeprefix(PREFIX) + "=", altchars=b"-_", validate=True)
    except ValueError:
        content = b""
    if not text.startswith(PREFIX) or len(content) != SECRET_BYTES:
        raise SecretError(
            f"{path} holds no cluster secret, or a part of it is missing. Copy it anew from another host, or make another one for "
            "all hosts: mqnode cluster secret create FILE"
        )
    return ClusterSecret(content)
