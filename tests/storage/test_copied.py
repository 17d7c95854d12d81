"""Two hosts deliver a session without knowing of each other, and a third one did before: each message stays in its queue."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.changes import decode
from storage.writer import Writer, parse_entry
from tests.simulation.worker import PUBLISH, message, operation
from tests.storage.stores import A, B, Host, host, tell

C = 3  # number of a host
SID = 7
ALL = 1 << 63  # numbers of its queue


def publish(writer: Writer) -> None:
    body = struct.pack("<QHQQQHQBB", 0, 0, 0, 0, 0, 1, SID, 2, 0) + message("t", "m", 2, False, 0)
    writer.begin()
    writer.apply(struct.pack("<Q", 1) + operation(PUBLISH, body), 0, 0, 0)
    writer.commit()


def waiting(host: Host) -> list[bool]:
    """Of the entries of its queue: is there only a packet id left?"""
    store, _ = host
    with store.environment.begin() as transaction:
        entries = [parse_entry(value) for _, value in transaction.cursor(db=store.databases["queue"])]
        return [entry[0] for entry in entries if entry is not None]


def tell_in_parts(writer: Writer, number: int, told: Writer) -> None:
    """As a snapshot does, whose parts are of one change each."""
    for seq, changes in writer.missed(told.peer_seq(number), 1 << 20):
        told.begin()
        for database, key, value, dot in decode(changes, beaten=True):
            rest = struct.pack("<Q", dot) if value is None else value
            head = struct.pack("<BHI", database, len(key), 0xFFFFFFFF if value is None else len(value))
            told.apply_changes(number, head + key + rest, writer.context())
        told.learn({number: seq})
        told.commit()


@pytest.mark.parametrize("tell_b", [tell, tell_in_parts])
def test_what_one_numbers_anew_a_third_one_does_not_take_for_done_with(
    tmp_path: Path, tell_b: Callable[[Writer, int, Writer], None]
) -> None:
    """A keeps its own for its client, and knows the copy. B has lost the queue, and would say that PUBREC has come."""
    hosts = [host(tmp_path / str(number), number) for number in (A, B, C)]
    (_, a), (_, b), (_, c) = hosts
    for writer in (a, c):
        writer.begin()
        writer.own(SID, False, 0)
        writer.commit()
    b.queue_of(SID)
    b.foreign.add(SID)
    b.lose(SID, ALL)
    publish(a)
    tell(a, A, b)
    tell(a, A, c)
    tell_b(c, C, b)
    assert False in waiting(hosts[1])
    tell(c, C, a)
    tell(b, B, a)
    tell(a, A, b)
    assert False in waiting(hosts[0])
    assert False in waiting(hosts[1])
    for store, _ in hosts:
        store.environment.close()
