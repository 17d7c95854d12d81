"""Two hosts: sessions and their queues outlive either of them (guarantees.md)."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest

from tests.broker import wait_for
from tests.cluster.balancer import Balancer
from tests.cluster.hosts import MESH, Host, in_sync, join, running_hosts
from tests.cluster.network import Network
from tests.faults.ledger import Ledger
from tests.faults.test_kill import SEED
from tests.mqtt import DISCONNECT, TAKEN_OVER


@pytest.fixture
def pair() -> Iterator[tuple[Host, Host]]:
    with (
        Network("h1", "h2") as network,
        running_hosts(network, interconnect=MESH, workers=2) as (first, second),
    ):
        join(first, second)
        yield first, second


def test_a_session_goes_on_at_the_other_host(pair: tuple[Host, Host]) -> None:
    first, second = pair
    with first.client() as client:
        client.connect("device", clean=False, session_expiry=600)
        client.subscribe(("t/#", 1))
    with second.client() as publisher:
        publisher.connect()
        for number in range(20):
            publisher.publish_all("t/x", str(number).encode(), 1)
    with second.client() as client:
        assert client.connect("device", clean=False, session_expiry=600).session_present
        assert [client.take().payload for _ in range(20)] == [str(number).encode() for number in range(20)]
    first.kill_all()
    with second.client() as publisher, second.client() as client:
        client.connect("device", clean=False, session_expiry=600)
        publisher.connect()
        assert publisher.publish_all("t/x", b"alone", 1).reason == 0
        assert client.take().payload == b"alone"
        wait_for(lambda: second.metric("mqnode_degraded") == 1)
    first.start()
    in_sync(first, second)
    with first.client() as client:
        assert client.connect("device", clean=False, session_expiry=600).session_present
        client.nothing()


@pytest.mark.timeout(180)
def test_kill_9_of_either_host_loses_nothing(pair: tuple[Host, Host]) -> None:
    first, second = pair
    with Balancer([first, second]) as balancer:
        ledger = Ledger(balancer.client, 1, rate=60.0)
        ledger.start()
        for host in (first, second, first):
            ledger.wait_acked(50)
            host.kill_all()
            ledger.wait_acked(50, ledger.acked(), 60)
            host.start()
            in_sync(first, second)
        ledger.settle(60)


@pytest.mark.timeout(180)
def test_kill_9_of_any_process_of_either_host_loses_nothing(pair: tuple[Host, Host]) -> None:
    print(f"MQNODE_FAULT_SEED={SEED}")
    chance = random.Random(SEED)
    first, second = pair
    with Balancer([first, second]) as balancer:
        ledger = Ledger(balancer.client, SEED, rate=60.0)
        ledger.start()
        for _ in range(8):
            time.sleep(chance.uniform(0.2, 1.0))
            host, name = (
                chance.choice(pair),
                chance.choice(["worker-0", "worker-1", "keeper", "keeper", "interconnect"]),
            )
            host.replace(name)
            host.wait_ready()
        in_sync(first, second)
        ledger.settle(60)


def test_of_two_connections_without_a_session_that_began_on_both_sides_of_a_cut_the_later_stays(
    pair: tuple[Host, Host],
) -> None:
    """[MQTT-3.1.4-3]"""
    first, second = pair
    first.network.cut_interconnect(first.name)
    wait_for(lambda: first.metric("mqnode_degraded") == second.metric("mqnode_degraded") == 1, 15, "not degraded")
    with second.client() as earlier, first.client() as later:
        earlier.connect("roams")
        time.sleep(0.5)  # more than the hosts' clocks differ by: nearer, either may count as the later one
        later.connect("roams")
        first.network.heal()
        in_sync(first, second)
        assert earlier.expect(DISCONNECT).reason == TAKEN_OVER
        later.nothing()
    wait_for(lambda: first.metric("mqnode_degraded") == second.metric("mqnode_degraded") == 0, 15, "degraded")


@pytest.mark.timeout(180)
def test_both_sides_of_a_cut_serve_and_merge(pair: tuple[Host, Host]) -> None:
    first, second = pair
    with Balancer([first, second]) as balancer:
        ledger = Ledger(balancer.client, SEED, rate=60.0, fickle=0.0)
        ledger.start()
        ledger.wait_acked(50)
        first.network.cut_interconnect(first.name)
        wait_for(lambda: first.metric("mqnode_degraded") == second.metric("mqnode_degraded") == 1, 15, "not degraded")
        ledger.wait_acked(50, ledger.acked(), 60)
        first.network.heal()
        in_sync(first, second)
        wait_for(lambda: first.metric("mqnode_degraded") == second.metric("mqnode_degraded") == 0, 15, "degraded")
        ledger.settle(60)
