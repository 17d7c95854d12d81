"""A resumed session: what is sent again, with which packet ids and in which order, and what is not."""

from __future__ import annotations

import pytest

from tests.mqtt import PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL, Packet
from tests.protocol.clients import Clients, new_name


def queued(clients: Clients, topic: str, there: int, version: int = 5, qos: int = 2) -> str:
    """The client id of a durable session that subscribes to `topic` and is away."""
    name = new_name()
    client = clients.connect(name, version, there, durable=True)
    client.subscribe((topic, qos))
    client.disconnect()
    return name


def seen(message: Packet) -> tuple[bytes, int, bool]:
    return message.payload, message.id, message.dup


@pytest.mark.statement(
    "MQTT-4.4.0-1", "MQTT-4.3.2-3", "MQTT-4.3.3-3", "MQTT-3.3.1-1", "MQTT-4.5.0-1", "3.1.1:MQTT-4.4.0-1",
    "3.1.1:MQTT-4.3.2-1",
)  # fmt: skip
def test_unacknowledged_messages_are_sent_again_in_order(
    clients: Clients, topic: str, version: int, there: int
) -> None:
    """With their packet ids and DUP; what was never sent comes without DUP behind them."""
    name = new_name()
    subscriber = clients.connect(name, version, there, durable=True)
    subscriber.subscribe((topic, 2))
    publisher = clients.connect(version=version)
    for number in range(10):
        publisher.publish_all(topic, b"%d" % number, 1 + number % 2)
    first = [subscriber.expect(PUBLISH) for _ in range(10)]
    assert [seen(each)[::2] for each in first] == [(b"%d" % number, False) for number in range(10)]
    assert len({each.id for each in first}) == 10
    subscriber.ack(PUBACK, first[4].id)
    subscriber.expect_nothing()
    subscriber.close()
    publisher.publish_all(topic, b"while away", 1)
    subscriber = clients.connect(name, version, 1 - there, durable=True)
    again = subscriber.take_all(10)
    assert [seen(each) for each in again[:9]] == [
        (each.payload, each.id, True) for each in first if each is not first[4]
    ]
    assert seen(again[9])[::2] == (b"while away", False)
    subscriber.expect_nothing()
    subscriber.close()
    subscriber = clients.connect(name, version, there, durable=True)
    subscriber.expect_nothing()


@pytest.mark.statement("MQTT-4.4.0-1", "MQTT-4.3.3-5", "MQTT-4.3.3-6", "3.1.1:MQTT-4.3.3-1", "3.1.1:MQTT-4.4.0-1")
def test_pubrel_is_sent_again_and_not_the_publish(clients: Clients, topic: str, version: int, there: int) -> None:
    name = new_name()
    subscriber = clients.connect(name, version, there, durable=True)
    subscriber.subscribe((topic, 2))
    publisher = clients.connect(version=version)
    for number in range(4):
        publisher.publish_all(topic, b"%d" % number, 2)
    ids = [subscriber.expect(PUBLISH).id for _ in range(4)]
    for id in (ids[1], ids[0]):
        subscriber.ack(PUBREC, id)
        assert subscriber.expect(PUBREL).id == id
    for worker in (1 - there, there):
        subscriber.close()
        subscriber = clients.connect(name, version, worker, durable=True)
        got = [subscriber.receive() for _ in range(4)]
        assert [(each.kind, each.id) for each in got] == [(PUBREL, ids[0]), (PUBREL, ids[1])] + [
            (PUBLISH, id) for id in ids[2:]
        ]
        assert all(each.dup for each in got[2:])
    for id in ids[:2]:
        subscriber.ack(PUBCOMP, id)
    for id in ids[2:]:
        subscriber.ack(PUBREC, id)
        subscriber.expect(PUBREL)
        subscriber.ack(PUBCOMP, id)
    subscriber.expect_nothing()
    subscriber.close()
    clients.connect(name, version, there, durable=True).expect_nothing()


@pytest.mark.statement("MQTT-4.4.0-1")
def test_answers_of_an_earlier_connection_are_taken(clients: Clients, topic: str, version: int, there: int) -> None:
    """A client that acknowledged as the connection broke says it again on the next one, before it reads anything."""
    name = queued(clients, topic, there, version)
    publisher = clients.connect(version=version)
    for qos in (1, 2):
        publisher.publish_all(topic, b"x", qos)
    subscriber = clients.connect(name, version, there, durable=True)
    one, two = (subscriber.expect(PUBLISH) for _ in range(2))
    subscriber.close()
    subscriber = clients.connect(name, version, there, durable=True)
    subscriber.ack(PUBACK, one.id)
    subscriber.ack(PUBREC, two.id)
    assert [subscriber.receive().kind for _ in range(3)] == [PUBLISH, PUBLISH, PUBREL]
    subscriber.ack(PUBCOMP, two.id)
    subscriber.expect_nothing()
    subscriber.close()
    clients.connect(name, version, there, durable=True).expect_nothing()


@pytest.mark.statement("MQTT-4.4.0-1")
def test_nothing_is_sent_again_on_the_same_connection(clients: Clients, topic: str, version: int, there: int) -> None:
    subscriber = clients.connect(version=version, worker=there, durable=True)
    subscriber.subscribe((topic, 2))
    clients.connect(version=version).publish_all(topic, b"x", 1)
    message = subscriber.expect(PUBLISH)
    subscriber.nothing(0.2)
    subscriber.ack(PUBACK, message.id)
    subscriber.expect_nothing()


@pytest.mark.statement("MQTT-4.5.0-1", "MQTT-3.1.2-23")
def test_messages_while_away_are_kept_by_their_qos(clients: Clients, topic: str, version: int, there: int) -> None:
    name = queued(clients, topic, there, version)
    publisher = clients.connect(version=version)
    for qos in (1, 2, 1):
        publisher.publish_all(topic, b"%d" % qos, qos)
    got = clients.connect(name, version, there, durable=True).take_all(3)
    assert [(each.payload, each.qos, each.dup) for each in got] == [
        (b"1", 1, False),
        (b"2", 2, False),
        (b"1", 1, False),
    ]


@pytest.mark.statement("MQTT-4.1.0-2")
def test_a_clean_session_gets_nothing_of_the_old_one(clients: Clients, topic: str, version: int, there: int) -> None:
    name = queued(clients, topic, there, version)
    publisher = clients.connect(version=version)
    publisher.publish_all(topic, b"x", 1)
    client = clients.connect(name, version, there, clean=True)
    assert not client.connack.session_present
    client.expect_nothing()
    publisher.publish_all(topic, b"x", 1)
    client.expect_nothing()
    client.disconnect()
    client = clients.connect(name, version, there, durable=True)
    assert not client.connack.session_present
    client.expect_nothing()
