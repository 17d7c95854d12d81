"""`mqnode backup`: a copy of a running host brings back what clients were promised; a damaged copy is told from a whole one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest

from storage.layout import DATABASES, META_INCARNATION, StoreError, client_key, store_path, u64
from storage.verify import verify
from tests.broker import Broker
from tests.mqtt import PUBREC, Client

MESSAGES = 300


def command(*arguments: str | Path) -> tuple[int, str]:
    """Exit code and output of `mqnode backup …`."""
    run = subprocess.run(
        [Path(sys.executable).with_name("mqnode"), "backup", *arguments], capture_output=True, text=True, timeout=60
    )
    return run.returncode, run.stdout + run.stderr


def answer(*arguments: str | Path) -> dict[str, Any]:
    code, output = command(*arguments, "--json")
    assert code == 0, output
    found: dict[str, Any] = json.loads(output)
    return found


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    host = Broker().start()
    yield host
    host.close()


@pytest.fixture(scope="module")
def copy(broker: Broker) -> Path:
    """A backup of the running host: queues, shared bodies, a retained message, a will, an open QoS 2 publish."""
    subscribers = [Client(broker.port) for _ in range(2)]
    for name, client in zip("ab", subscribers, strict=True):
        client.connect(f"sub-{name}", clean=False, session_expiry=3600)
        client.subscribe(("t/both", 2), (f"t/{name}", 1))
    publisher = Client(broker.port)
    publisher.connect("pub", clean=False, session_expiry=3600, will=("t/will", b"gone", 1, False))
    for client in subscribers:
        client.disconnect()
    for number in range(MESSAGES):
        publisher.publish_all(("t/both", "t/a", "t/b")[number % 3], b"%d" % number, qos=1 + number % 2)
    publisher.publish_all("t/kept", b"kept", retain=True)
    publisher.publish("t/both", b"open", 2, id=777)
    assert publisher.expect(PUBREC).reason == 0
    target = broker.folder / "copy.mdb"
    made = answer("create", target, "--config", broker.config)
    assert made["bytes"] == target.stat().st_size
    publisher.close()
    return target


def damaged(copy: Path, database: str, change: dict[bytes, bytes | None]) -> Path:
    """A copy of the copy with some records put or, None, deleted."""
    path = copy.with_name("damaged.mdb")
    path.write_bytes(copy.read_bytes())
    with lmdb.open(os.fspath(path), subdir=False, lock=False, max_dbs=len(DATABASES), lib_version=0) as environment:
        opened = environment.open_db(database.encode(), create=False)
        with environment.begin(write=True, db=opened) as transaction:
            for key, value in change.items():
                if value is None:
                    assert transaction.delete(key)
                else:
                    transaction.put(key, value)
    return path


def first(copy: Path, database: str) -> tuple[bytes, bytes]:
    with lmdb.open(
        os.fspath(copy), subdir=False, lock=False, readonly=True, max_dbs=len(DATABASES), lib_version=0
    ) as environment:
        opened = environment.open_db(database.encode(), create=False)
        with environment.begin(db=opened) as transaction:
            found: tuple[bytes, bytes] = next(iter(transaction.cursor()))
            return found


def test_the_copy_of_a_running_host_is_whole(copy: Path) -> None:
    records = answer("verify", copy)["records"]
    assert records["sessions"] == 3
    assert records["subs"] == 4
    assert records["queue"] == MESSAGES // 3 * 4 + 2
    assert records["bodies"] == MESSAGES // 3 + 1
    assert records["packet_ids"] == records["retained"] == records["wills"] == 1
    assert copy.stat().st_mode & 0o777 == 0o600


def test_a_backup_replaces_no_file(broker: Broker, copy: Path) -> None:
    before = copy.stat()
    code, output = command("create", copy, "--config", broker.config)
    assert code == 1
    assert "exists already" in output
    assert copy.stat().st_mtime_ns == before.st_mtime_ns
    assert not list(copy.parent.glob("*.partial"))


def test_a_running_host_is_not_restored(broker: Broker, copy: Path) -> None:
    code, output = command("restore", copy, "--force", "--config", broker.config)
    assert code == 1
    assert "runs on this data_dir" in output
    assert broker.get("/ready")[0] == 200


def test_the_restored_host_keeps_its_promises(broker: Broker, copy: Path) -> None:
    other = Broker()
    try:
        assert answer("restore", copy, "--config", other.config)["moved_aside"] is None
        other.start()
        for name in "ab":
            client = Client(other.port)
            answered = client.connect(f"sub-{name}", clean=False, session_expiry=3600, receive_maximum=1)
            assert answered.session_present
            topics = ("t/both", f"t/{name}")
            expected = [b"%d" % n for n in range(MESSAGES) if ("t/both", "t/a", "t/b")[n % 3] in topics]
            assert [client.take().payload for _ in range(len(expected) + 1)] == [*expected, b"open"]
            client.nothing()
            client.close()
        publisher = Client(other.port)
        publisher.connect("pub", clean=False, session_expiry=3600)
        publisher.publish("t/both", b"open", 2, dup=True, id=777)  # stored already: nobody gets it twice
        assert publisher.expect(PUBREC).reason == 0
        publisher.subscribe("t/kept")
        assert publisher.take().payload == b"kept"
        publisher.close()
        assert not other.errors()
    finally:
        other.close()


def test_the_store_that_was_there_is_moved_aside(copy: Path, tmp_path: Path) -> None:
    config = tmp_path / "mqnode.toml"
    config.write_text(f'[node]\ndata_dir = "{tmp_path}/data"\n')
    answer("restore", copy, "--config", config)
    store = store_path(tmp_path / "data")
    kept = (store / "data.mdb").read_bytes()
    code, output = command("restore", copy, "--config", config)
    assert code == 1
    assert "--force" in output
    if os.geteuid() == 0:
        os.chown(tmp_path / "data", 65534, 65534)
    aside = Path(answer("restore", copy, "--force", "--config", config)["moved_aside"])
    owner = (tmp_path / "data").stat().st_uid
    assert {path.stat().st_uid for path in (store, tmp_path / "data" / "lock")} == {owner}, (
        "the host's user can start it"
    )
    assert (aside / "data.mdb").read_bytes() == kept
    assert sorted(path.name for path in store.parent.iterdir()) == sorted(["lock", "store", aside.name])


def test_a_restored_store_has_an_incarnation_of_its_own(copy: Path, tmp_path: Path) -> None:
    config = tmp_path / "mqnode.toml"
    config.write_text(f'[node]\ndata_dir = "{tmp_path}"\n')
    answer("restore", copy, "--config", config)
    incarnations = []
    for path in (copy, store_path(tmp_path) / "data.mdb"):
        with lmdb.open(os.fspath(path), subdir=False, lock=False, readonly=True, max_dbs=8, lib_version=0) as opened:
            meta = opened.open_db(b"meta", create=False)
            with opened.begin(db=meta) as transaction:
                incarnations.append(int.from_bytes(transaction.get(META_INCARNATION), "big"))
    assert incarnations[1] > incarnations[0] + 1_000_000, "it could be one that this host had since the backup"


DAMAGE = {
    "a session does not decode": ("sessions", lambda key, value: {key: b"\xc1"}),
    "a session under another key": ("sessions", lambda key, value: {key: None, client_key("x"): value}),
    "a subscription of no session": ("sessions", lambda key, value: {key: None}),
    "a subscription does not decode": ("subs", lambda key, value: {key: value[:-1]}),
    "a bit in a queue": ("queue", lambda key, value: {key: value[:-1] + bytes([value[-1] ^ 1])}),
    "a number not yet given": ("queue", lambda key, value: {key[:8] + u64(1 << 40): value}),
    "a body is missing": ("bodies", lambda key, value: {key: None}),
    "a body is not referred to": ("bodies", lambda key, value: {u64(1 << 40): value}),
    "a bit in a body": ("bodies", lambda key, value: {key: value[:-1] + bytes([value[-1] ^ 1])}),
    "a packet id with a value": ("packet_ids", lambda key, value: {key: b"x"}),
    "a bit in a retained message": ("retained", lambda key, value: {key: value[:-1] + b"?"}),
    "a retained message of another topic": ("retained", lambda key, value: {b"t/other": value}),
    "a will does not decode": ("wills", lambda key, value: {key: b""}),
    "the counters are gone": ("meta", lambda key, value: {b"next": None}),
    "a foreign format": ("meta", lambda key, value: {b"format": (99).to_bytes(4, "big")}),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_named(what: str, copy: Path) -> None:
    database, change = DAMAGE[what]
    path = damaged(copy, database, change(*first(copy, database)))
    with pytest.raises(StoreError, match="Nothing was changed"):
        verify(path)


@pytest.mark.parametrize("size", [0, 100, 4096, 8192, -4096, -1])
def test_a_cut_off_copy_is_not_restored(size: int, copy: Path, tmp_path: Path) -> None:
    whole = copy.read_bytes()
    path = tmp_path / "cut.mdb"
    path.write_bytes(whole[:size])
    config = tmp_path / "mqnode.toml"
    config.write_text(f'[node]\ndata_dir = "{tmp_path}/data"\n')
    code, output = command("restore", path, "--config", config)
    assert code == 1, output
    assert "its pages are damaged" in output
    assert not store_path(tmp_path / "data").exists()
