"""Hosts of the mesh for tests: n1 in this process, others in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from mesh.hlc import Stamp
from mesh.identity import FILE_NAME, Identity, create, load_or_create
from mesh.membership import Member, Membership
from tests.broker import free_port
from tests.mesh.host import ECHO, SILENT, Host, green_wait

QUICK_S = 3.0


class Child:
    """The host of a process."""

    def __init__(self, folder: Path, name: str, address: str) -> None:
        self.folder = folder / name
        self.folder.mkdir()
        self.name, self.address = name, address
        self.identity = load_or_create(self.folder / FILE_NAME)
        self.process: subprocess.Popen[bytes] | None = None
        self.log = self.folder / "log"

    @property
    def id(self) -> bytes:
        return self.identity.node_id

    def start(self, membership: Membership) -> None:
        table = self.folder / "membership.json"
        table.write_bytes(membership.to_json())
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.mesh.host", self.folder / FILE_NAME, table, self.address], stdout=log
            )

    def events(self) -> list[list[str]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


class Cluster:
    """n1 is in this process, n2 and n3 are not."""

    def __init__(self, folder: Path) -> None:
        self.identity = load_or_create(folder / FILE_NAME)
        self.children = [Child(folder, f"n{number}", f"127.0.0.{number}:{free_port()}") for number in (2, 3)]
        self.address = f"127.0.0.1:{free_port()}"
        self.membership = Membership(b"c" * 16, "home")
        self.add("n1", self.identity, self.address)
        for child in self.children:
            self.add(child.name, child.identity, child.address)
        for child in self.children:
            child.start(self.membership)
        self.host = Host(self.identity, self.membership, self.address)

    def add(self, name: str, identity: Identity, address: str) -> None:
        member = Member(identity.node_id, name, address, identity.public_key, "active", Stamp(1, identity.node_id))
        self.membership = self.membership.with_member(member)

    def all_up(self) -> bool:
        return all(self.host.state(child.id) == "up" for child in self.children)

    def stop(self) -> None:
        self.host.transport.stop()
        for child in self.children:
            child.kill()


def echoed(cluster: Cluster, child: Child, body: bytes) -> float:
    """How long a body takes there and back."""
    assert cluster.host.transport.send(child.id, ECHO, body)
    return green_wait(lambda: (child.id, SILENT, body) in cluster.host.frames, QUICK_S)


def pair_of_tables(names: tuple[str, str]) -> tuple[list[Identity], Membership]:
    """Two hosts that know each other by these addresses."""
    identities, table = [create(), create()], Membership(b"c" * 16, "home")
    for number, (identity, address) in enumerate(zip(identities, names, strict=True), 1):
        stamp = Stamp(1, identity.node_id)
        table = table.with_member(Member(identity.node_id, f"n{number}", address, identity.public_key, "active", stamp))
    return identities, table
