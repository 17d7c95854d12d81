"""A host that joins several others takes a snapshot of one of them, whoever dies or joins meanwhile; and five of them together."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.broker import busy, wait_for
from tests.cluster.capture import Capture
from tests.cluster.hosts import MESH, Host, admit, in_sync, running_hosts
from tests.cluster.network import INTERCONNECT, Network
from tests.cluster.test_digest import digest
from tests.mqtt import PUBACK, Client

MESSAGES, MESSAGE_BYTES = 400, 65536
STORED = MESSAGES * MESSAGE_BYTES
TURN_S = 15
PUBACK_S = 0.5  # while others join, for 99 of 100 messages
LIVE, LIVE_BYTES = 300, 1000


@pytest.fixture(scope="module")
def hosts() -> Iterator[list[Host]]:
    """Two members, and three others."""
    names = [f"h{number}" for number in range(1, 6)]
    with Network(*names) as network, running_hosts(network, interconnect=MESH) as hosts:
        admit(*hosts[:2])
        in_sync(*hosts[:2])
        with hosts[0].client() as client:
            client.connect()
            for number in range(1, MESSAGES + 1):
                client.publish(f"kept/{number}", bytes(MESSAGE_BYTES), 1, id=number, retain=True)
            for _ in range(MESSAGES):
                assert client.receive().kind == PUBACK
        yield hosts


def came(capture: Capture, host: Host) -> Counter[str]:
    """Bytes to this host, by the address that they came from."""
    address, found = host.network.address(host.name, INTERCONNECT), Counter[str]()
    for flow, size in capture.read().bytes.items():
        if flow.target[0] == address:
            found[flow.source[0]] += size
    return found


def retained(host: Host) -> int | float | None:
    return host.metric("mqnode_retained_messages")


def acknowledged_s(publisher: Client, number: int) -> float:
    """Seconds until PUBACK."""
    began = time.monotonic()
    publisher.publish_all(f"meanwhile/{number % 50}", b"x", 1, retain=True)
    return time.monotonic() - began


def test_two_that_join_at_once_get_a_snapshot_each(hosts: list[Host]) -> None:
    """Rows 102, 109: and no publisher has to wait for them."""
    first, second, *joining = hosts[:4]
    network = first.network
    pids = [host.pid("keeper") for host in joining]
    with (
        network.capture(joining[0].name, INTERCONNECT) as one,
        network.capture(joining[1].name, INTERCONNECT) as other,
        ThreadPoolExecutor(3) as pool,
        second.client() as publisher,
    ):
        publisher.connect()
        admitted = pool.map(admit, (first, second), joining)
        joined = pool.submit(lambda: (list(admitted), in_sync(*hosts[:4])))
        took: list[float] = []
        while len(took) < 200 or not joined.done():
            took.append(acknowledged_s(publisher, len(took)))
        joined.result()
        assert sorted(took)[len(took) * 99 // 100] < PUBACK_S * busy(), sorted(took)[-10:]
        for host, capture in zip(joining, (one, other), strict=True):
            assert STORED < came(capture, host).total() < 1.5 * STORED
    assert [retained(host) for host in hosts[:4]] == [MESSAGES + 50] * 4
    assert [host.pid("keeper") for host in joining] == pids
    wait_for(lambda: digest(first)["equal"], TURN_S, first.log)


def test_its_source_dies_and_the_next_one_goes_on(hosts: list[Host]) -> None:
    joining, others = hosts[4], hosts[:4]
    addresses = {host.network.address(host.name, INTERCONNECT): host for host in others}
    made = others[0].mqnode("cluster", "token", "create", "--json")
    with joining.network.capture(joining.name, INTERCONNECT) as capture, ThreadPoolExecutor(1) as pool:
        pool.submit(joining.mqnode, "join", "--token", json.loads(made.stdout)["token"])
        deadline = time.monotonic() + TURN_S
        while (most := came(capture, joining).most_common(1)) == [] or most[0][1] < STORED / 8:
            assert time.monotonic() < deadline, "nobody sends a snapshot"
            time.sleep(0.01)
        source = addresses[most[0][0]]
        source.kill_all()
        assert (retained(joining) or 0) < MESSAGES, "it was too late"
        status, answer = joining.get("/ready")
        assert status == 503, "it has a part only"
        assert "retained messages are here" in answer["reasons"][0]
        left = [host for host in hosts if host is not source]
        wait_for(lambda: all(host.metric("mqnode_peers_in_sync") == 3 for host in left), TURN_S, joining.log)
        assert came(capture, joining).total() < 2.5 * STORED
    assert [retained(host) for host in left] == [MESSAGES + 50] * 4
    source.start()
    in_sync(*hosts)
    wait_for(lambda: digest(joining)["equal"], TURN_S, joining.log)


def left(capture: Capture, host: Host) -> int:
    """Bytes from this host."""
    address = host.network.address(host.name, INTERCONNECT)
    return sum(size for flow, size in capture.read().bytes.items() if flow.source[0] == address)


def test_what_leaves_a_host_grows_with_those_who_want_it_only(hosts: list[Host]) -> None:
    """Row 43: of four others one is interested, then one more each time."""
    with ExitStack() as stack:
        publisher, *subscribers = [stack.enter_context(host.client()) for host in hosts]
        capture = stack.enter_context(hosts[0].network.capture(hosts[0].name, INTERCONNECT))
        for client in (publisher, *subscribers):
            client.connect()
        for wanting in range(1, len(subscribers) + 1):
            subscribers[wanting - 1].subscribe("wanted")
            before = left(capture, hosts[0])
            for _ in range(LIVE):
                publisher.publish("wanted", bytes(LIVE_BYTES))
            for subscriber in subscribers[:wanting]:
                for _ in range(LIVE):
                    subscriber.take()
            assert 1 <= (left(capture, hosts[0]) - before) / (wanting * LIVE * LIVE_BYTES) < 1.15, wanting
