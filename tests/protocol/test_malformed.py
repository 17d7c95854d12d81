"""What is not MQTT ends the connection with the reason that the specification gives, and nobody else notices."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from tests.broker import Broker, running
from tests.mqtt import (
    CONNACK,
    DISCONNECT,
    PUBACK,
    PUBLISH,
    SUBACK,
    UNSUBACK,
    Client,
    connect_packet,
    packet,
    properties,
    text,
    varint,
)
from tests.protocol.answers import MALFORMED, PROTOCOL_ERROR, assert_ends, assert_refused, connect_bytes, first_answer
from tests.protocol.clients import Clients, new_name

PACKET_TOO_LARGE = 0x95
MAX_PACKET_BYTES = 2_200_000

# One valid packet of each type that a client may send behind CONNECT; MQTT 3 has no properties and no AUTH.
PUBLISH_1, SUBSCRIBE, UNSUBSCRIBE = 0x32, 0x82, 0xA2
BODIES = {
    PUBLISH_1: text("t/x") + b"\0\1" + properties(content_type="text") + b"payload",
    0x40: b"\0\1\0" + properties(reason_string="r", user_property=[("a", "b")]),
    0x50: b"\0\1\x80" + properties(reason_string="r"),
    0x62: b"\0\1\x92" + properties(reason_string="r"),
    0x70: b"\0\1\x92" + properties(reason_string="r"),
    SUBSCRIBE: b"\0\1" + properties(subscription_identifier=200) + text("f/#") + b"\1",
    UNSUBSCRIBE: b"\0\1" + properties(user_property=[("a", "b")]) + text("f/#"),
    0xE0: b"\0" + properties(session_expiry=0, reason_string="r"),
}
BODIES_3 = {
    PUBLISH_1: text("t/x") + b"\0\1", 0x40: b"\0\1", 0x50: b"\0\1", 0x62: b"\0\1", 0x70: b"\0\1",
    SUBSCRIBE: b"\0\1" + text("f/#") + b"\1", UNSUBSCRIBE: b"\0\1" + text("f/#"),
}  # fmt: skip


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with running(f"[limits]\nmax_packet_bytes = {MAX_PACKET_BYTES}\n") as broker:
        yield broker


@pytest.fixture(scope="module", autouse=True)
def bystander(broker: Broker) -> Iterator[None]:
    """Another client, which goes on as if nothing had happened."""
    with Client(broker.port) as client:
        client.connect("bystander", keep_alive=0)
        client.subscribe("nothing/of/this")
        yield
        client.nothing()
        assert broker.errors() == []


# -- fixed header ------------------------------------------------------------------------------------------------------------


@pytest.mark.statement(
    "MQTT-2.1.3-1", "MQTT-3.6.1-1", "MQTT-3.8.1-1", "MQTT-3.10.1-1", "MQTT-3.14.1-1", "MQTT-3.15.1-1", "MQTT-4.13.1-1",
    "3.1.1:MQTT-2.2.2-2",
)  # fmt: skip
@pytest.mark.parametrize("kind", [4, 5, 6, 7, 8, 10, 12, 14])
def test_every_wrong_flag_is_malformed(broker: Broker, version: int, kind: int) -> None:
    right = 2 if kind in (6, 8, 10) else 0
    body = b"" if kind in (12, 14) else (BODIES if version == 5 else BODIES_3)[kind << 4 | right]
    for flags in set(range(16)) - {right}:
        assert_ends(broker, packet(kind << 4 | flags, body), MALFORMED, version)


@pytest.mark.statement("MQTT-2.1.3-1", "MQTT-3.15.1-1")
@pytest.mark.parametrize("first", [0x11, 0x12, 0x1F])
def test_wrong_flags_of_connect_are_refused(broker: Broker, first: int, version: int) -> None:
    whole = connect_packet("c", version=version)
    assert first_answer(broker, bytes([first]) + whole[1:], version) is None


@pytest.mark.statement("MQTT-4.13.1-1")
@pytest.mark.parametrize("kind", [0, 2, 9, 11, 13])
def test_types_that_no_client_sends_are_protocol_errors(broker: Broker, version: int, kind: int) -> None:
    assert_ends(broker, packet(kind << 4, b"\0\1\0"), PROTOCOL_ERROR, version)


def test_auth_is_no_packet_of_mqtt_3(broker: Broker) -> None:
    for version in (3, 4):
        assert_ends(broker, packet(0xF0, b"\x19\0"), PROTOCOL_ERROR, version)


# -- remaining length ----------------------------------------------------------------------------------------------------------


@pytest.mark.statement("MQTT-1.5.5-1")
@pytest.mark.parametrize("data", [b"\x30\xff\xff\xff\xff\1", b"\xc0\x80\x80\x80\x80\0", b"\x30\xff\xff\xff\xff"])
def test_a_remaining_length_of_five_bytes_is_malformed(broker: Broker, version: int, data: bytes) -> None:
    assert_ends(broker, data, MALFORMED, version)
    assert first_answer(broker, b"\x10" + data[1:], version) is None


@pytest.mark.statement("MQTT-1.5.5-1")
@pytest.mark.parametrize("data", [b"\xc0\x80\0", b"\xc0\x80\x80\0", b"\xc0\x80\x80\x80\0", b"\xe0\x80\0"])
def test_a_longer_remaining_length_than_needed_is_malformed(broker: Broker, data: bytes) -> None:
    assert_ends(broker, data, MALFORMED)


@pytest.mark.parametrize("length", [127, 128, 16_383, 16_384, 2_097_151, 2_097_152])
def test_every_form_of_remaining_length_is_read_and_written(
    clients: Clients, topic: str, version: int, length: int
) -> None:
    client = clients.connect(version=version)
    client.subscribe(topic)
    head = text(topic) + (b"\0" if version == 5 else b"")
    payload = b"x" * (length - len(head))
    client.send(packet(0x30, head + payload))
    found = client.take()
    assert len(found.body) == length
    assert found.payload == payload


@pytest.mark.parametrize("length", [MAX_PACKET_BYTES, 268_435_455])
def test_a_packet_beyond_the_limit_is_too_large(clients: Clients, version: int, length: int) -> None:
    client = clients.connect(version=version)
    if version == 5:
        assert client.connack.properties["maximum_packet_size"] == MAX_PACKET_BYTES
    client.send(b"\x30" + varint(length))
    last = client.expect_closed()
    assert (last is not None and last.reason == PACKET_TOO_LARGE) if version == 5 else last is None


# -- bodies ------------------------------------------------------------------------------------------------------------------


@pytest.mark.statement("MQTT-3.1.4-1", "3.1.1:MQTT-3.1.4-1", "MQTT-3.1.3-3", "MQTT-4.13.1-1")
def test_a_connect_that_is_cut_off_is_refused(broker: Broker, version: int) -> None:
    options = {"session_expiry": 0, "user_property": [("a", "b")]} if version == 5 else {}
    will = ("w", b"gone", 1, False)
    whole = connect_packet("c", version=version, will=will, user="u", password=b"p", **options)
    body = whole[2:]
    for size in range(len(body)):
        found = first_answer(broker, packet(0x10, body[:size]), version)
        told = version == 5 and size >= 7  # it had said that it speaks MQTT 5
        assert (found is not None and (found.kind, found.reason) == (CONNACK, MALFORMED)) if told else found is None, (
            size
        )
    assert_refused(broker, packet(0x10, body + b"!"), MALFORMED, version)


@pytest.mark.statement("MQTT-4.13.1-1", "MQTT-4.13.2-1")
@pytest.mark.parametrize("first", BODIES, ids=hex)
def test_a_packet_that_is_cut_off_is_malformed(broker: Broker, first: int) -> None:
    whole = BODIES[first]
    optional = {PUBLISH_1: len(whole) - len(b"payload"), 0xE0: 2}  # from there on it may end anywhere, or here
    for size in range(len(whole)):
        if first == PUBLISH_1 and size >= optional[first]:
            break
        if first in (0x40, 0x50, 0x62, 0x70) and size in (2, 3):
            continue  # without reason, without properties
        if first == 0xE0 and size in (0, 1):
            continue
        reason = PROTOCOL_ERROR if first in (SUBSCRIBE, UNSUBSCRIBE) and size == _head(whole) else MALFORMED
        assert_ends(broker, packet(first, whole[:size]), reason)


def _head(whole: bytes) -> int:
    """Where the first filter begins: a packet that ends there has none, which is a protocol error."""
    return 3 + whole[2]


@pytest.mark.parametrize("first", BODIES_3, ids=hex)
def test_a_packet_of_mqtt_3_that_is_cut_off_ends_the_connection(broker: Broker, first: int) -> None:
    for version in (3, 4):
        for size in range(len(BODIES_3[first])):
            assert_ends(broker, packet(first, BODIES_3[first][:size]), MALFORMED, version)


@pytest.mark.parametrize("first", [0x40, 0x50, 0x62, 0x70, 0xC0, 0xE0], ids=hex)
def test_bytes_behind_a_packet_are_malformed(broker: Broker, version: int, first: int) -> None:
    body = b"" if first == 0xC0 else BODIES.get(first, b"") if version == 5 else BODIES_3.get(first, b"")
    assert_ends(broker, packet(first, body + b"!"), MALFORMED, version)


@pytest.mark.statement("3.1.1:MQTT-2.3.1-1")
@pytest.mark.parametrize("first", [PUBLISH_1, 0x34, 0x40, 0x50, 0x62, 0x70, SUBSCRIBE, UNSUBSCRIBE], ids=hex)
def test_a_packet_identifier_of_0_is_a_protocol_error(broker: Broker, version: int, first: int) -> None:
    whole = (BODIES if version == 5 else BODIES_3)[PUBLISH_1 if first == 0x34 else first]
    assert_ends(broker, packet(first, whole.replace(b"\0\1", b"\0\0", 1)), PROTOCOL_ERROR, version)


# -- properties ----------------------------------------------------------------------------------------------------------------

NO_PROPERTY = [b"\x7f\0", b"\x00\0", b"\x04\0", b"\xff\1\0", b"\x80\1\0"]
# which properties each type may have (table 2-4); all others are malformed there
ALLOWED = {
    0x10: {17, 33, 39, 34, 25, 23, 38, 21, 22}, PUBLISH_1: {1, 2, 3, 8, 9, 11, 35, 38}, 0x40: {31, 38},
    0x50: {31, 38}, 0x62: {31, 38}, 0x70: {31, 38}, SUBSCRIBE: {11, 38}, UNSUBSCRIBE: {38}, 0xE0: {17, 28, 31, 38},
}  # fmt: skip
ALL = [properties(**{name: value})[1:] for name, value in {
    "payload_format": 1, "message_expiry": 1, "content_type": "a", "response_topic": "a", "correlation_data": b"a",
    "subscription_identifier": 1, "session_expiry": 1, "assigned_client_id": "a", "server_keep_alive": 1,
    "authentication_method": "a", "authentication_data": b"a", "request_problem": 1, "will_delay": 1,
    "request_response": 1, "response_information": "a", "server_reference": "a", "reason_string": "a",
    "receive_maximum": 1, "topic_alias_maximum": 1, "topic_alias": 1, "maximum_qos": 1, "retain_available": 1,
    "user_property": [("a", "b")], "maximum_packet_size": 9, "wildcard_available": 1, "identifiers_available": 1,
    "shared_available": 1,
}.items()]  # fmt: skip


def with_properties(first: int, found: bytes) -> bytes:
    """A packet of this type with these properties."""
    found = varint(len(found)) + found
    if first == 0x10:
        return connect_bytes(properties=found)
    if first == PUBLISH_1:
        return packet(first, text("t/x") + b"\0\1" + found)
    if first in (SUBSCRIBE, UNSUBSCRIBE):
        return packet(first, b"\0\1" + found + text("f") + (b"\0" if first == SUBSCRIBE else b""))
    return packet(first, (b"\0" if first == 0xE0 else b"\0\1\0") + found)


def assert_wrong(broker: Broker, first: int, found: bytes, reason: int) -> None:
    (assert_refused if first == 0x10 else assert_ends)(broker, with_properties(first, found), reason)


@pytest.mark.statement("MQTT-4.13.1-1")
@pytest.mark.parametrize("first", ALLOWED, ids=hex)
def test_a_property_that_does_not_belong_there_is_malformed(broker: Broker, first: int) -> None:
    for found in [*NO_PROPERTY, *(each for each in ALL if each[0] not in ALLOWED[first])]:
        assert_wrong(broker, first, found, MALFORMED)


@pytest.mark.statement("MQTT-4.13.1-1")
@pytest.mark.parametrize("first", ALLOWED, ids=hex)
def test_a_property_that_stands_there_twice_is_a_protocol_error(broker: Broker, first: int) -> None:
    for found in ALL:
        if found[0] in ALLOWED[first] - {38}:
            assert_wrong(broker, first, found * 2, PROTOCOL_ERROR)


@pytest.mark.parametrize("first", ALLOWED, ids=hex)
def test_a_property_that_is_cut_off_is_malformed(broker: Broker, first: int) -> None:
    for found in ALL:
        if found[0] in ALLOWED[first] and (first, found[0]) != (PUBLISH_1, 11):  # an error, cut off or not
            assert_wrong(broker, first, found[:-1], MALFORMED)


@pytest.mark.statement("MQTT-3.3.4-6")
def test_values_that_are_not_allowed_are_protocol_errors(broker: Broker) -> None:
    assert_ends(broker, with_properties(PUBLISH_1, b"\x01\2"), PROTOCOL_ERROR)
    assert_ends(broker, with_properties(PUBLISH_1, b"\x0b\1"), PROTOCOL_ERROR)
    assert_ends(broker, with_properties(SUBSCRIBE, b"\x0b\0"), PROTOCOL_ERROR)


@pytest.mark.statement("MQTT-1.5.5-1")
def test_longer_lengths_of_properties_than_needed_are_malformed(broker: Broker) -> None:
    assert_refused(broker, connect_bytes(properties=b"\x80\0"), MALFORMED)
    assert_ends(broker, packet(PUBLISH_1, text("t") + b"\0\1\x80\0"), MALFORMED)
    assert_ends(broker, packet(SUBSCRIBE, b"\0\1\x80\0" + text("f") + b"\0"), MALFORMED)
    assert_ends(broker, with_properties(SUBSCRIBE, b"\x0b\x81\0"), MALFORMED)


@pytest.mark.statement("MQTT-2.2.2-1")
def test_the_server_writes_a_property_length_of_0(clients: Clients, topic: str) -> None:
    client = clients.connect()
    assert client.subscribe((topic, 1)).body == struct.pack(">H", 1) + b"\0\1"
    client.publish(topic, b"p")
    assert client.expect(PUBLISH).body == text(topic) + b"\0p"
    assert client.unsubscribe(topic).body[2:] == b"\0\0"


def test_a_client_that_breaks_the_rules_disturbs_no_other(broker: Broker, clients: Clients, topic: str) -> None:
    client = clients.connect()
    client.subscribe((topic, 1))
    with Client(broker.port) as bad:
        bad.connect(new_name())
        bad.send(packet(0x32, text(topic) + b"\0\1\0good") + packet(0x36, b"bad") + packet(0x32, text(topic)))
        kinds = [bad.receive().kind, bad.receive().kind]
        assert set(kinds) <= {PUBACK, DISCONNECT, SUBACK, UNSUBACK}
    assert client.take().payload == b"good"
    client.nothing()
