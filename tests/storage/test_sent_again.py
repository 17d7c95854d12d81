"""Commits that are sent again lack what later ones have changed, but not the word of whose sessions are."""

from __future__ import annotations

import msgspec
import pytest

from storage.changes import decode
from storage.layout import HEADER_BYTES, SessionRecord, client_key
from storage.writer import Writer
from tests.storage.stores import A, B, Host

SID, KEY = 7, client_key("c")


def write(writer: Writer, epoch: int, owner: int) -> None:
    writer.begin()
    record = SessionRecord(SID, "c", None, 0, 0, False, 0, 0, epoch, owner)
    writer.put("sessions", KEY, msgspec.msgpack.encode(record))
    writer.commit()


def epochs(writer: Writer) -> list[list[int]]:
    """Of the session's records in each commit as it is sent again."""
    decoder = msgspec.msgpack.Decoder(SessionRecord)
    return [
        [decoder.decode(value[HEADER_BYTES:]).epoch for _, key, value, _ in decode(changes) if key == KEY and value]
        for _, changes in writer.missed(1, 1 << 20)
    ]


@pytest.mark.parametrize(("owner", "told"), [(A, [[2], [2]]), (B, [[], [2]])])
def test_who_hears_of_a_takeover_hears_it_before_what_was_numbered_since(
    hosts: tuple[Host, Host], owner: int, told: list[list[int]]
) -> None:
    """Not so of one that was handed over: all that its last owner did with it comes before its record."""
    _, a = hosts[0]
    a.queue_of(SID)
    write(a, 1, A)
    if owner != A:
        a.foreign.add(SID)
    write(a, 2, owner)
    assert epochs(a) == told


def test_what_another_host_has_put_since_it_tells_itself(hosts: tuple[Host, Host]) -> None:
    (_, a), (_, b) = hosts
    write(a, 1, A)
    write(b, 2, A)
    with hosts[1][0].environment.begin() as transaction:
        theirs = transaction.get(KEY, db=hosts[1][0].databases["sessions"])
    a.begin()
    a.keep_here("sessions", KEY, theirs)
    a.commit()
    assert epochs(a) == [[]]
