"""Who this host is to the others: an id that outlives its name and address, and a CURVE key pair.

One file, `identity.json` in the data directory, mode 0600, made atomically and durably, so that a host that has told
its id to anybody has it for ever. Its keys can be changed. The secret key never leaves it.
"""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

import msgspec
import zmq

from mesh.hlc import NODE_ID_BYTES

FILE_NAME = "identity.json"


class IdentityError(Exception):
    """The file cannot be used; the text says why and what to do."""


class Identity(msgspec.Struct, frozen=True):
    node_id: bytes
    public_key: str  # Z85, 40 characters
    secret_key: str

    def __repr__(self) -> str:  # no key in logs
        return f"Identity({self.node_id.hex()})"


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    node_id: str
    public_key: str
    secret_key: str


def create() -> Identity:
    return with_new_keys(secrets.token_bytes(NODE_ID_BYTES))


def with_new_keys(node_id: bytes) -> Identity:
    public_key, secret_key = zmq.curve_keypair()
    return Identity(node_id, public_key.decode(), secret_key.decode())


def fingerprint(public_key: str) -> str:
    """Of a public key, for people to compare: 80 bits as XXXX-XXXX-XXXX-XXXX."""
    shown = base64.b32encode(hashlib.sha256(b"mqnode host" + public_key.encode()).digest()[:10]).decode()
    return "-".join(shown[at : at + 4] for at in range(0, 16, 4))


def load_or_create(path: Path) -> Identity:
    """The identity in the file, which is made if there is none. Of two processes that make it at once both get the same."""
    if not path.exists():
        _write(path, create(), new=True)
    return _load(path)


def _load(path: Path) -> Identity:
    with path.open("rb") as file:
        if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
            raise IdentityError(f"{path} can be read by others than its owner: they can be this host. chmod 600 {path}")
        content = file.read()
    try:
        fields = msgspec.json.decode(content, type=_File)
        identity = Identity(bytes.fromhex(fields.node_id), fields.public_key, fields.secret_key)
        sound = (
            len(identity.node_id) == NODE_ID_BYTES
            and zmq.curve_public(identity.secret_key.encode()) == identity.public_key.encode()
        )
    except (msgspec.DecodeError, ValueError, zmq.ZMQError):
        sound = False
    if not sound:
        raise IdentityError(
            f"{path} is damaged: this host no longer knows who it is, and the others would not accept it. "
            "Restore the file from a backup, or remove it and join the cluster anew."
        )
    return identity


def replace(path: Path, identity: Identity) -> None:
    """From now on the file holds these keys."""
    _write(path, identity, new=False)


def _write(path: Path, identity: Identity, new: bool) -> None:
    """`new`: only if there is none."""
    fields = _File(identity.node_id.hex(), identity.public_key, identity.secret_key)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(fields)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if new:
            with suppress(FileExistsError):
                os.link(draft, path)  # unlike rename, it never replaces an identity
        else:
            draft.rename(path)
    finally:
        draft.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
