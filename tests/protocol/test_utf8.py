"""Strings: what is no UTF-8 ends the connection wherever it stands, and what is goes through untouched."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.broker import Broker, running
from tests.mqtt import binary, packet, text, varint
from tests.protocol.answers import MALFORMED, assert_ends, assert_refused, connect_bytes
from tests.protocol.clients import Clients, new_name

TOPIC_BYTES = 65_535

WRONG = {
    "U+0000": b"a\0b",
    "a surrogate": b"\xed\xa0\x80",
    "the last surrogate": b"a\xed\xbf\xbf",
    "surrogates in pairs": b"\xed\xa0\xbd\xed\xb8\x80",
    "overlong /": b"\xc0\xaf",
    "overlong in three": b"\xe0\x80\xaf",
    "overlong in four": b"\xf0\x80\x80\xaf",
    "overlong U+0000": b"\xc0\x80",
    "beyond U+10FFFF": b"\xf4\x90\x80\x80",
    "five bytes": b"\xf8\x88\x80\x80\x80",
    "cut off": b"a\xe2\x82",
    "a lone continuation": b"\x80",
    "no continuation": b"\xc3(",
    "0xFF": b"\xff",
}
RIGHT = {
    "BOM": "\ufeff", "BOM inside": "a\ufeffb", "four bytes": "\U0001f600", "the last": "\U0010ffff", "a control": "a\x01b",
    "before the surrogates": "\ud7ff", "behind them": "\ue000", "no character": "\ufffe", "composed": "\u00e9",
    "decomposed": "e\u0301", "right to left": "\u05d0\u0660", "blank": " ",
}  # fmt: skip
Field = Callable[[bytes], bytes]


def _property(identifier: int, first: bytes = b"") -> Field:
    """Properties whose only one is this with the string behind `first`."""

    def found(string: bytes) -> bytes:
        value = bytes([identifier]) + first + binary(string)
        return varint(len(value)) + value

    return found


_VALUE = _property(38, b"\0\1n")


def _name(string: bytes) -> bytes:
    value = b"\x26" + binary(string) + b"\0\1v"
    return varint(len(value)) + value


CONNECTS: dict[str, Field] = {
    "client id": lambda string: connect_bytes(payload=binary(string)),
    "will topic": lambda string: connect_bytes(flags=6, payload=b"\0\1c\0" + binary(string) + b"\0\0"),
    "user name": lambda string: connect_bytes(flags=0x82, payload=b"\0\1c" + binary(string)),
    "method": lambda string: connect_bytes(properties=_property(21)(string)),
    "property name": lambda string: connect_bytes(properties=_name(string)),
    "property value": lambda string: connect_bytes(properties=_VALUE(string)),
    "will content type": lambda string: connect_bytes(flags=6, payload=b"\0\1c" + _property(3)(string) + b"\0\1t\0\0"),
    "will response topic": lambda string: connect_bytes(
        flags=6, payload=b"\0\1c" + _property(8)(string) + b"\0\1t\0\0"
    ),
    "will property": lambda string: connect_bytes(flags=6, payload=b"\0\1c" + _VALUE(string) + b"\0\1t\0\0"),
}
CONNECTS_3: dict[str, Field] = {
    "client id": lambda string: connect_bytes(4, payload=binary(string)),
    "will topic": lambda string: connect_bytes(4, flags=6, payload=b"\0\1c" + binary(string) + b"\0\0"),
    "user name": lambda string: connect_bytes(4, flags=0x82, payload=b"\0\1c" + binary(string)),
}
PACKETS: dict[str, Field] = {
    "topic": lambda string: packet(0x30, binary(string) + b"\0"),
    "response topic": lambda string: packet(0x30, b"\0\1t" + _property(8)(string)),
    "content type": lambda string: packet(0x30, b"\0\1t" + _property(3)(string)),
    "property name": lambda string: packet(0x30, b"\0\1t" + _name(string)),
    "property value": lambda string: packet(0x30, b"\0\1t" + _VALUE(string)),
    "filter": lambda string: packet(0x82, b"\0\1\0" + binary(string) + b"\0"),
    "second filter": lambda string: packet(0x82, b"\0\1\0" + b"\0\1f\0" + binary(string) + b"\0"),
    "share name": lambda string: packet(0x82, b"\0\1\0" + binary(b"$share/" + string + b"/f") + b"\0"),
    "filter to leave": lambda string: packet(0xA2, b"\0\1\0" + binary(string)),
    "property of SUBSCRIBE": lambda string: packet(0x82, b"\0\1" + _VALUE(string) + b"\0\1f\0"),
    "reason of PUBACK": lambda string: packet(0x40, b"\0\1\0" + _property(31)(string)),
    "reason of DISCONNECT": lambda string: packet(0xE0, b"\0" + _property(31)(string)),
}
PACKETS_3: dict[str, Field] = {
    "topic": lambda string: packet(0x30, binary(string)),
    "filter": lambda string: packet(0x82, b"\0\1" + binary(string) + b"\0"),
    "filter to leave": lambda string: packet(0xA2, b"\0\1" + binary(string)),
}


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with running(f"[limits]\nmax_topic_bytes = {TOPIC_BYTES}\nmax_connect_bytes = 100000\n") as broker:
        yield broker


# -- refused -----------------------------------------------------------------------------------------------------------------


@pytest.mark.statement(
    "MQTT-1.5.4-1", "MQTT-1.5.4-2", "MQTT-1.5.7-1", "MQTT-3.1.3-4", "MQTT-3.1.3-11", "MQTT-3.1.3-12", "MQTT-3.1.4-1"
)
@pytest.mark.parametrize("field", CONNECTS)
def test_wrong_strings_of_connect_are_malformed(broker: Broker, field: str) -> None:
    for wrong in WRONG.values():
        assert_refused(broker, CONNECTS[field](wrong), MALFORMED)


@pytest.mark.statement("MQTT-1.5.4-1", "MQTT-1.5.4-2", "MQTT-3.1.3-4", "MQTT-3.1.3-11", "MQTT-3.1.3-12")
@pytest.mark.parametrize("field", CONNECTS_3)
def test_wrong_strings_of_an_older_connect_end_the_connection(broker: Broker, field: str) -> None:
    for wrong in WRONG.values():
        assert_refused(broker, CONNECTS_3[field](wrong), MALFORMED, version=4)


@pytest.mark.statement(
    "MQTT-1.5.4-1", "MQTT-1.5.4-2", "MQTT-1.5.7-1", "MQTT-3.3.2-1", "MQTT-3.3.2-13", "MQTT-3.3.2-19", "MQTT-3.8.3-1",
    "MQTT-3.10.3-1", "MQTT-4.7.3-2",
)  # fmt: skip
@pytest.mark.parametrize("field", PACKETS)
def test_wrong_strings_are_malformed(broker: Broker, field: str) -> None:
    for wrong in WRONG.values():
        assert_ends(broker, PACKETS[field](wrong), MALFORMED)


@pytest.mark.statement("MQTT-1.5.4-1", "MQTT-1.5.4-2", "MQTT-3.3.2-1", "MQTT-3.8.3-1", "MQTT-3.10.3-1", "MQTT-4.7.3-2")
@pytest.mark.parametrize("field", PACKETS_3)
def test_wrong_strings_of_older_versions_end_the_connection(broker: Broker, field: str) -> None:
    for version in (3, 4):
        for wrong in WRONG.values():
            assert_ends(broker, PACKETS_3[field](wrong), MALFORMED, version)


# -- untouched -----------------------------------------------------------------------------------------------------------------


@pytest.mark.statement("MQTT-1.5.4-3", "MQTT-1.5.4-1", "MQTT-4.7.3-4")
@pytest.mark.parametrize("string", RIGHT.values(), ids=RIGHT)
def test_other_strings_arrive_as_they_were_sent(clients: Clients, topic: str, version: int, string: str) -> None:
    client = clients.connect(new_name(string), version)
    client.subscribe(f"{topic}/{string}")
    values = {} if version != 5 else {
        "content_type": string, "response_topic": string, "user_property": [(string, string)],
    }  # fmt: skip
    client.publish(f"{topic}/{string}", **values)
    found = client.take()
    assert (found.topic, found.properties) == (f"{topic}/{string}", values)


@pytest.mark.statement("MQTT-1.5.4-3", "MQTT-4.7.3-4", "MQTT-3.1.3-2")
@pytest.mark.parametrize(
    ("one", "other"), [("a", "\ufeffa"), ("a", "a\ufeff"), ("\u00e9", "e\u0301"), ("a", "A"), ("\u212b", "\u00c5"), ("a", "a ")]
)  # fmt: skip
def test_strings_that_only_look_alike_differ(clients: Clients, topic: str, one: str, other: str) -> None:
    first, second = clients.connect(f"{topic}{one}"), clients.connect(f"{topic}{other}")
    first.subscribe(f"{topic}/{one}")
    second.subscribe(f"{topic}/{other}/#")
    first.publish(f"{topic}/{other}", b"other")
    first.publish(f"{topic}/{one}", b"one")
    assert first.take().payload == b"one"
    assert second.take().payload == b"other"
    second.nothing()


@pytest.mark.statement("MQTT-4.7.3-3")
def test_topics_and_filters_may_take_all_the_bytes_of_a_string(clients: Clients, version: int) -> None:
    longest = "\U0001f600" * (TOPIC_BYTES // 4) + "abc"
    assert len(text(longest)) == 2 + TOPIC_BYTES
    client = clients.connect(version=version)
    assert client.subscribe((longest, 1)).reasons == [1]
    client.publish(longest, b"long")
    assert client.take().topic == longest
    client.unsubscribe(longest)
