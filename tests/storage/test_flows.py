"""Two hosts know each of another QoS 2 flow under one packet id: it is the later one that its client goes on with."""

from __future__ import annotations

import struct

import pytest

from storage.layout import u64
from storage.writer import Writer
from tests.simulation.worker import PUBLISH, RELEASED, message, operation
from tests.storage.stores import A, B, Host, tell

SID, PACKET_ID = 1, 7
KEY = u64(SID) + PACKET_ID.to_bytes(2, "big")


@pytest.fixture
def writers(hosts: tuple[Host, Host]) -> list[Writer]:
    return [writer for _, writer in hosts]


def publish(writer: Writer, batch: int, payload: str, at_ms: int) -> None:
    body = struct.pack("<QHQQQH", SID, PACKET_ID, 0, 0, 0, 0) + message("t", payload, 2, False, at_ms)
    writer.begin()
    writer.apply(struct.pack("<Q", batch) + operation(PUBLISH, body), 0, 1, at_ms)
    writer.commit()


def release(writer: Writer, batch: int) -> None:
    writer.begin()
    writer.apply(struct.pack("<Q", batch) + operation(RELEASED, struct.pack("<QH", SID, PACKET_ID)), 0, 1, 0)
    writer.commit()


def take_snapshot(writer: Writer, number: int, told: Writer) -> None:
    part, *_ = writer.snapshot(0, b"", 1 << 20)
    told.begin()
    told.covering = True
    told.apply_changes(number, part, writer.context())
    told.covering = False
    told.learn(writer.context())
    told.commit()


def flow(writer: Writer) -> bytes | None:
    writer.begin()
    found: bytes | None = writer.get("packet_ids", KEY)
    writer.abort()
    return found


@pytest.mark.parametrize("payloads", [("old", "new"), ("new", "old")])  # whichever has the greater checksum
def test_the_later_one_stays(writers: list[Writer], payloads: tuple[str, str]) -> None:
    a, b = writers
    publish(a, 1, payloads[0], 1000)
    publish(b, 1, payloads[1], 2000)
    later, contexts = flow(b), [a.context(), b.context()]
    tell(a, A, b, contexts[0])
    tell(b, B, a, contexts[1])
    assert flow(a) == flow(b) == later
    assert a.digests() == b.digests()
    publish(b, 2, payloads[1], 3000)
    assert flow(b) == later, "it is a repetition"


def test_what_has_lost_does_not_come_back_with_the_end_of_what_had_won(writers: list[Writer]) -> None:
    """The host where the later flow ended got the earlier one behind that, and has not heard yet which one had won."""
    a, b = writers
    publish(a, 1, "it", 1000)
    publish(b, 1, "it", 2000)
    on_its_way = list(a.missed(0, 1 << 20))
    tell(b, B, a, b.context())
    release(b, 2)
    for seq, changes in on_its_way:
        b.begin()
        b.apply_changes(A, changes, {A: seq})
        b.learn({A: seq})
        b.commit()
    assert flow(b) is not None
    take_snapshot(b, B, a)
    tell(a, A, b, a.context())
    assert flow(a) is flow(b) is None
    assert a.digests() == b.digests()


@pytest.mark.parametrize("apart", [True, False])
def test_what_ended_here_and_goes_on_elsewhere_knows_its_flows_again(writers: list[Writer], apart: bool) -> None:
    """While hosts are apart another one may have the session, and not what its client has sent here."""
    writer = writers[0]
    publish(writer, 1, "half", 1000)
    begun = flow(writer)
    writer.begin()
    writer.set_apart(apart, False, writer.seq - 1, 10)
    writer.purge(SID, 10, 0)
    writer.commit()
    assert begun is not None
    assert flow(writer) is None
    writer.load()
    writer.begin()
    writer.queue_of(SID)
    writer.goes_on(SID, False)
    writer.learn({})
    writer.commit()
    assert flow(writer) == (begun if apart else None)
    assert not writer.half_sent
