"""A retained message that a worker has read for a new durable subscription is queued only while the topic retains it."""

from __future__ import annotations

import struct
from pathlib import Path

from node.config import Limits
from storage.store import open_store
from storage.writer import Writer

PUBLISH, RETAIN, REPLAYED = 1, 4, 1


def record(payload: bytes, received_ms: int, flags: int = 1) -> bytes:
    return struct.pack("<BQQHHII", flags, received_ms, 0, 1, 0, 0, len(payload)) + b"t" + payload


def operation(targets: list[int], message: bytes, replayed: int = 0) -> bytes:
    body = struct.pack("<QHQQQH", 0, 0, 0, 0, replayed, len(targets))
    body += b"".join(struct.pack("<QBB", sid, 1 | 4, 0) for sid in targets) + message
    return struct.pack("<BI", PUBLISH, len(body)) + body


def test_not_if_it_was_replaced_or_deleted(tmp_path: Path) -> None:
    store = open_store(tmp_path, 1 << 20, 1 << 30)
    writer = Writer(store.environment, store.databases, Limits())
    writer.begin()
    sid, batch = writer.new_sid(), 0
    queue = writer.queue_of(sid)

    def count_after(*operations: bytes) -> int:
        nonlocal batch
        batch += 1
        writer.apply(struct.pack("<Q", batch) + b"".join(operations), 0, 1, 0)
        return int(queue.count)

    old, new = (b"old", 5), (b"new", 6)
    assert count_after(operation([], record(*old, 1 | RETAIN)), operation([sid], record(*old), REPLAYED)) == 1
    assert count_after(operation([sid], record(*new, 1 | RETAIN)), operation([sid], record(*old), REPLAYED)) == 2
    assert count_after(operation([], record(b"", 7, RETAIN)), operation([sid], record(*new), REPLAYED)) == 2
    writer.commit()
    store.environment.close()
