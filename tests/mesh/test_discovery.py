"""Which cluster a host should be in: the rule of mesh/discovery.py, and any order of hosts that look, ask and join by it."""

from __future__ import annotations

import random
from collections.abc import Iterator

import msgspec
import pytest

from mesh.discovery import Found, Sight, decide, moved, strangers
from mesh.hlc import Stamp
from mesh.membership import Member, Membership

OTHER = b"o" * 16


def host(
    number: int, *, cluster: bytes | None = None, name: str = "mqnode", members: int = 1, sessions: bool = False
) -> Sight:
    node_id = bytes([number]) * 16
    rest = [bytes([number, each]) * 8 for each in range(1, members)]
    return Sight(node_id, f"h{number}", f"10.0.0.{number}:7001", cluster or node_id, name, [node_id, *rest], sessions)


@pytest.mark.parametrize(
    ("own", "seen", "joins"),
    [
        (host(1), [], None),
        (host(2), [host(1), host(3)], 1),
        (host(1), [host(2), host(3)], None),
        (host(1), [host(2, members=2)], 2),
        (host(1, sessions=True), [host(2, members=2)], 2),
        (host(1), [host(2, sessions=True)], 2),
        (host(2, sessions=True), [host(1)], None),
        (host(2, sessions=True), [host(1, sessions=True)], 1),
        (host(1, members=2), [host(2, members=9, sessions=True)], None),
        (host(2), [host(1, name="other")], None),
        (host(2, cluster=OTHER), [host(1, cluster=OTHER)], None),
        (host(3), [host(1), host(2, members=2)], 2),
    ],
)
def test_who_joins_whom(own: Sight, seen: list[Sight], joins: int | None) -> None:
    decision = decide(own, seen)
    assert (decision.join and decision.join.node_id[0]) == joins


def test_who_has_let_this_host_in_already_comes_first() -> None:
    own, first, other = host(9), host(5, members=3), host(1, members=3)
    first = msgspec.structs.replace(first, members=[*first.members, own.node_id])
    assert decide(own, [other, first]).join == first


def test_clusters_of_several_hosts_are_reported() -> None:
    large, named = host(2, members=2), host(3, name="other")
    assert decide(host(1, members=2), [large, named, host(4)]).apart == [named, large]
    assert decide(host(1), [large, named]).apart == [named]


def test_two_that_are_alone_look_twice() -> None:
    own, first = host(2), host(1)
    decision = decide(own, [first], frozenset())
    assert (decision.join, decision.soon) == (None, True)
    assert decide(own, [first], decision.hosts).join == first
    assert decide(own, [first, host(3)], decision.hosts).join is None
    assert decide(own, [first], decision.hosts | {host(3).node_id}).join == first, "one that is gone keeps nobody"
    assert decide(own, [host(3, members=2)], frozenset()).join, "a cluster is there already"


class World:
    """Hosts that start at any time, and go on at any speed: announce, look, ask each that was found, decide, ask to join, join."""

    def __init__(self, count: int, chance: random.Random) -> None:
        self.chance = chance
        self.sights = {number: host(number, sessions=chance.random() < 0.2) for number in range(1, count + 1)}
        self.joining: set[int] = set()
        self.board: list[int] = []
        self.turns = {number: self.life(number) for number in self.sights}

    def step(self) -> None:
        next(self.turns[self.chance.choice(list(self.turns))])

    def life(self, number: int) -> Iterator[None]:
        self.board.append(number)
        before: frozenset[bytes] = frozenset()
        while True:
            yield
            found, seen = [each for each in self.board if each != number], []
            for each in found:
                for _ in range(self.chance.choice((1, 1, 1, 9))):
                    yield
                seen.append(self.sights[each])
            decision = decide(self.sights[number], seen, before)
            before = decision.hosts
            if decision.join is not None:
                yield
                yield from self.join(number, decision.join.node_id[0])
            for _ in range(self.chance.randint(3, 8)):
                yield

    def join(self, number: int, whom: int) -> Iterator[None]:
        if decide(self.sights[number], [self.sights[whom]]).join is None:
            return
        self.joining.add(number)
        yield
        if whom not in self.joining:  # as `Cluster.settled`
            members = sorted({*self.sights[whom].members, host(number).node_id})
            yield from self.welcome(number, self.sights[whom].cluster_id, members)
        self.joining.remove(number)

    def welcome(self, number: int, cluster_id: bytes, members: list[bytes]) -> Iterator[None]:
        for each, sight in self.sights.items():
            if sight.cluster_id == cluster_id:
                self.sights[each] = msgspec.structs.replace(sight, members=members)
        yield
        members = next(each.members for each in self.sights.values() if each.cluster_id == cluster_id)
        self.sights[number] = msgspec.structs.replace(self.sights[number], cluster_id=cluster_id, members=members)


@pytest.mark.parametrize("seed", range(120))
def test_of_several_that_start_at_once_one_cluster_results(seed: int) -> None:
    world = World(2 + seed % 5, random.Random(seed))
    for _ in range(3000):
        world.step()
    assert len({each.cluster_id for each in world.sights.values()}) == 1
    assert {len(each.members) for each in world.sights.values()} == {len(world.sights)}


def table(*addresses: str) -> Membership:
    found = Membership(b"c" * 16, "mqnode")
    for number, address in enumerate(addresses, 1):
        stamp, key = Stamp(1, bytes([number]) * 16), f"{number}".rjust(40, "k")
        found = found.with_member(Member(bytes([number]) * 16, f"h{number}", address, key, "active", stamp))
    return found


def test_members_are_no_strangers_and_may_have_moved() -> None:
    members = table("10.0.0.1:7001", "10.0.0.2:7001")
    elsewhere = Found("10.0.9.2:7001", "h2", (b"\2" * 16).hex())
    found = [Found("10.0.0.1:7001"), elsewhere, Found("10.0.0.3:7001"), Found("10.0.0.3:7001", "h3", "33" * 16)]
    assert strangers("10.0.0.1:7001", members, found) == ["10.0.0.3:7001"]
    for turn, address in enumerate(("10.0.9.2:7001", "10.0.0.2:7001", "10.0.9.2:7001")):
        assert moved(members, found, b"\1" * 16, turn) == {b"\2" * 16: address}, "what was found may be false"
    assert moved(members, found, b"\2" * 16, 0) == {}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b'{"address":1}',
        b'{"address":"h"}',
        b'{"address":"h:0"}',
        b'{"address":"h:7001;x"}',
        b"\xff",
        b"[" * 9999,
    ],
)
def test_what_is_no_host_is_none(content: bytes) -> None:
    assert Found.from_json(content) is None
    assert Found.from_json(Found("h:7001").to_json()) == Found("h:7001")
