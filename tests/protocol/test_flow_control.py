"""Receive maximum and maximum packet size in both directions, and the order of messages under them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import pytest

from tests.broker import Broker, running
from tests.mqtt import PINGREQ, PINGRESP, PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL, Packet, packet, properties, text
from tests.protocol.clients import Clients, Placed, new_name

RECEIVE_MAXIMUM, INFLIGHT, PACKET_BYTES = 5, 20, 4096
EXCEEDED, TOO_LARGE = 0x93, 0x95


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    limits = f"receive_maximum = {RECEIVE_MAXIMUM}\nmax_inflight = {INFLIGHT}\nmax_packet_bytes = {PACKET_BYTES}\n"
    with running(f"[limits]\n{limits}") as started:
        yield started


def numbers(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


# -- what a client may have open towards the broker --------------------------------------------------------------------


def test_the_broker_names_its_limits(clients: Clients) -> None:
    found = clients.connect().connack.properties
    assert (found["receive_maximum"], found["maximum_packet_size"]) == (RECEIVE_MAXIMUM, PACKET_BYTES)


@pytest.mark.parametrize("durable", [False, True], ids=["live", "durable"])
def test_more_qos2_than_receive_maximum_ends_the_connection(clients: Clients, topic: str, durable: bool) -> None:
    client = clients.connect(durable=durable)
    for id in range(1, RECEIVE_MAXIMUM + 1):
        client.publish(topic, b"x", 2, id=id)
        client.expect(PUBREC)
    client.publish(topic, b"x", 2, id=1, dup=True)  # a repetition is not one more
    assert client.expect(PUBREC).id == 1
    client.ack(PUBREL, 1)
    client.expect(PUBCOMP)
    client.publish(topic, b"x", 2, id=9)
    assert client.expect(PUBREC).id == 9
    client.publish(topic, b"x", 1, id=10)
    client.expect_refused(EXCEEDED)


@pytest.mark.statement("MQTT-4.9.0-1")
def test_the_quota_begins_anew_with_each_connection(clients: Clients, topic: str, there: int) -> None:
    """What is open from an earlier connection neither counts nor is it lost."""
    name = new_name()
    client = clients.connect(name, durable=True)
    old, new = range(1, RECEIVE_MAXIMUM + 1), range(101, 101 + RECEIVE_MAXIMUM)
    for id in old:
        client.publish(topic, b"x", 2, id=id)
        client.expect(PUBREC)
    client.close()
    client = clients.connect(name, worker=there, durable=True)
    for id in (*new, *old):
        client.publish(topic, b"x", 2, id=id, dup=id in old)
        assert client.expect(PUBREC).id == id
    for id in (*old, *new):
        client.ack(PUBREL, id)
        assert client.expect(PUBCOMP).reason == 0


def test_qos0_and_other_packets_pass_when_receive_maximum_is_reached(clients: Clients, topic: str, there: int) -> None:
    subscriber = clients.connect(worker=there)
    subscriber.subscribe(topic)
    client = clients.connect()
    for id in range(1, RECEIVE_MAXIMUM + 1):
        client.publish(topic, b"%d" % id, 2, id=id)
        client.expect(PUBREC)
    client.publish(topic, b"more")
    client.subscribe("other")
    client.unsubscribe("other")
    client.expect_nothing()
    assert subscriber.payloads(RECEIVE_MAXIMUM + 1)[-1] == b"more"


@pytest.mark.parametrize("version", [3, 4])
def test_mqtt3_knows_no_receive_maximum(clients: Clients, topic: str, version: int) -> None:
    client = clients.connect(version=version)
    for id in range(1, 4 * RECEIVE_MAXIMUM):
        client.publish(topic, b"x", 2, id=id)
        assert client.expect(PUBREC).id == id


# -- what the broker has open towards a client -------------------------------------------------------------------------


@pytest.mark.statement("MQTT-3.3.4-9", "MQTT-4.9.0-1", "MQTT-4.9.0-2", "MQTT-4.6.0-5", "MQTT-4.6.0-6")
@pytest.mark.parametrize("durable", [False, True], ids=["live", "durable"])
@pytest.mark.parametrize("most", [1, 3, None])
@pytest.mark.parametrize("qos", [1, 2])
def test_no_more_than_the_clients_receive_maximum_is_open(
    clients: Clients, topic: str, there: int, durable: bool, most: int | None, qos: int
) -> None:
    """The next one comes when one was completed, in order; QoS 2 is open until PUBCOMP."""
    values: dict[str, Any] = {} if most is None else {"receive_maximum": most}
    room = INFLIGHT if most is None else most
    subscriber = clients.connect(worker=there, durable=durable, **values)
    subscriber.subscribe((topic, qos))
    publisher = clients.connect()
    count = 3 * room + 2
    for payload in numbers(count):
        publisher.publish_all(topic, payload, qos)
    opened = [subscriber.expect(PUBLISH) for _ in range(room)]
    assert owed(subscriber) == []
    got = [each.payload for each in opened]
    while opened:
        message = opened[0]
        if qos == 2:
            subscriber.ack(PUBREC, message.id)
            assert subscriber.expect(PUBREL).id == message.id
            assert owed(subscriber) == []
        subscriber.ack(PUBACK if qos == 1 else PUBCOMP, message.id)
        del opened[0]
        following = owed(subscriber)
        if not opened and not following and len(got) < count:
            following = [subscriber.expect(PUBLISH)]  # read from the store, which may take its time
        opened += following
        got += [each.payload for each in following]
        assert len(opened) <= room
    assert got == numbers(count)
    subscriber.expect_nothing()


def owed(client: Placed) -> list[Packet]:
    """The messages that the server owes; twice, since what is read from the store may come behind the first answer."""
    found: list[Packet] = []
    for _ in range(2):
        client.send(packet(PINGREQ << 4))
        while (got := client.receive()).kind == PUBLISH:
            found.append(got)
        assert got.kind == PINGRESP
    return found


@pytest.mark.statement("MQTT-3.3.4-10", "MQTT-4.9.0-3")
@pytest.mark.parametrize("durable", [False, True], ids=["live", "durable"])
def test_other_packets_pass_when_the_clients_receive_maximum_is_reached(
    clients: Clients, topic: str, there: int, durable: bool
) -> None:
    """QoS 0, SUBACK, UNSUBACK, PINGRESP, and the answers to what the client publishes."""
    subscriber = clients.connect(worker=there, durable=durable, receive_maximum=1)
    subscriber.subscribe((topic, 1))
    publisher = clients.connect()
    for payload in numbers(3):
        publisher.publish_all(topic, payload, 1)
    opened = subscriber.expect(PUBLISH)
    publisher.publish(topic, b"at once")
    assert subscriber.take().payload == b"at once"
    subscriber.subscribe("other")
    subscriber.unsubscribe("other")
    for qos in (1, 2):
        subscriber.publish_all(new_name("t/"), b"x", qos)
    subscriber.expect_nothing()
    subscriber.ack(PUBACK, opened.id)
    assert subscriber.payloads(2) == [b"1", b"2"]


@pytest.mark.statement("MQTT-4.9.0-2", "MQTT-4.4.0-1")
def test_the_receive_maximum_of_the_new_connection_counts(clients: Clients, topic: str, there: int) -> None:
    """A session of wide window comes back with a narrow one."""
    name = new_name()
    subscriber = clients.connect(name, worker=there, durable=True)
    subscriber.subscribe((topic, 2))
    publisher = clients.connect()
    for payload in numbers(6):
        publisher.publish_all(topic, payload, 2)
    sent = [subscriber.expect(PUBLISH) for _ in range(6)]
    for each in sent[:3]:
        subscriber.ack(PUBREC, each.id)
        subscriber.expect(PUBREL)
    subscriber.close()
    subscriber = clients.connect(name, worker=1 - there, durable=True, receive_maximum=1)
    for each in sent[:3]:
        assert subscriber.expect(PUBREL).id == each.id
        subscriber.ack(PUBCOMP, each.id)
    for each in sent[3:]:
        again = subscriber.expect(PUBLISH)
        assert (again.id, again.dup) == (each.id, True)
        subscriber.expect_nothing()
        subscriber.ack(PUBREC, each.id)
        subscriber.expect(PUBREL)
        subscriber.ack(PUBCOMP, each.id)
    subscriber.expect_nothing()


@pytest.mark.statement("MQTT-4.9.0-2")
@pytest.mark.parametrize("durable", [False, True], ids=["live", "durable"])
def test_a_refused_message_makes_room(clients: Clients, topic: str, there: int, durable: bool) -> None:
    subscriber = clients.connect(worker=there, durable=durable, receive_maximum=1)
    subscriber.subscribe((topic, 2))
    publisher = clients.connect()
    for payload, qos in zip(numbers(4), (1, 2, 1, 2), strict=True):
        publisher.publish_all(topic, payload, qos)
    for payload, kind in zip(numbers(4), (PUBACK, PUBREC, PUBACK, PUBREC), strict=True):
        got = subscriber.expect(PUBLISH)
        assert got.payload == payload
        subscriber.ack(kind, got.id, 0x80)
    subscriber.expect_nothing()


# -- packet size -------------------------------------------------------------------------------------------------------


def sized(version: int, topic: str, total: int, qos: int = 1) -> bytes:
    """A PUBLISH of `total` bytes, all headers included."""
    head = text(topic) + (b"\0\1" if qos else b"") + (properties() if version == 5 else b"")
    found = packet(0x30 | qos << 1, head + bytes(total - 3 - len(head)))
    assert len(found) == total
    return found


def test_a_packet_beyond_the_brokers_maximum_ends_the_connection(clients: Clients, topic: str, version: int) -> None:
    client = clients.connect(version=version)
    client.send(sized(version, topic, PACKET_BYTES))
    assert client.expect(PUBACK).id == 1
    client.send(sized(version, topic, PACKET_BYTES + 1))
    client.expect_refused(TOO_LARGE)


def test_the_header_is_enough_to_refuse_a_large_packet(clients: Clients, version: int) -> None:
    client = clients.connect(version=version)
    client.send(b"\x30\xff\xff\xff\x7f")
    client.expect_refused(TOO_LARGE)


@pytest.mark.statement("MQTT-2.1.3-1", "MQTT-1.5.5-1")
@pytest.mark.parametrize("length", [b"\xff\xff\xff\xff\x7f", b"\x80\x80\x80\x80\x01", b"\x80\x00"])
def test_a_malformed_remaining_length_ends_the_connection(clients: Clients, version: int, length: bytes) -> None:
    client = clients.connect(version=version)
    client.send(b"\xc0" + length)
    client.expect_refused(0x81)


@pytest.mark.statement("MQTT-3.1.2-24", "MQTT-3.1.2-25")
@pytest.mark.parametrize("way", ["live", "queued", "retained"])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_message_beyond_the_clients_maximum_is_passed_over(
    clients: Clients, topic: str, broker: Broker, there: int, way: str, qos: int
) -> None:
    """The others come, nothing is left open, and it is counted."""
    dropped = 'mqnode_messages_dropped_total{reason="too_large"}'
    before = broker.metric(dropped)
    limit = 2 + 2 + len(topic) + 2 + (2 if qos else 0) + 1 + 50
    publisher = clients.connect()
    subscriber = clients.connect(worker=there, durable=way == "queued", maximum_packet_size=limit, receive_maximum=1)
    name = f"{topic}/+"
    if way != "retained":
        subscriber.subscribe((name, qos))
    payloads = [b"a" + bytes(49), bytes(51), b"b", bytes(1000), b"c" + bytes(49)]
    for number, payload in enumerate(payloads):
        publisher.publish_all(f"{topic}/{number}", payload, qos or 1, retain=way == "retained")
    if way == "retained":
        subscriber.subscribe((name, qos))
    assert sorted(subscriber.payloads(3)) == sorted(payloads[::2])
    subscriber.expect_nothing()
    if way == "queued":
        subscriber.close()
        clients.connect(subscriber.client_id, durable=True).expect_nothing()
    wait = clients.connect(worker=there)  # the figures are the workers' own: read when all is done
    wait.expect_nothing()
    assert broker.metric(dropped) - before == 2


@pytest.mark.statement("MQTT-3.1.2-24")
@pytest.mark.parametrize("durable", [False, True], ids=["live", "durable"])
def test_what_the_broker_adds_counts_for_the_clients_maximum(
    clients: Clients, topic: str, there: int, durable: bool
) -> None:
    """A subscription identifier, and the expiry."""
    plain = 1000
    for extra, options, values in (
        (3, {"subscription_identifier": [200]}, {}),
        (5, {}, {"message_expiry": 100}),
    ):
        for fits in (0, 1):
            subscriber = clients.connect(worker=there, durable=durable, maximum_packet_size=plain - 1 + extra + fits)
            subscriber.subscribe((topic, 1), **options)
            publisher = clients.connect()
            publisher.publish_all(topic, bytes(plain - 6 - len(text(topic))), **values)
            publisher.publish_all(topic, b"short", 1)
            found = subscriber.payloads(1 + fits)
            assert found[-1] == b"short"
            subscriber.unsubscribe(topic)


@pytest.mark.statement("MQTT-3.1.2-24")
def test_a_message_too_large_for_one_reaches_the_others(clients: Clients, topic: str, version: int, there: int) -> None:
    small = clients.connect(worker=there, maximum_packet_size=100)
    others = [clients.connect(version=version, worker=worker) for worker in (0, 1)]
    for client in (small, *others):
        client.subscribe((topic, 1))
    publisher = clients.connect(version=version)
    for payload in (bytes(500), b"short"):
        publisher.publish_all(topic, payload, 1)
    assert small.payloads(1) == [b"short"]
    assert [client.payloads(2) for client in others] == [[bytes(500), b"short"]] * 2


@pytest.mark.statement(
    "MQTT-3.1.2-24", "MQTT-3.4.2-2", "MQTT-3.4.2-3", "MQTT-3.5.2-2", "MQTT-3.5.2-3", "MQTT-3.6.2-2", "MQTT-3.6.2-3",
    "MQTT-3.7.2-2", "MQTT-3.7.2-3", "MQTT-3.9.2-1", "MQTT-3.9.2-2", "MQTT-3.11.2-1", "MQTT-3.11.2-2",
)  # fmt: skip
def test_answers_fit_a_small_client(clients: Clients) -> None:
    """Refusals, too: acknowledgements come without reason string and user properties."""
    client = clients.connect(maximum_packet_size=20)
    for qos in (1, 2):
        client.publish("$no", b"x", qos)
        client.publish("nobody", b"x", qos, id=9)
    client.ack(PUBREL, 77)
    client.ack(PUBREC, 77)
    answers = [client.receive() for _ in range(6)]
    answers += [client.subscribe("a/#/b"), client.unsubscribe("not there")]
    assert [each.reason for each in answers[:6]] == [0x87, 0x10, 0x87, 0x10, 0x92, 0x92]
    assert [each.kind for each in answers[:6]] == [PUBACK, PUBACK, PUBREC, PUBREC, PUBCOMP, PUBREL]
    assert not any(each.properties for each in answers)
    assert all(2 + len(each.body) <= 20 for each in answers)
    client.send(packet(0x30, b""))
    assert client.expect_closed() is not None


# -- order -------------------------------------------------------------------------------------------------------------


@pytest.mark.statement("MQTT-4.6.0-5", "MQTT-4.6.0-6")
@pytest.mark.parametrize("durable", [False, True], ids=["live", "durable"])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_messages_of_a_topic_keep_their_order(
    clients: Clients, topic: str, version: int, there: int, durable: bool, qos: int
) -> None:
    """Of each publisher, on either worker, whether they wait in a window or not."""
    subscriber = clients.connect(version=version, worker=there, durable=durable)
    subscriber.subscribe((f"{topic}/+", qos))
    publishers = [clients.connect(version=version, worker=worker) for worker in (0, 1)]
    for start in range(0, 60, RECEIVE_MAXIMUM):
        for which, publisher in enumerate(publishers):
            for number in range(start, start + RECEIVE_MAXIMUM):
                publisher.publish(f"{topic}/{which}", b"%d" % number, qos)
        for publisher in publishers:
            answers = [publisher.receive() for _ in range(RECEIVE_MAXIMUM if qos else 0)]
            for each in answers if qos == 2 else []:
                assert each.kind == PUBREC
                publisher.ack(PUBREL, each.id)
                assert publisher.expect(PUBCOMP).id == each.id
    found = subscriber.take_all(120)
    for which in (0, 1):
        mine = [each.payload for each in found if each.topic.endswith(f"/{which}")]
        assert mine == numbers(60)


@pytest.mark.statement("MQTT-4.6.0-5")
def test_mixed_qos_of_a_durable_session_keep_the_order_of_each_qos(clients: Clients, topic: str, there: int) -> None:
    subscriber = clients.connect(worker=there, durable=True)
    subscriber.subscribe((topic, 2))
    publisher = clients.connect()
    for payload in numbers(30):
        qos = int(payload) % 3
        publisher.publish_all(topic, payload, qos) if qos else publisher.publish(topic, payload)
    found = subscriber.take_all(30)
    for qos in range(3):
        assert [each.payload for each in found if each.qos == qos] == numbers(30)[qos::3]


def test_a_window_of_one_and_many_waiting(clients: Clients, topic: str, version: int, there: int) -> None:
    """QoS 0 passes what waits; nothing is lost when the subscriber goes on."""
    values: dict[str, Any] = {"receive_maximum": 1} if version == 5 else {}
    subscriber = clients.connect(version=version, worker=there, **values)
    subscriber.subscribe((topic, 1))
    publisher = clients.connect(version=version)
    for number in range(100):
        publisher.publish_all(topic, struct.pack(">I", number), 1)
    assert subscriber.payloads(100) == [struct.pack(">I", number) for number in range(100)]
