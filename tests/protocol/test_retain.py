"""Retained messages: set, replaced, deleted, expired; what a new subscription gets, by which QoS, in which order."""

from __future__ import annotations

import struct

import pytest

from tests.mqtt import PUBACK, PUBLISH, PUBREC, PUBREL, SUBACK, packet, properties, text
from tests.protocol.clients import Clients, Placed, new_name


def retained(clients: Clients, filter: str, count: int, version: int = 5, worker: int = 0) -> list[tuple[str, bytes]]:
    """What a new QoS 0 subscription is sent, sorted."""
    client = clients.connect(version=version, worker=worker)
    client.subscribe(filter)
    found = client.take_all(count)
    assert all(each.retain and not each.dup for each in found)
    client.expect_nothing()
    return sorted((each.topic, each.payload) for each in found)


def settle(publisher: Placed) -> None:
    """QoS 0 is not answered; a QoS 1 message behind it is, once both are stored."""
    publisher.publish_all(new_name("settle/"), b"x", 1, retain=True)


@pytest.mark.statement(
    "MQTT-3.3.1-5", "MQTT-3.3.1-6", "MQTT-3.3.1-7", "MQTT-3.3.1-8", "3.1.1:MQTT-3.3.1-6", "3.1.1:MQTT-3.3.1-7",
    "3.1.1:MQTT-3.3.1-8",
)  # fmt: skip
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_set_replaced_and_deleted(clients: Clients, topic: str, version: int, there: int, qos: int) -> None:
    publisher = clients.connect(version=version)
    watcher = clients.connect(version=version, worker=there)
    watcher.subscribe((topic, 2))

    def publish(payload: bytes, retain: bool) -> None:
        publisher.publish_all(topic, payload, qos, retain=retain) if qos else publisher.publish(
            topic, payload, retain=retain
        )
        settle(publisher)
        got = watcher.take()
        assert (got.payload, got.qos, got.retain) == (payload, qos, False)

    assert retained(clients, topic, 0, version, there) == []
    for payload, retain, kept in [
        (b"1", True, b"1"),
        (b"2", True, b"2"),
        (b"3", False, b"2"),
        (b"", False, b"2"),
        (b"", True, None),
        (b"", True, None),
        (b"4", False, None),
        (b"5", True, b"5"),
    ]:
        publish(payload, retain)
        expected = [] if kept is None else [(topic, kept)]
        assert retained(clients, topic, len(expected), version, there) == expected


@pytest.mark.statement("MQTT-3.8.4-8", "MQTT-3.3.1-9", "3.1.1:MQTT-3.3.1-8")
@pytest.mark.parametrize("durable", [False, True], ids=["live", "durable"])
def test_the_lesser_qos_is_delivered(clients: Clients, topic: str, version: int, there: int, durable: bool) -> None:
    publisher = clients.connect(version=version)
    for published in (0, 1, 2):
        publisher.publish(f"{topic}/{published}", b"%d" % published, published, retain=True)
    assert [publisher.receive().kind for _ in range(2)] == [PUBACK, PUBREC]
    settle(publisher)
    for granted in (0, 1, 2):
        client = clients.connect(version=version, worker=there, durable=durable)
        client.subscribe((f"{topic}/+", granted))
        found = client.take_all(3)
        assert sorted((each.payload, each.qos) for each in found) == [
            (b"%d" % published, min(published, granted)) for published in (0, 1, 2)
        ]
        assert all(each.retain for each in found)
        client.expect_nothing()


@pytest.mark.statement("MQTT-3.3.4-3")
@pytest.mark.parametrize("durable", [False, True], ids=["live", "durable"])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_the_identifier_of_the_subscription_comes_with_it(
    clients: Clients, topic: str, there: int, durable: bool, qos: int
) -> None:
    clients.connect().publish_all(topic, b"x", 2, retain=True, content_type="c")
    client = clients.connect(worker=there, durable=durable)
    client.subscribe((topic, qos), subscription_identifier=[300])
    assert client.take().properties == {"content_type": "c", "subscription_identifier": [300]}


@pytest.mark.statement("MQTT-3.8.4-5", "3.1.1:MQTT-3.3.1-6")
def test_each_filter_of_a_subscribe_brings_its_own(clients: Clients, topic: str, version: int, there: int) -> None:
    publisher = clients.connect(version=version)
    for name in ("a", "b", "c/d"):
        publisher.publish_all(f"{topic}/{name}", name.encode(), 1, retain=True)
    client = clients.connect(version=version, worker=there)
    client.subscribe((f"{topic}/a", 0), (f"{topic}/+", 1), (f"{topic}/x", 1), (f"{topic}/c/#", 2))
    assert sorted((each.payload, each.qos) for each in client.take_all(4)) == [
        (b"a", 0), (b"a", 1), (b"b", 1), (b"c/d", 1),
    ]  # fmt: skip
    client.expect_nothing()


