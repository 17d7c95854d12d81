"""The flows of QoS 1 and 2, both directions: right, wrong and repeated packets."""

from __future__ import annotations

import struct

import pytest

from tests.mqtt import PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL, Packet, packet, properties, text
from tests.protocol.clients import Clients, Placed, new_name

MALFORMED, PROTOCOL_ERROR, NOT_FOUND, REFUSED = 0x81, 0x82, 0x92, 0x83


def queued(clients: Clients, topic: str, there: int, version: int = 5, qos: int = 2) -> str:
    """The client id of a durable session that subscribes to `topic` and is away."""
    name = new_name()
    client = clients.connect(name, version, there, durable=True)
    client.subscribe((topic, qos))
    client.disconnect()
    return name


# -- towards the broker ------------------------------------------------------------------------------------------------


@pytest.mark.statement("MQTT-4.3.2-5", "3.1.1:MQTT-4.3.2-2")
@pytest.mark.parametrize("dup", [False, True])
def test_qos1_packet_id_is_free_after_puback(clients: Clients, topic: str, version: int, there: int, dup: bool) -> None:
    """The same packet id again is a new message, whatever DUP says; with a durable subscriber, too."""
    name = queued(clients, topic, there, version, 1)
    subscriber = clients.connect(version=version, worker=there)
    subscriber.subscribe((topic, 1))
    publisher = clients.connect(version=version)
    for payload in (b"1", b"2"):
        publisher.publish(topic, payload, 1, id=5, dup=dup)
        assert publisher.expect(PUBACK).id == 5
    assert subscriber.payloads(2) == [b"1", b"2"]
    assert clients.connect(name, version, there, durable=True).payloads(2) == [b"1", b"2"]


@pytest.mark.statement(
    "MQTT-3.3.4-1", "MQTT-4.3.2-4", "MQTT-4.3.3-8", "MQTT-4.3.3-11", "MQTT-2.2.1-5", "3.1.1:MQTT-4.3.3-2"
)  # fmt: skip
@pytest.mark.parametrize("id", [1, 255, 256, 65535])
def test_answers_have_the_packet_id(clients: Clients, topic: str, version: int, id: int) -> None:
    publisher = clients.connect(version=version)
    publisher.publish(topic, b"x", 1, id=id)
    assert publisher.expect(PUBACK).id == id
    publisher.publish(topic, b"x", 2, id=id)
    assert publisher.expect(PUBREC).id == id
    publisher.ack(PUBREL, id)
    answer = publisher.expect(PUBCOMP)
    assert (answer.id, answer.reason) == (id, 0)


@pytest.mark.statement("MQTT-4.3.3-8", "MQTT-4.3.3-10", "MQTT-4.3.3-11", "MQTT-4.3.3-12", "3.1.1:MQTT-4.3.3-2")
@pytest.mark.parametrize("durable", [False, True], ids=["live", "durable"])
def test_qos2_repeated_until_pubrel_is_delivered_once(
    clients: Clients, topic: str, version: int, there: int, durable: bool
) -> None:
    name = queued(clients, topic, there, version)
    live = clients.connect(version=version, worker=there)
    live.subscribe((topic, 2))
    publisher = clients.connect(version=version, durable=durable)
    for dup in (False, True, True, False):
        publisher.publish(topic, b"1", 2, id=5, dup=dup)
        answer = publisher.expect(PUBREC)
        assert (answer.id, answer.reason) == (5, 0)
    publisher.ack(PUBREL, 5)
    assert publisher.expect(PUBCOMP).reason == 0
    publisher.ack(PUBREL, 5)
    answer = publisher.expect(PUBCOMP)
    assert (answer.id, answer.reason) == (5, NOT_FOUND if version == 5 else 0)
    publisher.publish_all(topic, b"2", 2, id=5, dup=True)
    for subscriber in (live, clients.connect(name, version, there, durable=True)):
        assert subscriber.payloads(2) == [b"1", b"2"]
        subscriber.expect_nothing()


