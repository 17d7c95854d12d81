"""A message for sessions of several hosts is stored once, and goes along with what refers to it where it may be missing."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.changes import decode
from storage.layout import REPLICATED, u64
from storage.writer import Writer, parse_entry
from tests.simulation.worker import DONE, PUBLISH, message, operation
from tests.storage.stores import A, B, Host, host, tell

C = 3  # number of a host
OURS, THEIRS = 7, 8  # sessions of C and B
INBOX, BODIES = REPLICATED.index("inbox"), REPLICATED.index("bodies")
ALL = 1 << 20


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[list[Host]]:
    found = [host(tmp_path / str(number), number) for number in (A, B, C)]
    for _, writer in found:
        for sid in (OURS, THEIRS):
            writer.begin_queue(sid, False)
    found[0][1].foreign |= {OURS, THEIRS}
    found[1][1].foreign.add(OURS)
    found[2][1].foreign.add(THEIRS)
    yield found
    for store, _ in found:
        store.environment.close()


def publish(writer: Writer) -> None:
    """To both sessions."""
    targets = b"".join([struct.pack("<QBB", sid, 1, 0) for sid in (OURS, THEIRS)])
    body = struct.pack("<QHQQQH", 0, 0, 0, 0, 0, 2) + targets + message("t", "m", 1, False, 0)
    writer.begin()
    writer.apply(struct.pack("<Q", 1) + operation(PUBLISH, body), 0, 0, 0)
    writer.commit()


def deliver(host: Host) -> None:
    """All that waits here."""
    with host[0].environment.begin() as transaction:
        keys = list(transaction.cursor(db=host[0].databases["queue"]).iternext(values=False))
    host[1].begin()
    for key in keys:
        sid, qseq = int.from_bytes(key[:8], "big"), int.from_bytes(key[8:], "big")
        host[1].apply(struct.pack("<Q", 1) + operation(DONE, struct.pack("<QQ", sid, qseq)), 0, 0, 0)
    host[1].commit()


def missing(host: Host) -> list[int]:
    """Bodies to which its queues refer, and which it does not hold."""
    store, _ = host
    with store.environment.begin() as transaction:
        entries = [parse_entry(value) for _, value in transaction.cursor(db=store.databases["queue"])]
        bodies = [entry[5] for entry in entries if entry is not None]
        assert bodies
        return [body for body in bodies if transaction.get(u64(body), db=store.databases["bodies"]) is None]


def test_who_lacks_what_another_host_has_deleted_gets_it_with_the_entry(hosts: list[Host]) -> None:
    """B takes C's session in a cut and delivers all: it tells A, which was away, no more of that. C queues it meanwhile."""
    (_, a), (_, b), (_, c) = hosts
    c.is_apart = True
    publish(b)
    tell(b, B, c)
    queued, context = bytes(c.changes), c.context()
    b.begin()
    b.own(OURS, False, 0)
    b.commit()
    deliver(hosts[1])
    tell(b, B, a)
    a.begin()
    a.apply_changes(C, queued, context)
    a.commit()
    assert missing(hosts[0]) == []


@pytest.mark.parametrize("is_apart", [False, True])
def test_what_all_hosts_have_does_not_cross_again(hosts: list[Host], is_apart: bool) -> None:
    (_, b), (_, c) = hosts[1:]
    c.is_apart = is_apart
    publish(b)
    tell(b, B, c)
    assert len(decode(bytes(c.changes), 1 << BODIES)) == is_apart


def test_it_is_sent_again_with_the_first_of_the_entries_only(hosts: list[Host]) -> None:
    _, b = hosts[1]
    for sid in (OURS, THEIRS):
        b.foreign.add(sid)
    publish(b)
    b.begin()
    for sid in (OURS, THEIRS):
        b.own(sid, False, 0)
    b.commit()
    [*_, (_, changes)] = b.missed(1, 1 << 20)
    assert len(decode(changes, 1 << BODIES)) == 1


def test_what_moves_during_a_snapshot_has_its_message_there(hosts: list[Host], tmp_path: Path) -> None:
    """From an inbox, before which B's snapshot is, to a queue, behind which it is: in no part, and A sends the entry alone."""
    (_, a), (_, b), _ = hosts
    joins = host(tmp_path / "joins", 4)
    b.foreign.add(THEIRS)
    joins[1].foreign |= {OURS, THEIRS}
    a.foreign.clear()
    a.is_apart = False
    publish(b)
    began, sent = b.context(), set[int]()
    queues, *behind = b.snapshot(0, b"", ALL, INBOX, b"", sent, began=began)
    tell(b, B, a)
    moved, context = bytes(a.changes), a.context()
    tell(a, A, b)
    inboxes, *_ = b.snapshot(*behind, ALL, bodies=sent, began=began)
    joins[1].begin()
    for number, changes, at in ((B, queues, began), (B, inboxes, b.context()), (A, moved, context)):
        joins[1].apply_changes(number, changes, at)
        joins[1].learn({number: at[number]})
    joins[1].commit()
    assert missing(joins) == []
    joins[0].environment.close()


def test_a_snapshot_brings_a_message_once_and_none_that_a_later_commit_brings(hosts: list[Host]) -> None:
    _, b = hosts[1]
    publish(b)
    began = b.context()
    publish(b)
    sent = set[int]()
    part, *_ = b.snapshot(0, b"", ALL, bodies=sent, began=began)
    assert len(decode(part, 1 << BODIES)) == len(sent) == 2
    part, *_ = b.snapshot(INBOX, b"\xff", ALL, bodies=set(), began=began)
    assert len(decode(part, 1 << BODIES)) == 1
