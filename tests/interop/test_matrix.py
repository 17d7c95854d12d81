"""Clients that we did not write, each against each: what one publishes the other gets, whatever the version and transport."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from tests.interop.hall import Hall
from tests.interop.peers import Kind, Peer

KINDS = [
    Kind("mosquitto", 3), Kind("mosquitto", 4), Kind("mosquitto", 5), Kind("mosquitto", 4, "tls"),
    Kind("paho", 3), Kind("paho", 4), Kind("paho", 5), Kind("paho", 5, "ws"), Kind("paho", 5, "tls"),
    Kind("gmqtt", 4), Kind("gmqtt", 5), Kind("aiomqtt", 4), Kind("aiomqtt", 5),
    Kind("mqttjs", 3), Kind("mqttjs", 4), Kind("mqttjs", 5), Kind("mqttjs", 5, "ws"),
]  # fmt: skip
# For what needs connections of its own: one of each library and transport
SOME = [
    Kind("mosquitto", 3), Kind("mosquitto", 4), Kind("mosquitto", 5), Kind("paho", 4), Kind("paho", 5, "ws"),
    Kind("gmqtt", 5), Kind("aiomqtt", 5), Kind("mqttjs", 4), Kind("mqttjs", 5, "ws"),
]  # fmt: skip
UNICODE = "räume/日本/🌡 °C"
LARGE = b"0123456789abcdef" * 65536  # 1 MiB


@pytest.mark.parametrize(("publisher", "subscriber"), list(itertools.permutations(KINDS, 2)), ids=str)
def test_each_to_each_with_each_qos(hall: Hall, publisher: Kind, subscriber: Kind) -> None:
    sender, receiver = hall.guest(publisher), hall.guest(subscriber)
    for qos in (0, 1, 2):
        payload = b"%d\x00\xff" % qos + str(publisher).encode()
        topic = f"to/{subscriber}/{qos}/{UNICODE}"
        sender.publish(topic, payload, qos)
        got = receiver.message()
        assert (got.topic, got.payload, got.qos, got.retain) == (topic, payload, qos, False)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_large_payload_there_and_back(hall: Hall, kind: Kind) -> None:
    other = KINDS[(KINDS.index(kind) + 5) % len(KINDS)]
    for sender, receiver in ((kind, other), (other, kind)):
        hall.guest(receiver)
        hall.guest(sender).publish(f"to/{receiver}/large", LARGE, 1)
        got = hall.guest(receiver).message()
        assert len(got.payload) == len(LARGE)
        assert got.payload == LARGE


@pytest.mark.parametrize("kind", SOME, ids=str)
def test_retained(hall: Hall, kind: Kind) -> None:
    """It is kept for who comes later, flagged; an empty one removes it."""
    other = SOME[(SOME.index(kind) + 4) % len(SOME)]
    topic = f"retained/{kind}/{UNICODE}"
    for qos in (0, 1, 2):
        hall.guest(kind).publish(f"{topic}/{qos}", b"kept %d" % qos, qos, retain=True)
    later = hall.open(other, f"later-{kind}")
    later.subscribe(f"{topic}/#", 2)
    got = sorted((later.message() for _ in range(3)), key=lambda each: each.topic)
    assert [(each.payload, each.qos, each.retain) for each in got] == [
        (b"kept %d" % qos, qos, True) for qos in (0, 1, 2)
    ]
    for qos in (0, 1, 2):
        hall.guest(kind).publish(f"{topic}/{qos}", b"", 1, retain=True)
        gone = later.message()
        assert (gone.topic, gone.payload, gone.retain) == (f"{topic}/{qos}", b"", False)
    last = hall.open(other, f"last-{kind}")
    last.subscribe(f"{topic}/#", 2)
    hall.guest(kind).publish(f"{topic}/1", b"live", 1)
    assert last.message().payload == b"live"
    later.close()
    last.close()


@pytest.mark.parametrize("kind", SOME, ids=str)
def test_a_will_is_published_when_its_client_dies_and_only_then(hall: Hall, kind: Kind) -> None:
    watcher = hall.guest(SOME[(SOME.index(kind) + 4) % len(SOME)])
    topic = f"to/{watcher.kind}/will"
    for end in ("disconnect", "die"):
        will = {"topic": topic, "payload": f"{end} {kind}", "qos": 1, "retain": False}
        mortal = hall.open(kind, f"mortal-{kind}", will=will)
        getattr(mortal, end)()
    # on SIGTERM, mosquitto_sub asks for its will: DISCONNECT 0x04
    for end in ("disconnect", "die") if kind == Kind("mosquitto", 5) else ("die",):
        got = watcher.message()
        assert (got.payload, got.qos) == (f"{end} {kind}".encode(), 1)


@pytest.mark.parametrize(
    ("kind", "end"), list(zip(SOME, itertools.cycle(["disconnect", "die"]), strict=False)), ids=str
)
def test_what_comes_while_away_waits(hall: Hall, kind: Kind, end: str) -> None:
    """A persistent session gets QoS 1 and 2 when it is back, each once, each QoS in order."""
    topic = client_id = f"away/{kind}/{end}"
    peer = hall.open(kind, client_id, clean=False)
    assert not peer.session_present
    peer.subscribe(topic, 2)
    getattr(peer, end)()
    other = SOME[(SOME.index(kind) + 4) % len(SOME)]
    for number in range(10):
        hall.guest(other).publish(topic, b"%d" % number, 1 + number % 2)
    back = hall.open(kind, client_id, clean=False)
    assert back.session_present in (True, None)
    got = [back.message() for _ in range(10)]
    for qos in (1, 2):  # a QoS 2 message reaches the application with its PUBREL only, behind later ones of QoS 1
        expected = [b"%d" % number for number in range(10) if 1 + number % 2 == qos]
        assert [each.payload for each in got if each.qos == qos] == expected
    hall.guest(other).publish(topic, b"end", 1)
    assert back.message().payload == b"end"
    back.disconnect()


@pytest.mark.parametrize("kind", [Kind("mosquitto", 5), Kind("paho", 4), Kind("mqttjs", 5, "ws")], ids=str)
def test_sys_topics(hall: Hall, kind: Kind) -> None:
    """$SYS as mosquitto's users know it; not part of # [MQTT-4.7.2-1]."""
    peer = hall.open(kind, f"sys-{kind}")
    peer.subscribe("$SYS/broker/clients/#", 0)
    assert peer.message().topic.startswith("$SYS/broker/clients/")
    peer.close()
    everything = hall.open(kind, f"all-{kind}")
    everything.subscribe("#", 0)
    until = _topics_until(everything, "sys/end", lambda: hall.guest(KINDS[0]).publish("sys/end", b"", 0))
    assert not any(topic.startswith("$") for topic in until)
    everything.close()


def _topics_until(peer: Peer, last: str, trigger: Callable[[], None]) -> list[str]:
    trigger()
    topics = [peer.message().topic]
    while topics[-1] != last:
        topics.append(peer.message().topic)
    return topics
