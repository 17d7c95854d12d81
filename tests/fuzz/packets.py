"""Packets for the fuzzer: valid conversations of each version, and the ways to spoil them. All choices are `rng`'s."""

from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random
from typing import Any

from tests.mqtt import PROPERTIES, binary, connect_packet, packet, properties, text, varint

VERSIONS = (3, 4, 5)
NAMES = [
    "f", "f/a", "f/a/b", "f//", "/", "$SYS/f", "$f/a", "f/räume/日本", "f/" + "x" * 300, "f/" * 100, "$share/g/f/a", "f/\U0001f321",
]  # fmt: skip
FILTERS = [
    *NAMES, "#", "+", "f/#", "+/+", "f/+/b", "$SYS/#", "$share/g/f/#", "$share/g/+/a", "$share/h/#", "+/" * 50 + "#",
    # what the specification forbids
    "f#", "f/#/a", "f+", "$share", "$share/", "$share/g", "$share//f", "$share/+/f", "$share/g/", "", "\0", "f/\ufffe",
]  # fmt: skip
Stream = list[bytes]  # the packets of one connection, in order


def some_properties(rng: Random, names: list[str]) -> dict[str, Any]:
    """A few of the named properties with values from all over their range."""
    kinds = dict(PROPERTIES.values())
    found: dict[str, Any] = {}
    for name in rng.sample(names, rng.randrange(len(names) + 1)):
        kind = kinds[name]
        if kind == "pair":
            found[name] = [("k" * rng.randrange(4), "v" * rng.choice((0, 1, 200)))] * rng.randrange(1, 4)
        elif kind in ("byte", "two", "four"):
            top = {"byte": 0xFF, "two": 0xFFFF, "four": 0xFFFFFFFF}[kind]
            found[name] = rng.choice((0, 1, 2, rng.randrange(top), top))
        elif kind == "varint":
            found[name] = rng.choice((0, 1, 127, 128, 268_435_455))
        elif kind == "binary":
            found[name] = rng.randbytes(rng.choice((0, 1, 300)))
        else:
            found[name] = rng.choice(NAMES)
    return found


def connect(rng: Random, version: int) -> bytes:
    values: dict[str, Any] = {}
    will = None
    if rng.random() < 0.3:
        will = (rng.choice(NAMES), rng.randbytes(rng.choice((0, 5, 1000))), rng.randrange(3), rng.random() < 0.3)
    if version == 5 and rng.random() < 0.7:
        names = ["session_expiry", "receive_maximum", "maximum_packet_size", "topic_alias_maximum", "user_property",
                 "request_problem", "request_response"]  # fmt: skip
        values = some_properties(rng, names)
        for name in ("receive_maximum", "maximum_packet_size"):
            values[name] = values.get(name) or 100
    wills = ["will_delay", "payload_format", "message_expiry", "content_type", "response_topic", "user_property"]
    return connect_packet(
        f"fuzz-{rng.randrange(60)}", version=version, clean=rng.random() < 0.7, keep_alive=rng.choice((0, 1, 60)),
        will=will, will_properties=some_properties(rng, wills) if version == 5 else None,
        user=rng.choice((None, None, "bob")), **values,
    )  # fmt: skip


def publish(rng: Random, version: int) -> bytes:
    qos = rng.randrange(3)
    body = text(rng.choice(NAMES)) + (struct.pack(">H", rng.randrange(1, 20)) if qos else b"")
    if version == 5:
        names = ["payload_format", "message_expiry", "content_type", "response_topic", "correlation_data",
                 "user_property", "topic_alias"]  # fmt: skip
        body += properties(**some_properties(rng, names))
    payload = rng.randbytes(rng.choice((0, 1, 100, 5000)))
    return packet(0x30 | qos << 1 | (rng.random() < 0.2) | (rng.random() < 0.2 and qos > 0) << 3, body + payload)


def subscribe(rng: Random, version: int) -> bytes:
    head = struct.pack(">H", rng.randrange(1, 20))
    if version == 5:
        head += properties(**some_properties(rng, ["subscription_identifier", "user_property"]))
    options = (0, 1, 2, 3, 4, 8, 0x10, 0x20, 0x2E, 0x30, 0xC0) if version == 5 else (0, 1, 2)
    filters = [text(rng.choice(FILTERS)) + bytes([rng.choice(options)]) for _ in range(rng.randrange(1, 5))]
    return packet(0x82, head + b"".join(filters))


def unsubscribe(rng: Random, version: int) -> bytes:
    head = struct.pack(">H", rng.randrange(1, 20)) + (b"\0" if version == 5 else b"")
    return packet(0xA2, head + b"".join(text(rng.choice(FILTERS)) for _ in range(rng.randrange(1, 5))))


