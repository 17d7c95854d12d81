"""S23, S24: no text of a client forges a line of the log, and nothing that a strict client rejects is passed on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from tests.broker import Broker, running, wait_for
from tests.mqtt import Client, binary, connect_packet, packet, properties, text
from tests.security.guarded import attempt

FORGED = '{"time":"2026-01-01T00:00:00Z","level":"error","process":"keeper","event":"forged"}'
LINES = [f"a\n{FORGED}\n", f"a\r\n{FORGED}", f"a\x0b{FORGED}", f"a\x85{FORGED}", f"a\u2028{FORGED}", 'a","event":"forged',
         "a\x1b[2K\rforged", "a\x7f\x08", "%s %(event)s {event}"]  # fmt: skip
NOT_TEXT = {
    "NUL": b"a\0b",
    "continuation byte": b"a\x80",
    "cut short": b"a\xe2\x82",
    "overlong": b"\xc0\xaf",
    "surrogate": b"\xed\xa0\x80",
    "beyond Unicode": b"\xf4\x90\x80\x80",
}


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with running('[log]\nlevel = "debug"\n') as broker:
        yield broker


@pytest.fixture(scope="module")
def writing_text() -> Iterator[Broker]:
    with running('[log]\nlevel = "debug"\nformat = "text"\n', workers=1) as broker:
        yield broker


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("format", ["broker", "writing_text"])
def test_s23_a_line_of_the_log_is_one_event(request: pytest.FixtureRequest, format: str, line: str) -> None:
    broker = request.getfixturevalue(format)
    before = len(broker.log())
    for version in (4, 5):
        attempt(broker.port, version, client_id=line + "x" * 2000)  # too long: refused, and logged so
        with Client(broker.port, version) as client:
            client.send(connect_packet(line, version=version, user=line, will=(line + "/will", b"w", 1, False)))
            client.receive()
            client.subscribe(line, "$share/" + line)
            client.publish(line, line.encode(), 1)
            client.send(packet(0x30, text(line + "#") + b"\0"))  # and an error that names nothing of it
    connect, disconnect = (
        ('"event":"connect"', '"event":"disconnect"') if format == "broker" else (" connect ", " disconnect ")
    )
    wait_for(lambda: broker.log()[before:].count(disconnect) >= 2, 5)
    new = broker.log()[before:]
    assert new.count(connect) == 2
    for each in new.split("\n"):
        assert not any(ord(character) < 32 for character in each)
        if format == "broker" and each:
            record = json.loads(each)
            assert record["event"] != "forged"
            assert record["process"] in ("worker-0", "worker-1", "keeper", "admin", "watchdog")
        elif each:
            assert re.match(r"\d{4}-\d\d-\d\dT[\d:.]{12}Z (debug|info|warning) [a-z]+(-\d+)? ", each), each
            assert " forged " not in re.sub(r"'.*?'|\".*?\"", "", each)


@pytest.fixture
def witness(broker: Broker) -> Iterator[Client]:
    with Client(broker.port) as witness:
        witness.connect("witness")
        witness.subscribe(("#", 2))
        yield witness


@pytest.mark.parametrize("what", NOT_TEXT)
@pytest.mark.parametrize("version", [4, 5])
def test_s24_what_is_no_text_is_never_passed_on(broker: Broker, witness: Client, version: int, what: str) -> None:
    bad = NOT_TEXT[what]
    none = b"\0" if version == 5 else b""
    packets = {
        "topic": packet(0x30, binary(bad) + none + b"x"),
        "filter": packet(0x82, b"\0\1" + none + binary(bad) + b"\0"),
        "unsubscribe": packet(0xA2, b"\0\1" + none + binary(bad)),
    }
    if version == 5:
        for name, number in (("content type", 3), ("response topic", 8)):
            packets[name] = packet(0x30, text("t") + _properties(bytes([number]) + binary(bad)) + b"x")
        packets["user property"] = packet(0x30, text("t") + _properties(b"\x26" + text("k") + binary(bad)) + b"x")
        packets["reason string"] = packet(0x40, b"\0\1\0" + _properties(b"\x1f" + binary(bad)))
    for name, data in packets.items():
        with Client(broker.port, version) as client:
            client.connect("c", will=("will", b"seen", 0, False))
            client.send(data)
            last = client.expect_closed()
            assert version == 4 or (last is not None and last.reason == 0x81), name
            assert witness.take().payload == b"seen"
    witness.nothing(0.05)


def _properties(encoded: bytes) -> bytes:
    return bytes([len(encoded)]) + encoded


@pytest.mark.parametrize("what", NOT_TEXT)
@pytest.mark.parametrize("place", ["client id", "user", "will topic"])
def test_s24_nor_in_connect(broker: Broker, witness: Client, place: str, what: str) -> None:
    bad = NOT_TEXT[what]
    good = connect_packet("client-id", version=4, user="user-name", will=("will-topic", b"w", 0, False))
    old = {"client id": b"client-id", "user": b"user-name", "will topic": b"will-topic"}[place]
    padded = bad + b"x" * (len(old) - len(bad))
    with Client(broker.port, 4) as client:
        client.send(good.replace(old, padded))
        client.expect_closed()
    witness.nothing(0.02)


def test_s24_a_response_topic_holds_no_wildcards(broker: Broker, witness: Client) -> None:
    for topic in ("a/+", "#", ""):
        with Client(broker.port) as client:
            client.connect("c")
            client.send(packet(0x30, text("t") + properties(response_topic=topic)))
            last = client.expect_closed()
            assert last is not None
            assert last.reason in (0x81, 0x82)
    witness.nothing(0.05)


def test_s24_what_is_text_passes_unchanged(broker: Broker, witness: Client) -> None:
    """U+FEFF and U+FFFF are characters like others [MQTT-1.5.4-3]."""
    odd = "\ufeff\uffff\U0010ffff/é/\u202e"
    with Client(broker.port) as client:
        client.connect("c")
        client.publish(odd, odd.encode(), content_type=odd, user_property=[(odd, odd)])
    found = witness.take()
    assert (found.topic, found.payload.decode()) == (odd, odd)
    assert found.properties["user_property"] == [(odd, odd)]
