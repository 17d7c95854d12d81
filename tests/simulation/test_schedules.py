"""Schedules by hand, where a client would see what a run by seed does not look at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.simulation.client import Client, Ledger
from tests.simulation.host import Host
from tests.simulation.three import Three
from tests.simulation.worker import claim, message
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


@pytest.mark.parametrize("silent_ms", [2800, 60_000])
def test_a_will_is_published_once_though_its_publish_waits_for_a_peer(two: Two, silent_ms: int) -> None:
    """The worker hears of it when the peer has confirmed, or is evicted; subscribers without a session get each publish."""
    here = two.a.worker
    assert here is not None
    here.call("claim", claim("it", 1, will={"delay_s": 0, "record": message("wills", "it", 1, False, 0), "cid": "it"}))
    two.world.run(500)
    for side in two.pair.sides.values():
        assert side.wire is not None
        side.wire.stall(two.world.now + silent_ms)
    two.world.run(50)
    here.call("detach", ["it", 1, 60, "keep", 0])
    two.world.run(silent_ms + 6000)
    assert here.wills == ["it"]


def test_who_comes_back_while_its_session_is_asked_for_is_ended_before_it_is_handed_over(two: Two) -> None:
    """At no time does a client id have a connection at both hosts."""
    keeper, here, there = two.a.keeper, two.a.worker, two.b.worker
    assert keeper is not None
    assert here is not None
    assert there is not None
    session = keeper.directory.sessions["c0"]
    ended: dict[int, int] = {}  # connection -> whose session it was then
    granted: list[bool] = []

    def takeover(cid: str, conn: int, reason: int) -> None:
        ended[conn] = session.owner
        here.call("detach", [cid, conn, 600, "keep", 0])
        if len(ended) == 1:
            here.call("claim", claim("c0", 99))

    here._on_takeover = takeover  # type: ignore[method-assign]
    there.call("claim", claim("c0", 7), lambda ok, result: granted.append(ok))
    two.world.run(3000)
    assert granted == [True]
    assert len(ended) == 2
    assert ended[99] == two.a.index + 1


def test_a_session_goes_on_though_the_answer_that_brings_it_was_lost_and_its_client_has_gone(two: Two) -> None:
    """Else it would be nobody's for ever: it would not expire, and its messages would wait without a bound."""
    assert two.client.connection is not None
    two.client.connection.close()
    two.world.run(2000)
    assert two.b.worker is not None
    assert two.a.keeper is not None
    two.b.worker.call("claim", claim("c0", 7))
    while two.a.keeper.directory.sessions["c0"].owner == 1:
        two.world.run(0.1)
    two.pair.break_channel(False)
    two.b.worker.call("unclaim", {"cid": "c0", "conn": 7})
    two.world.run(1500)
    two.pair.open_soon()
    two.world.run(15_000)
    assert two.b.keeper is not None
    elsewhere, session = two.b.keeper.directory.elsewhere, two.b.keeper.directory.sessions["c0"]
    assert elsewhere.owns(session)


@pytest.mark.parametrize("restarts", [False, True], ids=["at once", "when the keeper knows whose session it is"])
def test_who_left_a_host_that_had_not_answered_yet_is_not_ended_where_it_went(two: Two, restarts: bool) -> None:
    """That host's request for the session comes when the client is connected here already."""
    there = two.b.worker
    assert there is not None
    if restarts:
        two.a.stop_keeper()
        two.world.run(50)
        two.a.start_keeper()
        two.world.run(5)
    there.call("claim", claim("c0", 7))
    there.call("unclaim", {"cid": "c0", "conn": 7})
    two.world.run(3000)
    assert two.client.is_connected
    refused: list[bool] = []
    there.call("claim", claim("c0", 8), lambda ok, result: refused.append(not ok))
    two.world.run(3000)
    assert refused == [False]
    assert not two.client.is_connected


def test_of_two_connections_without_a_session_the_later_one_stays_though_the_earlier_was_granted_last(two: Two) -> None:
    """Its password took long to be judged: nobody was told of it when the later one came."""
    ended: list[tuple[str, int]] = []
    assert two.a.keeper is not None
    came_ms = two.a.keeper.directory.now_ms
    two.world.run(100)
    for host, number, at_ms in ((two.b, 5, came_ms + 50), (two.a, 6, came_ms)):
        assert host.worker is not None
        host.worker._on_takeover = lambda cid, conn, reason: ended.append((cid, conn))  # type: ignore[method-assign]
        host.worker.call("claim", claim("plain", number, expiry_s=0, at_ms=at_ms))
        two.world.run(100)
    assert ended == [("plain", 6)]


