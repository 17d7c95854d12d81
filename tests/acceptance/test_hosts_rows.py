"""docs/acceptance.md on two hosts behind HAProxy, over real networks: the clients' one and the interconnect."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.broker import wait_for
from tests.cluster.balancer import Balancer
from tests.cluster.hosts import MESH, Host, in_sync, join, running_hosts
from tests.cluster.network import CLIENTS, INTERCONNECT, Network
from tests.mqtt import DISCONNECT, Client

MESH_PORT = 7001  # as MESH has it
SHOWN_S = 5.0  # eviction takes 3
KNOWN_S = 0.1
DURABLE: dict[str, Any] = {"clean": False, "session_expiry": 300}


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Host, Host]]:
    with Network("h1", "h2") as network, running_hosts(network, interconnect=MESH) as (first, second):
        join(first, second)
        yield first, second


def connected(host: Host | Balancer, client_id: str = "", **options: Any) -> Client:
    client = host.client()
    client.connect(client_id, **options)
    return client


def nodes(host: Host) -> dict[str, Any]:
    """Name to what `mqnode cluster nodes` says of it there, but for what only that host can know."""
    answer = json.loads(host.mqnode("cluster", "nodes", "--json").stdout)
    return {each["name"]: each for each in answer["nodes"]}


def test_every_host_lists_the_same_hosts(pair: tuple[Host, Host]) -> None:
    """Row 22."""
    first, second = pair
    lists = [{name: each["address"] for name, each in nodes(host).items()} for host in pair]
    assert lists[0] == lists[1]
    assert set(lists[0]) == {first.name, second.name}


def test_behind_one_address_they_are_one_broker(pair: tuple[Host, Host]) -> None:
    """Row 33. Whoever publishes, everybody who subscribed gets it, wherever the balancer put them."""
    with Balancer(pair, by_client_id=False) as balancer:
        clients = [connected(balancer) for _ in range(6)]
        assert all(host.get("/v1/clients")[1] for host in pair), "both have clients"
        for client in clients:
            client.subscribe(("one/+", 1))
        for number, publisher in enumerate(clients):
            publisher.publish(f"one/{number}", b"to all", 0)
            for client in clients:
                assert client.take().topic == f"one/{number}"
        for client in clients:
            client.nothing(0)
            client.close()


def test_hosts_talk_on_the_interconnect_only_by_one_port_and_in_batches(pair: tuple[Host, Host]) -> None:
    """Rows 36, 38, 83: both interfaces of both hosts are captured while a thousand messages cross, live ones and stored ones."""
    first, second = pair
    network = first.network
    assert isinstance(network, Network)
    outer = {network.address(host.name, CLIENTS) for host in pair}
    inner = {network.address(host.name, INTERCONNECT) for host in pair}
    with (
        connected(first) as publisher,
        connected(second, "captured", **DURABLE) as subscriber,
        network.capture("h1", CLIENTS) as clients,
        network.capture("h1", INTERCONNECT) as interconnect,
    ):
        subscriber.subscribe(("cross/#", 1))
        for number in range(1000):
            publisher.publish("cross/0", b"x" * 64, number % 10 == 0)
        for _ in range(1000):
            subscriber.take()
        between, outside = interconnect.read(), clients.read()
    assert not [flow for flow in outside.frames if {flow.source[0], flow.target[0]} <= outer | inner]
    assert {flow.source[0] for flow in between.frames} | {flow.target[0] for flow in between.frames} == inner
    assert all(MESH_PORT in (flow.source[1], flow.target[1]) for flow in between.frames), list(between.frames)
    there = sum(
        count for flow, count in between.frames.items() if flow.source[0] == network.address("h1", INTERCONNECT)
    )
    assert there < 600, "frames carry many messages"


def test_a_subscription_is_known_on_the_other_host_at_once(pair: tuple[Host, Host]) -> None:
    """Row 40."""
    first, second = pair
    with connected(first) as publisher, connected(second) as subscriber:
        times = []
        for number in range(15):
            began = time.monotonic()
            subscriber.subscribe(f"known/{number}")
            times.append(time.monotonic() - began)
            publisher.publish(f"known/{number}", b"at once")
            assert subscriber.take(2).payload == b"at once"
        assert statistics.median(times) < KNOWN_S, times


def test_a_client_is_at_one_host(pair: tuple[Host, Host]) -> None:
    """Row 108: a cluster and not a mirror. The first connection ends, and the session is one, its queue too."""
    first, second = pair
    with connected(first, "only", **DURABLE) as before, connected(second) as publisher:
        before.subscribe(("only/t", 1))
        with second.client() as after:
            assert after.connect("only", **DURABLE).session_present
            assert before.expect(DISCONNECT).reason == 0x8E
            assert first.get("/v1/clients/only")[0] == 404
            publisher.publish_all("only/t", b"once")
            assert after.take().payload == b"once"
            after.nothing()


def clock(host: Host) -> float:
    """When it received a message just now, by its own clock."""
    with connected(host) as publisher:
        publisher.publish_all("clock", b"now", 1, retain=True)
    found: float = json.loads(host.mqnode("retained", "get", "clock", "--json").stdout)["received_at"]
    return found


def test_a_client_whose_session_ends_with_its_connection_is_at_one_host_too(pair: tuple[Host, Host]) -> None:
    first, second = pair
    with connected(first, "live") as before, second.client() as after:
        began = clock(first)
        wait_for(lambda: clock(second) > began)  # by it the later connection stays
        assert not after.connect("live").session_present
        assert before.expect(DISCONNECT).reason == 0x8E


def test_a_session_is_deleted_at_any_host(pair: tuple[Host, Host]) -> None:
    """Row 105: at the one that does not own it, too, and while its client is connected there."""
    first, second = pair
    for stays in (False, True):
        with connected(second, "change", **DURABLE) as client:
            client.subscribe("change/#")
            if not stays:
                client.disconnect()
                wait_for(lambda: not second.get("/v1/sessions/change")[1]["connected"])
            assert first.mqnode("sessions", "delete", "change", "--yes").returncode == 0
            assert not stays or client.expect_closed()
        for host in pair:
            with host.client() as again:
                assert not again.connect("change", clean=False).session_present


def test_a_retained_message_is_deleted_at_any_host(pair: tuple[Host, Host]) -> None:
    """Row 105: a change is made once."""
    first, second = pair
    with connected(second) as client:
        client.publish_all("change/kept", b"x", 1, retain=True)
        assert first.mqnode("retained", "delete", "change/kept", "--yes").returncode == 0
        client.subscribe("change/#")
        client.nothing()


def test_a_dead_host_is_shown_and_hinders_nobody(pair: tuple[Host, Host]) -> None:
    """Rows 24, 74, 97, 103: within 5 s it is listed as gone; the other goes on to serve, new clients and subscriptions too."""
    first, second = pair
    with connected(first) as stays:
        second.kill_all()
        began = time.monotonic()
        try:
            with connected(first, "subscribes", **DURABLE) as client:
                assert client.subscribe(("alone/#", 1)).reasons == [1]
                stays.publish_all("alone/t", b"m")
                assert client.take().payload == b"m"
            wait_for(lambda: nodes(first)["h2"]["state"] != "up", SHOWN_S + 3, lambda: str(nodes(first)))
            assert time.monotonic() - began < SHOWN_S
            assert first.metric("mqnode_degraded") == 1
            stays.nothing(0)
        finally:
            second.start()
        in_sync(first, second)
        wait_for(lambda: first.metric("mqnode_degraded") == 0)
