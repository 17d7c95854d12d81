"""Message records (docs/internals.md) as the API shows them."""

from __future__ import annotations

import struct
from base64 import b64encode
from typing import Any

_HEADER = struct.Struct("<BQQHHII")
_RECEIVED_MS = (1 << 44) - 1  # above, what tells equal messages of one ms apart


def payload(record: bytes) -> bytes:
    size = _HEADER.unpack_from(record)[-1]
    return record[len(record) - size :]


def describe(record: bytes) -> dict[str, Any]:
    """All but the payload."""
    flags, received, expires_ms, topic, author, _, size = _HEADER.unpack_from(record)
    names = _HEADER.size
    return {
        "topic": record[names : names + topic].decode(),
        "qos": flags & 3,
        "user": record[names + topic : names + topic + author].decode() or None,
        "bytes": size,
        "received_at": (received & _RECEIVED_MS) / 1000,
        "expires_at": expires_ms / 1000 if expires_ms else None,
    }


def describe_whole(record: bytes) -> dict[str, Any]:
    """With the payload: as text, if it is UTF-8, and as Base64."""
    data = payload(record)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = None
    return describe(record) | {"payload": text, "payload_base64": b64encode(data).decode()}
