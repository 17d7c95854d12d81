"""What a commit changed, in the form in which it travels and in which it waits in the outbox.

Changes: `<BHI` number of the database in layout.REPLICATED, lengths of key and value, key, value; or with ERASED for the
length of the value, key and `<Q` the dot of what was erased (storage/layout.py).
Outbox: `<BHQ` database, length of the key, dot of what was erased (0: put), key; what was put is looked up when it is
sent again, so the outbox stays small.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

ERASED = 0xFFFFFFFF
_CHANGE = struct.Struct("<BHI")
_KEY = struct.Struct("<BHQ")
_DOT = struct.Struct("<Q")

Change = tuple[int, bytes, bytes | None, int]  # database, key, value or None, dot of what was put or erased


def put(database: int, key: bytes, value: bytes) -> bytes:
    return _CHANGE.pack(database, len(key), len(value)) + key + value


def erase(database: int, key: bytes, dot: int) -> bytes:
    return _CHANGE.pack(database, len(key), ERASED) + key + _DOT.pack(dot)


def dot_of(value: bytes) -> int:
    dot: int = _DOT.unpack_from(value, 4)[0]
    return dot


def decode(changes: bytes) -> Iterator[Change]:
    """Raises ValueError if they are cut off."""
    at, end = 0, len(changes)
    while at < end:
        if end - at < _CHANGE.size:
            raise ValueError("a change is cut off")
        database, key_size, value_size = _CHANGE.unpack_from(changes, at)
        at += _CHANGE.size + key_size
        key = changes[at - key_size : at]
        size = _DOT.size if value_size == ERASED else value_size
        if end - at < size or (value_size != ERASED and size < 12):
            raise ValueError("a change is cut off")
        if value_size == ERASED:
            yield database, key, None, _DOT.unpack_from(changes, at)[0]
        else:
            value = changes[at : at + size]
            yield database, key, value, dot_of(value)
        at += size


def encode_key(database: int, key: bytes, erased: int) -> bytes:
    return _KEY.pack(database, len(key), erased) + key


def decode_keys(touched: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Yields (database, key, dot of what was erased or 0)."""
    at = 0
    while at < len(touched):
        database, size, erased = _KEY.unpack_from(touched, at)
        at += _KEY.size
        yield database, touched[at : at + size], erased
        at += size