@pytest.mark.parametrize("clean", [False, True])
def test_a_connect_that_lay_at_a_host_that_stood_still_ends_no_later_connection(two: Two, clean: bool) -> None:
    """Its client has long gone to another host."""
    assert two.a.keeper is not None
    assert two.a.worker is not None
    came_ms = two.a.keeper.directory.now_ms
    two.pair.cut()
    two.world.run(5000)
    two.client.connect(two.b, clean)
    two.world.run(1000)
    assert two.client.is_connected
    granted: list[bool] = []
    two.a.worker.call("claim", claim("c0", 9, clean=clean, at_ms=came_ms), lambda ok, result: granted.append(ok))
    two.world.run(1000)
    assert granted == [True]
    two.pair.heal()
    two.world.run(5000)
    assert two.client.is_connected
    for host in (two.a, two.b):
        assert host.keeper is not None
        assert host.keeper.directory.sessions["c0"].owner == two.b.index + 1
        assert ("c0" in host.keeper.directory.owners) == (host is two.b)


def test_of_two_connections_without_a_session_that_began_on_two_sides_the_later_one_stays(two: Two) -> None:
    """[MQTT-3.1.4-3], when the sides meet."""
    ended: list[tuple[str, int]] = []
    two.pair.cut()
    two.world.run(5000)
    for host, number in ((two.b, 5), (two.a, 6), (two.b, 7)):  # at B, at A, and back
        assert host.worker is not None
        host.worker._on_takeover = lambda cid, conn, reason: ended.append((cid, conn))  # type: ignore[method-assign]
        host.worker.call("claim", claim("plain" if number > 5 else "only at B", number, expiry_s=0))
        two.world.run(100)
    two.pair.heal()
    two.world.run(5000)
    assert ended == [("plain", 6)]


def test_the_wills_of_a_dead_host_are_published_by_one_of_the_others(three: Three) -> None:
    """tests/cluster/test_three_hosts.py shows the same with real hosts, and takes its time."""
    _, b, c = three.hosts
    three.mortal(c, "soon", 0)
    three.mortal(c, "late", 40)
    three.mortal(c, "back", 0)
    three.world.run(500)
    three.kill(c)
    three.world.run(10_000)
    three.mortal(b, "back", 0)
    three.world.run(24_000)
    assert three.wills() == ["soon"], "after 30 s, and not that of who is back"
    three.world.run(5_000)
    assert three.wills() == ["soon"]
    three.world.run(6_000)
    assert three.wills() == ["late", "soon"], "its delay counts from the death"
    three.world.run(10_000)
    assert three.wills() == ["late", "soon"]


def test_wills_fire_though_the_first_of_those_that_are_left_dies_too(three: Three) -> None:
    a, _, c = three.hosts
    three.mortal(c, "soon", 0)
    three.world.run(500)
    three.kill(c)
    three.world.run(28_000)
    three.kill(a)
    three.world.run(12_000)
    assert three.wills() == ["soon"]


def test_a_host_that_comes_back_decides_about_its_clients_wills(three: Three) -> None:
    """It was cut off, and its clients never left it."""
    c = three.hosts[2]
    three.mortal(c, "stays", 0)
    three.mortal(c, "patient", 60)
    three.world.run(500)
    three.cut("bc", "ac")
    three.world.run(20_000)
    three.heal("bc", "ac")
    three.world.run(80_000)
    assert three.wills() == []


@pytest.mark.parametrize("is_back", [True, False])
def test_a_will_that_only_its_dead_host_had_is_not_published_where_its_client_is_back(
    three: Three, is_back: bool
) -> None:
    a, b, _ = three.hosts
    three.cut("ab", "ac")
    three.mortal(a, "it", 1)
    three.world.run(20)
    a.stop("with what it has told nobody")
    three.heal("ab", "ac")
    if is_back:
        three.mortal(b, "it", 1)
    three.world.run(500)
    a.start()
    three.world.run(20_000)
    assert [len(each.wills) for each in three.directories()] == ([1, 1, 1] if is_back else [0, 0, 0])
    assert three.wills() == ([] if is_back else ["it"])


def test_what_one_side_of_a_cut_does_reaches_the_other_by_a_third_host_that_does_nothing(three: Three) -> None:
    a, b, _ = three.hosts
    three.cut("ab")
    three.world.run(5_000)
    three.mortal(a, "far", 0)
    three.world.run(40_000)
    assert b.keeper is not None
    assert "far" in b.keeper.directory.sessions


def test_of_two_hosts_that_take_the_session_of_a_dead_one_at_the_same_moment_one_moves_its_messages(
    three: Three,
) -> None:
    """Its client gave up at one after a moment, which does not know that, and came to the other."""
    a, b, c = three.hosts
    three.mortal(c, "it", 0)
    three.world.run(500)
    three.kill(c)
    three.world.run(3500)
    three.publish(a, "it")
    three.world.run(100)
    assert three.queued() == [0, 0]
    three.mortal(a, "it", 0)
    three.mortal(b, "it", 0)
    three.world.run(9000)
    assert three.queued() == [1, 1]


