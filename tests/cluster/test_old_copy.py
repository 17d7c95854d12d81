"""An old copy of a host's store is brought back while the other host lives: nothing acknowledged is lost, nor told again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.layout import META_NUMBER, open_environment
from tests.broker import wait_for
from tests.cluster.hosts import MESH, Host, in_sync, join, running_hosts
from tests.cluster.network import Network
from tests.cluster.test_digest import digest, publish, receive, subscribe


@pytest.fixture(scope="module")
def pair(network: Network) -> Iterator[tuple[Host, Host]]:
    with running_hosts(network, interconnect=MESH) as (first, second):
        join(first, second)
        yield first, second


def number(host: Host) -> int:
    """Of its store."""
    with open_environment(host.data_dir / "store", 1 << 30, readonly=True) as environment:
        meta = environment.open_db(b"meta", create=False)
        with environment.begin() as transaction:
            return int.from_bytes(transaction.get(META_NUMBER, b"", db=meta), "big")


def named(prefix: str, count: int) -> list[bytes]:
    return [f"{prefix}{index}".encode() for index in range(count)]


def before(first: Host, name: str, copy: Path) -> None:
    """The state that is brought back: two messages for a session of the first host."""
    subscribe(first, name, f"{name}/#")
    publish(first, f"{name}/x", b"received", b"kept")
    made = first.mqnode("backup", "create", str(copy))
    assert made.returncode == 0, made.stderr


def put_back(first: Host, copy: Path) -> None:
    """As a disk that goes back in time does."""
    for path in (first.data_dir / "store").iterdir():
        path.unlink()
    shutil.copy(copy, first.data_dir / "store" / "data.mdb")


def since(first: Host, second: Host, name: str) -> None:
    """What only the second host will know of: a message less, others more, and a session."""
    assert receive(first, name, 1) == [b"received"]
    subscribe(first, f"{name}-late", f"{name}/#")
    publish(first, f"{name}/x", *named("first", 20))
    wait_for(lambda: digest(second)["equal"], 10, second.log)


def afterwards(first: Host, second: Host, name: str, expected: list[bytes]) -> None:
    """Sessions go on at both hosts, each message is there once, and the stores are equal."""
    publish(first, f"{name}/x", *named("new-first", 3))
    publish(second, f"{name}/x", *named("new-second", 3))
    new = named("new-first", 3) + named("new-second", 3)
    wait_for(lambda: digest(second)["equal"], 15, lambda: first.log() + second.log())
    for host, session, there in ((first, name, [b"kept", *expected]), (second, f"{name}-late", expected)):
        with host.client() as client:
            assert client.connect(session, clean=False, session_expiry=600).session_present
            assert sorted(client.take().payload for _ in there + new) == sorted(there + new)
            client.nothing()
    wait_for(lambda: digest(first)["equal"], 15, lambda: first.log() + second.log())


def test_an_old_copy_of_the_disk(pair: tuple[Host, Host], tmp_path: Path) -> None:
    first, second = pair
    before(first, "disk", tmp_path / "copy.mdb")
    since(first, second, "disk")
    first.stop()
    publish(second, "disk/x", *named("away", 3))
    put_back(first, tmp_path / "copy.mdb")
    (first.data_dir / "store.reached").unlink()
    first.start()
    in_sync(first, second)
    assert "store_is_old" in first.log(), "the other host has told it"
    afterwards(first, second, "disk", named("first", 20) + named("away", 3))


def test_a_restored_backup(pair: tuple[Host, Host], tmp_path: Path) -> None:
    first, second = pair
    before(first, "backup", tmp_path / "copy.mdb")
    since(first, second, "backup")
    was = number(first)
    first.stop()
    restored = first.mqnode("backup", "restore", "--force", str(tmp_path / "copy.mdb"))
    assert restored.returncode == 0, restored.stderr
    found = first.log().count("store_is_old")
    first.start()
    in_sync(first, second)
    assert number(first) != was
    assert first.log().count("store_is_old") == found, "it has another number before anybody has heard of it"
    afterwards(first, second, "backup", named("first", 20))


def test_an_old_copy_that_served_before_the_other_host_came(pair: tuple[Host, Host], tmp_path: Path) -> None:
    """The file beside the store tells that: what it acknowledges alone must not have the numbers of what the other host knows."""
    first, second = pair
    before(first, "alone", tmp_path / "copy.mdb")
    since(first, second, "alone")
    for host in pair:
        host.stop()
    put_back(first, tmp_path / "copy.mdb")
    first.start()
    with first.client() as client:
        client.connect("alone", clean=False, session_expiry=600)
        assert [client.take().payload for _ in range(2)] == [b"received", b"kept"], "it does not know better"
    publish(first, "alone/x", *named("solo", 30))
    second.start()
    in_sync(first, second)
    publish(second, "alone/x", b"both")
    wait_for(lambda: digest(second)["equal"], 15, lambda: first.log() + second.log())
    with second.client() as client:
        assert client.connect("alone", clean=False, session_expiry=600).session_present
        found = [client.take().payload for _ in range(51)]
        assert sorted(found) == sorted(named("first", 20) + named("solo", 30) + [b"both"])
        assert [each for each in found if each.startswith(b"solo")] == named("solo", 30)
