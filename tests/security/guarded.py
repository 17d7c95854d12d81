"""A broker with users and rules, and the few things that all tests of the guard do with one."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.broker import Broker, wait_for
from tests.mqtt import CONNACK, Client, Packet, connect_packet


def password_of(user: str) -> bytes:
    return f"password of {user}".encode()


def line_of(user: str, password: bytes | None = None) -> str:
    """A line of the password file. mosquitto's $6$: tests log in often, and Argon2 is slow on purpose."""
    salt = b"salt of tests"
    digest = hashlib.sha512((password_of(user) if password is None else password) + salt).digest()
    return f"{user}:$6${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}\n"


class Guarded(Broker):
    """A Broker with a password file and an ACL file, which can be written anew while it runs."""

    def __init__(self, acl: str, users: tuple[str, ...], more: str = "", auth: str = "", **options: Any) -> None:
        super().__init__(more, auth=auth, **options)
        self.password_file, self.acl_file = self.folder / "passwords", self.folder / "acl"
        files = f'[auth]\npassword_file = "{self.password_file}"\nacl_file = "{self.acl_file}"\n'
        self.config.write_text(self.config.read_text().replace("[auth]\n", files))
        self.write_users(*users)
        self.acl_file.write_text(acl)

    def write_users(self, *users: str) -> None:
        self.password_file.write_text("".join(map(line_of, users)))

    def reload(self, status: int = 200) -> list[str]:
        """POST /v1/reload; the errors it answers."""
        found, answer = self.get("/v1/reload", method="POST")
        assert found == status, answer
        return list(answer["errors"])

    def rules(self, acl: str) -> None:
        self.acl_file.write_text(acl)
        assert self.reload() == []

    def client(self, user: str, client_id: str = "", *, version: int = 5, **options: Any) -> Client:
        """A connected client of `user`."""
        client = Client(self.port, version)
        client.connect(client_id or user, user=user, password=password_of(user), **options)
        return client


@contextmanager
def guarded(acl: str, *users: str, more: str = "", **options: Any) -> Iterator[Guarded]:
    broker = Guarded(acl, users, more, **options)
    try:
        yield broker.start()  # type: ignore[misc]
    finally:
        broker.close()


def attempt(port: int, version: int = 5, **options: Any) -> Packet:
    """The CONNACK to this CONNECT, whatever it says."""
    with Client(port, version) as client:
        client.send(connect_packet(options.pop("client_id", "c"), version=version, **options))
        return client.expect(CONNACK)


def count(broker: Broker, name: str, labels: str = "") -> float:
    return broker.metric(f"mqnode_{name}{labels}")


def grows(broker: Broker, series: str, before: float, by: float = 1) -> None:
    """The series reaches `before + by` soon."""
    wait_for(lambda: broker.metric(series) >= before + by, 5, lambda: f"{series} is {broker.metric(series)}")


def rss_kib(pid: int) -> int:
    line = next(each for each in Path(f"/proc/{pid}/status").read_text().splitlines() if each.startswith("VmRSS:"))
    return int(line.split()[1])