def test_what_a_dead_host_had_moved_into_a_queue_as_one_knows_is_not_moved_again_by_another(three: Three) -> None:
    _, b, c = three.hosts
    three.queue_unknown_to_b()
    three.pairs["ab"].stall()  # and what B does before A has told it of that
    three.kill(c)
    three.mortal(b, "it", 0)
    three.world.run(9000)
    assert three.queued() == [1, 1]


@pytest.mark.parametrize("had", [0, 1])  # messages that its client has before
def test_what_a_host_had_moved_before_its_restart_does_not_come_from_another_side_too(three: Three, had: int) -> None:
    a, b, c = three.hosts
    three.mortal(a, "it", 0)
    three.world.run(500)
    for wire in (three.pairs["ab"].sides[a.index].wire, three.pairs["bc"].sides[c.index].wire):
        assert wire is not None
        wire.stall(three.world.now + 100)
    three.publish(b, "it")
    three.world.run(50)
    three.cut("ab", "bc")
    assert three.queued() == [1, 0, 1]
    three.world.run(4500)
    for _ in range(had):
        three.take(a)
    three.world.run(500)
    a.stop_keeper()
    three.world.run(100)
    a.start_keeper()
    three.world.run(4000)
    three.connect(b, "it", 9)  # finds its session as it was at the cut
    three.world.run(500)
    three.connect(a, "it", 10)
    three.world.run(500)
    assert three.queued()[:2] == [1 - had, 1]
    three.heal("ab", "bc")
    three.world.run(9000)
    assert three.queued() == [1 - had] * 3


def test_a_session_goes_on_whole_though_a_third_host_has_heard_of_its_end_first(three: Three) -> None:
    """It expires on one side of a cut while its client is connected on the other one, which meets the third host first."""
    a, b, c = three.hosts
    sid = three.subscriber(a, "it", 6)
    three.cut("ab", "bc")
    three.leave(a, "it", 6)
    three.world.run(4000)
    three.connect(b, "it", 2, expiry_s=6)
    three.world.run(6000)
    assert a.keeper is not None
    assert "it" not in a.keeper.directory.sessions
    three.heal("bc")
    three.world.run(5000)
    assert three.subscriptions(b, c) == [{(sid, "a")}] * 2


def test_what_a_host_has_acknowledged_alone_is_not_undone_though_it_had_evicted_nobody(three: Three) -> None:
    """It was removed, as its next keeper was told, which so waited for nobody; then it died, and joined again."""
    a = three.hosts[0]
    three.mortal(a, "it", 0)
    three.world.run(200)
    three.cut("ab", "ac")
    three.world.run(1000)  # for as long one direction may go on
    a.stop_keeper()
    members, a.interconnect.members = a.interconnect.members, lambda: {"members": [], "left": [], "cluster": bytes(16)}  # type: ignore[method-assign]
    a.start_keeper()
    three.world.run(300)
    three.publish(a, "it")
    three.world.run(300)
    assert three.queued() == [1, 0, 0]
    assert a.keeper is not None
    assert not a.keeper.held  # its publisher knows
    a.stop("alone")
    three.world.run(4000)
    a.interconnect.members = members  # type: ignore[method-assign]
    a.start()
    three.heal("ab", "ac")
    three.world.run(6000)
    assert three.queued() == [1, 1, 1]


def test_what_a_host_has_acknowledged_before_it_evicts_the_other_is_not_undone(three: Three) -> None:
    """Its keeper had started anew and waited for the other host, which lacked a commit, only as long as their link was open."""
    a, b, c = three.hosts
    three.mortal(b, "it", 0)
    three.world.run(500)
    three.kill(c)
    three.world.run(500)
    a.crashed = lambda point: a.stop_keeper()
    assert a.keeper is not None
    a.keeper.crash_at = "after_commit"
    three.publish(a, "it")
    three.world.run(5)
    assert a.keeper is None
    a.start_keeper_again()
    while not any(peer.node_id == b.node_id for peer in a.keeper.replicas.replication.peers):
        three.world.run(0.01)
    three.pairs["ab"].sides[a.index].wire.stall(three.world.now + 3000)
    three.world.run(100)
    assert not a.keeper.writer.is_settling
    assert a.keeper.held
    three.pairs["ab"].break_channel(False)
    while a.keeper.held:  # until its publisher knows
        three.world.run(1)
    assert b.node_id not in a.keeper.replicas.evicted
    a.stop("with what it has acknowledged")
    three.world.run(5000)
    assert three.queued() == [0]
    three.mortal(b, "another", 0)
    a.start()
    three.world.run(6000)
    assert three.queued() == [1, 1]
