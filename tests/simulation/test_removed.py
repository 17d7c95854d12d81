"""A host is removed, and a keeper that has to know that, or to do what follows, is away at that moment."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulation.members import MemberHost, MemberPair, form_cluster
from tests.simulation.worker import PUBLISH, claim, message, operation
from tests.simulation.world import World


class Members:
    """Three hosts in sync."""

    def __init__(self, folder: Path) -> None:
        self.world = World(1)
        self.hosts = [MemberHost(self.world, index, folder) for index in range(3)]
        for a, b in itertools.combinations(self.hosts, 2):
            MemberPair(self.world, a, b)
        form_cluster(self.hosts)
        for host in self.hosts:
            host.start()
        self.world.run(800)

    def c_dies(self) -> None:
        """It has a session."""
        c = self.hosts[2]
        assert c.worker is not None
        c.worker.call("claim", claim("it", 1))
        self.world.run(500)
        c.stop("for good")
        self.world.run(4000)

    def retain(self, host: MemberHost, payload: str) -> None:
        """An empty payload deletes what was retained."""
        assert host.worker is not None
        record = message("a", payload, 1, True, host.worker.now_ms())
        host.worker.operate(operation(PUBLISH, struct.pack("<QHQQQH", 0, 0, 0, 0, 0, 0) + record), lambda: None)

    def retained(self, host: MemberHost) -> int:
        assert host.keeper is not None
        return int(host.keeper.writer.retained_messages)

    def owner(self, host: MemberHost) -> int:
        assert host.keeper is not None
        return host.keeper.directory.sessions["it"].owner

    def reckons_with_c(self, host: MemberHost) -> bool:
        assert host.keeper is not None
        return self.hosts[2].node_id in host.keeper.replicas.peers


@pytest.fixture
def members(tmp_path: Path) -> Iterator[Members]:
    hosts = Members(tmp_path)
    yield hosts
    for host in hosts.hosts:
        host.stop("at the end")


@pytest.mark.parametrize("away", ["nobody", "its keeper", "the other keeper", "both keepers"])
def test_sessions_of_a_removed_host_are_taken_whichever_keeper_was_away(members: Members, away: str) -> None:
    """B removes it, and its keeper is away, or gets away, when it is to take the sessions."""
    members.c_dies()
    a, b, _ = members.hosts
    for host, names in ((b, ("its keeper", "both keepers")), (a, ("the other keeper", "both keepers"))):
        if away in names:
            host.stop_keeper()
    b.interconnect.remove("C")
    members.world.run(1000)
    for host in (a, b):
        host.start_keeper_again()
    members.world.run(15_000)
    assert [members.reckons_with_c(host) for host in (a, b)] == [False, False]
    assert members.owner(a) == members.owner(b)
    assert members.owner(a) in (1, 2)
    for host in (a, b):
        assert host.keeper is not None
        assert host.keeper.writer.is_orphan is None  # else each message to another host's session is looked at


def test_sessions_of_a_removed_host_are_taken_though_who_is_to_do_that_dies(members: Members) -> None:
    """B waits for A, which has the lower number, and is not evicted yet when B looks."""
    members.c_dies()
    a, b, _ = members.hosts
    b.interconnect.remove("C")
    members.world.run(200)
    a.stop("for good")
    members.world.run(15_000)
    assert members.owner(b) == 2


def test_what_is_undone_a_host_that_was_removed_meanwhile_undoes_too(members: Members) -> None:
    """B dies when only C has its last commit, is in sync with A again, and C joins with its disk."""
    a, b, c = members.hosts
    members.retain(b, "it")
    members.world.run(500)
    for pair in a.pairs.values():
        pair.cut()
    members.world.run(1000)
    members.retain(b, "")
    members.world.run(200)
    assert [members.retained(host) for host in members.hosts] == [1, 0, 0]
    b.stop("before it has evicted A")
    b.pairs[c.node_id].cut()
    members.world.run(4000)
    a.interconnect.remove("C")
    b.start()
    a.pairs[b.node_id].heal()
    members.world.run(5000)
    assert [members.retained(host) for host in members.hosts] == [1, 1, 0]
    table = a.interconnect.table.with_member(a.interconnect.member(c))
    for host in (a, c):
        host.interconnect.keep(table)
    for pair in c.pairs.values():
        pair.heal()
    members.world.run(5000)
    assert [members.retained(host) for host in members.hosts] == [1, 1, 1]
    assert members.world.wrong == []  # else the stores have differed until digests were compared
