"""How the broker ends a connection: what it says to bytes that it refuses."""

from __future__ import annotations

from typing import Any

from tests.broker import Broker
from tests.mqtt import CONNACK, DISCONNECT, Client, Packet, packet
from tests.protocol.clients import new_name

MALFORMED, PROTOCOL_ERROR = 0x81, 0x82


def first_answer(broker: Broker, data: bytes, version: int = 5) -> Packet | None:
    """The packet before the close, if there is one, of a new connection that begins with `data`."""
    with Client(broker.port, version) as client:
        client.send(data)
        return client.expect_closed()


def answer(broker: Broker, data: bytes, version: int = 5, **options: Any) -> Packet | None:
    """The same behind an accepted CONNECT."""
    with Client(broker.port, version) as client:
        client.connect(new_name("wrong"), **options)
        client.send(data)
        return client.expect_closed()


def assert_ends(broker: Broker, data: bytes, reason: int, version: int = 5) -> None:
    """An accepted connection that sends `data` ends: MQTT 5 clients are told the reason, others see the close alone."""
    found = answer(broker, data, version)
    if version != 5:
        assert found is None, (data, found)
    else:
        assert found is not None, data
        assert (found.kind, found.reason) == (DISCONNECT, reason), (data, found)


def assert_refused(broker: Broker, data: bytes, reason: int, version: int = 5) -> None:
    """A CONNECT that breaks the rules ends the connection: MQTT 5 clients get CONNACK, others see the close alone."""
    found = first_answer(broker, data, version)
    if version != 5:
        assert found is None, (data, found)
    else:
        assert found is not None, data
        assert (found.kind, found.reason, found.session_present) == (CONNACK, reason, False), (data, found)


def connect_bytes(
    version: int = 5, *, name: bytes | None = None, level: int | None = None, flags: int = 2, keep_alive: int = 60,
    properties: bytes = b"\0", payload: bytes = b"\0\4here",
) -> bytes:  # fmt: skip
    """A CONNECT of which every byte can be chosen; `properties` with their length."""
    name = (b"\0\6MQIsdp" if version == 3 else b"\0\4MQTT") if name is None else name
    head = name + bytes([version if level is None else level, flags]) + keep_alive.to_bytes(2, "big")
    return packet(0x10, head + (properties if version == 5 else b"") + payload)


def body_of(whole: bytes) -> bytes:
    """What follows the fixed header of a packet that is shorter than 128 bytes."""
    assert whole[1] < 128
    return whole[2:]
