"""Sessions: what clean start discards, what is kept for how long, and who gets the client id."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from tests.broker import Broker, running, wait_for
from tests.mqtt import CONNACK, DISCONNECT, PUBACK, PUBLISH, PUBREC, Client, Closed, connect_packet
from tests.protocol.clients import Clients, Placed, new_name

EXPIRY_MAX_S = 3600
SESSION_TAKEN_OVER, QUOTA_EXCEEDED = 0x8E, 0x97


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with running(f"[limits]\nmax_session_expiry_s = {EXPIRY_MAX_S}\n") as broker:
        yield broker


@pytest.fixture
def publisher(clients: Clients) -> Placed:
    return clients.connect()


def leave(client: Client) -> None:
    """DISCONNECT, and the broker's close."""
    client.send(b"\xe0\0")
    client.expect_closed()


# -- clean start ---------------------------------------------------------------------------------------------------------


@pytest.mark.statement(
    "MQTT-3.1.2-5", "MQTT-3.1.2-6", "MQTT-3.1.2-23", "MQTT-3.1.3-2", "MQTT-3.1.4-4", "MQTT-3.2.2-3", "MQTT-4.5.0-1",
    "3.1.1:MQTT-3.1.2-4", "3.1.1:MQTT-3.1.2-5", "3.1.1:MQTT-3.1.4-3", "3.1.1:MQTT-3.2.2-2", "3.1.1:MQTT-3.2.2-3",
    "3.1.1:MQTT-4.1.0-1",
)  # fmt: skip
def test_a_session_is_resumed_with_what_came_for_it(
    clients: Clients, publisher: Placed, topic: str, version: int, there: int
) -> None:
    first = clients.connect(version=version, durable=True)
    assert not first.connack.session_present
    first.subscribe((topic, 2))
    leave(first)
    publisher.publish(topic, b"0")
    publisher.publish_all(topic, b"1")
    publisher.publish_all(topic, b"2", qos=2)

    assert not clients.connect(version=version, durable=True).connack.session_present  # another client id
    again = clients.connect(first.client_id, version, there, durable=True)
    assert again.connack.session_present == (version != 3)
    found = [again.take() for _ in range(2)]
    assert [(each.payload, each.qos, each.dup) for each in found] == [(b"1", 1, False), (b"2", 2, False)]
    publisher.publish(topic, b"now")
    assert again.take().payload == b"now"


@pytest.mark.statement("MQTT-3.1.2-4", "MQTT-3.2.2-2", "3.1.1:MQTT-3.1.2-6", "3.1.1:MQTT-3.1.2-7")
def test_clean_start_discards_the_session_but_nothing_retained(
    clients: Clients, publisher: Placed, topic: str, version: int, there: int
) -> None:
    first = clients.connect(version=version, durable=True)
    first.subscribe((topic, 1))
    first.publish_all(f"{topic}/kept", b"kept", retain=True)
    leave(first)
    publisher.publish_all(topic, b"lost")

    clean = clients.connect(first.client_id, version, there, clean=True)
    assert not clean.connack.session_present
    publisher.publish_all(topic, b"lost, too")
    clean.nothing()
    clean.subscribe(f"{topic}/#")
    assert (found := clean.take()).payload == b"kept"
    assert found.retain
    leave(clean)
    again = clients.connect(first.client_id, version, durable=True)
    assert not again.connack.session_present
    again.nothing()


def test_a_session_goes_from_one_version_to_another(clients: Clients, publisher: Placed, topic: str) -> None:
    first = clients.connect(version=4, durable=True)
    first.subscribe((topic, 1))
    leave(first)
    publisher.publish_all(topic, b"1", user_property=[("a", "b")])
    five = clients.connect(first.client_id, 5, durable=True)
    assert five.connack.session_present
    assert five.take().properties == {"user_property": [("a", "b")]}
    leave(five)
    four = clients.connect(first.client_id, 4, clean=False)
    assert four.connack.session_present


