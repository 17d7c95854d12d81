"""Packets that the handlers parse and make: the byte vectors that are easy to get wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.core import wire
from node.core.wire import ProtocolError


def connect(name=b"MQTT", level=4, flags=2, keepalive=60, rest=b"\x00\x01c", properties=b"") -> bytes:
    return (
        len(name).to_bytes(2, "big") + name + bytes((level, flags)) + keepalive.to_bytes(2, "big") + properties + rest
    )


def test_a_connect_of_each_version():
    assert wire.parse_connect(connect(), 64, 128).version == 4
    assert wire.parse_connect(connect(b"MQIsdp", 3), 64, 128).version == 3
    packet = wire.parse_connect(connect(level=5, properties=b"\x05\x11\x00\x00\x00\x0a"), 64, 128)
    assert (packet.version, packet.clean_start, packet.keepalive_s, packet.client_id) == (5, True, 60, "c")
    assert packet.properties == {0x11: 10}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (connect(b"MQTTX"), 0x84),
        (connect(level=6), 0x84),
        (connect(flags=3), 0x81),  # [MQTT-3.1.2-3]
        (connect(flags=0x0A), 0x81),  # [MQTT-3.1.2-11] will QoS without a will
        (connect(flags=0x42, rest=b"\x00\x01c\x00\x01p"), 0x81),  # [MQTT-3.1.2-22]
        (connect(flags=0x1E, rest=b"\x00\x01c\x00\x01t\x00\x00"), 0x81),  # [MQTT-3.1.2-12] will QoS 3
        (connect(rest=b"\x00\x02c"), 0x81),
        (connect(rest=b"\x00\x01c!"), 0x81),
        (connect(rest=b"\x00\x03\xed\xa0\x80"), 0x81),  # [MQTT-1.5.3-1] a surrogate
        (connect(rest=b"\x00\x01\x00"), 0x81),  # [MQTT-1.5.3-2] U+0000
        (connect(level=5, properties=b"\x06\x21\x00\x01\x21\x00\x01"), 0x82),
        (connect(level=5, properties=b"\x03\x21\x00\x00"), 0x82),
        (connect(level=5, properties=b"\x02\x01\x00"), 0x81),  # 2.2.2.2: not of this packet
        (connect(level=5, properties=b"\x02\x7f\x00"), 0x81),
        (connect(level=5, properties=b"\x80\x00"), 0x81),  # [MQTT-1.5.5-1]
    ],
)
def test_a_connect_that_breaks_the_rules(body, reason):
    with pytest.raises(ProtocolError) as error:
        wire.parse_connect(body, 64, 128)
    assert error.value.reason == reason


def _refusal(parse) -> int | None:
    try:
        parse()
    except ProtocolError as error:
        return error.reason
    return None


@given(st.binary(max_size=60), st.sampled_from([3, 4, 5]))
def test_garbage_is_a_protocol_error_and_nothing_else(body, version):
    for parse in (
        lambda: wire.parse_connect(body, 64, 128),
        lambda: wire.parse_connect(connect(level=version, properties=b"") + body, 64, 128),
        lambda: wire.parse_subscribe(body, version, 64),
        lambda: wire.parse_unsubscribe(body, version, 64),
        lambda: wire.parse_disconnect(body, 64),
        lambda: wire.parse_auth(body, 64),
        lambda: wire.check_ack_properties(body, 64),
    ):
        reason = _refusal(parse)
        assert reason is None or reason >= 0x80


@given(st.integers(0, 268_435_455))
def test_variable_byte_integers(value):
    encoded = wire.varint(value)
    assert len(encoded) == 1 + (value > 127) + (value > 16383) + (value > 2097151)


@pytest.mark.parametrize(
    ("filter", "reason"),
    [
        (b"a/b", 0), (b"#", 0), (b"+", 0), (b"+/a/#", 0), (b"/", 0), (b"a+", 0x8F), (b"a#", 0x8F), (b"#/a", 0x8F),
        (b"a/#/b", 0x8F), (b"", 0x81), (b"a/b+/c", 0x8F), (b"a\xff", 0x81),
    ],
)  # fmt: skip
def test_filters(filter, reason):
    assert wire.filter_reason(filter, 128) == reason


def test_filters_have_a_depth():
    assert wire.filter_reason(b"/" * 127, 128) == 0
    assert wire.filter_reason(b"/" * 128, 128) == 0x8F


@pytest.mark.parametrize(
    "filter", [b"$share", b"$share/", b"$share/g", b"$share//t", b"$share/g/", b"$share/+/t", b"$share/#/t"]
)
def test_malformed_shared_subscriptions(filter):
    with pytest.raises(ProtocolError) as error:
        wire.split_share(filter)
    assert error.value.reason == 0x8F


def test_shared_subscriptions():
    assert wire.split_share(b"$share/g/a/+/b") == (b"g", b"a/+/b")
    assert wire.split_share(b"a/$share/g") is None
    assert wire.split_share(b"$shared/g/t") is None
