"""A keeper that starts anew with messages of sessions that are over, or that it does not know."""

from __future__ import annotations

import struct
from pathlib import Path
from types import SimpleNamespace

import pytest

from node.config import Limits
from node.sessions.directory import Directory
from storage.layout import u64
from storage.store import open_store
from storage.writer import Writer
from tests.simulation.worker import message

OURS, THEIRS = 2, 1  # numbers of hosts
SHARE = b"group/topic"


@pytest.mark.parametrize("first_owner", [OURS, THEIRS])
def test_what_another_host_took_for_them_stays_in_its_inbox(tmp_path: Path, first_owner: int) -> None:
    """That host passes it on to other members; numbered here, too, it would reach the group twice."""
    store = open_store(tmp_path, 1 << 24, 1 << 30)
    key = u64(first_owner << 40 | 1) + u64(THEIRS << 40 | 1)
    entry = struct.pack("<BBBH", 1 | 4, 2, 0, len(SHARE)) + SHARE + message("topic", "it", 2, False, 0)
    writer = Writer(store.environment, store.databases, Limits(), OURS)
    writer.begin()
    writer.put("inbox", key, entry)
    writer.commit()
    writer = Writer(store.environment, store.databases, Limits(), OURS)
    Directory(writer, OURS, 1, SimpleNamespace()).load([], [], [], 0)  # type: ignore[arg-type]
    writer.begin()
    writer.settle()
    assert [writer.keys("queue", b""), writer.keys("inbox", b"")] == [[], [key]]
    writer.abort()
