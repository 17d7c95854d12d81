"""The end of a connection, said by either side; and PINGREQ, which keeps it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.broker import Broker, running, wait_for
from tests.mqtt import DISCONNECT, PINGRESP, Client, packet, properties, text
from tests.protocol.answers import MALFORMED, PROTOCOL_ERROR, answer, assert_ends
from tests.protocol.clients import Clients, new_name

SHUTTING_DOWN, ADMINISTRATIVE_ACTION = 0x8B, 0x98


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with running() as broker:
        yield broker


@pytest.mark.statement("MQTT-3.12.4-1")
def test_each_pingreq_is_answered(clients: Clients, version: int) -> None:
    client = clients.connect(version=version)
    client.send(packet(0xC0) * 3)
    for _ in range(3):
        assert (found := client.expect(PINGRESP)).flags == 0
        assert found.body == b""
    client.nothing()


# -- of the client ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        packet(0xE0),
        packet(0xE0, b"\0"),
        packet(0xE0, b"\4\0"),
        packet(0xE0, b"\0" + properties(session_expiry=5, reason_string="bye", user_property=[("a", "b"), ("a", "b")])),
        *(packet(0xE0, bytes([reason])) for reason in (0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99)),
    ],
)  # fmt: skip
def test_disconnect_closes_without_an_answer(broker: Broker, data: bytes) -> None:
    assert answer(broker, data, session_expiry=10) is None


def test_disconnect_of_mqtt_3_has_nothing_behind_its_header(broker: Broker) -> None:
    for version in (3, 4):
        assert answer(broker, packet(0xE0), version) is None
        assert_ends(broker, packet(0xE0, b"\0"), MALFORMED, version)


@pytest.mark.statement("MQTT-3.14.1-1", "3.1.1:MQTT-2.2.2-2")
def test_other_flags_are_malformed(broker: Broker, version: int) -> None:
    for flags in range(1, 16):
        assert_ends(broker, packet(0xE0 | flags), MALFORMED, version)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"\0" + properties(session_expiry=[5, 5]), PROTOCOL_ERROR),
        (b"\0" + properties(reason_string=["a", "b"]), PROTOCOL_ERROR),
        (b"\0" + properties(receive_maximum=5), MALFORMED),
        (b"\0\5\x11\0\0\0", MALFORMED),
        (b"\0\0!", MALFORMED),
        (b"\0\1", MALFORMED),
    ],
)
def test_wrong_properties_are_told(broker: Broker, body: bytes, reason: int) -> None:
    assert_ends(broker, packet(0xE0, body), reason)


@pytest.mark.statement("MQTT-3.14.4-1", "MQTT-3.14.4-2")
def test_what_stands_behind_disconnect_is_not_processed(clients: Clients, topic: str, version: int) -> None:
    subscriber, client = clients.connect(), clients.connect(version=version)
    subscriber.subscribe(topic)
    client.send(packet(0xE0) + packet(0x30, text(topic) + (b"\0" if version == 5 else b"") + b"late"))
    assert client.expect_closed() is None
    subscriber.nothing()


@pytest.mark.statement("MQTT-3.1.2-23", "MQTT-4.1.0-2")
@pytest.mark.parametrize(("expiry_s", "kept"), [(0, False), (1000, True), (0xFFFFFFFF, True)])
def test_disconnect_may_change_the_session_expiry(clients: Clients, expiry_s: int, kept: bool) -> None:
    first = clients.connect(durable=True)
    first.send(packet(0xE0, b"\0" + properties(session_expiry=expiry_s)))
    assert first.expect_closed() is None
    assert clients.connect(first.client_id, durable=True).connack.session_present == kept


def test_a_session_expiry_that_disconnect_prolongs_lasts(broker: Broker, clients: Clients) -> None:
    long, short = clients.connect(session_expiry=1), clients.connect(session_expiry=1)
    expired = broker.metric("mqnode_sessions_expired_total")
    long.send(packet(0xE0, b"\0" + properties(session_expiry=1000)))
    long.expect_closed()
    short.send(packet(0xE0))
    short.expect_closed()
    wait_for(lambda: broker.metric("mqnode_sessions_expired_total") > expired)
    assert clients.connect(long.client_id, durable=True).connack.session_present


def test_disconnect_cannot_make_a_session_that_was_to_end_last(clients: Clients) -> None:
    first = clients.connect(clean=False)
    first.send(packet(0xE0, b"\0" + properties(session_expiry=1)))
    last = first.expect_closed()
    assert last is not None
    assert (last.kind, last.reason) == (DISCONNECT, PROTOCOL_ERROR)
    assert not clients.connect(first.client_id, clean=False).connack.session_present


# -- of the server ---------------------------------------------------------------------------------------------------------


@pytest.mark.statement("MQTT-3.14.2-1", "MQTT-3.14.2-2", "MQTT-3.14.4-2", "MQTT-4.13.2-1")
def test_the_server_says_why_it_closes(broker: Broker, clients: Clients) -> None:
    client = clients.connect(session_expiry=1000)
    assert broker.get(f"/v1/clients/{client.client_id}", "DELETE")[0] < 300
    last = client.expect_closed()
    assert last is not None
    assert (last.kind, last.flags, last.reason) == (DISCONNECT, 0, ADMINISTRATIVE_ACTION)
    assert last.properties.keys() == {"reason_string"}


@pytest.mark.statement("MQTT-3.14.2-3", "MQTT-3.14.2-4", "MQTT-3.1.2-24")
def test_disconnect_is_not_larger_than_the_client_takes(clients: Clients) -> None:
    client = clients.connect(maximum_packet_size=20)
    client.send(packet(0x82))
    last = client.expect_closed()
    assert last is not None
    assert (last.reason, last.properties) == (MALFORMED, {})


@pytest.mark.statement("MQTT-3.14.2-1", "MQTT-4.13.2-1")
def test_a_server_that_stops_says_so() -> None:
    with running(workers=1) as broker, Client(broker.port) as five, Client(broker.port, 4) as four:
        five.connect(new_name())
        four.connect(new_name())
        assert broker.stop() == 0
        last = five.expect_closed()
        assert last is not None
        assert (last.kind, last.reason) == (DISCONNECT, SHUTTING_DOWN)
        assert four.expect_closed() is None
