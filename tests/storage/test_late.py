"""What waited in its worker for the keeper is not retained over what another host has had later; a will is."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from node.config import Limits
from storage.layout import topic_key, u64
from storage.store import open_store
from storage.writer import Writer
from tests.simulation.worker import PUBLISH, message, operation, payload_of

OURS, THEIRS, WELCOME_MS = 1, 2, 100


@pytest.mark.parametrize(
    ("theirs_ms", "ours_ms", "is_will", "retained"),
    [(95, 90, False, "theirs"), (90, 95, False, "ours"), (105, 100, False, "ours"), (95, 90, True, "ours")],
    ids=["waited", "received later", "did not wait", "a will says when its client connected"],
)
def test_what_is_retained(tmp_path: Path, theirs_ms: int, ours_ms: int, is_will: bool, retained: str) -> None:
    store = open_store(tmp_path, 1 << 20, 1 << 30)
    writer = Writer(store.environment, store.databases, Limits(), OURS)
    writer.welcome_ms = WELCOME_MS
    writer.begin()
    writer.learn({THEIRS: 1})
    will = writer.new_will_id() if is_will else 0
    if will:
        writer.put("wills", u64(will), b"")
    writer.put("retained", topic_key(b"t"), message("t", "theirs", 1, True, theirs_ms))
    body = struct.pack("<QHQQQH", 0, 0, will, 0, 0, 0) + message("t", "ours", 1, True, ours_ms)
    writer.apply(u64(1)[::-1] + operation(PUBLISH, body), 0, 1, WELCOME_MS)
    assert payload_of(writer.get("retained", topic_key(b"t"))) == retained
    writer.commit()
    store.environment.close()
