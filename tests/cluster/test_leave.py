"""A host leaves: its listeners first, then its clients, then its sessions, and only then itself; nothing is lost."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import pytest

from tests.broker import wait_for
from tests.cluster.hosts import MESH, Host, admit, in_sync, running_hosts
from tests.cluster.network import Network
from tests.mqtt import DISCONNECT

DURABLE = {"clean": False, "session_expiry": 600}


@pytest.fixture(scope="module")
def hosts() -> Iterator[list[Host]]:
    with Network("h1", "h2", "h3") as network, running_hosts(network, interconnect=MESH, workers=1) as hosts:
        for other in hosts[1:]:
            admit(hosts[0], other)
        in_sync(*hosts)
        yield hosts


def nodes(host: Host) -> set[str]:
    return {each["name"] for each in json.loads(host.mqnode("cluster", "nodes", "--json").stdout)["nodes"]}


def queued(host: Host, name: str, count: int) -> None:
    """A durable session of that host, whose client is away, with messages."""
    with host.client() as client:
        client.connect(name, **DURABLE)
        client.subscribe((f"{name}/#", 1))
    with host.client() as publisher:
        publisher.connect()
        for number in range(count):
            publisher.publish_all(f"{name}/x", b"%d" % number, 1)


def test_leaving_begins_with_the_listeners_and_can_be_cancelled(hosts: list[Host]) -> None:
    """Rows 85, 86."""
    host = hosts[2]
    with host.client() as client:
        client.connect("stays")
        result: list[str] = []
        leaving = threading.Thread(target=lambda: result.append(host.mqnode("leave", "--grace", "60").stderr))
        leaving.start()
        wait_for(lambda: host.get("/ready")[0] == 503, 10, host.log)
        wait_for(lambda: refused(host), 10, host.log)
        assert nodes(host) == nodes(hosts[0]) == {"h1", "h2", "h3"}
        client.nothing(0)
        assert host.mqnode("leave", "--cancel").returncode == 0
        leaving.join(20)
        assert "cancelled" in result[0]
        wait_for(lambda: not refused(host), 10, host.log)
        assert host.get("/ready")[0] == 200
        client.nothing(0)
        assert host.mqnode("leave", "--cancel").returncode == 1


def refused(host: Host) -> bool:
    try:
        with host.client():
            return False
    except OSError:
        return True


def test_sessions_move_and_the_host_leaves(hosts: list[Host]) -> None:
    """Rows 87, 88, 90, 92, 93, 94."""
    host = hosts[2]
    for number in range(20):
        queued(host, f"away{number}", 3)
    clients = [host.client() for _ in range(20)]
    for number, client in enumerate(clients):
        client.connect(f"here{number}", **DURABLE)
        client.subscribe((f"here{number}", 1))
    done = host.mqnode("leave", "--grace", "0", "--rate", "100", "-i", "0.1")
    assert done.returncode == 0, done.stderr + host.log()
    assert "moving: " in done.stdout
    for client in clients:
        packet = client.receive()
        assert (packet.kind, packet.reason) == (DISCONNECT, 0x9D)
        client.close()
    assert nodes(hosts[0]) == nodes(hosts[1]) == {"h1", "h2"}
    wait_for(lambda: '"event":"host_left"' in host.log(), 10, host.log)
    assert host.get("/ready")[0] == 503
    assert hosts[0].metric("mqnode_degraded") == 0
    for number in range(20):
        with hosts[number % 2].client() as client:
            assert client.connect(f"away{number}", **DURABLE).session_present
            assert [client.take().payload for _ in range(3)] == [b"0", b"1", b"2"]
    for each in hosts[:2]:
        assert each.metric("mqnode_takeovers_unclean_total") == 0
