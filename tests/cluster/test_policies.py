"""What an operator may choose for the time when a host is alone: wait, drop, refuse (cluster.ack_policy and its neighbours)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.broker import wait_for
from tests.cluster.hosts import MESH, Host, in_sync, join, running_hosts
from tests.cluster.network import Network
from tests.mqtt import PUBACK, connect_packet

ALONE_S = 20.0  # for an eviction, on a busy machine


def alone(host: Host) -> None:
    wait_for(lambda: host.metric("mqnode_peers_evicted") == 1, ALONE_S, host.log)


@pytest.fixture(scope="module")
def strict(network: Network) -> Iterator[tuple[Host, Host]]:
    policy = MESH + '[cluster]\nack_policy = "strict"\n'
    with running_hosts(network, interconnect=policy) as (first, second):
        join(first, second)
        yield first, second


def subscribed(host: Host, client_id: str, topic: str) -> None:
    """A durable session that is away."""
    with host.client() as client:
        client.connect(client_id, clean=False, session_expiry=600)
        client.subscribe((topic, 1))
        client.disconnect()


def test_strict_acknowledges_nothing_alone_and_all_when_the_peer_is_back(strict: tuple[Host, Host]) -> None:
    first, second = strict
    subscribed(first, "device", "t/#")
    with first.client() as publisher, first.client() as live:
        publisher.connect("publisher")
        live.connect("live")
        live.subscribe(("live", 0))
        assert publisher.publish_all("t/0", b"0", 1).reason == 0
        second.kill_all()
        try:
            alone(first)
            assert first.metric("mqnode_degraded") == 1
            assert "acknowledgements_wait" in first.log()
            for number in range(1, 4):
                publisher.publish("t/0", str(number).encode(), 1)
            publisher.publish("live", b"goes on")  # QoS 0 waits for nobody
            assert live.take().payload == b"goes on"
            with first.client() as another:  # nor does who wants nothing kept
                assert another.connect("another").reason == 0
            with first.client() as waiting:
                waiting.send(connect_packet("waiting", clean=False, session_expiry=600))
                with pytest.raises(TimeoutError):
                    waiting.receive(1.0)
            publisher.nothing()
            pid = first.signal("keeper", 9)  # a new keeper knows of no copies either
            wait_for(lambda: first.pid("keeper") not in (0, pid), 15, first.log)
            wait_for(lambda: first.get("/ready")[0] == 200, 15, first.log)
            publisher.nothing(1.0)
            assert first.metric("mqnode_solo_acks_total") == 0
        finally:
            second.start()
        for _ in range(3):
            assert publisher.expect(PUBACK, 30).reason == 0
        in_sync(first, second)
    with second.client() as client:
        assert client.connect("device", clean=False, session_expiry=600).session_present
        assert [client.take().payload for _ in range(4)] == [b"0", b"1", b"2", b"3"]
