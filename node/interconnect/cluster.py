"""What this host knows of its cluster, on disk: its identity, the table of members, the tokens it has issued."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

import msgspec

from mesh import identity, versions
from mesh.hlc import Clock, Stamp
from mesh.join import JoinError, check_free
from mesh.membership import Member, Membership, MembershipError
from mesh.token import Tokens

ANY_NAME = "mqnode"  # by default; with it a host joins a cluster of any name


class Cluster:
    """`name`: this host's; `address`: HOST:PORT at which others reach its interconnect; `cluster_name` as configured."""

    def __init__(self, data_dir: Path, name: str, address: str, cluster_name: str) -> None:
        self._path = data_dir / "cluster.json"
        self._tokens_path = data_dir / "tokens"
        self._identity_path = data_dir / identity.FILE_NAME
        self.identity = identity.load_or_create(self._identity_path)
        self.name, self.address = name, address
        self.wanted_name = "" if cluster_name == ANY_NAME else cluster_name
        self.table = self._load(cluster_name)
        last = max((each.stamp.time for each in self.table.members.values()), default=0)
        self._clock = Clock(self.identity.node_id, last)
        self.tokens = Tokens.from_bytes(self._tokens_path.read_bytes()) if self._tokens_path.exists() else Tokens()
        self._joining = False
        self.name_taken = ""  # as configured, and another host has it: this one keeps that which it had
        self._introduce()

    def _load(self, cluster_name: str) -> Membership:
        if self._path.exists():
            return Membership.from_json(self._path.read_bytes())
        return Membership(secrets.token_bytes(16), cluster_name)

    def _introduce(self) -> None:
        """Be a member under our present name and address."""
        known = self.table.members.get(self.identity.node_id)
        if self.has_left:
            return  # until it joins again
        others = {each.name for each in self.table.active() if each.node_id != self.identity.node_id}
        if known is not None and self.name != known.name and self.name in others:
            self.name_taken, self.name = self.name, known.name
        wanted = self.member(self.stamp())
        if known is None or wanted != msgspec.structs.replace(known, stamp=wanted.stamp):
            self.keep(self.table.with_member(wanted))

    def member(self, stamp: Stamp) -> Member:
        own = self.identity
        return Member(own.node_id, self.name, self.address, own.public_key, "active", stamp, versions.LEVEL)

    @property
    def fingerprint(self) -> str:
        return identity.fingerprint(self.identity.public_key)

    @property
    def has_left(self) -> bool:
        """It was a member, and is none any more."""
        own = self.table.members.get(self.identity.node_id)
        return own is not None and own.state == "left"

    @property
    def was_removed(self) -> bool:
        """It has left, and not by itself: the others may lack what its disk has."""
        own = self.identity.node_id
        return self.has_left and self.table.members[own].stamp.node_id != own

    def removed_by(self, node_id: bytes) -> bool:
        """A member says so, and our record is later than what it knows. Have we made that ourselves, by a change of name or address
        since, it is so; False if another member has let us in again."""
        own = self.identity.node_id
        if self.has_left or self.table.members[own].stamp.node_id != own:
            return False
        self.keep(self.table.without(own, Stamp(self.stamp().time, node_id)))
        return True

    @property
    def name_ignored(self) -> bool:
        """The configuration names another cluster than that to which this host belongs, and which keeps its name."""
        return self.wanted_name not in ("", self.table.name)

    def announce(self, next_key: str) -> None:
        """The others accept it from now on, beside the present one."""
        self.keep(self.table.with_member(msgspec.structs.replace(self.member(self.stamp()), next_key=next_key)))

    def use_key(self, new: identity.Identity) -> None:
        identity.replace(self._identity_path, new)
        self.identity = new
        self._introduce()

    def leave(self) -> None:
        self.keep(self.table.without(self.identity.node_id, self.stamp()))

    def stamp(self) -> Stamp:
        return self._clock.now(time.time_ns() // 1_000_000)

    @property
    def digest(self) -> str:
        """Of the table: the same where the table is."""
        return blake2b(self.table.to_json(), digest_size=8).hexdigest()

    def keep(self, table: Membership) -> None:
        """From now on this is the table, on disk before this returns."""
        _write(self._path, table.to_json())
        self.table = table

    def keep_tokens(self) -> None:
        _write(self._tokens_path, self.tokens.to_bytes())

    def settled(self) -> Membership:
        """The table that others may be added to. MembershipError while this host is about to have another one."""
        if self._joining:
            raise MembershipError("the member is joining another host at this moment. Run the command again")
        return self.table

    @contextmanager
    def joining(self, cluster_id: bytes) -> Iterator[None]:
        """This host asks to be let into that cluster; meanwhile nobody is let in here, who would be left behind."""
        if not self.has_left:
            check_free(self.table, cluster_id)
        if self._joining:
            raise JoinError("this host is joining another one at this moment. Run the command again")
        self._joining = True
        try:
            yield
        finally:
            self._joining = False

    def learn(self, content: bytes) -> bool:
        """Merge another host's table; True if that brought anything new. Raises MembershipError, StampError."""
        theirs = Membership.from_json(content)
        for member in theirs.members.values():
            self._clock.observe(member.stamp, time.time_ns() // 1_000_000)
        merged = self.table.merge(theirs)
        if merged == self.table:
            return False
        self.keep(merged)
        return True


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