@pytest.mark.statement("MQTT-4.4.0-1", "3.1.1:MQTT-4.4.0-1", "MQTT-3.1.2-5")
def test_what_was_not_acknowledged_is_sent_again(
    clients: Clients, publisher: Placed, topic: str, version: int, there: int
) -> None:
    first = clients.connect(version=version, durable=True)
    first.subscribe((topic, 2))
    publisher.publish_all(topic, b"1")
    publisher.publish_all(topic, b"2", qos=2)
    sent = [first.expect(PUBLISH) for _ in range(2)]
    first.close()
    again = clients.connect(first.client_id, version, there, durable=True)
    resent = [again.take() for _ in range(2)]
    assert [(each.id, each.payload, each.qos) for each in resent] == [
        (each.id, each.payload, each.qos) for each in sent
    ]
    assert all(each.dup for each in resent)
    again.nothing()


# -- expiry --------------------------------------------------------------------------------------------------------------


@pytest.mark.statement("MQTT-4.1.0-2", "MQTT-3.1.2-23")
def test_a_session_ends_when_its_expiry_has_passed(broker: Broker, clients: Clients) -> None:
    short = clients.connect(clean=False, session_expiry=1)
    long = clients.connect(clean=False, session_expiry=1000)
    expired = broker.metric("mqnode_sessions_expired_total")
    left = time.monotonic()
    for client in (short, long):
        leave(client)
    assert clients.connect(short.client_id, clean=False, session_expiry=1).connack.session_present
    leave(clients.connect(short.client_id, clean=False, session_expiry=1))  # takes over, and begins its second anew
    left = time.monotonic()
    wait_for(lambda: broker.metric("mqnode_sessions_expired_total") > expired)
    assert time.monotonic() - left >= 0.9
    wait_for(lambda: broker.get(f"/v1/sessions/{short.client_id}")[0] == 404)  # nothing more is kept for it
    assert not clients.connect(short.client_id, clean=False).connack.session_present
    assert clients.connect(long.client_id, clean=False).connack.session_present


def test_who_is_gone_before_it_is_let_in_does_not_count_as_connected(broker: Broker, clients: Clients) -> None:
    """Its session would stay for ever."""
    expired, closed = (broker.metric(f"mqnode_{name}_total") for name in ("sessions_expired", "connections_closed"))
    client = clients.open()
    keeper = broker.signal("keeper", signal.SIGSTOP)
    try:
        client.send(connect_packet(new_name(), clean=False, session_expiry=1))
        client.close()
        wait_for(lambda: broker.metric("mqnode_connections_closed_total") > closed)
    finally:
        os.kill(keeper, signal.SIGCONT)
    wait_for(lambda: broker.metric("mqnode_sessions_expired_total") > expired)


@pytest.mark.statement("MQTT-4.1.0-2", "MQTT-3.1.2-6")
def test_without_expiry_the_session_ends_with_the_connection(clients: Clients, topic: str) -> None:
    first = clients.connect(clean=False)
    first.subscribe((topic, 1))
    leave(first)
    again = clients.connect(first.client_id, clean=False)
    assert not again.connack.session_present
    again.publish_all(topic, b"")
    again.nothing()


@pytest.mark.statement("MQTT-4.1.0-1", "MQTT-4.1.0-2")
def test_a_connected_session_does_not_expire(clients: Clients, publisher: Placed, topic: str) -> None:
    client = clients.connect(clean=False, session_expiry=1)
    client.subscribe((topic, 1))
    with pytest.raises(TimeoutError):
        client.receive(timeout_s=2)
    publisher.publish_all(topic, b"still here")
    assert client.take().payload == b"still here"


@pytest.mark.parametrize(
    ("asked", "told"), [(0, None), (EXPIRY_MAX_S, None), (EXPIRY_MAX_S + 1, EXPIRY_MAX_S), (0xFFFFFFFF, EXPIRY_MAX_S)]
)
def test_a_longer_expiry_than_allowed_is_told(clients: Clients, asked: int, told: int | None) -> None:
    assert clients.connect(session_expiry=asked).connack.properties.get("session_expiry") == told


