"""Which cluster a host should be in, from what it has found. Pure; finding is node/discovery's, asking is mesh/meeting.py's.

What is found is advice: an address, perhaps a name and an id, from a place that anybody may have written to. What counts is the
`Sight`: what a host that has the cluster secret says of itself. The rule, on which all hosts agree from their sights:

- Only hosts with the same name of their cluster concern each other.
- Who is alone joins; a cluster of two or more never goes into another one. Two such clusters are reported, not merged.
- Of two that are alone, who has no sessions joins who has some; else the larger id joins the smaller. All order is `_rank`.
- Two that are alone become a cluster only when the round before found no fewer hosts: of several that start at once the first
  two may not know of the others yet, and would begin a cluster beside theirs.
- While a host joins it lets nobody in (node/interconnect/cluster.py).

So of several that start at once one cluster results, after some refusals perhaps; hosts that cannot see each other may begin two.
"""

from __future__ import annotations

import msgspec

from mesh.membership import Membership, is_address
from mesh.undecodable import UNDECODABLE

FOUND_MAX = 1000  # of one look; the rest is not looked at


class Found(msgspec.Struct, frozen=True):
    """What a host writes of itself where others look for it: nothing of it is secret, nothing of it is proved."""

    address: str  # HOST:PORT of its interconnect
    name: str = ""  # static lists and DNS know neither name nor id
    node_id: str = ""  # 32 hex digits

    def to_json(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, content: bytes) -> Found | None:
        """None: whatever this is, it is no host."""
        try:
            found = msgspec.json.decode(content, type=cls)
        except UNDECODABLE:
            return None
        return found if is_address(found.address) else None


class Sight(msgspec.Struct, frozen=True, array_like=True):
    """What a host says of itself to one that has proved the cluster secret. Fields are only ever appended."""

    node_id: bytes
    name: str
    address: str
    cluster_id: bytes
    cluster: str  # its name
    members: list[bytes]  # ids of the active ones, its own too
    sessions: bool  # has it any durable ones?


class Decision(msgspec.Struct, frozen=True):
    join: Sight | None  # the host to join, by a token that it gives
    apart: list[Sight]  # of other clusters, which will not become one with ours by themselves
    hosts: frozenset[bytes]  # that it rests on: for the next round
    soon: bool = False  # there is one to join, if the next round finds no others


def _rank(seen: Sight) -> tuple[bool, bool, bytes]:
    """Who is smaller stays, who is larger joins."""
    alone = len(seen.members) == 1
    return alone, alone and not seen.sessions, seen.node_id


def decide(own: Sight, seen: list[Sight], before: frozenset[bytes] | None = None) -> Decision:
    """`before`: the hosts of the last round's decision; None: as if it had found no fewer."""
    others = [each for each in seen if each.cluster_id != own.cluster_id]
    apart = [each for each in others if each.cluster != own.cluster]
    ours = [each for each in others if each.cluster == own.cluster]
    hosts = frozenset(each.node_id for each in ours)
    if len(own.members) > 1:
        return Decision(None, apart + [each for each in ours if len(each.members) > 1], hosts)
    first = min(ours, key=lambda each: (own.node_id not in each.members, *_rank(each)), default=None)
    if first is None or _rank(first) > _rank(own):
        return Decision(None, apart, hosts)
    if len(first.members) == 1 and before is not None and not hosts <= before:
        return Decision(None, apart, hosts, soon=True)
    return Decision(first, apart, hosts)


def strangers(own_address: str, table: Membership, found: list[Found]) -> list[str]:
    """Addresses to ask who is there: those of no member, each once."""
    known = {each.address for each in table.active()} | {own_address}
    ids = {each.node_id.hex() for each in table.active()}
    return list(dict.fromkeys(each.address for each in found if each.node_id not in ids and each.address not in known))


def moved(table: Membership, found: list[Found], own_id: bytes, turn: int) -> dict[bytes, str]:
    """Members that were found elsewhere than the table says, and where to try it: the connection proves who is there. At each
    turn it is another place, that of the table, too: what was found may be old, or false."""
    tried = {}
    for member in table.active():
        places = {each.address for each in found if each.node_id == member.node_id.hex()} - {member.address}
        if places and member.node_id != own_id:
            tried[member.node_id] = [*sorted(places), member.address][turn % (len(places) + 1)]
    return tried
