"""The doors of a member: open while somebody is expected, each for those whom it is for, and what they let in is on disk."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest

from mesh.membership import Member
from mesh.token import LATE_MS, Token, TokenError, proof
from node.config import load
from node.discovery.rounds import Discovery, Place
from node.interconnect import door
from node.interconnect.cluster import Cluster
from tests.broker import free_port

TOKEN_PORT, KNOCK_PORT = door.JOIN_PORT, door.KNOCK_PORT
HOUR_S = 3600


def test_doors_are_open_while_somebody_is_expected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now_ms = 1_000_000
    monkeypatch.setattr(door, "now_ms", lambda: now_ms)
    port = free_port()
    cluster = Cluster(tmp_path, "n1", f"127.0.0.1:{port}", "mqnode")
    doors = door.Door(cluster, f"127.0.0.1:{port}", lambda: None, lambda: True)

    def are_open() -> tuple[bool, bool]:
        doors.look()
        return listens(port + TOKEN_PORT), listens(port + KNOCK_PORT)

    assert are_open() == (False, False)
    token = Token(cluster.table.cluster_id, "127.0.0.1:1", cluster.identity.public_key, b"s" * 16)
    cluster.tokens.issue(token, HOUR_S, now_ms)
    assert are_open() == (True, False), "a token opens no door for those without one"
    doors.pending()
    assert are_open() == (True, True)
    doors.use_key()
    assert are_open() == (True, True)
    now_ms += HOUR_S * 1000 + LATE_MS
    assert are_open() == (False, False)


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except ConnectionRefusedError:
        return False
    return True


def test_a_token_that_was_used_is_used_after_a_restart(tmp_path: Path) -> None:
    def cluster() -> Cluster:
        return Cluster(tmp_path, "n1", "127.0.0.1:7001", "mqnode")

    one = cluster()
    token = Token(one.table.cluster_id, "127.0.0.1:7002", one.identity.public_key, b"s" * 16)
    one.tokens.issue(token, HOUR_S, 0)
    one.tokens.use(token.number, "k" * 40)
    joined = Member(b"j" * 16, "n2", "127.0.0.1:7101", "k" * 40, "active", one.stamp())
    door.Door(one, "127.0.0.1:7001", lambda: None, lambda: True).admit(joined)
    again = cluster()
    assert joined.node_id in again.table.members
    given = proof(token.key, one.identity.public_key, "o" * 40, b"n")
    with pytest.raises(TokenError, match="used by another host"):
        again.tokens.check(token.number, given, one.identity.public_key, "o" * 40, b"n", 1)


def test_what_is_refused_again_and_again_is_logged_once_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_ms = 1_000_000
    monkeypatch.setattr(door, "now_ms", lambda: now_ms)
    doors = door.Door(Cluster(tmp_path, "n1", "127.0.0.1:7001", "mqnode"), "127.0.0.1:7001", lambda: None, lambda: True)
    said: list[str] = []
    monkeypatch.setattr(doors._log, "warning", lambda event, **fields: said.append(fields["cause"]))
    for _ in range(3):
        for address, why in (("10.0.0.1", "name"), ("10.0.0.2", "name"), ("10.0.0.1", "clock")):
            doors.refused(address, why)
    assert said == ["name", "name", "clock"]
    now_ms += door.QUIET_MS
    doors.refused("10.0.0.1", "name")
    assert len(said) == 4


def test_a_host_that_meets_this_one_again_and_again_has_one_token(tmp_path: Path) -> None:
    """As one whose name is taken does: after some hours there would be no more tokens for anybody."""
    path = tmp_path / "mqnode.toml"
    path.write_text(f'[node]\nrun_dir = "{tmp_path}"\n[interconnect]\nbind = "127.0.0.1:7001"\n')
    cluster = Cluster(tmp_path, "n1", "127.0.0.1:7001", "mqnode")
    place = SimpleNamespace(cluster=cluster, door=SimpleNamespace(look=lambda: None))
    discovery = Discovery(load(path, {}), cast(Place, place))
    for number in range(20):
        discovery.token(b"g" * 16, 30)
        discovery.token(b"%016d" % (number % 3), 30)
    assert len(msgspec.msgpack.decode(cluster.tokens.to_bytes())) == 4
