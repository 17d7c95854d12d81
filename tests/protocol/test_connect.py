"""CONNECT and CONNACK: who is accepted, how the others are refused, and what both sides tell each other."""

from __future__ import annotations

import string
import time
from collections.abc import Iterator

import pytest

from tests.broker import Broker, free_port, running
from tests.mqtt import (
    CONNACK,
    DISCONNECT,
    PINGRESP,
    PUBACK,
    SUBACK,
    Client,
    connect_packet,
    packet,
    properties,
    text,
)
from tests.protocol.answers import assert_refused, connect_bytes, first_answer
from tests.protocol.clients import Clients, new_name

PROTOCOL_ERROR, CLIENT_ID_NOT_VALID, TOO_LARGE, UNSUPPORTED_VERSION = 0x82, 0x85, 0x95, 0x84
KEEP_ALIVE_TIMEOUT = 0x8D
CLIENT_ID_BYTES_MAX, KEEP_ALIVE_MAX_S = 30, 600
ONLY_311 = free_port()


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    more = f'[[listeners]]\ntype = "tcp"\nbind = "127.0.0.1:{ONLY_311}"\nprotocol_versions = [4]\n'
    more += f"[limits]\nmax_client_id_bytes = {CLIENT_ID_BYTES_MAX}\nmax_keepalive_s = {KEEP_ALIVE_MAX_S}\n"
    with running(more) as broker:
        yield broker


# -- accepted ------------------------------------------------------------------------------------------------------------


@pytest.mark.statement(
    "MQTT-3.1.4-5", "MQTT-3.2.2-1", "MQTT-3.2.2-8", "MQTT-4.2-1", "3.1.1:MQTT-3.1.4-4", "3.1.1:MQTT-3.2.0-1",
    "3.1.1:MQTT-7.0.0-2", "3.1.1:MQTT-7.1.1-1",
)  # fmt: skip
def test_a_connect_is_answered_by_one_connack(broker: Broker, version: int) -> None:
    with Client(broker.port, version) as client:
        client.send(connect_packet(new_name(), version=version))
        connack = client.expect(CONNACK)
        assert (connack.flags, connack.body[:2]) == (0, b"\0\0")
        assert len(connack.body) == 2 or version == 5
        client.nothing()


@pytest.mark.statement("MQTT-3.2.2-9", "MQTT-3.1.2-28", "MQTT-4.12.0-6")
def test_connack_tells_the_limits_of_the_server_and_no_more(clients: Clients) -> None:
    told = clients.connect(request_response=0, user_property=[("a", "b")]).connack.properties
    assert told.keys() == {"receive_maximum", "topic_alias_maximum", "maximum_packet_size"}


@pytest.mark.statement("MQTT-3.2.2-10", "MQTT-3.2.2-12", "MQTT-3.2.2-13", "3.1.1:MQTT-3.8.3-2")
def test_every_qos_and_retain_and_wildcards_are_supported(clients: Clients, topic: str, version: int) -> None:
    client = clients.connect(version=version, will=(topic, b"", 2, True))
    assert client.subscribe((f"{topic}/0/+", 0), (f"{topic}/1/#", 1), (f"{topic}/2", 2)).reasons == [0, 1, 2]


@pytest.mark.statement("MQTT-3.2.0-1")
def test_what_was_sent_behind_connect_waits_for_connack(broker: Broker, version: int) -> None:
    with Client(broker.port, version) as client:
        subscribe = packet(0x82, b"\0\1" + (b"\0" if version == 5 else b"") + text(new_name("t")) + b"\0")
        client.send(connect_packet(new_name(), version=version) + subscribe + packet(0xC0))
        assert client.receive().kind == CONNACK
        assert {client.receive().kind, client.receive().kind} == {SUBACK, PINGRESP}


def test_a_connect_may_come_byte_by_byte(broker: Broker, version: int) -> None:
    with Client(broker.port, version) as client:
        for byte in connect_packet(new_name(), version=version):
            client.send(bytes([byte]))
        assert client.expect(CONNACK).reason == 0


