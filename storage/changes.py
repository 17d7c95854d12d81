"""What a commit changed, in the form in which it travels and in which it waits in the outbox.

Changes: `<BHI` number of the database in layout.REPLICATED, lengths of key and value (DELETED: the key is gone), key, value.
Outbox: `<BH` database, length of the key, key; what the key holds is looked up when it is sent, so the outbox stays small.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

DELETED = 0xFFFFFFFF
_CHANGE = struct.Struct("<BHI")
_KEY = struct.Struct("<BH")


def encode(database: int, key: bytes, value: bytes | None) -> bytes:
    if value is None:
        return _CHANGE.pack(database, len(key), DELETED) + key
    return _CHANGE.pack(database, len(key), len(value)) + key + value


def decode(changes: bytes) -> Iterator[tuple[int, bytes, bytes | None]]:
    """Yields (database, key, value or None). Raises ValueError if they are cut off."""
    at, end = 0, len(changes)
    while at < end:
        if end - at < _CHANGE.size:
            raise ValueError("a change is cut off")
        database, key_size, value_size = _CHANGE.unpack_from(changes, at)
        at += _CHANGE.size
        key = changes[at : at + key_size]
        at += key_size
        if value_size == DELETED:
            yield database, key, None
            continue
        if end - at < value_size:
            raise ValueError("a change is cut off")
        yield database, key, changes[at : at + value_size]
        at += value_size


def encode_key(database: int, key: bytes) -> bytes:
    return _KEY.pack(database, len(key)) + key


def decode_keys(touched: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(touched):
        database, size = _KEY.unpack_from(touched, at)
        at += _KEY.size
        yield database, touched[at : at + size]
        at += size
