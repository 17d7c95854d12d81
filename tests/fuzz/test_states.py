"""S02: each of the 16 packet types in each state of a connection; what comes back is what the specification says."""

from __future__ import annotations

import pytest

from tests.fuzz.target import Target
from tests.mqtt import (
    AUTH,
    CONNACK,
    DISCONNECT,
    PINGRESP,
    PUBCOMP,
    PUBREL,
    SUBACK,
    UNSUBACK,
    Client,
    Closed,
    Packet,
    connect_packet,
    packet,
    properties,
    text,
)

MALFORMED, PROTOCOL_ERROR, NOT_AUTHORIZED, UNKNOWN_ID = 0x81, 0x82, 0x87, 0x92
SCRAM = {"authentication_method": "SCRAM-SHA-256", "authentication_data": b"n,,n=alice,r=abcdefghijklmnop"}


def packets(version: int) -> dict[int, bytes]:
    """A good packet of each type; those of a server, too, and of the type that is none."""
    none = properties() if version == 5 else b""
    return {
        0: packet(0x00),
        1: connect_packet("s02", version=version),
        2: packet(0x20, b"\0\0" + none),
        3: packet(0x30, text("s02") + none + b"x"),
        4: packet(0x40, b"\0\1"),
        5: packet(0x50, b"\0\1"),
        6: packet(0x62, b"\0\1"),
        7: packet(0x70, b"\0\1"),
        8: packet(0x82, b"\0\1" + none + text("s02/none") + b"\0"),
        9: packet(0x90, b"\0\1" + none + b"\0"),
        10: packet(0xA2, b"\0\1" + none + text("s02/none")),
        11: packet(0xB0, b"\0\1" + none + (b"\0" if version == 5 else b"")),
        12: packet(0xC0),
        13: packet(0xD0),
        14: packet(0xE0),
        15: packet(0xF0, b"\x18" + properties(authentication_method="SCRAM-SHA-256", authentication_data=b"wrong")),
    }


def answers(client: Client, last: bytes) -> tuple[list[Packet], bool]:
    """What comes behind `last`, up to the answer to a PINGREQ; and whether the connection was closed instead."""
    found = []
    try:
        client.send(last + packet(0xC0))
        while (got := client.receive()).kind != PINGRESP:
            found.append(got)
    except (Closed, ConnectionError):
        return found, True
    return found, False


@pytest.mark.parametrize("version", [4, 5])
def test_before_connect(target: Target, version: int) -> None:
    for kind, data in packets(version).items():
        with Client(target.broker.port, version) as client:
            got, closed = answers(client, data)
            assert [each.kind for each in got] == ([CONNACK] if kind == 1 else []), kind
            assert closed == (kind != 1), kind


def test_while_authenticating(target: Target) -> None:
    for kind, data in packets(5).items():
        with Client(target.broker.port) as client:
            client.send(connect_packet("s02", user=None, **SCRAM))
            assert client.expect(AUTH).reason == 0x18
            got, closed = answers(client, data)
            assert closed, kind
            assert [each.kind for each in got] == [CONNACK], kind
            assert got[0].reason == (NOT_AUTHORIZED if kind == AUTH else PROTOCOL_ERROR), kind


# type -> type and reason of the answer of a connection that stays; all others end it
ANSWERED = {3: None, 4: None, 5: (PUBREL, UNKNOWN_ID), 6: (PUBCOMP, UNKNOWN_ID), 7: None}
# whose answers keep no order with that to a PINGREQ, or are it
ASKED = {8: SUBACK, 10: UNSUBACK, 12: PINGRESP}


@pytest.mark.parametrize("version", [4, 5])
def test_connected(target: Target, version: int) -> None:
    for kind, data in packets(version).items():
        with Client(target.broker.port, version) as client:
            client.connect("s02")
            if kind in ASKED:
                client.send(data)
                client.expect(ASKED[kind])
                continue
            got, closed = answers(client, data)
            found = [(each.kind, each.reason) for each in got]
            assert closed == (kind not in ANSWERED), kind
            if kind in ANSWERED:
                expected = ANSWERED[kind]
                reason = expected[1] if expected and version == 5 else 0
                assert found == ([(expected[0], reason)] if expected else []), kind
            elif version == 5 and kind != DISCONNECT:
                assert found in ([(DISCONNECT, PROTOCOL_ERROR)], [(DISCONNECT, MALFORMED)]), kind
            else:
                assert found == [], kind


@pytest.mark.parametrize("version", [4, 5])
def test_behind_disconnect(target: Target, version: int) -> None:
    for kind, data in packets(version).items():
        with Client(target.broker.port, version) as client:
            client.connect("s02")
            assert answers(client, packet(0xE0) + data) == ([], True), kind