def test_a_subscribe_of_many_filters_brings_all_in_their_order_each_with_its_own_qos(
    clients: Clients, topic: str
) -> None:
    """Topics are looked up some hundred at a time, as far as they ask for the same; filters with wildcards lie between."""
    publisher = clients.connect()
    for name in ("0", "299", "one/300", "301", "302", "600"):
        publisher.publish_all(f"{topic}/{name}", name[-3:].encode(), 1, retain=True)
    asked = [(f"{topic}/{n}", 0 if n == 301 else 1) for n in range(601)]
    asked[300] = (f"{topic}/one/+", 1)
    client = clients.connect()
    client.subscribe(*asked)
    found = [(each.payload, each.qos) for each in client.take_all(6)]
    assert found == [(b"0", 1), (b"299", 1), (b"300", 1), (b"301", 0), (b"302", 1), (b"600", 1)]
    client.expect_nothing()


def test_suback_comes_first(clients: Clients, topic: str, version: int, there: int) -> None:
    """Clients that set up their handlers at SUBACK miss nothing."""
    publisher = clients.connect(version=version)
    publisher.publish_all(topic, b"x", 1, retain=True)
    for durable in (False, True):
        client = clients.connect(version=version, worker=there, durable=durable)
        head = b"\0\1" + (properties() if version == 5 else b"")
        client.send(packet(0x82, head + text(topic) + b"\1"))
        assert [client.receive().kind for _ in range(2)] == [SUBACK, PUBLISH]


def test_shared_subscriptions_bring_none(clients: Clients, topic: str, version: int, there: int) -> None:
    clients.connect(version=version).publish_all(topic, b"x", 1, retain=True)
    for durable in (False, True):
        client = clients.connect(version=version, worker=there, durable=durable)
        client.subscribe((f"$share/g/{topic}", 1))
        client.expect_nothing()


def test_a_retained_message_of_this_very_connection_is_seen(
    clients: Clients, topic: str, version: int, there: int
) -> None:
    """Publish, then subscribe without waiting for PUBACK."""
    client = clients.connect(version=version, worker=there)
    for number in range(20):
        client.publish(f"{topic}/{number}", b"%d" % number, 1, retain=True)
        head = struct.pack(">H", 100 + number) + (properties() if version == 5 else b"")
        client.send(packet(0x82, head + text(f"{topic}/{number}") + b"\0"))
        got = {each.kind: each for each in (client.receive() for _ in range(3))}
        assert got.keys() == {PUBACK, SUBACK, PUBLISH}
        assert (got[PUBLISH].payload, got[PUBLISH].retain) == (b"%d" % number, True)


def test_many_come_at_the_pace_of_the_client(clients: Clients, topic: str, there: int) -> None:
    """More than a window, with a receive maximum, and each once."""
    publisher = clients.connect()
    count = 1000
    for number in range(count):
        publisher.publish(f"{topic}/{number}", bytes(100), 1, retain=True)
    for _ in range(count):
        publisher.expect(PUBACK)
    for durable in (False, True):
        client = clients.connect(worker=there, durable=durable, receive_maximum=10)
        client.subscribe((f"{topic}/#", 1))
        found = [client.expect(PUBLISH) for _ in range(10)]
        client.expect_nothing()
        for each in found:
            client.ack(PUBACK, each.id)
        found += client.take_all(count - 10)
        assert len({each.topic for each in found}) == count
        assert all(each.retain for each in found)
        client.expect_nothing()


@pytest.mark.statement("MQTT-4.4.0-1", "MQTT-4.5.0-1")
def test_unacknowledged_ones_are_sent_again_with_retain(clients: Clients, topic: str, version: int, there: int) -> None:
    clients.connect(version=version).publish_all(topic, b"x", 2, retain=True)
    name = new_name()
    client = clients.connect(name, version, there, durable=True)
    client.subscribe((topic, 2))
    first = client.expect(PUBLISH)
    client.close()
    client = clients.connect(name, version, 1 - there, durable=True)
    again = client.expect(PUBLISH)
    assert (again.payload, again.id, again.dup, again.retain) == (b"x", first.id, True, True)
    client.ack(PUBREC, again.id)
    client.expect(PUBREL)


def test_subtrees_with_names_alike(clients: Clients, topic: str, there: int) -> None:
    """A filter takes from the store what it matches and nothing beside it."""
    publisher = clients.connect()
    names = ["a", "a/", "a/b", "a/b/c", "a!", "a.b", "ab", "aa/b", "A/b", "a/bb"]
    for name in names:
        publisher.publish_all(f"{topic}/{name}", name.encode(), 1, retain=True)
    for filter, expected in {
        "a/#": ["a", "a/", "a/b", "a/b/c", "a/bb"],
        "a": ["a"],
        "a/+": ["a/", "a/b", "a/bb"],
        "+/b": ["A/b", "a/b", "aa/b"],
        "a/b/#": ["a/b", "a/b/c"],
        "+": ["a", "a!", "a.b", "ab"],
        "#": names,
    }.items():
        wanted = sorted((f"{topic}/{name}", name.encode()) for name in expected)
        assert retained(clients, f"{topic}/{filter}", len(wanted), worker=there) == wanted
