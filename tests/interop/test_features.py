"""What MQTT 5 adds, between client libraries that we did not write: properties, topic aliases, shared subscriptions."""

from __future__ import annotations

from typing import Any

import pytest

from tests.interop.hall import Hall
from tests.interop.peers import Driven, Kind, Peer

FIVE = [
    Kind("paho", 5), Kind("paho", 5, "ws"), Kind("gmqtt", 5), Kind("aiomqtt", 5), Kind("mqttjs", 5), Kind("mqttjs", 5, "ws"),
]  # fmt: skip
PROPERTIES: dict[str, Any] = {
    "PayloadFormatIndicator": 1,
    "MessageExpiryInterval": 1000,
    "ContentType": "text/plain; charset=utf-8",
    "ResponseTopic": "answers/日本",
    "CorrelationData": "00ff10",
    "UserProperty": [["a", "1"], ["a", "2"], ["ключ", "значение"]],
}


def open_driven(hall: Hall, kind: Kind, client_id: str, **options: Any) -> Driven:
    peer = hall.open(kind, client_id, **options)
    assert isinstance(peer, Driven)
    return peer


def properties_of(message: Any) -> dict[str, Any]:
    found = {name: value for name, value in message.properties.items() if name in PROPERTIES}
    found["UserProperty"] = [list(pair) for pair in found.get("UserProperty", [])]
    return found


@pytest.mark.parametrize("number", range(len(FIVE)), ids=[str(kind) for kind in FIVE])
def test_properties_travel_unchanged(hall: Hall, number: int) -> None:
    """To another library, live with QoS 1 and out of the queue of a session that was away with QoS 2."""
    publisher, subscriber = FIVE[number], FIVE[(number + 2) % len(FIVE)]
    topic = client_id = f"properties/{publisher}"
    sender = open_driven(hall, publisher, f"sender-{publisher}")
    receiver = open_driven(hall, subscriber, client_id, clean=False)
    receiver.subscribe(topic, 2, SubscriptionIdentifier=1234567)
    sender.publish(topic, "größer".encode(), 1, **PROPERTIES)
    live = receiver.message()
    receiver.disconnect()
    sender.publish(topic, "größer".encode(), 2, **PROPERTIES)
    receiver = open_driven(hall, subscriber, client_id, clean=False)
    for got in (live, receiver.message()):
        found = properties_of(got)
        assert 900 < found.pop("MessageExpiryInterval") <= 1000
        assert found == {name: value for name, value in PROPERTIES.items() if name != "MessageExpiryInterval"}
        assert got.properties["SubscriptionIdentifier"] == [1234567]
        assert got.payload == "größer".encode()
    sender.disconnect()
    receiver.disconnect()


@pytest.mark.parametrize("kind", [Kind("paho", 5), Kind("gmqtt", 5), Kind("mqttjs", 5)], ids=str)
def test_topic_aliases_of_the_publisher(hall: Hall, kind: Kind) -> None:
    watcher = hall.guest(Kind("mosquitto", 4))
    sender = open_driven(hall, kind, f"aliases-{kind}")
    topic = f"to/{watcher.kind}/a/long/topic/that/is/named/once"
    sender.publish(topic, b"0", 1, TopicAlias=5)
    for number in range(1, 4):
        sender.publish("", b"%d" % number, 1, TopicAlias=5)
    for number in range(4):
        got = watcher.message()
        assert (got.topic, got.payload) == (topic, b"%d" % number)
    sender.disconnect()


@pytest.mark.parametrize("kind", [Kind("gmqtt", 5), Kind("mqttjs", 5), Kind("mqttjs", 5, "ws")], ids=str)
def test_topic_aliases_of_the_subscriber(hall: Hall, kind: Kind) -> None:
    """More topics than aliases, each several times: whatever of it comes by alias, the client names the topic."""
    receiver = open_driven(hall, kind, f"aliased-{kind}", aliases=2)
    receiver.subscribe(f"aliased/{kind}/+", 1)
    sender = hall.guest(Kind("paho", 5))
    wanted = [(f"aliased/{kind}/{number % 3}", b"%d" % number, number % 2) for number in range(12)]
    for topic, payload, qos in wanted:
        sender.publish(topic, payload, qos)
    got = [receiver.message() for _ in wanted]
    assert [(each.topic, each.payload, each.qos) for each in got] == wanted
    receiver.disconnect()


def test_a_shared_subscription_of_different_libraries(hall: Hall) -> None:
    """Each message reaches one member, each member gets some; MQTT 3.1.1 clients may be members, too."""
    kinds = [Kind("paho", 5, "ws"), Kind("gmqtt", 5), Kind("aiomqtt", 4), Kind("mqttjs", 5), Kind("mosquitto", 4)]
    members: list[Peer] = [hall.open(kind, f"member-{kind}") for kind in kinds]
    for member in members:
        member.subscribe("$share/crew/work/+", 1)
    for member in members[:-1]:
        member.subscribe("finished", 1)
    sender = hall.guest(Kind("paho", 4))
    for number in range(50):
        sender.publish(f"work/{number % 3}", b"%d" % number, 1)
    sender.publish("finished", b"", 1)
    got: list[int] = []
    for member in members[:-1]:
        own = []
        while (message := member.message()).topic != "finished":
            own.append(int(message.payload))
        assert own
        got += own
    got += [int(members[-1].message().payload) for _ in range(50 - len(got))]
    assert sorted(got) == list(range(50))
    for member in members:
        member.close()
