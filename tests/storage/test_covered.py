"""What a part of another host's snapshot tells before the rest is here, and if that never comes."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.config import Limits
from storage.layout import REPLICATED, sealed
from storage.store import Store, open_store
from storage.writer import Writer

PACKET_IDS = REPLICATED.index("packet_ids")
SOURCE, OTHER, HERE = 1, 2, 3  # numbers of hosts
BEGIN, MIDDLE, END = (0, b""), (PACKET_IDS, b"m"), (len(REPLICATED), b"")
SEEN = {SOURCE: 9, OTHER: 5}


def put(key: bytes, host: int, commit: int) -> bytes:
    value = sealed(b"%d" % commit, host << 40 | commit)
    return struct.pack("<BHI", PACKET_IDS, len(key), len(value)) + key + value


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = open_store(tmp_path, 1 << 24, 1 << 30)
    yield store
    store.environment.close()


def opened(store: Store) -> Writer:
    writer = Writer(store.environment, store.databases, Limits(), HERE)
    writer.begin()
    return writer


@pytest.fixture
def writer(store: Store) -> Writer:
    """With the first half of the source's snapshot on its disk: one key."""
    writer = opened(store)
    writer.covering = True
    writer.apply_changes(SOURCE, put(b"a", SOURCE, 9), SEEN)
    writer.covering = False
    writer.cover(BEGIN, MIDDLE, SEEN)
    writer.commit()
    return opened(store)


def test_what_the_source_had_replaced_or_deleted_comes_back_from_nobody(writer: Writer) -> None:
    for key in (b"a", b"b"):
        writer.apply_changes(OTHER, put(key, OTHER, 5), {OTHER: 5})
    assert writer.get("packet_ids", b"a") == b"9"
    assert writer.get("packet_ids", b"b") is None


def test_what_it_had_not_seen_or_told_yet_is_taken(writer: Writer) -> None:
    writer.apply_changes(OTHER, put(b"b", OTHER, 6), {OTHER: 6})
    writer.apply_changes(OTHER, put(b"z", OTHER, 5), {OTHER: 6})
    assert [writer.get("packet_ids", key) for key in (b"b", b"z")] == [b"6", b"5"]


def test_it_is_forgotten_once_the_store_has_seen_as_much(store: Store, writer: Writer) -> None:
    writer.learn({OTHER: 5})
    assert writer.covered.parts
    writer.learn({SOURCE: 9})
    assert not writer.covered.parts
    writer.commit()
    assert not opened(store).covered.parts


def test_nobody_waits_for_commits_of_a_source_that_is_gone_for_good(writer: Writer) -> None:
    writer.learn({OTHER: 5})
    writer.forget_host(SOURCE)
    assert not writer.covered.parts


def test_parts_of_one_context_are_one(writer: Writer) -> None:
    writer.cover(MIDDLE, END, SEEN)
    assert [part[:2] for part in writer.covered.parts.values()] == [(BEGIN, END)]
    writer.cover(BEGIN, END, {**SEEN, OTHER: 6})
    assert len(writer.covered.parts) == 2


def test_who_is_told_of_such_a_range_is_told_its_context(writer: Writer) -> None:
    assert writer.covered.behind(BEGIN, {OTHER: 4, HERE: 2}) == ({**SEEN, HERE: 2}, MIDDLE)
    assert writer.covered.behind(MIDDLE, {OTHER: 4, HERE: 2}) == ({OTHER: 4, HERE: 2}, END)


def test_what_was_sent_again_may_lack_what_its_host_had_seen(store: Store, writer: Writer) -> None:
    """Until that is here, also after a restart, or if that host is gone and comes back; it says nothing of what else is here."""
    writer.may_lack({OTHER: 6, SOURCE: 11, HERE: 4})
    writer.apply_changes(OTHER, put(b"z", OTHER, 6), {OTHER: 6})
    assert writer.get("packet_ids", b"z") == b"6"
    writer.forget_host(SOURCE)
    writer.commit()
    again = opened(store)
    assert [again.covered.last(host) for host in (OTHER, SOURCE, HERE)] == [6, 11, 0]
    again.learn({OTHER: 6})
    assert again.covered.holes == {SOURCE: 11}
    again.learn({SOURCE: 11})
    again.commit()
    assert opened(store).covered.last(SOURCE) == 0
