"""Do the hosts hold the same? Said, found and repaired: digests, and the report of what a heal merged."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from storage.layout import open_databases, open_environment
from tests.broker import wait_for
from tests.cluster.hosts import MESH, Host, in_sync, join, running_hosts
from tests.cluster.network import Network
from tests.faults.ledger import Ledger


@pytest.fixture(scope="module")
def pair(network: Network) -> Iterator[tuple[Host, Host]]:
    with running_hosts(network, interconnect=MESH) as (first, second):
        join(first, second)
        yield first, second


def digest(host: Host) -> dict[str, Any]:
    """As this host knows it; the others tell it five times a second."""
    asked = host.mqnode("cluster", "digest", "--json")
    assert asked.stdout, asked.stderr
    found: dict[str, Any] = json.loads(asked.stdout)
    assert asked.returncode == {True: 0, False: 1, None: 2}[found["equal"]], asked.stderr
    return found


def exit_of_digest(host: Host, code: int) -> subprocess.CompletedProcess[str] | None:
    """What it says, if that is its exit code."""
    asked = host.mqnode("cluster", "digest")
    return asked if asked.returncode == code else None


def queued(host: Host) -> list[int]:
    """In the queues of each host, once their digests are equal."""
    found = digest(host)
    return [each["databases"]["queue"]["entries"] for each in found["hosts"]] if found["equal"] else []


def subscribe(host: Host, cid: str, topic: str) -> None:
    with host.client() as client:
        client.connect(cid, clean=False, session_expiry=600)
        client.subscribe((topic, 1))


def publish(host: Host, topic: str, *payloads: bytes) -> None:
    with host.client() as publisher:
        publisher.connect()
        for payload in payloads:
            assert publisher.publish_all(topic, payload, 1).reason == 0


def receive(host: Host, cid: str, count: int) -> list[bytes]:
    with host.client() as client:
        client.connect(cid, clean=False, session_expiry=600)
        return [client.take().payload for _ in range(count)]


def lose_an_entry(host: Host) -> None:
    """Of its queues, as a disk might; the host does not run."""
    environment = open_environment(host.data_dir / "store", 1 << 30)
    queue = open_databases(environment, create=False)["queue"]
    with environment.begin(write=True) as transaction, transaction.cursor(db=queue) as cursor:
        assert cursor.first()
        cursor.delete()
    environment.close()


def test_hosts_that_are_in_sync_have_equal_digests(pair: tuple[Host, Host]) -> None:
    first, second = pair
    subscribe(first, "equal", "equal/#")
    publish(second, "equal/x", b"1", b"2", b"3")
    for host in pair:
        wait_for(lambda host=host: queued(host) == [3, 3], 10, host.log)
        assert "Equal: all hosts hold the same." in host.mqnode("cluster", "digest").stdout
    assert receive(second, "equal", 3) == [b"1", b"2", b"3"]
    wait_for(lambda: queued(first) == [0, 0], 10)


def test_a_host_that_has_just_stopped_is_not_called_equal(pair: tuple[Host, Host]) -> None:
    """Nobody has noticed yet; what it told before says nothing of now."""
    first, second = pair
    wait_for(lambda: digest(first)["equal"], 10)
    stopped = [second.signal(name, signal.SIGSTOP) for name in ("watchdog", "interconnect")]
    try:
        asked = first.mqnode("cluster", "digest")
        assert asked.returncode == 2
        assert "no answer from h2 (last heard: " in asked.stdout
    finally:
        for pid in reversed(stopped):
            os.kill(pid, signal.SIGCONT)
    in_sync(first, second)


def test_what_a_disk_has_lost_is_found_and_comes_from_the_other_host(pair: tuple[Host, Host]) -> None:
    first, second = pair
    subscribe(first, "lossy", "lossy/#")
    publish(second, "lossy/x", b"1", b"2", b"3")
    wait_for(lambda: queued(first) == [3, 3], 10)
    found = second.metric("mqnode_digest_mismatches_total")
    first.stop()
    lose_an_entry(first)
    wait_for(lambda: second.mqnode("cluster", "digest").returncode == 2, what="a host that is away cannot be compared")
    stopped = [second.signal(name, signal.SIGSTOP) for name in ("watchdog", "keeper")]
    try:  # nothing is repaired yet
        first.launch()
        different = wait_for(lambda: exit_of_digest(second, 1), 20, second.log)
        assert "Different: queue." in different.stdout
    finally:
        for pid in reversed(stopped):
            os.kill(pid, signal.SIGCONT)
    first.wait_ready()
    in_sync(first, second)
    # whichever compares first gets what it lacks, and the other one finds nothing
    wait_for(lambda: sum(host.metric("mqnode_digest_mismatches_total") for host in pair) > found, 40, first.log)
    wait_for(lambda: queued(second) == [3, 3], 20, first.log)
    assert "stores_differ" in first.log() + second.log()
    assert sorted(receive(second, "lossy", 3)) == [b"1", b"2", b"3"]


def test_a_heal_is_reported_and_the_digests_are_equal_afterwards(network: Network, pair: tuple[Host, Host]) -> None:
    """Both sides serve the session while they are cut apart."""
    first, second = pair
    subscribe(first, "split", "split/#")
    wait_for(lambda: digest(first)["equal"], 10)
    network.cut("h1", "h2")
    wait_for(lambda: all(host.metric("mqnode_peers_evicted") == 1 for host in pair), 15)
    for host in pair:
        subscribe(host, "split", f"split/{host.name}")
        publish(host, "split/x", host.name.encode())
        subscribe(host, "born", f"born/{host.name}")
        publish(host, f"born/{host.name}", b"1", b"2")
        subscribe(host, "shared body", f"born/{host.name}")
        publish(host, f"born/{host.name}", b"3")
        subscribe(host, f"late {host.name}", f"late/{host.name}")
    network.heal()
    in_sync(first, second)
    wait_for(lambda: queued(first) == [10, 10], 20, first.log)
    for host, other in (pair, pair[::-1]):
        wait_for(lambda host=host: heals(host)[0]["until_ms"] is not None, 10, host.log)
        heal = heals(host)[0]
        assert heal["peer"] == other.name
        assert heal["from_ms"] < heal["until_ms"]
        assert heal["commits_sent"] > 0
        assert other.name in host.mqnode("cluster", "heal-report").stdout
    assert sum(heals(host)[0]["entries_received"] for host in pair) > 0
    winners = {
        (host if winner == "this host" else other).name
        for host, other in (pair, pair[::-1]) for cid, winner in heals(host)[0]["sessions"] if cid == "split"
    }  # fmt: skip
    assert len(winners) == 1, "who hears of the other's record first compares them; both keep the same one"
    counted = [
        host.metric(f'mqnode_merge_sessions_total{{outcome="{who}"}}') for host in pair for who in ("here", "peer")
    ]
    assert sum(counted) > 0
    assert sorted(receive(first, "split", 2)) == [b"h1", b"h2"]
    assert receive(second, "shared body", 2) == [b"3", b"3"]
    assert receive(second, "born", 6) == [b"1", b"2", b"3"] * 2, "begun on both sides, it has what both had"
    publish(first, "born/h1", b"h1")
    publish(first, "born/h2", b"h2")
    assert receive(second, "born", 2) == [b"h1", b"h2"]
    assert [host.metric('mqnode_messages_dropped_total{reason="session_ended"}') for host in pair] == [0, 0]
    for host, other in (pair, pair[::-1]):  # sessions that began meanwhile are known to the workers of both
        publish(other, f"late/{host.name}", b"for it")
        assert receive(host, f"late {host.name}", 1) == [b"for it"]


def heals(host: Host) -> list[dict[str, Any]]:
    asked = host.mqnode("cluster", "heal-report", "--json")
    assert asked.returncode == 0, asked.stderr
    found: list[dict[str, Any]] = json.loads(asked.stdout)["heals"]
    return found


def test_hosts_that_are_never_at_rest_compare_all_the_same(pair: tuple[Host, Host]) -> None:
    """What one tells is nearly always of other commits than the other one has: they try again until it is not."""

    def compared() -> float:
        return sum(host.metric('mqnode_digests_compared_total{result="compared"}') for host in pair)

    turns = itertools.cycle(pair)
    ledger = Ledger(lambda version: next(turns).client(version), 1, rate=100.0)
    ledger.start()
    before = compared()
    pair[1].replace("interconnect")  # they try when a link opens, and every 30 s
    wait_for(lambda: compared() > before, 40, pair[1].log)
    ledger.settle(60)