def acknowledgement(rng: Random, version: int) -> bytes:
    kind = rng.choice((4, 5, 6, 7))
    body = struct.pack(">H", rng.randrange(1, 20))
    if version == 5 and rng.random() < 0.5:
        body += bytes([rng.choice((0, 0x10, 0x80, 0x92, 0xFF))])
        if rng.random() < 0.5:
            body += properties(**some_properties(rng, ["reason_string", "user_property"]))
    return packet(kind << 4 | (2 if kind == 6 else 0), body)


def ending(rng: Random, version: int) -> bytes:
    """PINGREQ, DISCONNECT or AUTH."""
    kind = rng.choice((12, 12, 14, 15))
    if version != 5 or kind == 12:
        return packet(kind << 4)
    names = (
        ["session_expiry", "reason_string", "user_property"]
        if kind == 14
        else ["authentication_method", "user_property"]
    )
    return packet(kind << 4, bytes([rng.choice((0, 4, 0x18, 0x19, 0x81))]) + properties(**some_properties(rng, names)))


def conversation(rng: Random) -> Stream:
    """A CONNECT and what a client may say then."""
    version = rng.choice(VERSIONS)
    makers: list[Callable[[Random, int], bytes]] = [publish, publish, subscribe, unsubscribe, acknowledgement, ending]
    return [connect(rng, version)] + [rng.choice(makers)(rng, version) for _ in range(rng.randrange(1, 12))]


# -- how to spoil it ----------------------------------------------------------------------------------------------------


def flip_bits(rng: Random, data: bytes) -> bytes:
    spoiled = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        spoiled[rng.randrange(len(spoiled))] ^= 1 << rng.randrange(8)
    return bytes(spoiled)


def set_byte(rng: Random, data: bytes) -> bytes:
    spoiled = bytearray(data)
    spoiled[rng.randrange(len(spoiled))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
    return bytes(spoiled)


def truncate(rng: Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data))]


def insert(rng: Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.randrange(1, 9)) + data[at:]


def shorten_honestly(rng: Random, data: bytes) -> bytes:
    """Cut the body, and let the remaining length tell so: what is inside no longer fits."""
    body = data[1 + length_bytes(data) :]
    return packet(data[0], body[: rng.randrange(len(body) + 1)])


def lie_about_length(rng: Random, data: bytes) -> bytes:
    body = data[1 + length_bytes(data) :]
    lie = rng.choice((0, len(body) + 1, max(0, len(body) - 1), 127, 128, 65535, 2_097_153, 268_435_455))
    encoded = rng.choice((varint(lie), b"\xff\xff\xff\xff\x7f", b"\x80\x80\x80\x80\x00", b"\x80\x00"))
    return data[:1] + encoded + body


def lie_inside(rng: Random, data: bytes) -> bytes:
    """Overwrite two bytes, perhaps the length of a string, by another length."""
    at = rng.randrange(max(1, len(data) - 1))
    return data[:at] + struct.pack(">H", rng.choice((0, 1, len(data), 0x7FFF, 0xFFFF))) + data[at + 2 :]


def other_type(rng: Random, data: bytes) -> bytes:
    return bytes([rng.randrange(256)]) + data[1:]


def random_property(rng: Random, data: bytes) -> bytes:
    """Any packet type with any property, well-formed."""
    name = rng.choice(list(dict(PROPERTIES.values())))
    value = properties(**some_properties(rng, [name]))
    first = rng.choice((0x10, 0x32, 0x40, 0x50, 0x62, 0x70, 0x82, 0xA2, 0xE0, 0xF0))
    return packet(first, rng.choice((b"\0\1", b"\0\1a\0\1", b"\0", b"")) + value + rng.randbytes(rng.randrange(5)))


SPOILERS: list[Callable[[Random, bytes], bytes]] = [
    flip_bits, set_byte, truncate, insert, shorten_honestly, lie_about_length, lie_inside, other_type, random_property,
]  # fmt: skip


def length_bytes(data: bytes) -> int:
    """How many bytes the remaining length of this valid packet takes."""
    count = 1
    while data[count] & 0x80:
        count += 1
    return count


def spoil(rng: Random, stream: Stream) -> Stream:
    """The same conversation with one to three faults; mostly behind the CONNECT, where more is to be broken."""
    spoiled = list(stream)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(spoiled)) if rng.random() < 0.2 else rng.randrange(1, len(spoiled))
        fault = rng.randrange(8)
        if fault == 0:
            spoiled.insert(rng.randrange(at, len(spoiled) + 1), spoiled[at])  # again
        elif fault == 1:
            other = rng.randrange(1, len(spoiled))
            spoiled[at], spoiled[other] = spoiled[other], spoiled[at]  # out of order
        elif fault == 2:
            spoiled[at] = binary(rng.randbytes(rng.randrange(40)))
        elif spoiled[at]:
            spoiled[at] = rng.choice(SPOILERS)(rng, _whole(spoiled[at]))
    return spoiled


def _whole(data: bytes) -> bytes:
    """`data`, if it still is a packet with a remaining length; else something that is."""
    for count in range(1, min(5, len(data))):
        if not data[count] & 0x80:
            return data
    return packet(0xC0)
