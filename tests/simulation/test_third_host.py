"""Three hosts: what one of them knows of a dead one or of the end of a session, and another one does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.keeper import sources
from tests.simulation.three import Three
from tests.simulation.worker import claim


@pytest.mark.parametrize("late", ["its answer", "its snapshot"])
def test_what_a_host_tells_slowly_of_a_dead_one_is_waited_for(three: Three, late: str) -> None:
    """The line between them is narrow, and what they say takes longer than a dead host is waited for."""
    a, b, c = three.hosts
    three.queue_unknown_to_b()
    wire = three.pairs["ab"].sides[a.index].wire
    assert wire is not None
    wire.stall(three.world.now + (1_000 if late == "its snapshot" else 9_000))
    three.kill(c)
    three.mortal(b, "it", 0)
    if late == "its snapshot":
        while b.keeper is not None and b.keeper.replicas.sources._source is None:
            three.world.run(0.5)
        wire.stall(three.world.now + 8_000)
    three.world.run(7_500)
    assert b.keeper is not None
    assert "it" not in b.keeper.directory.owners
    three.world.run(4_000)
    assert three.queued() == [1, 1]
    assert "it" in b.keeper.directory.owners


def test_a_client_for_whose_session_another_host_takes_too_long_is_refused(three: Three) -> None:
    """It may come to that one, which has it."""
    a, b, c = three.hosts
    three.mortal(c, "it", 0)
    three.world.run(500)
    wire = three.pairs["ab"].sides[a.index].wire
    assert wire is not None
    three.kill(c)
    wire.stall(three.world.now + 14_000)
    granted: list[bool] = []
    assert b.worker is not None
    b.worker.call("claim", claim("it", 1), lambda ok, result: granted.append(ok))
    three.world.run(12_000)
    assert granted == [False]
    three.mortal(a, "it", 0)
    three.world.run(3_000)
    assert a.keeper is not None
    assert "it" in a.keeper.directory.owners


@pytest.mark.parametrize("late", ["by its outbox", "by a snapshot"])
def test_a_session_goes_on_whole_though_its_host_was_away_when_its_end_was_told(
    three: Three, late: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who ended it has died since, and who has heard of that has started anew."""
    a, b, c = three.hosts
    sid = three.subscriber(a, "it", 6)
    three.publish(a, "it")
    three.world.run(100)
    three.cut("ab", "bc")
    three.leave(a, "it", 6)
    three.world.run(4000)
    three.connect(b, "it", 2)
    three.world.run(500)
    b.stop("for a while")
    three.world.run(5500)
    assert a.keeper is not None
    assert c.keeper is not None
    assert "it" not in a.keeper.directory.sessions
    assert "it" not in c.keeper.directory.sessions
    a.stop("for good")
    if late == "by a snapshot":
        monkeypatch.setattr(sources, "KEPT_COMMITS", 0)
        three.mortal(c, "other", 0)
        three.world.run(50)
    c.stop_keeper()
    three.world.run(100)
    c.start_keeper()
    three.world.run(4000)
    b.start()
    three.heal("bc")
    three.world.run(9000)
    assert three.subscriptions(b, c) == [{(sid, "a")}] * 2
    assert three.queued() == [1, 1]


@pytest.mark.parametrize("first", ["ac", "ab"])
def test_what_a_third_host_took_for_a_session_that_another_one_has_become_is_not_lost(three: Three, first: str) -> None:
    """The host that delivered the session has never had it. `first`: of the links that open."""
    a, b, c = three.hosts
    three.cut("ab", "ac")
    three.world.run(4500)
    former = three.subscriber(b, "it", 600)
    three.leave(b, "it", 600)
    three.world.run(100)
    three.cut("bc")
    three.world.run(4500)
    three.publish(c, "it")
    heir = three.subscriber(a, "it", 600)
    three.leave(a, "it", 600)
    assert heir != former
    three.heal(first)
    three.world.run(3000)
    three.heal("ab", "bc", "ac")
    three.world.run(20_000)
    assert three.queued() == [1, 1, 1]
    assert [three.inbox(host) for host in three.hosts] == [0, 0, 0]


