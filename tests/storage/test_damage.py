"""A store that mqnode cannot use: the keeper says so and ends with 78, and leaves the file as it is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb
import pytest

from storage import backup
from storage.layout import DATABASES, META_FORMAT, store_path
from tests.broker import Broker, wait_for
from tests.mqtt import Client

PAGE = 4096
FLAGS_AT = 10  # in a page's header
MESSAGES = 200


def wait_unusable(host: Broker) -> None:
    """The keeper has ended because of the store."""
    log = host.run_dir / "supervisord.log"
    wait_for(lambda: "store_unusable" in host.log(), 20, host.log)
    wait_for(lambda: "exited: keeper (exit status 78" in log.read_text(), 20, log.read_text)


@pytest.fixture(scope="module")
def stopped() -> Iterator[Path]:
    """The data_dir of a host that is stopped, its store compacted: every page holds something."""
    host = Broker().start()
    try:
        with Client(host.port) as client:
            client.connect("sub", clean=False, session_expiry=3600)
            client.subscribe(("t", 1))
            client.disconnect()
        with Client(host.port) as client:
            client.connect("pub")
            for number in range(MESSAGES):
                client.publish_all("t", b"message-%03d" % number + b"." * 100)
        assert host.stop() == 0
        copy = host.folder / "copy.mdb"
        backup.create(store_path(host.data_dir), copy)
        backup.restore(copy, store_path(host.data_dir), True, 0)
        yield host.data_dir
    finally:
        host.close()


def leaf(data: bytes) -> int:
    """The offset of a page in the middle of the queue."""
    return data.index(b"message-100") // PAGE * PAGE


def flipped(data: bytes, at: int, bit: int) -> bytes:
    return data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]


def zeroed(data: bytes, at: int, size: int) -> bytes:
    return data[:at] + bytes(size) + data[at + size :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda data: data[: len(data) // 2],
    "truncated to nothing": lambda data: b"",
    "zeroed": lambda data: bytes(len(data)),
    "a zeroed page": lambda data: zeroed(data, leaf(data), PAGE),
    "a flipped bit": lambda data: flipped(data, leaf(data) + FLAGS_AT, 2),
}


@contextmanager
def broken(data_dir: Path, change: Callable[[bytes], bytes]) -> Iterator[None]:
    """The store with this change; afterwards it is asserted that nobody else changed it, and it is whole again."""
    file = store_path(data_dir) / "data.mdb"
    whole = file.read_bytes()
    file.write_bytes(change(whole))
    try:
        yield
        assert file.read_bytes() == change(whole), "it was overwritten"
    finally:
        file.write_bytes(whole)


def run_keeper(data_dir: Path) -> tuple[int, str]:
    """Exit code and log of a keeper on its own."""
    config = data_dir.parent / "keeper.toml"
    config.write_text(f'[node]\ndata_dir = "{data_dir}"\n')
    (data_dir / "run").mkdir(exist_ok=True)
    run = subprocess.run(
        [sys.executable, "-P", "-m", "node.keeper", "--config", config], capture_output=True, text=True, timeout=20
    )
    return run.returncode, run.stderr


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_stops_the_keeper_and_nothing_is_overwritten(what: str, stopped: Path) -> None:
    with broken(stopped, DAMAGE[what]):
        code, said = run_keeper(stopped)
        if code < 0:  # LMDB gave up; supervisord starts the keeper again
            code, said = run_keeper(stopped)
        assert code == 78, said
        assert "mqnode backup restore" in said
        assert "has deleted nothing" in said


def test_a_newer_format_is_refused(stopped: Path) -> None:
    store = store_path(stopped)
    whole = (store / "data.mdb").read_bytes()
    with lmdb.open(os.fspath(store), max_dbs=len(DATABASES), lib_version=0) as environment:
        meta = environment.open_db(b"meta", create=False)
        with environment.begin(write=True, db=meta) as transaction:
            transaction.put(META_FORMAT, (99).to_bytes(4, "big"))
    foreign = (store / "data.mdb").read_bytes()
    (store / "data.mdb").write_bytes(whole)
    with broken(stopped, lambda _: foreign):
        code, said = run_keeper(stopped)
        assert code == 78, said
        assert "was written by a newer mqnode (format 99" in said
        assert "Install the newer version again" in said


def test_damage_that_shows_later_stops_the_keeper(stopped: Path) -> None:
    """Nobody looks at the middle of the queue before the session is deleted. The next start checks every page."""
    file = store_path(stopped) / "data.mdb"
    whole = file.read_bytes()
    host = Broker(data_dir=stopped)
    try:
        host.start()
        with file.open("r+b") as live:
            at = leaf(file.read_bytes()) + FLAGS_AT
            live.seek(at)
            live.write(flipped(file.read_bytes(), at, 2)[at : at + 1])
        host.get("/v1/sessions/sub", method="DELETE")
        wait_unusable(host)  # after LMDB has aborted the process, or said MDB_CORRUPTED
        assert "every page of the store is checked first" in host.log()
        assert "mqnode backup restore" in host.log()
        assert "the keeper is not ready" in host.get("/ready")[1]["reasons"]
    finally:
        host.close()
        file.write_bytes(whole)


def test_what_a_bad_disk_did_to_one_message_is_a_hole(stopped: Path) -> None:
    """The others arrive, and the host that is whole again serves as before."""
    file = store_path(stopped) / "data.mdb"
    file.write_bytes(flipped(file.read_bytes(), file.read_bytes().index(b"message-100"), 1))
    host = Broker(data_dir=stopped)
    try:
        host.start()
        with Client(host.port) as client:
            assert client.connect("sub", clean=False, session_expiry=3600).session_present
            found = [client.take().payload[8:11] for _ in range(MESSAGES - 1)]
            client.nothing()
        assert found == [b"%03d" % number for number in range(MESSAGES) if number != 100]
        assert host.signal("keeper", signal.SIGKILL)
        host.wait_ready()
    finally:
        host.close()