# -- not a CONNECT ---------------------------------------------------------------------------------------------------------


@pytest.mark.statement("MQTT-3.1.0-1", "MQTT-3.14.0-1", "3.1.1:MQTT-3.2.2-6")
@pytest.mark.parametrize("kind", [0, *range(2, 16)])
def test_another_first_packet_ends_the_connection_without_an_answer(broker: Broker, kind: int) -> None:
    flags = 2 if kind in (6, 8, 10) else 0
    assert first_answer(broker, packet(kind << 4 | flags, b"\0\1\0\0\1a\0")) is None


@pytest.mark.statement("MQTT-3.1.0-2", "MQTT-3.2.0-2")
def test_a_second_connect_ends_the_connection(clients: Clients, version: int) -> None:
    client = clients.connect(version=version)
    client.send(connect_packet(client.client_id, version=version))
    last = client.expect_closed()
    assert (last.kind, last.reason) == (DISCONNECT, PROTOCOL_ERROR) if last and version == 5 else last is None


@pytest.mark.statement("MQTT-3.1.2-1", "3.1.1:MQTT-3.1.2-1")
@pytest.mark.parametrize(
    ("name", "level"), [("mqtt", 4), ("MQTX", 5), ("", 4), ("MQIsdp", 4), ("MQIsdp", 5), ("MQTT", 3), ("MQTT ", 5)]
)
def test_another_protocol_name_is_refused(broker: Broker, name: str, level: int) -> None:
    found = first_answer(broker, connect_bytes(5 if level == 5 else 4, name=text(name), level=level), version=4)
    assert found is None or (found.kind == CONNACK and found.reason in (1, UNSUPPORTED_VERSION))


@pytest.mark.statement("MQTT-3.1.2-2", "3.1.1:MQTT-3.1.2-2")
@pytest.mark.parametrize("level", [0, 1, 2, 6, 0x80, 0x83, 0x84, 0xFF])
def test_another_protocol_version_is_refused(broker: Broker, level: int) -> None:
    found = first_answer(broker, connect_bytes(4, level=level), version=4)
    assert found is not None
    assert (found.kind, found.reason) == (CONNACK, 1)


@pytest.mark.statement("MQTT-3.1.2-2", "3.1.1:MQTT-3.1.2-2", "MQTT-3.2.2-6", "MQTT-3.2.2-7", "3.1.1:MQTT-3.2.2-5")
@pytest.mark.parametrize(("version", "reason"), [(3, 1), (5, UNSUPPORTED_VERSION)])
def test_a_version_that_the_listener_does_not_speak_is_refused(broker: Broker, version: int, reason: int) -> None:
    with Client(ONLY_311, version) as client:
        client.send(connect_packet(new_name(), version=version))
        found = client.expect_closed()
        assert found is not None
        assert (found.kind, found.reason, found.session_present) == (CONNACK, reason, False)
    with Client(ONLY_311, 4) as client:
        client.connect(new_name())


# -- client identifiers -----------------------------------------------------------------------------------------------------


@pytest.mark.statement("MQTT-3.1.3-5", "MQTT-3.1.3-3")
@pytest.mark.parametrize("length", [1, 22, 23])
def test_short_ids_of_digits_and_letters_are_accepted(clients: Clients, length: int, version: int) -> None:
    every = string.digits + string.ascii_letters
    for start in range(0, len(every), length):
        clients.connect((every[start:] + every)[:length], version)


@pytest.mark.statement("MQTT-3.1.3-6", "MQTT-3.1.3-7", "MQTT-3.2.2-16")
def test_an_empty_id_gets_a_new_one_which_names_its_session(broker: Broker) -> None:
    with Client(broker.port) as first, Client(broker.port) as second:
        ids = [client.connect("", session_expiry=1000).properties["assigned_client_id"] for client in (first, second)]
        assert ids[0] != ids[1]
        first.disconnect()
        with Client(broker.port) as again:
            connack = again.connect(ids[0], clean=False)
            assert connack.session_present
            assert "assigned_client_id" not in connack.properties
        second.nothing()


