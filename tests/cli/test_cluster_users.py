"""`mqnode users` and `mqnode acl` where these are the cluster's, on one host: what is refused, what lasts, and how to get there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from node.auth.passwords import Password
from node.auth.users import make_line
from tests.broker import Broker, running, wait_for
from tests.cli.command import Command
from tests.mqtt import CONNACK, Client, connect_packet

BAD_USER_OR_PASSWORD = 0x86


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with running(auth='password_file = "cluster"\nacl_file = "cluster"', workers=1) as broker:
        yield broker


@pytest.fixture
def mqnode(broker: Broker) -> Iterator[Command]:
    """No user is there, before and afterwards."""
    command = Command(broker.config)
    yield command
    for each in command.json("users", "list"):
        command.json("users", "delete", each["user"], "--yes")


def reason(broker: Broker, user: str | None, password: bytes | None = b"secret") -> int:
    with Client(broker.port) as client:
        client.send(connect_packet("c", user=user, password=password))
        return client.expect(CONNACK).reason


def answers(broker: Broker) -> bool:
    with suppress(OSError), Client(broker.port):
        return True
    return False


def test_without_users_and_rules_nobody_is_let_in_and_nothing_is_allowed(broker: Broker, mqnode: Command) -> None:
    assert reason(broker, None, None) != 0
    assert reason(broker, "alice") == BAD_USER_OR_PASSWORD
    assert mqnode.json("users", "list") == []
    assert "nothing is allowed" in mqnode.fails("acl", "show", code=1)
    assert mqnode("acl", "test", "alice", "a").returncode == 1
    mqnode.json("users", "add", "alice", "--password-stdin", typed="secret\n")
    with Client(broker.port) as client:
        client.connect("c", user="alice", password=b"secret")
        assert client.subscribe("a").reasons == [0x87]


def test_refusals(broker: Broker, mqnode: Command) -> None:
    assert mqnode.json("users", "add", "alice", "--password-stdin", typed="secret\n") == {"added": "alice"}
    assert "users passwd alice" in mqnode.fails("users", "add", "alice", "--password-stdin", typed="x\n", code=1)
    assert "no user bob" in mqnode.fails("users", "passwd", "bob", "--password-stdin", typed="x\n", code=1)
    assert "no user bob" in mqnode.fails("users", "delete", "bob", "--yes", code=1)
    assert "printable" in mqnode.fails("users", "add", "a:b", "--password-stdin", typed="x\n", code=1)
    assert reason(broker, "alice") == 0
    status, answer = broker.get("/v1/users/bob", method="DELETE")
    assert (status, answer) == (404, {"error": "there is no user bob"})
    assert broker.get("/v1/users", method="POST")[0] == 400


def test_they_outlive_worker_keeper_and_host(broker: Broker, mqnode: Command) -> None:
    mqnode.json("users", "add", "alice", "--password-stdin", typed="secret\n")
    for process in ("worker-0", "keeper"):
        broker.replace(process)
        wait_for(lambda: answers(broker), what="nobody listens")
        assert reason(broker, "alice") == 0
        assert reason(broker, "alice", b"wrong") == BAD_USER_OR_PASSWORD
    broker.kill_all()
    broker.start()
    assert reason(broker, "alice") == 0
    mqnode.json("users", "passwd", "alice", "--password-stdin", typed="new\n")
    assert reason(broker, "alice") == BAD_USER_OR_PASSWORD
    assert reason(broker, "alice", b"new") == 0


def test_a_password_file_is_imported_whole_or_not_at_all(broker: Broker, mqnode: Command, tmp_path: Path) -> None:
    file = tmp_path / "users"
    lines = [make_line(user, Password("secret"), scram=False) for user in ("alice", "bob")]
    file.write_text("# ours\n" + "\n".join([*lines, "carol:$9$nonsense"]))
    assert f"{file}:4: " in mqnode.fails("users", "import", str(file), code=1)
    mqnode.json("users", "add", "bob", "--password-stdin", typed="his own\n")
    file.write_text("\n".join(lines))
    assert "--replace" in mqnode.fails("users", "import", str(file), code=1)
    assert [each["user"] for each in mqnode.json("users", "list")] == ["bob"]
    assert mqnode.json("users", "import", str(file), "--replace") == {"imported": 2}
    assert [reason(broker, user) for user in ("alice", "bob")] == [0, 0]


def test_users_and_rules_can_be_there_before_they_are_in_force(tmp_path: Path) -> None:
    """The way from files of each host: import, load, then change the keys and restart."""
    file, rules = tmp_path / "users", tmp_path / "acl"
    file.write_text(make_line("alice", Password("secret"), scram=True) + "\n")
    rules.write_text("user alice\ntopic a/#\n")
    with running(auth=f'password_file = "{file}"', workers=1) as broker:
        mqnode = Command(broker.config)
        assert 'once auth.password_file = "cluster"' in mqnode("users", "import", str(file)).stdout
        assert 'once auth.acl_file = "cluster"' in mqnode("acl", "load", str(rules)).stdout
        with Client(broker.port) as client:
            client.connect("c", user="alice", password=b"secret")
            assert client.subscribe("b").reasons == [0]
        broker.kill_all()
        broker.config.write_text(broker.config.read_text().replace(f'"{file}"', '"cluster"\nacl_file = "cluster"'))
        file.unlink()
        broker.start()
        with Client(broker.port) as client:
            client.connect("c", user="alice", password=b"secret")
            assert client.subscribe("b", "a/b").reasons == [0x87, 0]
        assert not broker.errors()
