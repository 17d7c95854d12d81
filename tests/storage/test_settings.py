"""What is set for all hosts, in the stores of two of them: each merges it alike, and an older store has none."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.layout import REPLICATED, StoreError, sealed, setting, setting_key, setting_text
from storage.reader import Reader
from storage.verify import verify
from storage.writer import Writer
from tests.storage.stores import A, B, Host, host, tell

LONG = "user/" + "ü" * 1000


def put(writer: Writer, name: str, text: str | None, now_ms: int = 1) -> None:
    writer.begin()
    if text is None:
        writer.delete("settings", setting_key(name))
    else:
        writer.put("settings", setting_key(name), setting(text, now_ms))
    assert writer.settings_changed
    writer.commit()


def there(host: Host) -> dict[str, str]:
    with host[0].environment.begin() as transaction:
        return {
            key.decode(errors="replace"): setting_text(value[12:])
            for key, value in transaction.cursor(db=host[0].databases["settings"])
        }


def meet(hosts: tuple[Host, Host]) -> dict[str, str]:
    """What both have then."""
    (_, a), (_, b) = hosts
    for _ in range(2):  # each tells, too, what it has chosen
        tell(a, A, b)
        tell(b, B, a)
    assert there(hosts[0]) == there(hosts[1])
    assert a.digests() == b.digests()
    return there(hosts[0])


@pytest.mark.parametrize(("here_ms", "there_ms", "stays"), [(255, 256, "a"), (256, 255, "z")])
def test_of_two_that_did_not_know_of_each_other_the_later_one_stays(
    hosts: tuple[Host, Host], here_ms: int, there_ms: int, stays: str
) -> None:
    (_, a), (_, b) = hosts
    put(a, "acl", "z", here_ms)
    put(b, "acl", "a", there_ms)
    put(a, "user/left", "1")
    put(b, "user/right", "2")
    assert meet(hosts) == {"acl": stays, "user/left": "1", "user/right": "2"}


def test_who_knew_the_other_one_wins_whatever_the_clocks_say(hosts: tuple[Host, Host]) -> None:
    (_, a), (_, b) = hosts
    put(a, "acl", "first", 1000)
    tell(a, A, b)
    put(b, "acl", "second", 1)
    assert meet(hosts) == {"acl": "second"}
    put(a, "acl", None)
    assert meet(hosts) == {}


def test_what_is_put_in_the_place_of_what_a_part_of_a_copy_brought_counts(hosts: tuple[Host, Host]) -> None:
    """Its context does not say yet that it knew that: so each commit does."""
    (_, a), here = hosts
    put(a, "acl", "old", 1000)
    part, *_ = a.snapshot(0, b"", 1 << 20)
    b = here[1]
    b.begin()
    b.covering = True
    b.apply_changes(A, part, a.context())
    b.covering = False
    b.cover((0, b""), (len(REPLICATED), b""), a.context())
    b.commit()
    put(b, "acl", "new", 1)
    tell(b, B, a)
    assert there(hosts[0]) == there(here) == {"acl": "new"}


def test_what_comes_from_elsewhere_is_announced_and_else_nothing(hosts: tuple[Host, Host]) -> None:
    (_, a), (_, b) = hosts
    put(a, "acl", "x")
    tell(a, A, b)
    assert b.settings_changed
    b.begin()
    b.put("retained", b"t", b"x")
    assert not b.settings_changed
    b.commit()


def test_a_host_that_joins_gets_them_with_its_copy(hosts: tuple[Host, Host]) -> None:
    (_, a), (_, b) = hosts
    put(a, "user/alice", "1")
    put(a, LONG, "2")
    part, _, _ = a.snapshot(0, b"", 1 << 20)
    b.begin()
    b.apply_changes(A, part, a.context())
    b.learn(a.context())
    assert b.settings_changed
    b.commit()
    assert there(hosts[0]) == there(hosts[1])
    assert sorted(there(hosts[1]).values()) == ["1", "2"]


def test_a_reader_finds_them_and_passes_over_what_is_damaged(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    (store, a), _ = hosts
    for name in ("acl", "config/log.level", "user/alice", "user/bob", LONG):
        put(a, name, name)
    with store.environment.begin(write=True) as transaction:
        transaction.put(b"user/bob", sealed(b"12345678x", 1)[:-1] + b"y", db=store.databases["settings"])
    path, copy = tmp_path / "a", tmp_path / "copy"
    reader_of = shutil.copytree(path, copy)
    reader = Reader(reader_of)
    assert [text for _, text in reader.settings("user/")] == ["user/alice", LONG]
    assert reader.settings("acl") == [("acl", "acl")]
    assert reader.damaged == 1
    reader.close()


WRONG: dict[str, Callable[[], tuple[bytes, bytes]]] = {
    "checksum": lambda: (b"user/bob", sealed(setting("x", 1), 1)[:-1] + b"y"),
    "nobody sets": lambda: (b"other", sealed(setting("x", 1), 1)),
    "when": lambda: (b"acl", sealed(b"1234567", 1)),
    "utf-8": lambda: (b"acl", sealed(b"12345678\xff", 1)),
}


@pytest.mark.parametrize("why", WRONG)
def test_a_backup_is_verified_with_them(tmp_path: Path, why: str) -> None:
    store, writer = host(tmp_path / "a", A)
    put(writer, "user/alice", "line")
    with store.environment.begin(write=True) as transaction:
        transaction.put(*WRONG[why](), db=store.databases["settings"])
    store.environment.close()
    with pytest.raises(StoreError, match=why):
        verify(tmp_path / "a" / "data.mdb")


def test_a_backup_counts_them(tmp_path: Path) -> None:
    store, writer = host(tmp_path, A)
    put(writer, "user/alice", "line")
    put(writer, "acl", "")
    store.environment.close()
    assert verify(tmp_path / "data.mdb")["settings"] == 2


def test_the_release_before_opens_a_store_until_there_are_settings(tmp_path: Path) -> None:
    """So a host may be downgraded until then. That release's own stores have no such database."""
    store, _ = host(tmp_path, A)
    with store.environment.begin(write=True) as transaction:
        transaction.drop(store.databases["settings"])
    store.environment.close()
    found = verify(tmp_path / "data.mdb")
    assert (found["format"], found["settings"]) == (2, 0)
    store, writer = host(tmp_path, A)
    put(writer, "acl", "x")
    store.environment.close()
    found = verify(tmp_path / "data.mdb")
    assert (found["format"], found["settings"]) == (3, 1)


def test_so_does_one_that_was_told_of_some(tmp_path: Path) -> None:
    (first, one), (second, two) = host(tmp_path / "a", A), host(tmp_path / "b", B)
    assert "settings" not in one.digests(), "a host of that release would not know it"
    put(one, "acl", "x")
    tell(one, A, two)
    for store in (first, second):
        store.environment.close()
    assert verify(tmp_path / "b" / "data.mdb")["format"] == 3
