"""The form in which commits travel between hosts."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.changes import decode, decode_keys

CHANGES = st.lists(
    st.tuples(st.integers(0, 7), st.binary(min_size=1, max_size=511), st.none() | st.binary(max_size=300)), max_size=20
)
Change = tuple[int, bytes, bytes | None]


def encoded(database: int, key: bytes, value: bytes | None) -> bytes:
    size = 0xFFFFFFFF if value is None else len(value)
    return struct.pack("<BHI", database, len(key), size) + key + (value or b"")


@given(CHANGES)
def test_changes(changes: list[Change]) -> None:
    whole = b"".join(encoded(*change) for change in changes)
    assert decode(whole) == changes
    assert decode(whole, 1 << 2 | 1 << 5) == [change for change in changes if change[0] in (2, 5)]
    for cut in range(1, min(len(whole), 600)):
        begun = 0
        for change in changes:
            if begun >= len(whole) - cut:
                break
            begun += len(encoded(*change))
        if begun != len(whole) - cut:
            with pytest.raises(ValueError, match="cut off"):
                decode(whole[:-cut])


@given(st.lists(st.tuples(st.integers(0, 7), st.binary(min_size=1, max_size=511)), max_size=20))
def test_keys(keys: list[tuple[int, bytes]]) -> None:
    whole = b"".join(struct.pack("<BH", database, len(key)) + key for database, key in keys)
    assert decode_keys(whole) == keys