def test_a_session_that_goes_on_comes_back_to_a_host_that_had_preferred_the_record_which_is_over(three: Three) -> None:
    """B's client comes to A across a cut, and leaves. C gets A's record, then its end; B only that."""
    a, b, c = three.hosts
    sid = three.subscriber(b, "it", 600)
    three.cut("ab", "ac")
    three.world.run(1000)  # until nothing is on its way
    three.connect(b, "it", 2)
    three.world.run(4000)
    three.connect(a, "it", 1)
    three.world.run(500)
    assert [each.sessions["it"].owner for each in three.directories()] == [1, 2, 2]
    three.cut("bc")
    three.heal("ac")
    assert c.keeper is not None
    while c.keeper.directory.sessions["it"].owner != 1:
        three.world.run(0.5)
    wire = three.pairs["ac"].sides[c.index].wire
    assert wire is not None
    wire.stall(three.world.now + 1000)  # A is not told of B's record
    three.leave(a, "it", 0)
    while "it" in c.keeper.directory.sessions:
        three.world.run(0.5)
    three.cut("ac")
    three.heal("ab")
    three.world.run(8000)
    three.heal("ac", "bc")
    three.world.run(20_000)
    assert [[*each.sessions] for each in three.directories()] == [["it"]] * 3
    assert three.subscriptions(*three.hosts) == [{(sid, "a")}] * 3
    assert not any("stores_differ" in each for each in three.world.trace)


@pytest.mark.parametrize("seed", [3, 5, 6])
def test_a_session_goes_on_whole_though_who_ended_it_sends_a_snapshot(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before that it has heard from the session's host, which sent again what it had done meanwhile."""
    three = Three(tmp_path, seed=seed)
    a, b, c = three.hosts
    three.kill(c)
    sid = three.subscriber(a, "it", 600)
    three.cut("ab")
    three.world.run(4500)
    monkeypatch.setattr(sources, "KEPT_COMMITS", 0)
    three.leave(a, "it", 0)
    three.mortal(a, "other", 0)
    three.world.run(500)
    monkeypatch.undo()
    three.connect(b, "it", 2)
    three.world.run(500)
    three.heal("ab")
    three.world.run(9000)
    assert three.subscriptions(a, b) == [{(sid, "a")}] * 2
    for host in (a, b):
        host.stop("at the end")


@pytest.mark.parametrize(("seed", "comes_again"), [(11, False), (19, False), (6, True), (30, True)])
def test_a_session_goes_on_whole_though_its_host_and_who_ended_it_send_snapshots(
    tmp_path: Path, seed: int, comes_again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has ended it hears that it goes on before its own snapshot leaves. `comes_again`: its client does meanwhile."""
    three = Three(tmp_path, seed=seed)
    a, b, c = three.hosts
    three.kill(c)
    sid = three.subscriber(a, "it", 600)
    three.cut("ab")
    three.world.run(4500)
    monkeypatch.setattr(sources, "KEPT_COMMITS", 0)
    three.leave(a, "it", 0)
    three.mortal(a, "other", 0)
    three.world.run(500)
    for number in (2, 3):
        three.connect(b, "it", number)
        three.world.run(500)
    monkeypatch.undo()
    three.heal("ab")
    for number in range(4, 134 if comes_again else 4):
        three.connect(b, "it", number)
        three.world.run(3)
    three.world.run(9000)
    assert three.subscriptions(a, b) == [{(sid, "a")}] * 2
    for host in (a, b):
        host.stop("at the end")


def test_a_session_that_another_host_has_go_on_as_it_ended_expires(tmp_path: Path) -> None:
    """Its host ended it when the other one, which had ended it before, had just heard that it went on."""
    three = Three(tmp_path)
    a, b, c = three.hosts
    three.kill(c)
    three.subscriber(a, "it", 30)
    three.cut("ab")
    three.world.run(4500)
    three.leave(a, "it", 0)
    three.world.run(500)
    three.connect(b, "it", 1, expiry_s=30)
    three.world.run(500)
    three.heal("ab")
    there, here = three.directories()
    while "it" not in there.sessions:
        three.world.run(0.1)
    three.leave(b, "it", 0)
    while "it" in here.sessions:
        three.world.run(0.1)
    three.world.run(2000)
    assert [[*each.sessions] for each in (there, here)] == [["it"]] * 2
    three.world.run(60_000)
    assert [[*each.sessions] for each in (there, here)] == [[]] * 2
    for host in (a, b):
        host.stop("at the end")
