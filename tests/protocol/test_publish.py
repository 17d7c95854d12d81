"""PUBLISH: its flags, its topic, its properties on their way, expiry, topic aliases, reason codes of the answers."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.broker import Broker, running, wait_for
from tests.mqtt import PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL, Packet, packet, properties, text
from tests.protocol.clients import Clients, new_name

ALIASES = 3
LEVELS = 8
QUEUED = 10
NO_SUBSCRIBERS, NOT_AUTHORIZED, TOPIC_INVALID, ALIAS_INVALID, QUOTA = 0x10, 0x87, 0x90, 0x94, 0x97
MALFORMED, PROTOCOL_ERROR = 0x81, 0x82

FORWARDED: dict[str, Any] = {
    "payload_format": 1,
    "content_type": "text/plain; charset=utf-8",
    "response_topic": "answers/äöü",
    "correlation_data": bytes(range(256)),
    "user_property": [("b", "2"), ("a", "1"), ("b", "1"), ("", ""), ("b", "2")],
}


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    limits = f"topic_alias_maximum = {ALIASES}\nmax_topic_levels = {LEVELS}\nmax_queued_messages = {QUEUED}\n"
    with running(f'[limits]\n{limits}queue_policy = "refuse"\nmax_retained_bytes = 1000\n') as started:
        yield started


def publish_body(version: int, topic: bytes, id: int | None, payload: bytes = b"", **values: Any) -> bytes:
    body = struct.pack(">H", len(topic)) + topic + (b"" if id is None else struct.pack(">H", id))
    return body + (properties(**values) if version == 5 else b"") + payload


# -- the fixed header and the topic ------------------------------------------------------------------------------------


@pytest.mark.statement("MQTT-3.3.1-4", "MQTT-3.3.1-2", "MQTT-2.2.1-3", "MQTT-3.3.2-2", "MQTT-4.7.0-1", "MQTT-4.7.3-1")
@pytest.mark.parametrize(
    ("first", "topic", "id", "reason"),
    [
        (0x36, b"a", 1, MALFORMED),
        (0x3E, b"a", 1, MALFORMED),
        (0x38, b"a", None, MALFORMED),
        (0x32, b"a", 0, PROTOCOL_ERROR),
        (0x34, b"a", 0, PROTOCOL_ERROR),
        (0x30, b"a/+", None, TOPIC_INVALID),
        (0x32, b"a/#", 1, TOPIC_INVALID),
        (0x30, b"#", None, TOPIC_INVALID),
        (0x30, b"a+b", None, TOPIC_INVALID),
        (0x30, b"/".join([b"x"] * (LEVELS + 1)), None, TOPIC_INVALID),
    ],
    ids=["qos3", "qos3-dup", "dup-qos0", "id0-qos1", "id0-qos2", "plus", "multi", "only-multi", "inside", "levels"],
)
def test_wrong_publish_ends_the_connection(
    clients: Clients, version: int, first: int, topic: bytes, id: int | None, reason: int
) -> None:
    client = clients.connect(version=version)
    client.send(packet(first, publish_body(version, topic, id, b"x")))
    client.expect_refused(reason)


@pytest.mark.statement("MQTT-4.7.3-1", "MQTT-3.3.2-1")
def test_empty_topic_ends_the_connection(clients: Clients, version: int) -> None:
    client = clients.connect(version=version)
    client.send(packet(0x30, publish_body(version, b"", None, b"x")))
    client.expect_refused(PROTOCOL_ERROR)


@pytest.mark.statement("MQTT-3.3.2-1", "MQTT-1.5.4-1", "MQTT-1.5.4-2", "MQTT-4.7.3-2")
@pytest.mark.parametrize("topic", [b"a\x00b", b"\xed\xa0\x80", b"\xc0\xaf", b"\xff", b"a\xc3"])
def test_topic_that_is_not_utf8_ends_the_connection(clients: Clients, version: int, topic: bytes) -> None:
    client = clients.connect(version=version)
    client.send(packet(0x30, publish_body(version, topic, None, b"x")))
    client.expect_refused(MALFORMED)


@pytest.mark.statement("MQTT-2.1.3-1", "MQTT-4.13.1-1")
@pytest.mark.parametrize(
    "frame",
    [b"\x30\x01\x00", b"\x30\x03\x00\x05a", b"\x32\x03\x00\x01a", b"\x32\x04\x00\x01a\x00", b"\x30\x00"],
    ids=["no-topic", "topic-cut", "no-id", "id-cut", "empty"],
)
def test_cut_publish_ends_the_connection(clients: Clients, version: int, frame: bytes) -> None:
    client = clients.connect(version=version)
    client.send(frame)
    client.expect_refused(MALFORMED)


@pytest.mark.statement("MQTT-3.3.2-2")
def test_an_asked_for_match_does_not_make_a_topic_valid(clients: Clients, broker: Broker, topic: str) -> None:
    broker.get(f"/v1/topics/match?topic={topic}/%2B")
    client = clients.connect()
    client.publish(f"{topic}/+", b"x")
    client.expect_refused(TOPIC_INVALID)


@pytest.mark.statement("MQTT-3.3.1-3", "MQTT-3.3.1-2", "MQTT-4.3.1-1", "MQTT-4.3.2-2", "MQTT-4.3.3-2", "MQTT-2.2.1-2")
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_dup_of_the_publisher_is_not_passed_on(
    clients: Clients, topic: str, version: int, there: int, qos: int
) -> None:
    subscriber = clients.connect(version=version, worker=there)
    subscriber.subscribe((topic, qos))
    publisher = clients.connect(version=version)
    publisher.publish(topic, b"x", qos or 1, dup=True)
    got = subscriber.take()
    assert (got.topic, got.payload, got.qos, got.dup, got.retain) == (topic, b"x", qos, False, False)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16384, 300_000, 1_500_000])
def test_payloads_of_all_sizes_pass(clients: Clients, topic: str, version: int, there: int, size: int) -> None:
    subscriber = clients.connect(version=version, worker=there)
    subscriber.subscribe((topic, 1))
    payload = bytes(range(256)) * (size // 256) + bytes(size % 256)
    publisher = clients.connect(version=version)
    publisher.publish_all(topic, payload)
    assert subscriber.take().payload == payload


def test_versions_understand_each_other(clients: Clients, topic: str, version: int, there: int) -> None:
    for other in (3, 4, 5):
        subscriber = clients.connect(version=other, worker=there)
        subscriber.subscribe((topic, 2))
        publisher = clients.connect(version=version)
        publisher.publish_all(topic, b"x", 2)
        assert (got := subscriber.take()).payload == b"x"
        assert not got.properties


# -- properties --------------------------------------------------------------------------------------------------------


@pytest.mark.statement(
    "MQTT-3.3.2-4", "MQTT-3.3.2-15", "MQTT-3.3.2-16", "MQTT-3.3.2-17", "MQTT-3.3.2-18", "MQTT-3.3.2-20"
)
@pytest.mark.parametrize(
    ("way", "qos"),
    [(way, qos) for way in ("live", "queued", "retained") for qos in (0, 1, 2) if qos or way != "queued"],
)
def test_properties_are_passed_on_unchanged_and_in_order(
    clients: Clients, topic: str, there: int, way: str, qos: int
) -> None:
    name = new_name()
    subscriber = clients.connect(name, worker=there, durable=way == "queued")
    if way != "retained":
        subscriber.subscribe((topic, 2))
    if way == "queued":
        subscriber.disconnect()
    publisher = clients.connect()
    publisher.publish(topic, b"x", qos, retain=way == "retained", **FORWARDED)
    if qos:
        publisher.receive()
    publisher.publish_all(new_name("t/"), b"then all before is stored", 1, retain=True)
    if way == "queued":
        subscriber = clients.connect(name, worker=there, durable=True)
    if way == "retained":
        subscriber.subscribe((topic, 2))
    got = subscriber.take()
    assert got.properties == FORWARDED
    assert got.body.endswith(properties(**FORWARDED) + b"x")


@pytest.mark.parametrize("qos", [0, 1])
def test_properties_between_which_others_are_cut_out_stay_in_order(
    clients: Clients, topic: str, there: int, qos: int
) -> None:
    subscriber = clients.connect(worker=there)
    subscriber.subscribe((topic, qos))
    publisher = clients.connect()
    parts: list[dict[str, Any]] = [
        {"user_property": [("1", "x")]}, {"message_expiry": 100}, {"content_type": "c"}, {"topic_alias": 1},
        {"user_property": [("2", "y")]}, {"correlation_data": b"d"}, {"user_property": [("3", "z")]},
    ]  # fmt: skip
    raw = b"".join(properties(**part)[1:] for part in parts)
    publisher.send(packet(0x30 | qos << 1, text(topic) + (b"\0\1" if qos else b"") + bytes([len(raw)]) + raw))
    got = subscriber.take()
    kept = b"".join(properties(**part)[1:] for part in (parts[0], parts[2], *parts[4:]))
    assert got.body.endswith(kept)
    assert got.properties["message_expiry"] in (99, 100)
    assert "topic_alias" not in got.properties


@pytest.mark.statement("MQTT-3.3.2-13", "MQTT-3.3.2-14", "MQTT-3.3.2-19", "MQTT-3.3.4-6")
@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (properties(response_topic="a/+"), PROTOCOL_ERROR),
        (properties(response_topic="#"), PROTOCOL_ERROR),
        (properties(subscription_identifier=[1]), PROTOCOL_ERROR),
        (properties(payload_format=2), PROTOCOL_ERROR),
        (properties(content_type="a") + properties(content_type="a")[1:], None),
        (b"\x02\x01\x00" + properties(payload_format=1)[:0], None),
        (b"\x04\x03\x00\x01\xff", MALFORMED),
        (b"\x04\x08\x00\x01\xff", MALFORMED),
        (b"\x04\x01\x00\x01\x00", PROTOCOL_ERROR),
        (b"\x05\x02\x00\x00\x00", MALFORMED),
        (b"\x02\x7f\x00", MALFORMED),
        (properties(session_expiry=1), MALFORMED),
        (properties(reason_string="no"), MALFORMED),
        (properties(will_delay=1), MALFORMED),
        (b"\x80\x80\x80\x80\x01", MALFORMED),
    ],
    ids=[
        "response-plus", "response-multi", "identifier", "format2", "payload-looks-like-one", "ok", "content-utf8",
        "response-utf8", "format-twice", "expiry-cut", "unknown", "expiry-of-connect", "reason", "will", "length",
    ],
)  # fmt: skip
def test_wrong_properties_end_the_connection(clients: Clients, topic: str, raw: bytes, reason: int | None) -> None:
    client = clients.connect()
    client.send(packet(0x30, text(topic) + raw))
    client.expect_nothing() if reason is None else client.expect_refused(reason)


# -- message expiry ----------------------------------------------------------------------------------------------------


@pytest.mark.statement("MQTT-3.3.2-6")
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_message_expiry_is_sent_on(clients: Clients, topic: str, there: int, qos: int) -> None:
    subscriber = clients.connect(worker=there)
    subscriber.subscribe((topic, 2))
    publisher = clients.connect()
    for expiry_s in (1, 100, 0xFFFFFFFF):
        publisher.publish(topic, b"x", qos, message_expiry=expiry_s)
        left_s = subscriber.take().properties["message_expiry"]
        assert expiry_s - 1 <= left_s <= expiry_s


@pytest.mark.statement("MQTT-3.3.2-5", "MQTT-3.3.2-6", "MQTT-4.3.3-7", "MQTT-4.3.3-13")
def test_message_expiry_ends_what_waits_and_is_counted_down(clients: Clients, topic: str, there: int) -> None:
    """Waiting in the queue of a durable session, in the window of a live one, and retained; what was sent is completed."""
    name = new_name()
    clients.connect(name, worker=there, durable=True).subscribe((f"{topic}/#", 2))
    durable = clients.connect(name, worker=there, durable=True, receive_maximum=1)
    live = clients.connect(worker=there, receive_maximum=1)
    live.subscribe((f"{topic}/#", 2))
    publisher = clients.connect(version=5)
    publisher.publish_all(f"{topic}/0", b"sent", 2, message_expiry=1)
    sent = [(each, each.expect(PUBLISH)) for each in (durable, live)]
    publisher.publish_all(f"{topic}/1", b"short", 1, message_expiry=1, retain=True)
    publisher.publish_all(f"{topic}/2", b"long", 1, message_expiry=100, retain=True)
    publisher.publish_all(f"{topic}/3", b"forever", 1, retain=True)
    time.sleep(1.1)  # the time that the messages wait is what is tested
    for client, begun in sent:
        assert begun.payload == b"sent"
        client.ack(PUBREC, begun.id)
        assert client.expect(PUBREL).id == begun.id
        client.ack(PUBCOMP, begun.id)
    fresh = clients.connect(worker=there)
    fresh.subscribe((f"{topic}/#", 0))
    for client in (durable, live, fresh):
        left = {each.payload: each.properties.get("message_expiry") for each in client.take_all(2)}
        assert left == {b"long": 99, b"forever": None}
        client.expect_nothing()


# -- topic aliases -----------------------------------------------------------------------------------------------------


@pytest.mark.statement("MQTT-3.3.2-12")
def test_topic_aliases_of_the_client(clients: Clients, topic: str, there: int) -> None:
    subscriber = clients.connect(worker=there)
    subscriber.subscribe((f"{topic}/#", 1))
    publisher = clients.connect()
    assert publisher.connack.properties["topic_alias_maximum"] == ALIASES
    for alias in range(1, ALIASES + 1):
        publisher.publish(f"{topic}/{alias}", b"set", 1, topic_alias=alias)
    for alias in range(ALIASES, 0, -1):
        publisher.publish("", b"used", 1, topic_alias=alias)
    publisher.publish(f"{topic}/new", b"replaced", 1, topic_alias=2)
    publisher.publish("", b"used", 1, topic_alias=2)
    names = [subscriber.take().topic.rpartition("/")[2] for _ in range(8)]
    assert names == ["1", "2", "3", "3", "2", "1", "new", "new"]


@pytest.mark.statement("MQTT-3.3.2-8")
@pytest.mark.parametrize(
    ("topic", "alias", "reason"),
    [("a", 0, ALIAS_INVALID), ("a", ALIASES + 1, ALIAS_INVALID), ("", 1, PROTOCOL_ERROR), ("", 0, ALIAS_INVALID)],
    ids=["zero", "above", "unset", "unset-zero"],
)
def test_wrong_topic_alias_ends_the_connection(clients: Clients, topic: str, alias: int, reason: int) -> None:
    client = clients.connect()
    client.publish(topic, b"x", topic_alias=alias)
    client.expect_refused(reason)


@pytest.mark.statement("MQTT-3.3.2-7")
def test_topic_aliases_end_with_the_connection(clients: Clients, topic: str) -> None:
    name = new_name()
    client = clients.connect(name, durable=True)
    client.publish_all(topic, b"x", topic_alias=1)
    client.close()
    client = clients.connect(name, durable=True)
    assert client.connack.session_present
    client.publish("", b"x", topic_alias=1)
    client.expect_refused(PROTOCOL_ERROR)


@pytest.mark.statement("MQTT-3.3.2-11", "MQTT-3.1.2-26", "MQTT-3.1.2-27", "MQTT-3.3.2-7")
@pytest.mark.parametrize("durable", [False, True], ids=["live", "durable"])
@pytest.mark.parametrize("most", [0, 2])
def test_topic_aliases_of_the_server(clients: Clients, topic: str, there: int, most: int, durable: bool) -> None:
    name = new_name()
    publisher = clients.connect()
    for _ in range(2):  # the second connection knows nothing of the aliases of the first
        subscriber = clients.connect(name, worker=there, durable=durable, topic_alias_maximum=most)
        subscriber.subscribe((f"{topic}/#", 1))
        known: dict[int, str] = {}
        for number in range(8):
            publisher.publish_all(f"{topic}/a-long-topic-name/{number % 4}", str(number % 4).encode())
            got = subscriber.take()
            alias = got.properties.get("topic_alias", 0)
            assert 0 <= alias <= most
            name_sent = got.topic or known[alias]
            if alias:
                known[alias] = name_sent
            assert name_sent == f"{topic}/a-long-topic-name/{got.payload.decode()}"
        assert len(known) == most
        subscriber.close()


# -- reason codes ------------------------------------------------------------------------------------------------------


@pytest.mark.statement("MQTT-3.4.2-1", "MQTT-3.5.2-1")
@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("durable", [False, True], ids=["live", "durable"])
def test_no_matching_subscribers_is_told(clients: Clients, topic: str, there: int, qos: int, durable: bool) -> None:
    publisher = clients.connect(durable=durable)
    assert publisher.publish_all(topic, b"x", qos).reason == NO_SUBSCRIBERS
    subscriber = clients.connect(worker=there)
    subscriber.subscribe(topic)
    assert publisher.publish_all(topic, b"x", qos).reason == 0
    assert subscriber.take().payload == b"x"
    subscriber.unsubscribe(topic)
    assert publisher.publish_all(topic, b"x", qos).reason == NO_SUBSCRIBERS


@pytest.mark.statement("3.1.1:MQTT-3.3.5-2", "MQTT-4.3.3-9")
@pytest.mark.parametrize("qos", [1, 2])
def test_publishing_to_the_brokers_own_topics_is_not_authorized(
    clients: Clients, version: int, there: int, qos: int
) -> None:
    subscriber = clients.connect(version=version, worker=there)
    subscriber.subscribe(("$made/up", 2))
    publisher = clients.connect(version=version)
    for _ in range(2):  # a refused QoS 2 packet id is free at once
        id = publisher.publish("$made/up", b"x", qos, id=7)
        answer = publisher.expect(PUBACK if qos == 1 else PUBREC)
        assert (answer.id, answer.reason) == (id, NOT_AUTHORIZED if version == 5 else 0)
    assert publisher.publish_all("free", b"x", qos, id=7).reason in (0, NO_SUBSCRIBERS)
    subscriber.expect_nothing()


def refused(answer: Packet) -> tuple[int, int]:
    return answer.kind, answer.reason


@pytest.mark.statement("MQTT-4.3.3-9")
def test_a_full_queue_refuses_the_publisher(clients: Clients, topic: str, there: int) -> None:
    """limits.queue_policy = "refuse": QoS 1 and 2 are answered by 0x97, and an MQTT 3 client is closed."""
    name = new_name()
    subscriber = clients.connect(name, worker=there, durable=True)
    subscriber.subscribe((topic, 2))
    subscriber.disconnect()
    publisher = clients.connect(durable=True)
    for number in range(QUEUED):
        assert publisher.publish_all(topic, b"%d" % number, 2).reason == 0
    publisher.publish(topic, b"no", 1, id=9)
    assert refused(publisher.receive()) == (PUBACK, QUOTA)
    for _ in range(2):
        publisher.publish(topic, b"no", 2, id=9)
        assert refused(publisher.receive()) == (PUBREC, QUOTA)
    old = clients.connect(version=4)
    old.publish(topic, b"no", 1)
    old.expect_refused(QUOTA)
    subscriber = clients.connect(name, worker=there, durable=True)
    assert subscriber.payloads(QUEUED) == [b"%d" % number for number in range(QUEUED)]
    # The same packet id is a new message, taken once the last PUBCOMP has emptied a place
    wait_for(lambda: publisher.publish(topic, b"yes", 2, id=9) and refused(publisher.receive()) == (PUBREC, 0))
    assert subscriber.take().payload == b"yes"


def test_a_retained_message_beyond_the_limit_is_refused(clients: Clients, topic: str) -> None:
    publisher = clients.connect()
    publisher.publish(topic, bytes(2000), 1, retain=True)
    assert refused(publisher.receive()) == (PUBACK, QUOTA)
    subscriber = clients.connect()
    subscriber.subscribe(topic)
    subscriber.expect_nothing()