# -- takeover ------------------------------------------------------------------------------------------------------------


@pytest.mark.statement("MQTT-3.1.4-3", "3.1.1:MQTT-3.1.4-2", "MQTT-4.1.0-1", "MQTT-4.13.2-1")
def test_a_new_connection_takes_the_session_over(
    clients: Clients, publisher: Placed, topic: str, version: int, there: int
) -> None:
    old = clients.connect(version=version, durable=True)
    old.subscribe((topic, 1))
    publisher.publish_all(topic, b"1")
    assert old.expect(PUBLISH).payload == b"1"
    new = clients.connect(old.client_id, version, there, durable=True)
    last = old.expect_closed()
    if version == 5:
        assert last is not None
        assert (last.kind, last.reason) == (DISCONNECT, SESSION_TAKEN_OVER)
    else:
        assert last is None
    assert new.connack.session_present == (version != 3)
    assert (found := new.take()).payload == b"1"
    assert found.dup
    publisher.publish_all(topic, b"2")
    assert new.take().payload == b"2"


@pytest.mark.statement("MQTT-3.1.4-3", "MQTT-3.1.2-4")
def test_a_clean_connection_ends_the_old_one_and_its_session(
    clients: Clients, publisher: Placed, topic: str, version: int, there: int
) -> None:
    old = clients.connect(version=version, durable=True)
    old.subscribe((topic, 1))
    new = clients.connect(old.client_id, version, there)
    old.expect_closed()
    assert not new.connack.session_present
    publisher.publish_all(topic, b"")
    new.nothing()


@pytest.mark.statement("MQTT-3.1.4-3", "3.1.1:MQTT-3.1.4-2")
def test_of_many_that_come_at_once_one_stays(broker: Broker, clients: Clients, version: int) -> None:
    client_id = new_name()
    crowd = [clients.open(version, worker) for worker in (0, 1) for _ in range(4)]
    for client in crowd:
        client.send(connect_packet(client_id, version=version, clean=version != 5))
    alive = []
    for client in crowd:
        assert client.expect(CONNACK).reason == 0
    for client in crowd:
        try:
            client.nothing()
            alive.append(client)
        except (Closed, AssertionError, ConnectionError):  # closed before or after the ping
            pass
    assert len(alive) == 1


def test_a_connection_that_fails_leaves_the_old_one_alone(broker: Broker, clients: Clients) -> None:
    client = clients.connect()
    with Client(broker.port) as other:
        other.send(connect_packet(client.client_id, receive_maximum=0))
        other.expect_closed()
    client.nothing()


# -- errors of the server ---------------------------------------------------------------------------------------------------


@pytest.mark.statement("3.1.1:MQTT-4.8.0-2", "MQTT-4.3.3-9")
def test_a_message_that_cannot_be_kept_is_refused() -> None:
    """MQTT 3 has no negative acknowledgement: its connection ends, and the client sends the message again."""
    with (
        running('[limits]\nmax_queued_messages = 1\nqueue_policy = "refuse"\n', workers=1) as broker,
        Client(broker.port) as subscriber, Client(broker.port) as five, Client(broker.port, 4) as four,
    ):  # fmt: skip
        subscriber.connect("s", clean=False, session_expiry=1000)
        subscriber.subscribe(("t", 2))
        leave(subscriber)
        five.connect("five")
        assert five.publish_all("t").reason == 0
        for qos, kind in ((1, PUBACK), (2, PUBREC), (2, PUBREC)):
            refused = five.publish_all("t", qos=qos, **({"id": 7} if qos == 2 else {}))
            assert (refused.kind, refused.reason) == (kind, QUOTA_EXCEEDED)
        four.connect("four")
        four.publish("t", qos=1)
        assert four.expect_closed() is None
