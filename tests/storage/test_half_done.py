"""A session ended here, with QoS 2 messages that its client may have, and goes on at another host."""

from __future__ import annotations

import struct
from pathlib import Path

from node.config import Limits
from storage.layout import u64
from storage.store import open_store
from storage.writer import Writer, parse_entry
from tests.storage.writer_state import message

SID, NOW_MS = 1 << 40 | 1, 5
SENT = 2  # of three messages


def publish(writer: Writer, number: int, qos: int) -> None:
    record = message(b"t", b"x", False)
    body = struct.pack("<QHQQQH", 0, 0, 0, 0, 0, 1) + struct.pack("<QBB", SID, qos, 0) + record
    writer.apply(u64(number)[::-1] + struct.pack("<BI", 1, len(body)) + body, 0, 1, NOW_MS)


def test_what_its_client_waits_for_is_known_after_a_restart(tmp_path: Path) -> None:
    store = open_store(tmp_path, 1 << 24, 1 << 30)
    writer = Writer(store.environment, store.databases, Limits(), 1)
    writer.begin()
    writer.begin_recording()
    writer.is_apart = True
    writer.queue_of(SID)
    for number, qos in enumerate((1, 2, 2), 1):
        publish(writer, number, qos)
    writer.purge(SID, 10, SENT)
    writer.commit()
    for learns, went_on in (
        (False, []),
        (True, [2]),
        (True, []),
    ):  # a keeper that dies before it knows all is asked again
        again = Writer(store.environment, store.databases, Limits(), 1)
        again.begin()
        again.foreign.add(SID)
        again.queue_of(SID)
        again.goes_on(SID, False)
        if learns:
            again.learn({})
        left = {int.from_bytes(key[8:], "big"): parse_entry(value)[0] for key, value in again.cursor("queue")}
        assert left == dict.fromkeys(went_on, True)
        assert again.queue_of(SID).next_qseq > max(went_on, default=0)
        for number in left:
            again.delete("queue", u64(SID) + u64(number))
        again.commit()
    store.environment.close()


def test_it_is_forgotten_when_the_hosts_are_together_again(tmp_path: Path) -> None:
    store = open_store(tmp_path, 1 << 24, 1 << 30)
    writer = Writer(store.environment, store.databases, Limits(), 1)
    writer.begin()
    writer.queue_of(SID)
    for number in (1, 2, 3):
        publish(writer, number, 2)
    writer.purge(SID, 10, SENT)
    assert [len(keys) for keys in writer.half_done.values()] == [SENT]
    writer.set_apart(False, False, 0, 10)
    writer.commit()
    assert not writer.half_done
    assert not Writer(store.environment, store.databases, Limits(), 1).half_done
    store.environment.close()


def test_what_the_other_host_has_it_goes_on_with_itself(tmp_path: Path) -> None:
    """Its client may not have had that: kept as if PUBREC had come, the message would be lost."""
    store = open_store(tmp_path, 1 << 24, 1 << 30)
    writer = Writer(store.environment, store.databases, Limits(), 1)
    writer.begin()
    writer.begin_recording()
    writer.queue_of(SID)
    publish(writer, 1, 2)
    writer.commit()
    writer.begin()
    writer.set_apart(True, False, writer.seq, 10)
    publish(writer, 2, 2)
    writer.purge(SID, 10, SENT)
    assert list(writer.half_done.values()) == [[u64(SID) + u64(2)]]
    writer.commit()
    store.environment.close()
