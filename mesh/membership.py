"""Who belongs to the cluster. Pure: a table is a value, and each change makes a new one.

Tables of two hosts merge member by member, the larger stamp wins; so they agree whatever the order in which they meet
(merging is commutative, associative and idempotent). A host that leaves stays in the table as `left`: an older table must not
bring it back. Identity is `node_id`: name, address and key are what it has at present. One name for one host, but two sides
of a cut may each give the same one: `shown_names` tells such hosts apart until one is renamed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

import msgspec

from mesh.hlc import NODE_ID_BYTES, Stamp
from mesh.undecodable import UNDECODABLE

State = Literal["active", "left"]
MEMBERS_MAX = 128  # active ones: each is connected with each
CLUSTER_ID_BYTES = 16
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")  # as node.name
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")
_KEY = re.compile(r"[0-9A-Za-z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")  # Z85


class MembershipError(ValueError):
    """A change that the table refuses; the text says why and what to do."""


def is_name(text: str) -> bool:
    """Of a host or a cluster."""
    return _NAME.fullmatch(text) is not None


def is_address(text: str) -> bool:
    """HOST:PORT, as far as one can tell without looking it up."""
    found = _ADDRESS.fullmatch(text)
    return found is not None and 0 < int(found[2]) < 65536


class Member(msgspec.Struct, frozen=True):
    node_id: bytes
    name: str
    address: str  # HOST:PORT of its interconnect
    public_key: str  # Z85
    state: State
    stamp: Stamp
    level: int = 0  # what its release understands (mesh/versions.py); 0: it does not say
    next_key: str = ""  # accepted, too: it will take the place of the present one

    def check(self) -> None:
        if len(self.node_id) != NODE_ID_BYTES:
            raise MembershipError(f"a host's id has {NODE_ID_BYTES} bytes, not {len(self.node_id)}")
        if not _NAME.fullmatch(self.name):
            raise MembershipError(
                f'"{self.name}" cannot name a host: 1 to 63 letters, digits, ".", "_" and "-", the first and the last a letter '
                "or a digit. Set node.name."
            )
        if not is_address(self.address):
            raise MembershipError(
                f'"{self.address}" is no address of an interconnect. Write HOST:PORT, for example 10.9.0.1:7001.'
            )
        if not _KEY.fullmatch(self.public_key) or (self.next_key and not _KEY.fullmatch(self.next_key)):
            raise MembershipError(f"the public key of {self.name} is none: 40 characters of Z85")

    def order(self) -> tuple[Stamp, str, str, str, str, int, str]:
        """Stamps are unique, but a host restored from a backup may use one twice: then the rest decides, everywhere alike."""
        return self.stamp, self.state, self.name, self.address, self.public_key, self.level, self.next_key


class _File(msgspec.Struct, frozen=True):
    cluster_id: str
    name: str
    members: list[_FileMember]


class _FileMember(msgspec.Struct, frozen=True):
    node_id: str
    name: str
    address: str
    public_key: str
    state: State
    stamp: str
    level: int = 0
    next_key: str = ""


class Membership(msgspec.Struct, frozen=True):
    cluster_id: bytes
    name: str
    members: dict[bytes, Member] = {}

    def active(self) -> list[Member]:
        return sorted((each for each in self.members.values() if each.state == "active"), key=lambda each: each.node_id)

    def left(self) -> list[Member]:
        return [each for each in self.members.values() if each.state == "left"]

    @property
    def level(self) -> int:
        """What all members understand."""
        return min((each.level for each in self.active()), default=0)

    def only(self, node_id: bytes) -> Membership:
        """What is known of that host."""
        return Membership(self.cluster_id, self.name, {node_id: self.members[node_id]})

    def find(self, name: str) -> Member:
        """The active member that is shown by this name."""
        for node_id, shown in self.shown_names().items():
            if shown == name:
                return self.members[node_id]
        raise MembershipError(f'no host of this cluster is named "{name}". They are listed by: mqnode cluster nodes')

    def shown_names(self) -> dict[bytes, str]:
        """Of two hosts with one name the one with the older stamp shows it; the other has the start of its id added."""
        shown: dict[bytes, str] = {}
        taken: set[str] = set()
        for member in sorted(self.active(), key=lambda each: each.stamp):
            shown[member.node_id] = f"{member.name}-{member.node_id.hex()[:8]}" if member.name in taken else member.name
            taken.add(member.name)
        return shown

    # -- changes --------------------------------------------------------------------------------------------------------

    def with_member(self, member: Member) -> Membership:
        """It joins, comes back, or has a new name, address or key: always with a stamp later than that which is there."""
        member.check()
        known = self.members.get(member.node_id)
        if known is not None and member.stamp <= known.stamp:
            raise MembershipError(f"the change of {member.name} is older than what is known of it. Run it again.")
        if known not in self.active() and member.state == "active" and len(self.active()) >= MEMBERS_MAX:
            raise MembershipError(f"the cluster {self.name} has {MEMBERS_MAX} hosts, the most there can be")
        # Two sides of a cut may have given it to a host each: these go on with it
        has_name = known is not None and known.state == "active" and known.name == member.name
        for other in self.active() if member.state == "active" else ():
            if other.node_id != member.node_id and other.name == member.name and not has_name:
                raise MembershipError(
                    f'a host named "{member.name}" is a member already (at {other.address}). Choose another node.name for this '
                    f"host; if the other is gone for good, first: mqnode cluster remove {member.name}"
                )
            if other.node_id != member.node_id and other.public_key == member.public_key:
                raise MembershipError(
                    f"{other.name} has the same key as {member.name}: the data directory was copied. Remove identity.json of "
                    "the copy and join it anew."
                )
        return self._with([member])

    def renamed(self, node_id: bytes, stamp: Stamp, *, name: str = "", address: str = "") -> Membership:
        known = self.member(node_id)
        return self.with_member(
            msgspec.structs.replace(known, name=name or known.name, address=address or known.address, stamp=stamp)
        )

    def at(self, node_id: bytes, address: str) -> Membership:
        """To be dialled there. No change of the table: the member itself says where it is."""
        return Membership(
            self.cluster_id,
            self.name,
            self.members | {node_id: msgspec.structs.replace(self.members[node_id], address=address)},
        )

    def without(self, node_id: bytes, stamp: Stamp) -> Membership:
        """Removed: with its key it hears that it is, and nothing else. It may join again."""
        return self.with_member(msgspec.structs.replace(self.member(node_id), state="left", stamp=stamp))

    def member(self, node_id: bytes) -> Member:
        known = self.members.get(node_id)
        if known is None:
            raise MembershipError(f"host {node_id.hex()} has never been a member of the cluster {self.name}")
        return known

    def merge(self, other: Membership) -> Membership:
        if (other.cluster_id, other.name) != (self.cluster_id, self.name):
            raise MembershipError(
                f"this host is in the cluster {self.name} ({self.cluster_id.hex()}), the other in {other.name} "
                f"({other.cluster_id.hex()}): they do not merge. On the host that should change: mqnode leave"
            )
        return self._with(other.members.values())

    def _with(self, members: Iterable[Member]) -> Membership:
        merged = dict(self.members)
        for member in members:
            known = merged.get(member.node_id)
            if known is None or member.order() > known.order():
                merged[member.node_id] = member
        return Membership(self.cluster_id, self.name, merged)

    # -- bytes ----------------------------------------------------------------------------------------------------------

    def to_json(self) -> bytes:
        members = [
            _FileMember(
                each.node_id.hex(), each.name, each.address, each.public_key, each.state, str(each.stamp), each.level,
                each.next_key,
            )
            for _, each in sorted(self.members.items())
        ]  # fmt: skip
        return msgspec.json.format(msgspec.json.encode(_File(self.cluster_id.hex(), self.name, members)), indent=2)

    @classmethod
    def from_json(cls, content: bytes) -> Membership:
        try:
            file = msgspec.json.decode(content, type=_File)
            cluster_id = bytes.fromhex(file.cluster_id)
            members = {}
            for each in file.members:
                node_id, stamp = bytes.fromhex(each.node_id), Stamp.parse(each.stamp)
                member = Member(
                    node_id, each.name, each.address, each.public_key, each.state, stamp, each.level, each.next_key
                )
                member.check()
                members[node_id] = member
        except (*UNDECODABLE, ValueError) as error:
            raise MembershipError(f"the list of the cluster's hosts cannot be read: {error}") from error
        if len(cluster_id) != CLUSTER_ID_BYTES or not _NAME.fullmatch(file.name) or len(members) != len(file.members):
            raise MembershipError("the list of the cluster's hosts cannot be read: its cluster, or a host listed twice")
        return cls(cluster_id, file.name, members)
