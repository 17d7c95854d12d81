"""A host puts something else in the place of what a part of a snapshot has brought. Its context does not say yet that it knew that;
others that have it do not take the two for concurrent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.layout import REPLICATED
from tests.storage.test_erased_and_taken import DATABASE, KEY, Host, held, host, tell

SOURCE, HERE, FIRST = 1, 2, 3  # numbers of hosts
OLD, NEW = b"zzzz", b"aaaa"  # of two concurrent ones the greater one wins
END = (len(REPLICATED), b"")


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[Host, Host, Host]]:
    first, source, here = (host(tmp_path / str(number), number) for number in (FIRST, SOURCE, HERE))
    put(first, OLD)
    tell(first[1], FIRST, source[1])
    part, *_ = source[1].snapshot(0, b"", 1 << 20)
    here[1].begin()
    here[1].covering = True
    here[1].apply_changes(SOURCE, part, source[1].context())
    here[1].covering = False
    here[1].cover((0, b""), END, source[1].context())
    here[1].commit()
    yield first, source, here
    for store, _ in (first, source, here):
        store.environment.close()


def put(host: Host, value: bytes | None) -> None:
    host[1].begin()
    if value is None:
        host[1].delete(DATABASE, KEY)
    else:
        host[1].put(DATABASE, KEY, value)
    host[1].commit()


def told(host: Host, other: Host) -> None:
    """Of its last commit, as it is made."""
    other[1].begin()
    other[1].apply_changes(HERE, bytes(host[1].changes), host[1].context())
    other[1].learn({HERE: host[1].seq})
    other[1].commit()


@pytest.mark.parametrize("live", [True, False])
def test_what_is_put_in_its_place_counts(hosts: tuple[Host, Host, Host], live: bool) -> None:
    first, source, here = hosts
    put(here, NEW)
    if live:
        told(here, source)
    else:
        tell(here[1], HERE, source[1])
    assert held(source) == held(here)
    put(here, None)
    tell(here[1], HERE, source[1])
    tell(first[1], FIRST, here[1])
    tell(source[1], SOURCE, here[1])
    assert held(source) is held(here) is None
    assert source[1].digests() == here[1].digests()


@pytest.mark.parametrize("in_one_commit", [True, False])
def test_so_does_what_is_put_after_it_was_deleted(hosts: tuple[Host, Host, Host], in_one_commit: bool) -> None:
    _, source, here = hosts
    here[1].begin()
    here[1].delete(DATABASE, KEY)
    if not in_one_commit:
        here[1].commit()
        here[1].begin()
    here[1].put(DATABASE, KEY, NEW)
    here[1].commit()
    tell(here[1], HERE, source[1])
    assert held(source) == held(here)


def test_who_had_put_the_old_one_forgets_it(hosts: tuple[Host, Host, Host]) -> None:
    first, source, here = hosts
    put(here, NEW)
    tell(here[1], HERE, first[1])
    tell(here[1], HERE, source[1])
    assert held(first) == held(source) == held(here)