@pytest.mark.statement("MQTT-4.3.3-10", "MQTT-4.4.0-1", "MQTT-4.1.0-1", "3.1.1:MQTT-4.3.3-2")
def test_qos2_packet_ids_of_the_publisher_outlive_its_connection(
    clients: Clients, topic: str, version: int, there: int
) -> None:
    subscriber = clients.connect(version=version)
    subscriber.subscribe((topic, 2))
    name = new_name()
    publisher = clients.connect(name, version, durable=True)
    for id in (1, 2):
        publisher.publish(topic, b"%d" % id, 2, id=id)
        publisher.expect(PUBREC)
    publisher.ack(PUBREL, 1)
    publisher.expect(PUBCOMP)
    publisher.close()
    publisher = clients.connect(name, version, there, durable=True)
    publisher.publish(topic, b"2", 2, id=2, dup=True)
    assert publisher.expect(PUBREC).id == 2
    publisher.publish_all(topic, b"3", 2, id=1)
    publisher.ack(PUBREL, 2)
    answer = publisher.expect(PUBCOMP)
    assert (answer.id, answer.reason) == (2, 0)
    assert subscriber.payloads(3) == [b"1", b"2", b"3"]
    subscriber.expect_nothing()


@pytest.mark.statement("MQTT-4.1.0-2")
def test_qos2_packet_ids_end_with_the_session(clients: Clients, topic: str, version: int, there: int) -> None:
    subscriber = clients.connect(version=version)
    subscriber.subscribe((topic, 2))
    name = new_name()
    publisher = clients.connect(name, version, durable=True)
    publisher.publish(topic, b"1", 2, id=1)
    publisher.expect(PUBREC)
    publisher.close()
    publisher = clients.connect(name, version, there, clean=True)
    publisher.publish_all(topic, b"2", 2, id=1)
    assert subscriber.payloads(2) == [b"1", b"2"]


@pytest.mark.statement("MQTT-3.7.2-1")
def test_pubrel_of_an_unknown_packet_id(clients: Clients, version: int) -> None:
    client = clients.connect(version=version)
    client.ack(PUBREL, 77)
    answer = client.expect(PUBCOMP)
    assert (answer.id, answer.reason) == (77, NOT_FOUND if version == 5 else 0)


@pytest.mark.statement("MQTT-4.3.2-4", "MQTT-4.3.3-8")
def test_answers_come_in_the_order_of_the_messages(clients: Clients, topic: str, version: int, there: int) -> None:
    """Some wait for the disk, others do not."""
    queued(clients, f"{topic}/stored", there, version)
    publisher = clients.connect(version=version)
    sent = [(1 + number % 2, number % 3 != 0) for number in range(30)]
    for qos, stored in sent:
        publisher.publish(f"{topic}/stored" if stored else topic, b"x", qos)
    answers = [publisher.receive() for _ in sent]
    assert [each.id for each in answers] == list(range(1, 31))
    assert [each.kind for each in answers] == [PUBACK if qos == 1 else PUBREC for qos, _ in sent]


@pytest.mark.statement("MQTT-2.1.3-1", "MQTT-3.6.1-1", "MQTT-4.13.1-1", "MQTT-2.2.1-3")
@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        *[(packet(kind << 4 | flags, b"\0\1"), MALFORMED) for kind in (4, 5, 7) for flags in (1, 2, 8)],
        *[(packet(PUBREL << 4 | flags, b"\0\1"), MALFORMED) for flags in (0, 1, 3, 10)],
        *[(packet(kind << 4 | (kind == 6) << 1, b"\0"), MALFORMED) for kind in (4, 5, 6, 7)],
        *[(packet(kind << 4 | (kind == 6) << 1, b"\0\0"), PROTOCOL_ERROR) for kind in (4, 5, 6, 7)],
    ],
)
def test_wrong_acknowledgements_end_the_connection(clients: Clients, version: int, frame: bytes, reason: int) -> None:
    client = clients.connect(version=version)
    client.send(frame)
    client.expect_refused(reason)


