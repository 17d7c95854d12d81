"""Deletions that come before the puts of a third host: they are kept until those have come, at little cost."""

from __future__ import annotations

import struct
import time
from pathlib import Path

from node.config import Limits
from storage.layout import REPLICATED
from storage.store import open_store
from storage.writer import Writer

RETAINED = REPLICATED.index("retained")
COMMITS = 6000
TURN_S = (
    1.0  # half of what the watchdog allows a turn of the keeper; it took 10 s when each commit looked at each burial
)
TELLS, AWAY = 1, 3  # numbers of hosts


def erasure(key: bytes, host: int, commit: int) -> bytes:
    return struct.pack("<BHI", RETAINED, len(key), 0xFFFFFFFF) + key + struct.pack("<Q", host << 40 | commit)


def test_a_host_that_returns_takes_many_deletions_of_what_it_has_not_seen(tmp_path: Path) -> None:
    store = open_store(tmp_path, 1 << 24, 1 << 30)
    writer = Writer(store.environment, store.databases, Limits(), 2)
    writer.begin()
    began = time.monotonic()
    for commit in range(1, COMMITS + 1):
        writer.apply_changes(TELLS, erasure(b"%d" % commit, AWAY, commit), {TELLS: commit, AWAY: commit})
        writer.learn({TELLS: commit})
    assert len(writer.burials()) == COMMITS
    writer.learn({AWAY: COMMITS - 1})
    took_s = time.monotonic() - began
    assert [dot & (1 << 40) - 1 for _, _, dot, _ in writer.burials()] == [COMMITS]
    writer.commit()
    assert took_s < TURN_S
    again = Writer(store.environment, store.databases, Limits(), 2)
    again.begin()
    again.learn({AWAY: COMMITS})
    assert again.burials() == []
    again.abort()
    store.environment.close()
