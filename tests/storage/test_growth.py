"""The map of the store grows by itself, under workers that have it open; new messages are taken up to store.max_map_bytes."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from node.config import Limits
from storage.layout import NUMBER_BITS
from storage.store import Store, open_store
from storage.writer import Writer
from tests.broker import Broker, running, wait_for
from tests.mqtt import PUBACK, Client
from tests.simulation.worker import PUBLISH, message, operation

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


def test_all_that_came_for_a_session_elsewhere_can_move_to_its_queue_at_once(tmp_path: Path) -> None:
    """Also with a keeper that has just begun, whose map has little room beyond what is there, and beyond max_map_bytes."""
    count, size = 900, 100_000
    number, sid = 2, 1 << NUMBER_BITS | 5
    for life in (1, 2):
        store = open_store(tmp_path, MIB, 100 * MIB)
        writer = Writer(store.environment, store.databases, Limits(), number)
        writer.foreign.add(sid)
        if life == 1:
            writer.begin()
            writer.begin_recording()
            writer.queue_of(sid)
            writer.commit()
            for batch in range(1, count + 1):
                head = struct.pack("<QHQQQHQBB", 0, 0, 0, 0, 0, 1, sid, 1, 0)
                sent = operation(PUBLISH, head + message("t", "x" * size, 1, False, batch))
                store.make_room(len(sent))
                writer.begin()
                writer.apply(struct.pack("<Q", batch) + sent, 0, 1, 5)
                writer.commit()
        else:
            store.make_room(300)
            writer.begin()
            writer.own(sid, False, 0)
            writer.commit()
            assert len(list(entries(store, "queue"))) == count
            assert not list(entries(store, "inbox"))
        store.environment.close()


def entries(store: Store, name: str) -> Iterator[bytes]:
    with store.environment.begin() as transaction:
        yield from transaction.cursor(db=store.databases[name]).iternext(values=False)
