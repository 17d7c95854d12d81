"""SUBSCRIBE and UNSUBSCRIBE: what is granted, refused, replaced; overlaps, identifiers and options."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import pytest

from tests.broker import Broker, running
from tests.mqtt import PUBACK, PUBLISH, SUBACK, UNSUBACK, packet, properties, text
from tests.protocol.clients import Clients, new_name

NO_LOCAL, AS_PUBLISHED = 0x04, 0x08
SEND, SEND_IF_NEW, DO_NOT_SEND = 0x00, 0x10, 0x20
MALFORMED, PROTOCOL_ERROR, NOT_FOUND, FILTER_INVALID, QUOTA = 0x81, 0x82, 0x11, 0x8F, 0x97
LEVELS, FILTER_BYTES, SUBSCRIPTIONS = 8, 200, 12


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    limits = f"max_topic_levels = {LEVELS}\nmax_topic_bytes = {FILTER_BYTES}\n"
    with running(f"[limits]\n{limits}max_subscriptions_per_client = {SUBSCRIPTIONS}\n") as started:
        yield started


def body(version: int, *filters: bytes, id: int = 1, options: int | None = 0, **values: Any) -> bytes:
    """Of a SUBSCRIBE; `options` None: of an UNSUBSCRIBE."""
    head = struct.pack(">H", id) + (properties(**values) if version == 5 else b"")
    tail = b"" if options is None else bytes([options])
    return head + b"".join(struct.pack(">H", len(each)) + each + tail for each in filters)


# -- the packets -------------------------------------------------------------------------------------------------------


@pytest.mark.statement(
    "MQTT-3.8.4-1", "MQTT-3.8.4-2", "MQTT-3.8.4-5", "MQTT-3.8.4-6", "MQTT-3.8.4-7", "MQTT-3.9.3-1", "MQTT-3.9.3-2",
    "MQTT-2.2.1-6", "3.1.1:MQTT-3.8.4-5", "3.1.1:MQTT-3.9.3-2",
)  # fmt: skip
@pytest.mark.parametrize("durable", [False, True], ids=["live", "durable"])
def test_suback_answers_each_filter_in_order(clients: Clients, topic: str, version: int, durable: bool) -> None:
    client = clients.connect(version=version, durable=durable)
    failure = FILTER_INVALID if version == 5 else 0x80
    asked = [(f"{topic}/a", 2), (f"{topic}/b", 0), (f"{topic}/#/no", 1), (f"{topic}/c", 1), ("$share/g", 0)]
    frame = struct.pack(">H", 0xABCD) + (properties() if version == 5 else b"")
    frame += b"".join(text(name) + bytes([options]) for name, options in asked)
    client.send(packet(0x82, frame))
    answer = client.expect(SUBACK)
    assert (answer.id, answer.reasons) == (0xABCD, [2, 0, failure, 1, failure])
    publisher = clients.connect(version=version)
    for name in "abc":
        publisher.publish_all(f"{topic}/{name}", b"x", 2)
    assert [each.qos for each in client.take_all(3)] == [2, 0, 1]


@pytest.mark.statement(
    "MQTT-3.10.4-1", "MQTT-3.10.4-2", "MQTT-3.10.4-4", "MQTT-3.10.4-5", "MQTT-3.10.4-6", "MQTT-3.11.3-1",
    "MQTT-3.11.3-2", "MQTT-2.2.1-6", "3.1.1:MQTT-3.10.4-4", "3.1.1:MQTT-3.10.4-5",
)  # fmt: skip
@pytest.mark.parametrize("durable", [False, True], ids=["live", "durable"])
def test_unsuback_answers_each_filter_in_order(
    clients: Clients, topic: str, version: int, there: int, durable: bool
) -> None:
    client = clients.connect(version=version, worker=there, durable=durable)
    client.subscribe((f"{topic}/+", 1), (f"{topic}/a", 1), (f"$share/g/{topic}/s", 1))
    names = [f"{topic}/A", f"{topic}/+", f"{topic}/b", "a/#/b", f"$share/h/{topic}/s", f"$share/g/{topic}/s", "$share/"]
    client.send(packet(0xA2, body(version, *map(str.encode, names), id=0x1234, options=None)))
    answer = client.expect(UNSUBACK)
    assert answer.id == 0x1234
    missing = NOT_FOUND
    assert answer.reasons == ([missing, 0, missing, missing, missing, 0, missing] if version == 5 else [])
    publisher = clients.connect(version=version)
    for name in "abs":
        publisher.publish_all(f"{topic}/{name}", name.encode(), 1)
    assert client.take().payload == b"a"
    client.expect_nothing()


@pytest.mark.statement(
    "MQTT-3.8.1-1", "MQTT-3.10.1-1", "MQTT-3.8.3-2", "MQTT-3.10.3-2", "MQTT-2.2.1-3", "MQTT-4.13.1-1", "MQTT-2.1.3-1"
)
@pytest.mark.parametrize(
    ("first", "id", "filters", "reason"),
    [
        *[(first, 1, [b"a"], MALFORMED) for first in (0x80, 0x83, 0x8A, 0xA0, 0xA1, 0xA6)],
        *[(first, 0, [b"a"], PROTOCOL_ERROR) for first in (0x82, 0xA2)],
        *[(first, 1, [], PROTOCOL_ERROR) for first in (0x82, 0xA2)],
    ],
)
def test_wrong_headers_end_the_connection(
    clients: Clients, version: int, first: int, id: int, filters: list[bytes], reason: int
) -> None:
    client = clients.connect(version=version)
    client.send(packet(first, body(version, *filters, id=id, options=0 if first < 0x90 else None)))
    client.expect_refused(reason)


@pytest.mark.statement("MQTT-3.8.3-1", "MQTT-3.10.3-1", "MQTT-1.5.4-1", "MQTT-1.5.4-2", "MQTT-4.7.3-2")
@pytest.mark.parametrize("filter", [b"\xff", b"a\x00", b"\xed\xa0\x80"])
@pytest.mark.parametrize("first", [0x82, 0xA2])
def test_filters_that_are_not_utf8_end_the_connection(
    clients: Clients, version: int, first: int, filter: bytes
) -> None:
    client = clients.connect(version=version)
    client.send(packet(first, body(version, filter, options=0 if first == 0x82 else None)))
    client.expect_refused(MALFORMED)


@pytest.mark.parametrize(
    "frame", [b"\0\1\0\0", b"\0\1\0\0\5a", b"\0\1\0\0\1a", b"\0"], ids=["length", "cut", "options", "id"]
)
def test_cut_subscribes_end_the_connection(clients: Clients, frame: bytes) -> None:
    client = clients.connect()
    client.send(packet(0x82, frame))
    client.expect_refused(MALFORMED)


@pytest.mark.statement("MQTT-3.8.3-5", "3.1.1:MQTT-3.8.3-4")
@pytest.mark.parametrize(
    ("options", "reason"),
    [(3, PROTOCOL_ERROR), (0x30, PROTOCOL_ERROR), (0x40, MALFORMED), (0x80, MALFORMED), (0xFF, MALFORMED)],
)
def test_wrong_options_end_the_connection(clients: Clients, version: int, options: int, reason: int) -> None:
    client = clients.connect(version=version)
    client.send(packet(0x82, body(version, b"a", options=options)))
    client.expect_refused(reason)


@pytest.mark.statement("3.1.1:MQTT-3.8.3-4")
@pytest.mark.parametrize("options", [0x04, 0x08, 0x10, 0x20])
def test_options_of_mqtt5_are_reserved_bits_of_mqtt3(clients: Clients, options: int) -> None:
    client = clients.connect(version=4)
    client.send(packet(0x82, body(4, b"a", options=options)))
    client.expect_refused(PROTOCOL_ERROR)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (properties(subscription_identifier=[0]), PROTOCOL_ERROR),
        (properties(subscription_identifier=[1, 2]), PROTOCOL_ERROR),
        (b"\x05\x0b\x80\x80\x80\x80", MALFORMED),
        (properties(content_type="a"), MALFORMED),
        (properties(user_property=[("a", "b"), ("a", "b")]), None),
        (properties(subscription_identifier=[268_435_455]), None),
    ],
    ids=["zero", "two", "too-large", "of-another", "user", "largest"],
)
def test_properties_of_subscribe(clients: Clients, topic: str, raw: bytes, reason: int | None) -> None:
    client = clients.connect()
    client.send(packet(0x82, b"\0\1" + raw + text(topic) + b"\0"))
    if reason is None:
        assert client.expect(SUBACK).reasons == [0]
    else:
        client.expect_refused(reason)


def test_limits_of_filters(clients: Clients, version: int) -> None:
    client = clients.connect(version=version)
    invalid = FILTER_INVALID if version == 5 else 0x80
    assert client.subscribe("/".join("x" * LEVELS), "x" * FILTER_BYTES).reasons == [0, 0]
    assert client.subscribe("/".join("x" * (LEVELS + 1)), "x" * (FILTER_BYTES + 1)).reasons == [invalid, invalid]
    more = [new_name("f/") for _ in range(SUBSCRIPTIONS - 2)]
    assert client.subscribe(*more).reasons == [0] * len(more)
    assert client.subscribe("one more").reasons == [QUOTA if version == 5 else 0x80]
    assert client.subscribe((more[0], 1)).reasons == [1]  # replaces
    client.unsubscribe(more[0])
    assert client.subscribe("one more").reasons == [0]


# -- QoS, replacing, overlaps ------------------------------------------------------------------------------------------


@pytest.mark.statement("MQTT-3.8.4-8", "MQTT-3.8.4-7")
@pytest.mark.parametrize("durable", [False, True], ids=["live", "durable"])
def test_the_lesser_qos_is_delivered(clients: Clients, topic: str, version: int, there: int, durable: bool) -> None:
    client = clients.connect(version=version, worker=there, durable=durable)
    publisher = clients.connect(version=version)
    for granted in (0, 1, 2):
        assert client.subscribe((topic, granted)).reasons == [granted]
        for published in (0, 1, 2):
            publisher.publish(topic, b"x", published)
            assert client.take().qos == min(granted, published)


@pytest.mark.statement("MQTT-3.8.4-3", "3.1.1:MQTT-3.8.4-3")
@pytest.mark.parametrize("durable", [False, True], ids=["live", "durable"])
def test_subscribing_again_replaces(clients: Clients, topic: str, version: int, there: int, durable: bool) -> None:
    client = clients.connect(version=version, worker=there, durable=durable)
    publisher = clients.connect(version=version)
    for number, qos in enumerate((1, 2, 0, 1)):
        values = {"subscription_identifier": [number + 1]} if version == 5 else {}
        client.subscribe((f"{topic}/+", qos), **values)
        publisher.publish_all(f"{topic}/a", b"%d" % number, 2)
        got = client.take()
        assert (got.payload, got.qos) == (b"%d" % number, qos)
        assert got.properties.get("subscription_identifier") == values.get("subscription_identifier")
    client.unsubscribe(f"{topic}/+")
    publisher.publish_all(f"{topic}/a", b"x", 1)
    client.expect_nothing()


@pytest.mark.statement("MQTT-3.8.4-4", "3.1.1:MQTT-3.8.4-3")
@pytest.mark.parametrize("durable", [False, True], ids=["live", "durable"])
def test_no_message_is_lost_by_subscribing_again(clients: Clients, topic: str, there: int, durable: bool) -> None:
    client = clients.connect(worker=there, durable=durable)
    client.subscribe((topic, 1))
    publisher = clients.connect()
    count = 60
    for number in range(count):
        publisher.publish(topic, b"%d" % number, 1)
        client.send(packet(0x82, body(5, topic.encode(), id=100, options=1)))
    got: list[bytes] = []
    answers = 0
    while len(got) < count or answers < count:
        each = client.receive()
        if each.kind == SUBACK:
            answers += 1
        else:
            client.ack(PUBACK, each.id)
            got.append(each.payload)
    assert got == [b"%d" % number for number in range(count)]


@pytest.mark.statement("MQTT-3.3.4-2", "MQTT-3.3.4-3", "MQTT-3.3.4-4", "MQTT-3.3.4-5")
@pytest.mark.parametrize("durable", [False, True], ids=["live", "durable"])
def test_overlapping_subscriptions(clients: Clients, topic: str, there: int, durable: bool) -> None:
    """One copy, with the highest QoS and the identifiers of all that match."""
    client = clients.connect(worker=there, durable=durable)
    client.subscribe((f"{topic}/a", 0), subscription_identifier=[1])
    client.subscribe((f"{topic}/+", 2), subscription_identifier=[268_435_455])
    client.subscribe((f"{topic}/#", 1))
    client.subscribe((f"{topic}/b", 2), subscription_identifier=[3])
    client.subscribe((f"{topic}/a/#", 1), subscription_identifier=[128])
    publisher = clients.connect()
    for published in (0, 1, 2):
        publisher.publish(f"{topic}/a", b"x", published)
        got = client.take()
        assert got.qos == published
        assert sorted(got.properties["subscription_identifier"]) == [1, 128, 268_435_455]
    publisher.publish(f"{topic}/a/b/c", b"x", 2)
    got = client.take()
    assert (got.qos, got.properties["subscription_identifier"]) == (1, [128])
    client.expect_nothing()


@pytest.mark.statement("3.1.1:MQTT-3.3.1-9", "MQTT-3.3.4-2")
def test_overlapping_subscriptions_of_mqtt3(clients: Clients, topic: str, version: int, there: int) -> None:
    client = clients.connect(version=version, worker=there)
    client.subscribe((f"{topic}/a", 1), (f"{topic}/+", 2), (f"{topic}/#", 0))
    publisher = clients.connect(version=version)
    publisher.publish_all(f"{topic}/a", b"x", 2, retain=True)
    got = client.take()
    assert (got.qos, got.retain) == (2, False)
    client.expect_nothing()


# -- options -----------------------------------------------------------------------------------------------------------


@pytest.mark.statement("MQTT-3.8.3-3")
@pytest.mark.parametrize("durable", [False, True], ids=["live", "durable"])
def test_no_local(clients: Clients, topic: str, there: int, durable: bool) -> None:
    client = clients.connect(durable=durable)
    client.subscribe((topic, 2 | NO_LOCAL))
    other = clients.connect(worker=there)
    for qos in (0, 1, 2):
        client.publish(topic, b"mine", qos)
        other.publish(topic, b"yours", qos)
        if qos:
            other.receive()
    got = [each for each in (client.receive() for _ in range(5)) if each.kind == PUBLISH]
    assert [each.payload for each in got] == [b"yours"] * 3
    client.close()


@pytest.mark.statement("MQTT-3.8.3-3")
def test_no_local_of_one_of_two_subscriptions(clients: Clients, topic: str) -> None:
    client = clients.connect()
    client.subscribe((topic, 1 | NO_LOCAL), (f"{topic}/#", 0))
    client.publish(topic, b"x", 2)
    assert sorted(client.receive().kind for _ in range(2)) == [PUBLISH, 5]


@pytest.mark.statement("MQTT-3.8.3-3")
def test_no_local_holds_for_a_will(clients: Clients, topic: str, there: int) -> None:
    """The will of a durable session whose own subscription matches it."""
    name = new_name()
    watcher = clients.connect(worker=there)
    watcher.subscribe((topic, 1))
    client = clients.connect(name, durable=True, will=(topic, b"gone", 1, False))
    client.subscribe((topic, 1 | NO_LOCAL))
    client.close()
    assert watcher.take().payload == b"gone"
    clients.connect(name, durable=True).expect_nothing()


@pytest.mark.statement("MQTT-3.3.1-12", "MQTT-3.3.1-13", "3.1.1:MQTT-3.3.1-9")
@pytest.mark.parametrize("durable", [False, True], ids=["live", "durable"])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_retain_as_published(clients: Clients, topic: str, there: int, durable: bool, qos: int) -> None:
    as_it_was = clients.connect(worker=there, durable=durable)
    as_it_was.subscribe((topic, qos | AS_PUBLISHED))
    cleared = clients.connect(worker=there, durable=durable)
    cleared.subscribe((topic, qos))
    publisher = clients.connect()
    for retain in (True, False, True):
        publisher.publish(topic, b"x", qos, retain=retain)
        assert as_it_was.take().retain is retain
        assert cleared.take().retain is False


@pytest.mark.statement("MQTT-3.3.1-9", "MQTT-3.3.1-10", "MQTT-3.3.1-11", "3.1.1:MQTT-3.3.1-6", "3.1.1:MQTT-3.3.1-8")
@pytest.mark.parametrize("durable", [False, True], ids=["live", "durable"])
def test_retain_handling(clients: Clients, topic: str, there: int, durable: bool) -> None:
    clients.connect().publish_all(topic, b"kept", 1, retain=True)
    expected = [(SEND_IF_NEW, True), (SEND_IF_NEW, False), (SEND, True), (SEND, True), (DO_NOT_SEND, False)]
    client = clients.connect(worker=there, durable=durable)
    for handling, sent in expected:
        client.subscribe((topic, 1 | handling))
        if sent:
            got = client.take()
            assert (got.payload, got.retain) == (b"kept", True)
        client.expect_nothing()
    client.unsubscribe(topic)
    client.subscribe((topic, 1 | DO_NOT_SEND))
    client.expect_nothing()
    if durable:
        client.close()
        client = clients.connect(client.client_id, worker=1 - there, durable=True)
        client.subscribe((topic, 1 | SEND_IF_NEW))
        client.expect_nothing()


@pytest.mark.statement("MQTT-3.10.4-3")
@pytest.mark.parametrize("durable", [False, True], ids=["live", "durable"])
def test_unsubscribe_lets_begun_deliveries_end(clients: Clients, topic: str, there: int, durable: bool) -> None:
    client = clients.connect(worker=there, durable=durable)
    client.subscribe((topic, 2))
    publisher = clients.connect()
    for qos in (1, 2):
        publisher.publish_all(topic, b"x", qos)
    one, two = client.expect(PUBLISH), client.expect(PUBLISH)
    client.unsubscribe(topic)
    publisher.publish_all(topic, b"after", 1)
    client.ack(PUBACK, one.id)
    client.ack(5, two.id)
    assert client.expect(6).id == two.id
    client.ack(7, two.id)
    client.expect_nothing()


@pytest.mark.statement("MQTT-4.1.0-1", "MQTT-3.1.2-23")
def test_subscriptions_outlive_the_connection(clients: Clients, topic: str, version: int, there: int) -> None:
    """With their options, wherever the client comes back."""
    options = 2 | (NO_LOCAL | AS_PUBLISHED if version == 5 else 0)
    values = {"subscription_identifier": [7]} if version == 5 else {}
    name = new_name()
    client = clients.connect(name, version, there, durable=True)
    client.subscribe((topic, options), **values)
    client.disconnect()
    client = clients.connect(name, version, 1 - there, durable=True)
    client.publish_all(topic, b"mine", 1) if version == 5 else None
    clients.connect(version=version).publish_all(topic, b"x", 2, retain=True)
    got = client.take()
    assert (got.payload, got.qos, got.retain) == (b"x", 2, version == 5)
    assert got.properties == values


def test_suback_means_that_every_worker_delivers(clients: Clients, version: int) -> None:
    """A message published at any worker after SUBACK arrives; also for the second subscriber of a filter on its worker."""
    publisher = clients.connect(version=version)
    first, second = (clients.connect(version=version, worker=1) for _ in range(2))
    for number in range(50):
        name = new_name("t/")
        frame = packet(0x82, body(version, name.encode(), id=9))
        first.send(frame)
        second.send(frame)
        second.expect(SUBACK)
        publisher.publish(name, b"%d" % number)
        assert second.take().payload == b"%d" % number
        assert sorted(first.receive().kind for _ in range(2)) == [PUBLISH, SUBACK]
        for client in (first, second):
            client.unsubscribe(name)
