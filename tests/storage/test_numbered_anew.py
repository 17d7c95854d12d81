"""A host that takes a queue for its own numbers anew what another one delivers; that client gets nothing twice."""

from __future__ import annotations

import struct

import pytest

from storage.layout import META_HAD
from storage.writer import Writer, parse_entry
from tests.simulation.worker import DONE, PUBLISH, RECEIVED, message, operation
from tests.storage.stores import A, B, Host, tell

SID = 7


def operate(writer: Writer, kind: int, body: bytes) -> None:
    writer.begin()
    writer.apply(struct.pack("<Q", 1) + operation(kind, body), 0, 0, 0)
    writer.commit()


def queue(host: Host) -> list[tuple[int, bool]]:
    """(packet id, is PUBREC here?) of each entry."""
    found = []
    with host[0].environment.begin() as transaction:
        for key, value in transaction.cursor(db=host[0].databases["queue"]):
            entry = parse_entry(value)
            assert entry is not None
            found.append((1 + int.from_bytes(key[8:], "big") % 65535, entry[0]))
    return found


def waiting(host: Host) -> list[int]:
    """The numbers of its queue."""
    with host[0].environment.begin() as transaction:
        keys = transaction.cursor(db=host[0].databases["queue"]).iternext(values=False)
        return [int.from_bytes(key[8:], "big") for key in keys]


def had(host: Host) -> int:
    """So many messages its store knows its clients to have had."""
    with host[0].environment.begin() as transaction:
        keys = transaction.cursor(db=host[0].databases["meta"]).iternext(values=False)
        return sum(key.startswith(META_HAD) for key in keys)


@pytest.mark.parametrize(
    ("client", "left"),
    [
        ((), [(2, False), (2, True)]),
        ((RECEIVED,), [(2, True), (2, True)]),
        ((RECEIVED, DONE), [(2, True)]),
    ],
)
@pytest.mark.parametrize("restarts", [False, True])
def test_what_is_under_way_is_not_sent_again(
    hosts: tuple[Host, Host], client: tuple[int, ...], left: list[tuple[int, bool]], restarts: bool
) -> None:
    """`client`: what B's does before it hears of that from A. `left`: behind what B has sent there is PUBREL only."""
    (_, a), (_, b) = hosts
    for writer in (a, b):
        writer.begin_queue(SID, False)
        writer.is_apart = True
    target = struct.pack("<QBB", SID, 2, 0)
    record = message("t", "m", 2, False, 0)
    operate(b, PUBLISH, struct.pack("<QHQQQH", 0, 0, 0, 0, 0, 1) + target + record)
    tell(b, B, a)
    for kind in client:
        operate(b, kind, struct.pack("<QQ", SID, 1))
    if restarts:
        b.load()
    tell(a, A, b)
    assert queue(hosts[1]) == left
    a.foreign.add(SID)  # it has heard whose the queue is
    tell(b, B, a)
    assert queue(hosts[0]) == queue(hosts[1])
    assert a.digests() == b.digests()
    assert had(hosts[1]) == (RECEIVED in client)


def test_it_is_forgotten_when_the_hosts_are_together_again(hosts: tuple[Host, Host]) -> None:
    _, (_, b) = hosts
    b.begin_queue(SID, False)
    b.is_apart = True
    target = struct.pack("<QBB", SID, 2, 0)
    for number in (1, 2):
        record = message("t", str(number), 2, False, 0)
        operate(b, PUBLISH, struct.pack("<QHQQQH", 0, 0, 0, 0, 0, 1) + target + record)
        operate(b, RECEIVED, struct.pack("<QQ", SID, number))
    assert had(hosts[1]) == 2
    for is_settling, most, rest in ((True, 9, 2), (False, 1, 1), (False, 9, 0)):
        b.is_settling = is_settling  # then nobody has told yet who the others are
        b.begin()
        b.set_apart(False, False, 0, most)
        b.commit()
        assert had(hosts[1]) == rest


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("may_return", [False, True])
def test_it_is_kept_while_a_removed_host_may_bring_a_copy_back(
    hosts: tuple[Host, Host], may_return: bool, restarts: bool
) -> None:
    """But not of what came since: in a cluster that has shrunk a message costs no more for ever."""
    _, (_, b) = hosts
    b.begin_queue(SID, False)
    b.foreign.add(SID)
    target = struct.pack("<QBB", SID, 2, 0)
    operate(b, PUBLISH, struct.pack("<QHQQQH", 0, 0, 0, 0, 0, 1) + target + message("t", "1", 2, False, 0))
    b.begin()
    b.set_apart(False, may_return, 0, 10)  # A is removed
    b.own(SID, False, 0)
    b.commit()
    if restarts:
        b.load()
    b.begin()
    b.set_apart(False, may_return, 0, 10)
    b.commit()
    operate(b, PUBLISH, struct.pack("<QHQQQH", 0, 0, 0, 0, 0, 1) + target + message("t", "2", 2, False, 0))
    for number in waiting(hosts[1]):
        operate(b, RECEIVED, struct.pack("<QQ", SID, number))
    assert had(hosts[1]) == may_return


def test_a_retained_message_is_no_copy_of_the_one_before(hosts: tuple[Host, Host]) -> None:
    """A session is due the same one with each new subscription."""
    (_, a), (_, b) = hosts
    for writer in (a, b):
        writer.begin_queue(SID, False)
        writer.is_apart = True
    target = struct.pack("<QBB", SID, 2 | 4, 0)
    record = message("t", "m", 2, True, 0)
    operate(b, PUBLISH, struct.pack("<QHQQQH", 0, 0, 0, 0, 0, 1) + target + record)
    operate(b, RECEIVED, struct.pack("<QQ", SID, 1))
    operate(b, DONE, struct.pack("<QQ", SID, 1))
    operate(a, PUBLISH, struct.pack("<QHQQQH", 0, 0, 0, 0, 0, 1) + target + record)
    tell(a, A, b)
    assert [received for _, received in queue(hosts[1])] == [False]
