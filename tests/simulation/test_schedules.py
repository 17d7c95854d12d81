"""Schedules by hand, where a client would see what a run by seed does not look at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulation.client import Client, Ledger
from tests.simulation.host import Host
from tests.simulation.world import Pair, World


class Two:
    """Two hosts in sync, and a client at A."""

    def __init__(self, folder: Path) -> None:
        self.world = World(1)
        self.a, self.b = Host(self.world, 0, folder), Host(self.world, 1, folder)
        self.pair = Pair(self.world, self.a, self.b)
        self.a.start()
        self.b.start()
        self.world.run(800)
        self.client = Client(self.world, [self.a, self.b], Ledger(), "c0")
        self.client.connect(self.a)
        self.world.run(300)
        assert self.client.is_connected


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Two]:
    hosts = Two(tmp_path)
    yield hosts
    for host in (hosts.a, hosts.b):
        host.stop("at the end")


def test_a_host_that_is_alone_goes_on(two: Two) -> None:
    two.b.stop("for good")
    two.world.run(4000)
    two.client.connect(two.a)
    two.world.run(500)
    assert two.client.is_connected


def test_a_host_that_is_alone_goes_on_after_its_keeper_died(two: Two) -> None:
    two.b.stop("for good")
    two.world.run(4000)
    two.a.stop_keeper()
    two.world.run(50)
    two.a.start_keeper()
    two.world.run(7000)
    two.client.connect(two.a)
    two.world.run(500)
    assert two.client.is_connected
