"""A store that an earlier release wrote is taken over whole, and is what the other hosts get.

format-1.mdb.gz was written by the release of that format: durable sessions "first" and "second", both with 21 messages of "both/#"
and one of them with one of its own, a retained message, and a QoS 2 flow (packet id 23) of "publisher" that is not released.
"""

from __future__ import annotations

import gzip
from pathlib import Path

from tests.broker import Broker, wait_for
from tests.cluster.hosts import MESH, Host, in_sync, join
from tests.cluster.network import Network
from tests.mqtt import PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL, Client

NUMBERS = [b"%d" % number for number in range(20)]


def seed(broker: Broker) -> None:
    store = broker.data_dir / "store"
    store.mkdir(parents=True, mode=0o700)
    (store / "data.mdb").write_bytes(gzip.decompress((Path(__file__).parent / "format-1.mdb.gz").read_bytes()))


def received(client: Client, count: int) -> list[bytes]:
    found: list[bytes] = []
    unreleased = set()
    while len(found) < count or unreleased:
        packet = client.receive()
        if packet.kind == PUBLISH:
            found.append(packet.payload)
            client.ack(PUBACK if packet.qos == 1 else PUBREC, packet.id)
            if packet.qos == 2:
                unreleased.add(packet.id)
        elif packet.kind == PUBREL:
            client.ack(PUBCOMP, packet.id)
            unreleased.remove(packet.id)
    return found


def connected(broker: Host, name: str) -> Client:
    client = broker.client()
    assert client.connect(name, clean=False, session_expiry=3600).session_present
    return client


def test_a_store_of_format_1_is_taken_over_and_reaches_the_other_hosts() -> None:
    with Network("h1", "h2") as network:
        first, second = (Host(network, name, interconnect=MESH) for name in network.hosts)
        try:
            seed(first)
            first.start()
            second.start()
            with connected(first, "first") as client:
                assert received(client, 22) == [*NUMBERS, b"alone", b"not released"]
            join(first, second)
            with connected(first, "publisher") as client:
                client.publish("both/2", b"not released", qos=2, id=23, dup=True)
                client.expect(PUBREC)
                client.ack(PUBREL, 23)
                client.expect(PUBCOMP)
            in_sync(first, second)
            first.kill_all()
            wait_for(lambda: second.metric("mqnode_peers_in_sync") == 0, 10)
            with connected(second, "second") as client:
                assert received(client, 21) == [*NUMBERS, b"not released"]
                client.nothing(0.5)
                client.subscribe(("kept/#", 1))
                assert received(client, 1) == [b"kept"]
            with connected(second, "first") as client:
                client.nothing(0.5)
            assert not first.errors()
        finally:
            first.close()
            second.close()
