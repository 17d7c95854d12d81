"""A session has ended on one side of a cut and goes on on the other one, and hosts lack more of each other than outboxes keep."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from node.keeper import sources
from tests.simulation.host import Host
from tests.simulation.three import Three


@pytest.fixture
def three(tmp_path: Path, seed: int) -> Iterator[Three]:
    hosts = Three(tmp_path, seed=seed)
    yield hosts
    for host in hosts.hosts:
        host.stop("at the end")


def begin(three: Three, host: Host, *cut: str) -> int:
    """A session of this host with a message, of which all know; its id. Then hosts are apart."""
    sid = three.subscriber(host, "it", 600)
    three.publish(host, "it")
    three.world.run(200)
    three.cut(*cut)
    three.world.run(4500)
    return sid


def end_and_go_on(three: Three, ends: Host, goes_on: Host, restarts: bool) -> None:
    """No outbox keeps what hosts do meanwhile. `restarts`: who has ended it, before the hosts meet."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "KEPT_COMMITS", 0)
        three.leave(ends, "it", 0)
        three.world.run(500)
        three.connect(goes_on, "it", 2)
        three.world.run(50)
        for number, host in enumerate(three.hosts):
            if host.keeper is not None:
                three.mortal(host, "o" * (number + 3), 0)
        three.world.run(1000)
    if restarts:
        ends.stop("for a while")
        three.world.run(100)
        ends.start()
        three.world.run(4000)


def check(three: Three, sid: int) -> None:
    there = three.directories()
    assert [each.sessions["it"].sid for each in there] == [sid] * len(there)
    assert three.subscriptions(*three.hosts) == [{(sid, "a")}] * len(there)
    assert three.queued() == [1] * len(there)
    assert not any("stores_differ" in each for each in three.world.trace)


@pytest.mark.parametrize(("seed", "restarts"), [(6, False), (16, False), (3, True), (8, True), (1, True)])
def test_of_two_hosts(three: Three, restarts: bool) -> None:
    a, b, c = three.hosts
    three.kill(c)
    sid = begin(three, a, "ab")
    end_and_go_on(three, a, b, restarts)
    three.heal("ab")
    three.world.run(9000)
    check(three, sid)


@pytest.mark.parametrize(("seed", "restarts"), [(3, False), (12, False), (5, True), (12, True), (1, True)])
def test_of_three_hosts(three: Three, restarts: bool) -> None:
    """A has not heard of the end: it tells who ended the session that it goes on, and its host what is left of it there."""
    _, b, c = three.hosts
    sid = begin(three, c, "ac", "bc")
    end_and_go_on(three, c, b, restarts)
    three.cut("ab")
    three.world.run(4500)
    three.heal("ac")
    three.world.run(3000)
    three.kill(c)
    three.heal("ab")
    three.world.run(20_000)
    check(three, sid)
