"""The messages of a PUBLISH frame between workers (node/core/links.pxi): counted, moved to another clock, split. Pure."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from typing import TypeVar

_RECORD = struct.Struct("<BHIIQ")  # flags, lengths of topic, properties and payload, expiry in the sender's store clock
_EXPIRY_AT = 11
_SHARE_LENGTH = struct.Struct("<H")
_SHARED = 8

Place = TypeVar("Place")


def count(messages: bytes | bytearray) -> int:
    found = at = 0
    while at < len(messages):
        flags, topic, properties, payload, _ = _RECORD.unpack_from(messages, at)
        at += _RECORD.size + topic + properties + payload
        if flags & _SHARED:
            at += 2 + _SHARE_LENGTH.unpack_from(messages, at - topic - properties - payload)[0]
        found += 1
    return found


def split(
    messages: bytearray,
    by_topic: Callable[[bytes], Iterable[Place]],
    by_group: Callable[[bytes, int], Iterable[Place]],
    later_ms: int = 0,
) -> dict[Place, bytearray]:
    """What each place gets, in order. Messages that expire do so `later_ms` later: `messages` is changed."""
    parts: dict[Place, bytearray] = {}
    at = 0
    while at < len(messages):
        start = at
        flags, topic, properties, payload, expires_ms = _RECORD.unpack_from(messages, at)
        if expires_ms and later_ms:
            struct.pack_into("<Q", messages, at + _EXPIRY_AT, max(1, expires_ms + later_ms))
        at += _RECORD.size
        if flags & _SHARED:
            length = _SHARE_LENGTH.unpack_from(messages, at)[0]
            at += 2 + length
            places = by_group(bytes(messages[at - length : at]), flags & 3)
        else:
            places = by_topic(bytes(messages[at : at + topic]))
        at += topic + properties + payload
        for place in places:
            part = parts.get(place)
            if part is None:
                part = parts[place] = bytearray()
            part += messages[start:at]
    return parts
