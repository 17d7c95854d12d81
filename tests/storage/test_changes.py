"""The form in which commits travel between hosts."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.changes import decode, decode_keys

DOTS = st.integers(0, 2**64 - 1)
KEYS = st.binary(min_size=1, max_size=511)
CHANGES = st.lists(st.tuples(st.integers(0, 7), KEYS, st.none() | st.binary(max_size=300), DOTS), max_size=20)
Change = tuple[int, bytes, bytes | None, int]


def value_of(change: Change) -> bytes | None:
    """CRC32, dot, record."""
    return None if change[2] is None else b"\0\0\0\0" + struct.pack("<Q", change[3]) + change[2]


def encoded(change: Change) -> bytes:
    database, key, _, dot = change
    value = value_of(change)
    size = 0xFFFFFFFF if value is None else len(value)
    return struct.pack("<BHI", database, len(key), size) + key + (struct.pack("<Q", dot) if value is None else value)


@given(CHANGES)
def test_changes(changes: list[Change]) -> None:
    whole = b"".join(map(encoded, changes))
    expected = [(change[0], change[1], value_of(change), change[3]) for change in changes]
    assert decode(whole) == expected
    assert decode(whole, 1 << 2 | 1 << 5) == [change for change in expected if change[0] in (2, 5)]
    for cut in range(1, min(len(whole), 600)):
        begun = 0
        for change in changes:
            if begun >= len(whole) - cut:
                break
            begun += len(encoded(change))
        if begun != len(whole) - cut:
            with pytest.raises(ValueError, match="cut off"):
                decode(whole[:-cut])


@given(st.lists(st.tuples(st.integers(0, 7), KEYS, DOTS), max_size=20))
def test_keys(keys: list[tuple[int, bytes, int]]) -> None:
    whole = b"".join(struct.pack("<BHQ", database, len(key), erased) + key for database, key, erased in keys)
    assert decode_keys(whole) == keys
