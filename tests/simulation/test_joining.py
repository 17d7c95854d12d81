"""Two hosts join at the same time, and the only one that has anything is away at that moment."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulation.host import Host
from tests.simulation.worker import claim
from tests.simulation.world import Pair, World


class Joiners:
    """A, which is stopped, has the session of the client "it"; B and C belong to its cluster since."""

    def __init__(self, folder: Path) -> None:
        self.world = World(1)
        self.hosts = [Host(self.world, index, folder) for index in range(3)]
        a, b, c = self.hosts
        a.start()
        self.world.run(800)
        self.claim(a)
        self.world.run(300)
        a.stop("for a while")
        self.pairs = {each: Pair(self.world, *each) for each in itertools.combinations(self.hosts, 2)}
        for host in (b, c):
            host.start()
        self.world.run(12_000)

    def claim(self, host: Host) -> list[bool]:
        """Whether a client is let in, once that is known."""
        granted: list[bool] = []
        assert host.worker is not None
        host.worker.call("claim", claim("it", 1), lambda ok, result: granted.append(ok))
        return granted

    def lets_in(self, host: Host) -> bool:
        granted = self.claim(host)
        self.world.run(3000)
        return granted == [True]


@pytest.fixture
def joiners(tmp_path: Path) -> Iterator[Joiners]:
    hosts = Joiners(tmp_path)
    yield hosts
    for host in hosts.hosts:
        host.stop("at the end")


def test_hosts_that_join_together_take_nothing_of_each_other_for_all_that_there_is(joiners: Joiners) -> None:
    a, b, c = joiners.hosts
    assert not joiners.lets_in(b)
    assert not joiners.lets_in(c)
    a.start()
    joiners.world.run(5000)
    assert a.keeper is not None
    sid = a.keeper.directory.sessions["it"].sid
    assert joiners.lets_in(b)
    for host in (b, c):
        assert host.keeper is not None
        assert not host.keeper.joining.is_on
        assert host.keeper.directory.sessions["it"].sid == sid


def test_who_joins_with_one_that_dies_waits_for_no_more_than_the_one_that_serves(joiners: Joiners) -> None:
    """That one says it before it serves, while it does not know yet that the third host is dead, and then again."""
    a, b, c = joiners.hosts
    c.stop("for good")
    joiners.world.run(5000)
    a.start()
    joiners.world.run(8000)
    assert joiners.lets_in(b)


def test_who_has_joined_lets_in_who_joined_with_it(joiners: Joiners) -> None:
    """The host that both copied is dead before the second one had all."""
    a, b, c = joiners.hosts
    joiners.pairs[a, c].cut()
    a.start()
    joiners.world.run(5000)
    assert joiners.lets_in(b)
    a.stop("for good")
    joiners.world.run(20_000)
    assert c.keeper is not None
    assert not c.keeper.joining.is_on
    assert joiners.lets_in(c)