@pytest.mark.parametrize("kind", [PUBACK, PUBREC, PUBREL, PUBCOMP])
@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        (b"\0" + properties(user_property=[("a", "b")], reason_string="why"), None),
        (b"\0\0", None),
        (b"\0\1", MALFORMED),
        (b"\0\0\0", MALFORMED),
        (b"\0" + properties(content_type="a"), MALFORMED),
        (b"\0" + properties(reason_string="a")[:-1] + b"\xff", MALFORMED),
        (b"\0\6" + properties(reason_string="")[1:] * 2, PROTOCOL_ERROR),
    ],
    ids=["properties", "none", "cut", "behind", "of-another", "utf8", "twice"],
)
def test_properties_of_acknowledgements(clients: Clients, kind: int, rest: bytes, reason: int | None) -> None:
    client = clients.connect()
    client.send(packet(kind << 4 | (kind == PUBREL) << 1, b"\0\7" + rest))
    if reason is not None:
        client.expect_refused(reason)
        return
    if kind in (PUBREC, PUBREL):
        assert client.receive().reason == NOT_FOUND
    client.expect_nothing()


def test_acknowledgements_of_mqtt3_have_no_reason(clients: Clients) -> None:
    for kind in (PUBACK, PUBREC, PUBREL, PUBCOMP):
        client = clients.connect(version=4)
        client.send(packet(kind << 4 | (kind == PUBREL) << 1, b"\0\7\0"))
        client.expect_refused(MALFORMED)


# -- towards the client ------------------------------------------------------------------------------------------------


def receiving(clients: Clients, topic: str, version: int, there: int, durable: bool, qos: int) -> tuple[Placed, Packet]:
    """A subscriber on worker `there` that has been sent a message and not answered."""
    subscriber = clients.connect(version=version, worker=there, durable=durable)
    subscriber.subscribe((topic, 2))
    clients.connect(version=version).publish_all(topic, b"x", qos)
    return subscriber, subscriber.expect(PUBLISH)


@pytest.mark.statement(
    "MQTT-4.3.3-4", "MQTT-4.3.3-6", "MQTT-3.6.2-1", "MQTT-2.2.1-4", "MQTT-4.3.2-1", "MQTT-4.3.3-1", "3.1.1:MQTT-4.3.3-1"
)
@pytest.mark.parametrize("durable", [False, True], ids=["live", "durable"])
def test_repeated_answers_of_the_client(clients: Clients, topic: str, version: int, there: int, durable: bool) -> None:
    """PUBREC again brings PUBREL again; PUBACK and PUBCOMP again are passed over; nothing is delivered twice."""
    subscriber, message = receiving(clients, topic, version, there, durable, 2)
    assert message.id > 0
    for _ in range(3):
        subscriber.ack(PUBREC, message.id)
        answer = subscriber.expect(PUBREL)
        assert (answer.id, answer.reason) == (message.id, 0)
    for _ in range(3):
        subscriber.ack(PUBCOMP, message.id)
    subscriber.ack(PUBREC, message.id)
    answer = subscriber.expect(PUBREL)
    assert (answer.id, answer.reason) == (message.id, NOT_FOUND if version == 5 else 0)
    clients.connect(version=version).publish_all(topic, b"y", 1)
    following = subscriber.expect(PUBLISH)
    assert following.payload == b"y"
    for _ in range(3):
        subscriber.ack(PUBACK, following.id)
    subscriber.expect_nothing()


