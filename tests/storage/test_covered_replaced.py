"""A host puts something else in the place of what a part of a snapshot has brought. Its context does not say yet that it knew that;
others that have it do not take the two for concurrent, and those that have not yet do not keep what it had replaced."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.layout import REPLICATED
from tests.storage.stores import Host, host, tell
from tests.storage.test_erased_and_taken import DATABASE, KEY, held

SOURCE, HERE, FIRST, LAST = 1, 2, 3, 4  # numbers of hosts
OLD, NEW = b"zzzz", b"aaaa"  # of two concurrent ones the greater one wins
END = (len(REPLICATED), b"")


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[Host, Host, Host]]:
    first, source, here = (host(tmp_path / str(number), number) for number in (FIRST, SOURCE, HERE))
    put(first, OLD)
    tell(first[1], FIRST, source[1])
    take_part(here, source)
    yield first, source, here
    for store, _ in (first, source, here):
        store.environment.close()


def take_part(here: Host, source: Host) -> None:
    """All that the source has; but it does not come to the end of its snapshot."""
    part, *_ = source[1].snapshot(0, b"", 1 << 20)
    here[1].begin()
    here[1].covering = True
    here[1].apply_changes(SOURCE, part, source[1].context())
    here[1].covering = False
    here[1].cover((0, b""), END, source[1].context())
    here[1].commit()


def put(host: Host, value: bytes | None, database: str = DATABASE, key: bytes = KEY) -> None:
    host[1].begin()
    if value is None:
        host[1].delete(database, key)
    else:
        host[1].put(database, key, value)
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


@pytest.fixture
def four(tmp_path: Path) -> Iterator[dict[int, Host]]:
    found = {number: host(tmp_path / f"of-four-{number}", number) for number in (FIRST, SOURCE, HERE, LAST)}
    yield found
    for store, _ in found.values():
        store.environment.close()


PLAIN, ENTRY = (DATABASE, KEY), ("queue", bytes(15) + b"\1")
RECEIVED = bytes((3, 2, 0))  # what is left of an entry in which the PUBREC came


@pytest.mark.parametrize("source_tells", [True, False])
@pytest.mark.parametrize(
    ("at", "old", "new", "now"),
    [(PLAIN, b"zzzz", b"mmmm", b"aaaa"), (PLAIN, b"zzzz", b"mmmm", None), (ENTRY, RECEIVED, RECEIVED, None)],
)
def test_so_is_what_that_had_replaced(
    four: dict[int, Host], at: tuple[str, bytes], old: bytes, new: bytes, now: bytes | None, source_tells: bool
) -> None:
    """A host that has only heard of that neither keeps nor prefers it."""
    put(four[FIRST], old, *at)
    for told in (SOURCE, LAST):
        tell(four[FIRST][1], FIRST, four[told][1])
    put(four[SOURCE], new, *at)
    take_part(four[HERE], four[SOURCE])
    put(four[HERE], now, *at)
    if source_tells:
        tell(four[HERE][1], HERE, four[SOURCE][1])
        tell(four[SOURCE][1], SOURCE, four[LAST][1])
    for number in (HERE, SOURCE, FIRST, LAST, HERE):
        for told in four.keys() - {number}:
            tell(four[number][1], number, four[told][1])
    for _, writer in four.values():
        writer.begin()
        assert writer.get(*at) == now
        writer.abort()
        assert writer.digests() == four[HERE][1].digests()
