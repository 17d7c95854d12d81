"""Sessions that have ended here, as a snapshot tells a host that has not heard of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.config import Limits
from storage.changes import BEATEN, decode
from storage.layout import u64
from storage.store import open_store
from storage.writer import Writer

BACK, OVER = 1 << 40 | 1, 1 << 40 | 2  # one of them goes on


def told(writer: Writer, had: int) -> list[bytes]:
    return [
        key
        for database, key, *_ in decode(writer.snapshot(0, b"", 1 << 20, had=had)[0], beaten=True)
        if database == BEATEN
    ]


@pytest.mark.parametrize("when", ["apart", "as hosts part", "together"])
def test_what_goes_on_is_told_after_a_restart_while_hosts_are_apart(tmp_path: Path, when: str) -> None:
    store = open_store(tmp_path, 1 << 24, 1 << 30)
    writer = Writer(store.environment, store.databases, Limits(), 1)
    writer.begin()
    writer.begin_recording()
    writer.set_apart(when == "apart", False, writer.seq, 10)
    had = writer.seq
    for sid in (BACK, OVER):
        writer.note_over(sid)
        writer.say_over(sid)
    writer.set_apart(when == "apart", False, had, 10)
    writer.commit()
    writer.begin()
    writer.set_apart(when != "together", False, writer.seq, 10)
    writer.commit()
    again = Writer(store.environment, store.databases, Limits(), 1)
    assert list(again.ended) == ([] if when == "together" else [BACK, OVER])
    again.queue_of(BACK)
    assert told(again, had) == ([] if when == "together" else [u64(BACK)])
    assert told(again, again.seq) == []
    for most in (1, 1, 1):
        again.begin()
        again.set_apart(False, False, again.seq, most)
        again.commit()
    assert not Writer(store.environment, store.databases, Limits(), 1).ended
    store.environment.close()
