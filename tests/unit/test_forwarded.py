"""What a PUBLISH frame between workers holds, against a splitter of ten lines."""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core import forwarded


class Record(NamedTuple):
    topic: bytes
    share: bytes
    properties: bytes
    payload: bytes
    expires_ms: int
    repeats: bool  # the topic of the one before

    def bytes(self, later_ms: int = 0) -> bytes:
        if self.repeats:
            return struct.pack("<BI", 1 | 16, len(self.payload)) + self.payload
        expires_ms = max(1, self.expires_ms + later_ms) if self.expires_ms else 0
        lengths = len(self.topic), len(self.properties), len(self.payload)
        head = struct.pack("<BHIIQ", 1 | 8 * bool(self.share), *lengths, expires_ms)
        share = struct.pack("<H", len(self.share)) + self.share if self.share else b""
        return head + share + self.topic + self.properties + self.payload


PLACES = {b"a": (1,), b"b": (1, 2), b"c": (2,), b"d": ()}
GROUPS = {b"g/a": (1,), b"g/b": (2,)}


def repeated(records: list[Record]) -> list[Record]:
    """Those that may be are written as repetitions."""
    written = records[:1]
    for before, record in pairwise(records):
        same = record.topic == before.topic and not (record.share or before.share)
        written.append(record._replace(repeats=same and not record.properties and not record.expires_ms))
    return written


RECORDS = st.lists(
    st.builds(
        Record,
        st.sampled_from(sorted(PLACES)),
        st.sampled_from([b"", b"", b"", *GROUPS]),
        st.sampled_from([b"", b"", b"property"]),
        st.binary(max_size=300),
        st.sampled_from([0, 5, 1 << 40]),
        st.just(False),
    ),
    max_size=30,
).map(repeated)


@given(RECORDS, st.sampled_from([0, 7, -7]))
def test_each_place_gets_its_messages_in_order(records: list[Record], later_ms: int) -> None:
    expected: dict[int, bytes] = {}
    for record in records:
        for place in GROUPS[record.share] if record.share else PLACES[record.topic]:
            expected[place] = expected.get(place, b"") + record.bytes(later_ms)
    whole = b"".join(map(Record.bytes, records))
    assert forwarded.split(whole, PLACES.__getitem__, lambda name, qos: GROUPS[name], later_ms) == expected
    assert whole == b"".join(map(Record.bytes, records)), "what came was changed"
    assert forwarded.count(whole) == len(records)


@given(RECORDS.filter(bool), st.integers(1, 30))
def test_a_frame_that_is_cut_is_refused(records: list[Record], missing: int) -> None:
    whole = b"".join(map(Record.bytes, records))[:-missing]
    lengths = {0}
    for record in records:
        lengths.add(max(lengths) + len(record.bytes()))
    if len(whole) in lengths:
        return
    with pytest.raises(ValueError, match="a message"):
        forwarded.count(whole)
    with pytest.raises(ValueError, match="a message"):
        forwarded.split(whole, PLACES.__getitem__, lambda name, qos: GROUPS[name])


@pytest.mark.parametrize("before", [b"", Record(b"a", b"g/a", b"", b"?", 0, False).bytes()])
def test_a_message_that_repeats_the_topic_of_none_is_refused(before: bytes) -> None:
    whole = before + Record(b"a", b"", b"", b"!", 0, True).bytes()
    with pytest.raises(ValueError, match="repeats"):
        forwarded.count(whole)
    with pytest.raises(ValueError, match="repeats"):
        forwarded.split(whole, PLACES.__getitem__, lambda name, qos: GROUPS[name])