@pytest.mark.statement("3.1.1:MQTT-3.1.3-6")
def test_an_empty_id_is_accepted_for_a_clean_session(broker: Broker) -> None:
    with Client(broker.port, 4) as first, Client(broker.port, 4) as second:
        first.connect("")
        second.connect("")
        first.nothing()


@pytest.mark.statement("3.1.1:MQTT-3.1.3-8", "3.1.1:MQTT-3.2.2-5")
@pytest.mark.parametrize(("version", "clean"), [(4, False), (3, True), (3, False)])
def test_an_empty_id_is_refused_elsewhere(broker: Broker, version: int, clean: bool) -> None:
    found = first_answer(broker, connect_packet("", version=version, clean=clean), version)
    assert found is not None
    assert (found.kind, found.reason, found.session_present) == (CONNACK, 2, False)


@pytest.mark.statement("MQTT-3.1.3-8", "MQTT-3.2.2-7", "MQTT-3.2.2-6", "3.1.1:MQTT-3.1.3-9")
def test_a_long_id_is_refused(broker: Broker, clients: Clients, version: int) -> None:
    longest = new_name("x" * CLIENT_ID_BYTES_MAX)[-CLIENT_ID_BYTES_MAX:]
    clients.connect(longest, version)
    found = first_answer(broker, connect_packet(longest + "x", version=version), version)
    assert found is not None
    assert (found.kind, found.reason) == (CONNACK, CLIENT_ID_NOT_VALID if version == 5 else 2)


# -- flags, user name, password --------------------------------------------------------------------------------------------


@pytest.mark.statement("MQTT-3.1.2-3", "MQTT-3.1.4-1", "3.1.1:MQTT-3.1.4-1")
def test_the_reserved_flag_is_refused(broker: Broker, version: int) -> None:
    assert_refused(broker, connect_bytes(version, flags=3), 0x81, version)


@pytest.mark.statement("MQTT-3.1.2-16", "MQTT-3.1.2-17", "MQTT-3.1.2-18", "MQTT-3.1.2-19")
@pytest.mark.parametrize(
    ("flags", "fields"),
    [(0x02, b"\0\1u"), (0x82, b""), (0x82, b"\0\1u\0\1p"), (0xC2, b""), (0xC2, b"\0\1u"), (0xC2, b"\0\1u\0\1p\0")],
)
def test_user_name_and_password_are_there_as_their_flags_say(
    broker: Broker, version: int, flags: int, fields: bytes
) -> None:
    assert_refused(broker, connect_bytes(version, flags=flags, payload=text("c") + fields), 0x81, version)


@pytest.mark.statement("MQTT-3.1.2-17", "MQTT-3.1.2-19")
def test_user_name_and_password_are_read(clients: Clients, version: int) -> None:
    clients.connect(version=version, user="u", password=b"\0\xff")


@pytest.mark.statement("3.1.1:MQTT-3.1.2-22")
def test_a_password_without_a_user_name(broker: Broker, clients: Clients, version: int) -> None:
    if version == 5:
        clients.connect(password=b"secret")
    else:
        assert_refused(broker, connect_packet(new_name(), version=version, password=b"secret"), 0x81, version)


@pytest.mark.statement("MQTT-3.1.4-6", "3.1.1:MQTT-3.1.4-5")
def test_what_stands_behind_a_refused_connect_is_not_processed(
    broker: Broker, clients: Clients, topic: str, version: int
) -> None:
    publish = packet(0x31, text(topic) + (b"\0" if version == 5 else b"") + b"kept")
    assert first_answer(broker, connect_packet("x" * 99, version=version) + publish, version) is not None
    subscriber = clients.connect()
    subscriber.subscribe(topic)
    subscriber.nothing()


# -- keep alive -------------------------------------------------------------------------------------------------------------


