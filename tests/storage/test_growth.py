"""The map of the store grows by itself up to store.max_map_bytes, under workers that have it open."""

from __future__ import annotations

from tests.broker import Broker, running, wait_for
from tests.mqtt import PUBACK, Client

MIB = 1 << 20
BURST = 50


def publish(publisher: Client, count: int) -> list[int]:
    """Numbered messages of 2 KB; those that were not refused."""
    accepted = []
    for start in range(0, count, BURST):
        ids = {publisher.publish("t", b"%08d" % each + bytes(2000), 1): each for each in range(start, start + BURST)}
        answers = [publisher.expect(PUBACK) for _ in ids]
        accepted += [ids[answer.id] for answer in answers if answer.reason == 0]
    return accepted


def subscriber(broker: Broker) -> Client:
    client = Client(broker.port, timeout_s=30)
    if not client.connect("sub", clean=False, session_expiry=3600).session_present:
        client.subscribe(("t", 1))
    return client


def test_the_map_grows() -> None:
    with running(f"[store]\nmap_bytes = {MIB}\n", workers=1) as broker, Client(broker.port) as publisher:
        client = subscriber(broker)  # the worker reads the queue through its old map, and then the new one
        publisher.connect("pub")
        assert publish(publisher, 100) == list(range(100))
        assert [int(client.take().payload[:8]) for _ in range(100)] == list(range(100))
        client.disconnect()
        assert publish(publisher, 2000) == list(range(2000))
        assert broker.metric('mqnode_store_bytes{part="used"}') > 4 * MIB
        with subscriber(broker) as client:
            assert [int(client.take().payload[:8]) for _ in range(2000)] == list(range(2000))
        assert not broker.errors()


def test_the_map_ends() -> None:
    limits = f"[store]\nmap_bytes = {MIB}\nmax_map_bytes = {8 * MIB}\n"
    with running(limits, workers=1) as broker, Client(broker.port) as publisher:
        subscriber(broker).disconnect()
        publisher.connect("pub")
        keeper = broker.pid("keeper")
        accepted = publish(publisher, 4000)
        assert 500 < len(accepted) < 4000
        assert "raise store.max_map_bytes" in broker.log()
        assert broker.get("/ready")[0] == 503
        with subscriber(broker) as client:
            assert [int(client.take().payload[:8]) for _ in accepted] == accepted
        wait_for(lambda: broker.get("/ready")[0] == 200, what="messages went, but the store is still full")
        assert publish(publisher, BURST) == list(range(BURST))
        assert broker.pid("keeper") == keeper, "it died of the full store"
