"""Wills: which ends of a connection publish them, when, and what they carry."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.broker import Broker, running
from tests.mqtt import Client, connect_packet, packet, properties, text
from tests.protocol.answers import assert_refused, connect_bytes
from tests.protocol.clients import Clients, Placed

MALFORMED, PROTOCOL_ERROR, TOPIC_INVALID, PAYLOAD_INVALID = 0x81, 0x82, 0x90, 0x99
WITH_WILL = packet(0xE0, b"\4")
RETAIN_AS_PUBLISHED = 8
TOPIC_BYTES_MAX = 100


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with running(f"[limits]\nmax_topic_bytes = {TOPIC_BYTES_MAX}\nmax_topic_levels = 20\n") as broker:
        yield broker


@pytest.fixture
def watcher(clients: Clients, topic: str) -> Placed:
    """Sees what is published to `topic`, RETAIN as the publisher set it."""
    client = clients.connect()
    client.subscribe((topic, 2 | RETAIN_AS_PUBLISHED))
    return client


def break_protocol(client: Client) -> None:
    client.send(packet(0x82))
    client.expect_closed()


def leave(client: Client, data: bytes = b"\xe0\0") -> None:
    client.send(data)
    client.expect_closed()


# -- which ends publish it ---------------------------------------------------------------------------------------------------


@pytest.mark.statement(
    "MQTT-3.1.2-7", "MQTT-3.1.2-8", "MQTT-3.1.2-14", "MQTT-3.1.2-15", "MQTT-3.1.2-12", "3.1.1:MQTT-3.1.2-8"
)
@pytest.mark.parametrize(("qos", "retain"), [(0, False), (1, True), (2, False)])
def test_a_lost_connection_publishes_the_will(
    clients: Clients, watcher: Placed, topic: str, version: int, qos: int, retain: bool
) -> None:
    clients.connect(version=version, will=(topic, b"gone", qos, retain)).close()
    will = watcher.take()
    assert (will.topic, will.payload, will.qos, will.retain) == (topic, b"gone", qos, retain)
    late = clients.connect()
    late.subscribe((topic, 2))
    if retain:
        assert (found := late.take()).payload == b"gone"
        assert found.retain
    late.nothing()


@pytest.mark.statement("MQTT-3.1.2-8", "MQTT-3.1.4-3")
@pytest.mark.parametrize("end", ["protocol error", "takeover", "kick"])
def test_other_bad_ends_publish_it_too(
    broker: Broker, clients: Clients, watcher: Placed, topic: str, version: int, end: str
) -> None:
    client = clients.connect(version=version, will=(topic, b"gone", 1, False))
    if end == "protocol error":
        break_protocol(client)
    elif end == "takeover":
        clients.connect(client.client_id, version)
    else:
        assert broker.get(f"/v1/clients/{client.client_id}", "DELETE")[0] < 300
    assert watcher.take().payload == b"gone"
    watcher.nothing()


@pytest.mark.statement("MQTT-3.1.2-8", "MQTT-3.1.2-22")
def test_the_end_of_keep_alive_publishes_it(clients: Clients, watcher: Placed, topic: str) -> None:
    for version in (3, 4, 5):
        clients.connect(version=version, will=(topic, b"%d" % version, 1, False), keep_alive=1)
    assert sorted(watcher.take().payload for _ in range(3)) == [b"3", b"4", b"5"]


@pytest.mark.statement("MQTT-3.14.4-3", "MQTT-3.1.2-10", "MQTT-3.1.2-8")
def test_disconnect_removes_the_will(clients: Clients, watcher: Placed, topic: str, version: int) -> None:
    leave(clients.connect(version=version, will=(topic, b"gone", 1, True)))
    watcher.nothing()


@pytest.mark.statement("MQTT-3.1.2-8", "MQTT-3.14.4-3")
def test_disconnect_with_will_publishes_it(clients: Clients, watcher: Placed, topic: str) -> None:
    leave(clients.connect(will=(topic, b"gone", 1, False)), WITH_WILL)
    assert watcher.take().payload == b"gone"


@pytest.mark.statement("MQTT-3.1.2-10")
def test_a_will_is_published_once(clients: Clients, watcher: Placed, topic: str, version: int) -> None:
    first = clients.connect(version=version, durable=True, will=(topic, b"gone", 1, False))
    first.close()
    assert watcher.take().payload == b"gone"
    again = clients.connect(first.client_id, version, durable=True)
    again.close()
    watcher.nothing()


@pytest.mark.statement("3.1.1:MQTT-3.1.2-12", "3.1.1:MQTT-3.1.2-11")
def test_without_a_will_none_is_published(clients: Clients, watcher: Placed, topic: str, version: int) -> None:
    clients.connect(version=version, will=(topic, b"of the old connection", 1, False), durable=True, client_id=topic)
    assert clients.connect(topic, version, durable=True) is not None
    assert watcher.take().payload == b"of the old connection"
    clients.connect(topic, version, durable=True).close()
    watcher.nothing()


# -- delay -------------------------------------------------------------------------------------------------------------------


@pytest.mark.statement("MQTT-3.1.2-8")
def test_a_will_waits_for_its_delay_or_the_end_of_the_session(clients: Clients, watcher: Placed, topic: str) -> None:
    begun = time.monotonic()
    for payload, delay_s, expiry_s, data in (
        (b"delay", 1, 1000, b""),
        (b"expiry", 1000, 1, b""),
        (b"delay behind DISCONNECT", 1, 1000, WITH_WILL),
        (b"expiry in DISCONNECT", 1000, 1000, packet(0xE0, b"\4" + properties(session_expiry=1))),
    ):
        will = (topic, payload, 1, False)
        client = clients.connect(
            clean=False, session_expiry=expiry_s, will=will, will_properties={"will_delay": delay_s}
        )
        client.send(data)
        client.close()
    wills = [watcher.take().payload]
    assert time.monotonic() - begun >= 0.9
    wills += [watcher.take().payload for _ in range(3)]
    assert sorted(wills) == [b"delay", b"delay behind DISCONNECT", b"expiry", b"expiry in DISCONNECT"]


@pytest.mark.statement("MQTT-3.1.2-8")
@pytest.mark.parametrize("end", ["no session", "expiry 0 in disconnect", "clean start"])
def test_the_end_of_the_session_does_not_wait_for_the_delay(
    clients: Clients, watcher: Placed, topic: str, end: str
) -> None:
    client = clients.connect(
        clean=False, session_expiry=0 if end == "no session" else 1000, will=(topic, b"gone", 1, False),
        will_properties={"will_delay": 1000},
    )  # fmt: skip
    if end == "expiry 0 in disconnect":
        leave(client, packet(0xE0, b"\4" + properties(session_expiry=0)))
    else:
        client.close()
    if end == "clean start":
        watcher.nothing()
        clients.connect(client.client_id)
    assert watcher.take().payload == b"gone"


@pytest.mark.statement("MQTT-3.1.3-9", "MQTT-3.1.2-8")
def test_who_is_back_in_time_has_no_will_published(clients: Clients, watcher: Placed, topic: str) -> None:
    options: dict[str, Any] = {
        "will": (topic, b"gone", 1, False),
        "will_properties": {"will_delay": 1},
        "durable": True,
    }
    for worker in (0, 1):
        for lost in (True, False):
            client = clients.connect(**options)
            if lost:
                client.close()
            assert clients.connect(client.client_id, worker=worker, **options).connack.session_present
    with pytest.raises(TimeoutError):
        watcher.receive(timeout_s=1.5)


# -- what it carries -----------------------------------------------------------------------------------------------------------


@pytest.mark.statement("MQTT-3.1.3-1", "MQTT-3.1.3-10", "MQTT-3.1.2-9")
def test_the_will_and_its_properties_arrive_unaltered(clients: Clients, watcher: Placed, topic: str) -> None:
    carried: dict[str, Any] = {
        "payload_format": 1, "content_type": "text/plain", "response_topic": "answer/ä", "correlation_data": b"\0\xff",
        "user_property": [("b", "2"), ("a", "1"), ("b", "1"), ("", "")],
    }  # fmt: skip
    clients.connect(
        will=(topic, b"weg", 2, False), user="u", password=b"p",
        will_properties={"will_delay": 0, "message_expiry": 1000, **carried},
    ).close()  # fmt: skip
    will = watcher.take()
    assert will.payload == b"weg"
    assert 990 <= will.properties.pop("message_expiry") <= 1000
    assert will.properties == carried


@pytest.mark.statement("MQTT-3.1.3-1", "MQTT-3.1.2-9")
@pytest.mark.parametrize("payload", [b"", bytes(range(256)) * 100])
def test_a_will_may_have_any_payload(
    clients: Clients, watcher: Placed, topic: str, version: int, payload: bytes
) -> None:
    clients.connect(version=version, will=(topic, payload, 1, False), user="u", password=b"p").close()
    assert watcher.take().payload == payload


# -- refused -------------------------------------------------------------------------------------------------------------------


@pytest.mark.statement("MQTT-3.1.2-11", "MQTT-3.1.2-12", "MQTT-3.1.2-13", "3.1.1:MQTT-3.1.2-11")
@pytest.mark.parametrize("flags", [0x0A, 0x12, 0x22, 0x1A, 0x3A, 0x1E, 0x3E])
def test_wrong_will_flags_are_refused(broker: Broker, version: int, flags: int) -> None:
    """QoS or RETAIN without a will, and QoS 3."""
    fields = text("c") + (b"\0" if version == 5 else b"") + text("t") + text("gone") if flags & 4 else text("c")
    assert_refused(broker, connect_bytes(version, flags=flags, payload=fields), MALFORMED, version)


@pytest.mark.statement("MQTT-3.1.2-9", "3.1.1:MQTT-3.1.2-11")
@pytest.mark.parametrize(
    "fields", [b"", text("t"), text("t") + b"\0", text("t") + b"\0\5gone", text("t") + text("gone") + b"!"]
)
def test_a_will_that_is_cut_off_is_refused(broker: Broker, version: int, fields: bytes) -> None:
    payload = text("c") + (b"\0" if version == 5 else b"") + fields
    assert_refused(broker, connect_bytes(version, flags=6, payload=payload), MALFORMED, version)


def test_a_will_without_the_flag_is_refused(broker: Broker, version: int) -> None:
    payload = text("c") + (b"\0" if version == 5 else b"") + text("t") + text("gone")
    assert_refused(broker, connect_bytes(version, payload=payload), MALFORMED, version)


@pytest.mark.statement("MQTT-4.7.0-1", "MQTT-4.7.3-1")
@pytest.mark.parametrize("name", ["", "a/#", "a/+/b", "/".join("x" * 40)])
def test_a_will_topic_that_is_no_topic_name_is_refused(broker: Broker, version: int, name: str) -> None:
    payload = text("c") + (b"\0" if version == 5 else b"") + text(name) + text("gone")
    assert_refused(broker, connect_bytes(version, flags=6, payload=payload), TOPIC_INVALID, version)


def test_a_will_topic_beyond_the_limit_is_refused(broker: Broker) -> None:
    assert_refused(broker, connect_packet("c", will=("x" * (TOPIC_BYTES_MAX + 1), b"", 0, False)), TOPIC_INVALID)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (b"\2\1\2", PROTOCOL_ERROR),  # payload format 2
        (b"\4\1\0\1\0", PROTOCOL_ERROR),  # twice
        (b"\5\x18\0\0\0", MALFORMED),  # a delay that is cut off
        (b"\3\x23\0\1", MALFORMED),  # a topic alias
        (b"\2\x0b\1", MALFORMED),  # a subscription identifier
        (b"\5\x11\0\0\0\1", MALFORMED),  # a session expiry
        (b"\2\x7f\0", MALFORMED),
        (b"\6\x08\0\3a/#", PROTOCOL_ERROR),
    ],
)
def test_wrong_will_properties_are_refused(broker: Broker, found: bytes, reason: int) -> None:
    assert_refused(broker, connect_bytes(flags=6, payload=text("c") + found + text("t") + text("gone")), reason)


def test_a_payload_that_is_not_utf8_as_announced_is_refused(broker: Broker) -> None:
    payload = text("c") + b"\2\1\1" + text("t") + b"\0\1\xff"
    assert_refused(broker, connect_bytes(flags=6, payload=payload), PAYLOAD_INVALID)
