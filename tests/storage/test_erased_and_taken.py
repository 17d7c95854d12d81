"""A host erases what it had put and, in the same commit or before that is told, takes what another one put there meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from node.config import Limits
from storage.store import Store, open_store
from storage.writer import Writer

A, B = 1, 2  # numbers of hosts
DATABASE, KEY = "packet_ids", bytes(8) + b"\0\1"
Host = tuple[Store, Writer]


def host(folder: Path, number: int) -> Host:
    folder.mkdir()
    store = open_store(folder, 1 << 24, 1 << 30)
    writer = Writer(store.environment, store.databases, Limits(), number)
    writer.begin()
    writer.begin_recording()
    writer.commit()
    return store, writer


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[Host, Host]]:
    both = host(tmp_path / "a", A), host(tmp_path / "b", B)
    yield both
    for store, _ in both:
        store.environment.close()


def held(host: Host) -> bytes | None:
    with host[0].environment.begin() as transaction:
        value: bytes | None = transaction.get(KEY, db=host[0].databases[DATABASE])
        return value


def tell(writer: Writer, number: int, told: Writer) -> None:
    """What the other host lacks, as it is sent again."""
    context = writer.context()
    for seq, changes in writer.missed(told.peer_seq(number), 1 << 20):
        told.begin()
        told.apply_changes(number, changes, context)
        told.learn({number: seq})
        told.commit()


@pytest.mark.parametrize("in_one_commit", [True, False])
@pytest.mark.parametrize("theirs", [b"aaaa", b"zzzz"])  # loses against ours, or wins
def test_the_other_host_forgets_it_too(hosts: tuple[Host, Host], in_one_commit: bool, theirs: bytes) -> None:
    (_, a), (_, b) = hosts
    a.begin()
    a.put(DATABASE, KEY, theirs)
    a.commit()
    [*_, (seq, put)] = a.missed(1, 1 << 20)
    alone = a.context()  # it does not know of ours
    b.begin()
    b.put(DATABASE, KEY, b"mmmm")
    b.commit()
    tell(b, B, a)
    b.begin()
    b.delete(DATABASE, KEY)
    if not in_one_commit:
        b.commit()
        b.begin()
    b.apply_changes(A, put, alone)
    b.learn({A: seq})
    b.commit()
    tell(b, B, a)
    tell(a, A, b)
    assert held(hosts[0]) == held(hosts[1])
    assert a.digests() == b.digests()