@pytest.mark.parametrize("durable", [False, True], ids=["live", "durable"])
@pytest.mark.parametrize(
    ("qos", "answers"),
    [(1, [PUBREC]), (1, [PUBCOMP]), (2, [PUBACK]), (2, [PUBCOMP]), (2, [PUBREC, PUBACK])],
    ids=["puback-pubrec", "puback-pubcomp", "pubrec-puback", "pubrec-pubcomp", "pubcomp-puback"],
)
def test_an_answer_of_the_other_flow_is_a_protocol_error(
    clients: Clients, topic: str, version: int, there: int, durable: bool, qos: int, answers: list[int]
) -> None:
    subscriber, message = receiving(clients, topic, version, there, durable, qos)
    for kind in answers[:-1]:
        subscriber.ack(kind, message.id)
        subscriber.expect(PUBREL)
    subscriber.ack(answers[-1], message.id)
    subscriber.expect_refused(PROTOCOL_ERROR)


@pytest.mark.statement("MQTT-4.4.0-2")
@pytest.mark.parametrize("qos", [1, 2])
def test_a_refusal_of_the_client_ends_the_message(clients: Clients, topic: str, there: int, qos: int) -> None:
    subscriber, message = receiving(clients, topic, 5, there, True, qos)
    subscriber.ack(PUBACK if qos == 1 else PUBREC, message.id, REFUSED)
    subscriber.expect_nothing()
    subscriber.close()
    subscriber = clients.connect(subscriber.client_id, worker=there, durable=True)
    assert subscriber.connack.session_present
    subscriber.expect_nothing()


def test_a_pubrel_with_reason_not_found_completes(clients: Clients, topic: str, there: int) -> None:
    client = clients.connect(worker=there)
    client.publish(topic, b"x", 2, id=3)
    client.expect(PUBREC)
    client.ack(PUBREL, 3, NOT_FOUND)
    assert client.expect(PUBCOMP).reason == 0


# -- many --------------------------------------------------------------------------------------------------------------


def test_more_messages_than_the_window_holds(clients: Clients, topic: str, version: int, there: int) -> None:
    """Acknowledged in reverse, they keep their order and come once."""
    subscriber = clients.connect(version=version, worker=there, durable=True)
    subscriber.subscribe((topic, 1))
    publisher = clients.connect(version=version)
    count, begun = 3000, 0
    for start in range(0, count, 500):
        for number in range(start, start + 500):
            publisher.publish(topic, b"%d" % number, 1)
        for _ in range(500):
            publisher.expect(PUBACK)
    while begun < count:
        batch = [subscriber.expect(PUBLISH) for _ in range(min(300, count - begun))]
        assert [each.payload for each in batch] == [b"%d" % number for number in range(begun, begun + len(batch))]
        for each in reversed(batch):
            subscriber.ack(PUBACK, each.id)
        begun += len(batch)
    subscriber.expect_nothing()


@pytest.mark.statement("MQTT-4.3.2-1", "MQTT-2.2.1-4")
@pytest.mark.parametrize("durable", [False, True], ids=["live", "durable"])
def test_a_packet_id_in_use_is_not_given_again(clients: Clients, topic: str, durable: bool) -> None:
    """One message stays open while all other packet ids are used once: delivery waits rather than to use its id."""
    subscriber = clients.connect(worker=1, durable=durable)
    subscriber.subscribe((topic, 1))
    publisher = clients.connect()
    ids, step = 65535, 1000
    for start in range(0, ids, step):
        some = range(start, min(start + step, ids))
        publisher.send(b"".join(publish_packet(topic, 1 + number) for number in some))
        for _ in some:
            publisher.expect(PUBACK)
        got = [subscriber.expect(PUBLISH).id for _ in some]
        if start == 0:
            oldest = got.pop(0)
        assert oldest not in got
        subscriber.send(b"".join(packet(PUBACK << 4, struct.pack(">H", id)) for id in got))
    publisher.publish_all(topic, b"waits", 1)
    subscriber.expect_nothing()
    subscriber.ack(PUBACK, oldest)
    last = subscriber.take()
    assert (last.payload, last.id) == (b"waits", oldest)


def publish_packet(topic: str, id: int) -> bytes:
    return packet(0x32, text(topic) + struct.pack(">HB", id, 0))