@pytest.mark.statement("MQTT-3.1.2-22", "MQTT-3.2.2-22")
def test_silence_of_one_and_a_half_keep_alives_ends_the_connection(broker: Broker) -> None:
    with Client(broker.port, 5) as five, Client(broker.port, 4) as four, Client(broker.port, 4) as unlimited:
        five.connect(new_name(), keep_alive=1)
        assert unlimited.connect(new_name(), keep_alive=0)
        with pytest.raises(TimeoutError):
            five.receive(timeout_s=1)
        five.send(packet(0xC0))  # starts its time anew
        five.expect(PINGRESP)
        begun = time.monotonic()
        four.connect(new_name(), keep_alive=1)
        last = five.expect_closed()
        assert last is not None
        assert (last.kind, last.reason) == (DISCONNECT, KEEP_ALIVE_TIMEOUT)
        assert 1.5 <= time.monotonic() - begun < 5
        assert four.expect_closed() is None
        assert time.monotonic() - begun >= 1.5
        unlimited.nothing()


@pytest.mark.statement("MQTT-3.2.2-22")
@pytest.mark.parametrize(
    ("asked", "told"), [(60, None), (KEEP_ALIVE_MAX_S, None), (KEEP_ALIVE_MAX_S + 1, 600), (0, 600)]
)
def test_a_longer_keep_alive_than_allowed_is_told(clients: Clients, asked: int, told: int | None) -> None:
    assert clients.connect(keep_alive=asked).connack.properties.get("server_keep_alive") == told


# -- properties --------------------------------------------------------------------------------------------------------------


def test_every_property_of_connect_is_accepted(clients: Clients) -> None:
    clients.connect(
        session_expiry=0xFFFFFFFF, receive_maximum=1, maximum_packet_size=100, topic_alias_maximum=65535,
        request_response=1, request_problem=1, user_property=[("a", "1"), ("a", "1"), ("", "")],
    )  # fmt: skip


@pytest.mark.parametrize(
    "values",
    [
        {"receive_maximum": 0}, {"maximum_packet_size": 0}, {"request_problem": 2}, {"request_response": 2},
        {"authentication_data": b"x"}, {"session_expiry": [1, 1]}, {"receive_maximum": [1, 1]},
        {"maximum_packet_size": [9, 9]}, {"topic_alias_maximum": [1, 1]}, {"request_response": [1, 1]},
        {"request_problem": [1, 1]}, {"authentication_method": ["a", "a"]}, {"authentication_data": [b"a", b"a"]},
    ],
    ids=str,
)  # fmt: skip
def test_a_property_with_a_wrong_value_is_a_protocol_error(broker: Broker, values: dict[str, object]) -> None:
    assert_refused(broker, connect_bytes(properties=properties(**values)), PROTOCOL_ERROR)


@pytest.mark.statement("MQTT-3.1.2-24", "MQTT-3.2.2-19", "MQTT-3.2.2-20")
def test_connack_is_not_larger_than_the_client_takes(broker: Broker, clients: Clients) -> None:
    refused = connect_packet("x" * 99, maximum_packet_size=12)
    found = first_answer(broker, refused)
    assert found is not None
    assert (found.reason, found.properties) == (CLIENT_ID_NOT_VALID, {})
    told = first_answer(broker, connect_packet("x" * 99))
    assert told is not None
    assert told.properties["reason_string"]
    found = first_answer(broker, connect_packet(new_name(), maximum_packet_size=12))
    assert found is not None
    assert (found.kind, found.reason) == (CONNACK, TOO_LARGE)
    assert first_answer(broker, connect_packet(new_name(), maximum_packet_size=4)) is None


@pytest.mark.statement("MQTT-3.1.2-29")
def test_no_reason_strings_where_the_client_wants_no_problem_information(clients: Clients, topic: str) -> None:
    client = clients.connect(request_problem=0)
    suback = client.subscribe("not/#/a/filter", topic)
    assert suback.reasons == [0x8F, 0]
    puback = client.publish_all(f"{topic}/nobody")
    assert (puback.kind, puback.reason) == (PUBACK, 0x10)
    unsuback = client.unsubscribe("unknown")
    assert unsuback.reasons == [0x11]
    assert [each.properties for each in (suback, puback, unsuback)] == [{}, {}, {}]
