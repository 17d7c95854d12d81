"""The codec against an independent one (tests/mqtt.py): what either side encodes the other reads, with every property."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from node.core import wire
from tests import mqtt

IDENTIFIERS = {name: number for number, (name, _) in mqtt.PROPERTIES.items()}
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
TOPICS = TEXTS.filter(lambda topic: topic != "" and not set(topic) & {"+", "#"})
SHORT = st.binary(max_size=40)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "byte": st.integers(0, 1),
    "two": st.integers(1, 0xFFFF),
    "four": st.integers(1, 0xFFFFFFFF),
    "varint": st.integers(1, 268_435_455),
    "text": TEXTS,
    "binary": SHORT,
    "pair": st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3),
}
CONNECT = ("session_expiry", "receive_maximum", "maximum_packet_size", "topic_alias_maximum", "request_response",
           "request_problem", "user_property", "authentication_method")  # fmt: skip
WILL = (
    "will_delay",
    "payload_format",
    "message_expiry",
    "content_type",
    "response_topic",
    "correlation_data",
    "user_property",
)
NOT_FORWARDED = ("will_delay", "message_expiry")


def some(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    """Any of these properties, in any order."""
    kinds = dict(mqtt.PROPERTIES.values())
    values = {name: TOPICS if name == "response_topic" else VALUES[kinds[name]] for name in names}
    chosen = st.fixed_dictionaries({}, optional=values)
    return st.builds(lambda found, order: {name: found[name] for name in order if name in found},
                     chosen, st.permutations(names))  # fmt: skip


def numbered(properties: dict[str, Any]) -> dict[int, Any]:
    return {IDENTIFIERS[name]: value for name, value in properties.items()}


def body_of(packet: bytes) -> bytes:
    return packet[1 + next(at for at in range(1, 5) if packet[at] < 0x80) :]


WILLS = st.none() | st.tuples(TOPICS, TEXTS.map(str.encode), st.integers(0, 2), st.booleans())


@given(
    version=st.sampled_from([3, 4, 5]), client_id=TEXTS, clean=st.booleans(), keep_alive=st.integers(0, 65535),
    will=WILLS, will_properties=some(*WILL), user=st.none() | TEXTS, password=st.none() | SHORT, values=some(*CONNECT),
)  # fmt: skip
def test_connect(version, client_id, clean, keep_alive, will, will_properties, user, password, values):
    if version != 5:
        values, will_properties = {}, {}
        password = None if user is None else password
    packet = mqtt.connect_packet(client_id, version=version, clean=clean, keep_alive=keep_alive, will=will,
                                 will_properties=will_properties, user=user, password=password, **values)  # fmt: skip
    found = wire.parse_connect(body_of(packet), 64, 1024)
    assert (found.version, found.client_id, found.clean_start, found.keepalive_s) == (
        version,
        client_id,
        clean,
        keep_alive,
    )
    assert (found.user, found.password, found.properties) == (user, password, numbered(values))
    if will is None:
        assert found.will is None
        return
    assert (found.will.topic.decode(), found.will.payload, found.will.qos, found.will.retain) == will
    assert found.will.delay_s == will_properties.get("will_delay", 0)
    assert found.will.expiry_s == will_properties.get("message_expiry")
    assert found.will.utf8_payload == bool(will_properties.get("payload_format"))
    forwarded = {name: value for name, value in will_properties.items() if name not in NOT_FORWARDED}
    assert wire.varint(len(found.will.properties)) + found.will.properties == mqtt.properties(**forwarded)


OPTIONS = st.builds(
    lambda qos, more, handling: qos | more << 2 | handling << 4, st.integers(0, 2), st.integers(0, 3), st.integers(0, 2)
)


@given(st.integers(1, 65535), some("subscription_identifier", "user_property"),
       st.lists(st.tuples(TEXTS, OPTIONS), min_size=1, max_size=5))  # fmt: skip
def test_subscribe_and_unsubscribe(packet_id, values, filters):
    head = packet_id.to_bytes(2, "big") + mqtt.properties(**values)
    body = head + b"".join(mqtt.text(name) + bytes([options]) for name, options in filters)
    wanted = [(name.encode(), options) for name, options in filters]
    assert wire.parse_subscribe(body, 5, 64) == (packet_id, wanted, values.get("subscription_identifier", 0))
    plain = [(name, options & 3) for name, options in filters]
    body = head[:2] + b"".join(mqtt.text(name) + bytes([options]) for name, options in plain)
    assert wire.parse_subscribe(body, 4, 64)[1] == [(name.encode(), options) for name, options in plain]
    values.pop("subscription_identifier", None)
    body = packet_id.to_bytes(2, "big") + mqtt.properties(**values) + b"".join(mqtt.text(name) for name, _ in filters)
    assert wire.parse_unsubscribe(body, 5, 64) == (packet_id, [name for name, _ in wanted])


@given(st.integers(0, 255), some("session_expiry", "reason_string", "user_property", "server_reference"),
       some("authentication_method", "authentication_data", "reason_string", "user_property"))  # fmt: skip
def test_disconnect_and_auth(reason, of_disconnect, of_auth):
    start = bytes([reason])
    assert wire.parse_disconnect(start + mqtt.properties(**of_disconnect), 64) == (reason, numbered(of_disconnect))
    assert wire.parse_auth(start + mqtt.properties(**of_auth), 64) == (reason, numbered(of_auth))


def parsed(packet: bytes) -> mqtt.Packet:
    return mqtt.parse(packet[0], body_of(packet), 5)


@given(st.integers(0, 255), st.booleans(), st.integers(1, 65535), st.binary(min_size=1, max_size=9),
       some(*(name for name in IDENTIFIERS if name != "subscription_identifier")))  # fmt: skip
def test_what_the_server_says(reason, present, packet_id, reasons, values):
    """Any property may be in any of them here: which belong where is a matter of the handlers."""
    ours = numbered(values)
    connack = parsed(wire.encode_connack(present, reason, ours))
    assert (connack.kind, connack.session_present, connack.reason) == (mqtt.CONNACK, present, reason)
    suback, unsuback = (encode(packet_id, reasons, ours) for encode in (wire.encode_suback, wire.encode_unsuback))
    for kind, found in ((mqtt.SUBACK, parsed(suback)), (mqtt.UNSUBACK, parsed(unsuback))):
        assert (found.kind, found.id, found.reasons, found.properties) == (kind, packet_id, list(reasons), values)
    for kind, found in (
        (mqtt.DISCONNECT, parsed(wire.encode_disconnect(reason, ours))),
        (mqtt.AUTH, parsed(wire.encode_auth(reason, ours))),
    ):
        assert (found.kind, found.reason, found.properties) == (kind, reason, values)
    assert connack.properties == values


@given(st.binary(max_size=300), st.binary(max_size=5))
def test_packets_have_the_length_that_they_say(body, tail):
    packet = wire.packet(0x30, body)
    assert packet == mqtt.packet(0x30, body)
    assert body_of(packet + tail) == body + tail
