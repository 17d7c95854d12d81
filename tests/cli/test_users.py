"""Users and access rules: files are edited whole or not at all, passwords never stand in arguments, a host takes them over."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.auth.authenticate import Authenticator
from node.config import Auth
from tests.broker import Broker, running
from tests.cli.command import Command
from tests.mqtt import CONNACK, Client, connect_packet

RULES = """\
topic read news/#
user alice
topic readwrite home/#
topic deny home/safe
pattern write own/%c
"""
BAD_USER_OR_PASSWORD = 0x86


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "acl").write_text(RULES)
    (tmp_path / "mqnode.toml").write_text(
        f'[node]\ndata_dir = "{tmp_path}"\n[auth]\npassword_file = "{tmp_path}/users"\nacl_file = "{tmp_path}/acl"\n'
    )
    return tmp_path


@pytest.fixture
def mqnode(folder: Path) -> Command:
    return Command(folder / "mqnode.toml")


# -- users ------------------------------------------------------------------------------------------------------------


def test_users(mqnode: Command, folder: Path) -> None:
    assert mqnode.json("users", "add", "alice", "--password-stdin", typed="secret\n") == {"added": "alice"}
    done = mqnode("users", "add", "bob", "--password-stdin", typed="other")
    assert "mqnode reload" in done.stdout
    assert mqnode.json("users", "list") == [
        {"user": "alice", "hash": "argon2id", "scram": True},
        {"user": "bob", "hash": "argon2id", "scram": True},
    ]
    before = (folder / "users").read_text()
    assert "secret" not in before
    assert (folder / "users").stat().st_mode & 0o777 == 0o600
    assert mqnode("users", "passwd", "alice", "--password-stdin", typed="new\n").returncode == 0
    after = (folder / "users").read_text()
    assert after.splitlines()[0] != before.splitlines()[0]
    assert after.splitlines()[1] == before.splitlines()[1]
    assert "can no longer log in" in mqnode.fails("users", "delete", "bob", typed="n\n", code=1)
    assert mqnode.json("users", "delete", "bob", "--yes") == {"deleted": "bob"}
    assert [each["user"] for each in mqnode.json("users", "list")] == ["alice"]


def test_a_password_that_is_made_is_shown_once_and_stored_as_a_hash_that_costs_no_time(
    mqnode: Command, folder: Path
) -> None:
    said = mqnode("users", "add", "sensor1", "--generate").stdout
    first = said.split()[-1]
    assert len(first) == 24
    made = mqnode.json("users", "passwd", "sensor1", "--generate")
    assert made["changed"] == "sensor1"
    assert made["password"] not in (first, (folder / "users").read_text())
    assert mqnode.json("users", "list") == [{"user": "sensor1", "hash": "sha512", "scram": True}]
    line = (folder / "users").read_text()
    said = mqnode.fails("users", "passwd", "sensor1", "--generate", "--password-stdin", typed="mine\n", code=2)
    assert "--password-stdin or --generate" in said
    assert (folder / "users").read_text() == line
    config = Auth(password_file=str(folder / "users"))
    authenticator = Authenticator(config)
    assert authenticator.check("sensor1", made["password"].encode(), None, False) is True
    assert authenticator.check("sensor1", first.encode(), None, False) is None  # is looked at as long as any other one
    assert not authenticator.verify("sensor1", first.encode())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files for others")
def test_users_that_root_adds_are_the_services(mqnode: Command, folder: Path) -> None:
    service = 65534
    os.chown(folder, service, service)
    mqnode.json("users", "add", "alice", "--password-stdin", typed="secret\n")
    assert {path.stat().st_uid for path in folder.glob("users*")} == {service}  # the lock, too
    assert len(list(folder.glob("users*"))) == 2


def test_refusals(mqnode: Command, folder: Path) -> None:
    assert "users add" in mqnode.fails("users", "list", code=1)
    assert mqnode("users", "add", "alice", "--password-stdin", typed="secret\n").returncode == 0
    before = (folder / "users").read_text()
    assert "users passwd alice" in mqnode.fails("users", "add", "alice", "--password-stdin", typed="x\n", code=1)
    assert "users add bob" in mqnode.fails("users", "passwd", "bob", "--password-stdin", typed="x\n", code=1)
    assert "last user" in mqnode.fails("users", "delete", "alice", "--yes", code=1)
    assert "no user bob" in mqnode.fails("users", "delete", "bob", code=1)  # not asked first
    assert "empty" in mqnode.fails("users", "add", "bob", "--password-stdin", typed="\n", code=1)
    for name in ("a:b", "new\nline", "#x"):
        text = mqnode.fails("users", "add", name, "--password-stdin", typed="x\n", code=1)
        assert "a user's name is printable" in text
    assert mqnode.fails("users", "add", "bob", code=2).startswith(
        "Error: No password was given"
    )  # no prompt into a pipe
    assert "No such option" in mqnode.fails("users", "add", "bob", "--password", "secret", code=2)
    assert (folder / "users").read_text() == before


def test_password_by_prompt(mqnode: Command) -> None:
    typed = (("Password: ", "täst"), ("Repeat for confirmation: ", "täst"))
    code, seen = mqnode.on_terminal("users", "add", "alice", typed=typed)
    assert code == 0, seen
    assert "täst" not in seen
    assert "The user alice is added." in seen


def test_no_place_for_users(tmp_path: Path) -> None:
    (tmp_path / "mqnode.toml").write_text("")
    assert "password_file =" in Command(tmp_path / "mqnode.toml").fails("users", "list", code=2)


def test_folder_that_is_not_there(mqnode: Command, folder: Path) -> None:
    (folder / "mqnode.toml").write_text(f'[auth]\npassword_file = "{folder}/none/users"\n')
    text = mqnode.fails("users", "add", "alice", "--password-stdin", typed="x\n", code=1)
    assert "nothing was changed" in text


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Broker]:
    """A host with users."""
    (tmp_path / "mqnode.toml").write_text(f'[auth]\npassword_file = "{tmp_path}/users"\n')
    Command(tmp_path / "mqnode.toml")("users", "add", "first", "--password-stdin", typed="1\n")
    with running(workers=1, auth=f'password_file = "{tmp_path}/users"') as broker:
        yield broker


def test_a_running_host_takes_changes_over(guarded: Broker, tmp_path: Path) -> None:
    mqnode = Command(guarded.config)

    def log_in(user: str, password: bytes) -> int:
        with Client(guarded.port) as client:
            client.send(connect_packet("c", user=user, password=password))
            return client.expect(CONNACK).reason

    assert log_in("alice", b"secret") == BAD_USER_OR_PASSWORD
    assert mqnode("users", "add", "alice", "--password-stdin", typed="secret\n").returncode == 0
    assert mqnode.json("reload") == {"errors": [], "need_restart": []}
    assert log_in("alice", b"secret") == 0
    with (tmp_path / "users").open("a") as file:
        file.write("broken\n")
    assert f"{tmp_path}/users:3" in mqnode.fails("reload", code=1)
    assert mqnode.json("reload", code=1)["errors"]
    assert log_in("alice", b"secret") == 0


# -- access rules -------------------------------------------------------------------------------------------------------


def test_acl_of_a_user(mqnode: Command) -> None:
    found = mqnode.json("acl", "test", "alice", "home/lamp")
    assert found["write"] == {
        "allowed": True, "reason": "granted by this rule", "rule": {"line": 3, "text": "topic readwrite home/#"},
        "withheld": [],
    }  # fmt: skip
    assert found["read"]["allowed"]
    found = mqnode.json("acl", "test", "alice", "home/safe", "--write", code=1)
    assert found["write"]["rule"]["line"] == 4
    assert "read" not in found
    assert mqnode.json("acl", "test", "alice", "home/#", "--read")["read"]["withheld"][0]["line"] == 4


def test_acl_of_a_client_id(mqnode: Command) -> None:
    assert mqnode("acl", "test", "alice", "own/phone", "--write", "--client-id", "phone").returncode == 0
    done = mqnode("acl", "test", "alice", "own/phone", "--write", "--client-id", "lamp")
    assert done.returncode == 1
    assert done.stdout == "write: denied, no rule grants it\n"


def test_acl_of_anonymous_clients(mqnode: Command) -> None:
    assert mqnode("acl", "test", "", "news/today", "--read").returncode == 0
    assert mqnode("acl", "test", "alice", "news/today", "--read").returncode == 1
    text = mqnode("acl", "test", "", "news/today").stdout
    assert "write: denied" in text
    assert "  line 1: topic read news/#" in text


def test_acl_file_that_cannot_be_used(mqnode: Command, folder: Path) -> None:
    (folder / "acl").write_text("topic sometimes a\n")
    assert f"{folder}/acl:1" in mqnode.fails("acl", "test", "alice", "a", code=2)
