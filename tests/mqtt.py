"""A bare MQTT client for tests: every byte can be chosen, every packet is seen as it came. Blocking, with deadlines."""

from __future__ import annotations

import socket
import struct
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = 1, 2, 3, 4, 5, 6, 7
SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT, AUTH = 8, 9, 10, 11, 12, 13, 14, 15
TAKEN_OVER = 0x8E  # reason code

# property identifier -> (name, kind), MQTT 5.0 table 2-4
PROPERTIES = {
    1: ("payload_format", "byte"), 2: ("message_expiry", "four"), 3: ("content_type", "text"),
    8: ("response_topic", "text"), 9: ("correlation_data", "binary"), 11: ("subscription_identifier", "varint"),
    17: ("session_expiry", "four"), 18: ("assigned_client_id", "text"), 19: ("server_keep_alive", "two"),
    21: ("authentication_method", "text"), 22: ("authentication_data", "binary"), 23: ("request_problem", "byte"),
    24: ("will_delay", "four"), 25: ("request_response", "byte"), 26: ("response_information", "text"),
    28: ("server_reference", "text"), 31: ("reason_string", "text"), 33: ("receive_maximum", "two"),
    34: ("topic_alias_maximum", "two"), 35: ("topic_alias", "two"), 36: ("maximum_qos", "byte"),
    37: ("retain_available", "byte"), 38: ("user_property", "pair"), 39: ("maximum_packet_size", "four"),
    40: ("wildcard_available", "byte"), 41: ("identifiers_available", "byte"), 42: ("shared_available", "byte"),
}  # fmt: skip
_IDENTIFIERS = {name: (number, kind) for number, (name, kind) in PROPERTIES.items()}
_FIXED = {"byte": ">B", "two": ">H", "four": ">I"}


class Closed(Exception):
    """The server closed the connection."""


def varint(value: int) -> bytes:
    out = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def binary(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


def text(value: str) -> bytes:
    return binary(value.encode())


def packet(first: int, body: bytes = b"") -> bytes:
    """A control packet; `first` is its first byte, type and flags."""
    return bytes([first]) + varint(len(body)) + body


def properties(**values: Any) -> bytes:
    """Encoded with their length: user_property=[("k", "v")], subscription_identifier=[1, 2]; others one value each."""
    out = b""
    for name, value in values.items():
        number, kind = _IDENTIFIERS[name]
        for each in value if isinstance(value, list) else [value]:
            out += varint(number) + _encode(kind, each)
    return varint(len(out)) + out


def _encode(kind: str, value: Any) -> bytes:
    if kind in _FIXED:
        return struct.pack(_FIXED[kind], value)
    if kind == "varint":
        return varint(value)
    if kind == "pair":
        return text(value[0]) + text(value[1])
    return binary(value) if kind == "binary" else text(value)


@dataclass
class Packet:
    """`kind` is the packet type, `body` what follows the fixed header; the other fields are set where the type has them."""

    kind: int
    flags: int
    body: bytes
    id: int = 0
    reason: int = 0
    reasons: list[int] = field(default_factory=list)  # SUBACK, UNSUBACK
    session_present: bool = False
    topic: str = ""
    payload: bytes = b""
    properties: dict[str, Any] = field(default_factory=dict)

    @property
    def qos(self) -> int:
        return self.flags >> 1 & 3

    @property
    def retain(self) -> bool:
        return bool(self.flags & 1)

    @property
    def dup(self) -> bool:
        return bool(self.flags & 8)


class _Cursor:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        assert self.at + size <= len(self.data), "the server sent a short packet"
        part = self.data[self.at : self.at + size]
        self.at += size
        return part

    def rest(self) -> bytes:
        return self.take(len(self.data) - self.at)

    def byte(self) -> int:
        return self.take(1)[0]

    def two(self) -> int:
        return int.from_bytes(self.take(2), "big")

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def properties(self) -> dict[str, Any]:
        inner = _Cursor(self.take(self.varint()))
        found: dict[str, Any] = {}
        while inner.at < len(inner.data):
            name, kind = PROPERTIES[inner.varint()]
            value = inner._value(kind)
            if name in ("user_property", "subscription_identifier"):
                found.setdefault(name, []).append(value)
            else:
                assert name not in found, f"the server sent {name} twice"
                found[name] = value
        return found

    def _value(self, kind: str) -> Any:
        if kind in _FIXED:
            return int.from_bytes(self.take(struct.calcsize(_FIXED[kind])), "big")
        if kind == "varint":
            return self.varint()
        if kind == "pair":
            return (self.take(self.two()).decode(), self.take(self.two()).decode())
        data = self.take(self.two())
        return data if kind == "binary" else data.decode()


def parse(first: int, body: bytes, version: int) -> Packet:
    found = Packet(first >> 4, first & 15, body)
    cursor = _Cursor(body)
    if found.kind == CONNACK:
        found.session_present = bool(cursor.byte())
        found.reason = cursor.byte()
        if version == 5 and cursor.at < len(body):
            found.properties = cursor.properties()
    elif found.kind == PUBLISH:
        found.topic = cursor.take(cursor.two()).decode()
        if found.qos:
            found.id = cursor.two()
        if version == 5:
            found.properties = cursor.properties()
        found.payload = cursor.rest()
    elif found.kind in (PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK):
        found.id = cursor.two()
        if found.kind in (SUBACK, UNSUBACK):
            if version == 5:
                found.properties = cursor.properties()
            found.reasons = list(cursor.rest())
        elif body[2:]:
            found.reason = cursor.byte()
            found.properties = cursor.properties() if body[3:] else {}
    elif found.kind in (DISCONNECT, AUTH) and body:
        found.reason = cursor.byte()
        found.properties = cursor.properties() if body[1:] else {}
    return found


def taken(buffer: bytearray, version: int) -> Packet | None:
    """The first packet of `buffer`, which is taken from it; None while it is not all there."""
    length = shift = 0
    for at in range(1, min(5, len(buffer))):
        length |= (buffer[at] & 0x7F) << shift
        shift += 7
        if buffer[at] < 0x80:
            end = at + 1 + length
            if len(buffer) < end:
                return None
            found = parse(buffer[0], bytes(buffer[at + 1 : end]), version)
            del buffer[:end]
            return found
    return None


class Client:
    """One TCP connection. `send` any bytes; `receive` the next packet; the rest are shorthands."""

    def __init__(self, port: int, version: int = 5, *, host: str = "127.0.0.1", timeout_s: float = 10.0) -> None:
        self.version, self.timeout_s = version, timeout_s
        self.socket = socket.create_connection((host, port), timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray()
        self._early: deque[Packet] = deque()
        self._next_id = 0

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- packets ---------------------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self, timeout_s: float | None = None) -> Packet:
        """The next packet. Raises Closed, and TimeoutError when none comes."""
        if self._early:
            return self._early.popleft()
        deadline = time.monotonic() + (self.timeout_s if timeout_s is None else timeout_s)
        while (found := taken(self._buffer, self.version)) is None:
            self.socket.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                data = self.socket.recv(65536)
            except ConnectionError:
                data = b""
            if not data:
                raise Closed
            self._buffer += data
        return found

    def expect(self, kind: int, timeout_s: float | None = None) -> Packet:
        found = self.receive(timeout_s)
        assert found.kind == kind, f"expected type {kind}, got {found}"
        return found

    def expect_closed(self, timeout_s: float | None = None) -> Packet | None:
        """The DISCONNECT (or refusing CONNACK) that came before the close, if one did; anything else fails."""
        last = None
        try:
            while True:
                last = self.receive(timeout_s)
                assert last.kind in (DISCONNECT, CONNACK), last
        except Closed:
            return last

    def nothing(self, timeout_s: float = 0.2) -> None:
        """Nothing comes: what the server owed came before the answer to a PINGREQ."""
        self.send(packet(PINGREQ << 4))
        self.expect(PINGRESP)
        try:
            found = self.receive(timeout_s)
        except TimeoutError:
            return
        raise AssertionError(f"unexpected {found}")

    # -- shorthands ------------------------------------------------------------------------------------------------------

    def next_id(self) -> int:
        self._next_id = self._next_id % 65535 + 1
        return self._next_id

    def connect(self, client_id: str = "", *, clean: bool = True, **options: Any) -> Packet:
        """Send a CONNECT (see `connect_packet`), the CONNACK, which must accept."""
        self.send(connect_packet(client_id, version=self.version, clean=clean, **options))
        answer = self.expect(CONNACK)
        assert answer.reason == 0, answer
        return answer

    def subscribe(self, *filters: str | tuple[str, int], **values: Any) -> Packet:
        """Each filter with its options byte (QoS 0 if left out); the SUBACK."""
        self._ask_to_subscribe(*filters, **values)
        return self.expect(SUBACK)

    def subscribe_amid(self, *filters: str, **values: Any) -> Packet:
        """The same, where messages come at any time: those before the SUBACK (MQTT 5, 3.8.4) are received after it."""
        self._ask_to_subscribe(*filters, **values)
        early = []
        while (found := self.receive()).kind == PUBLISH:
            early.append(found)
        self._early.extend(early)
        assert found.kind == SUBACK, found
        return found

    def _ask_to_subscribe(self, *filters: str | tuple[str, int], **values: Any) -> None:
        pairs = [(each, 0) if isinstance(each, str) else each for each in filters]
        body = struct.pack(">H", self.next_id()) + (properties(**values) if self.version == 5 else b"")
        self.send(packet(0x82, body + b"".join(text(name) + bytes([options]) for name, options in pairs)))

    def unsubscribe(self, *filters: str) -> Packet:
        body = struct.pack(">H", self.next_id()) + (properties() if self.version == 5 else b"")
        self.send(packet(0xA2, body + b"".join(map(text, filters))))
        return self.expect(UNSUBACK)

    def publish(
        self, topic: str, payload: bytes = b"", qos: int = 0, *, retain: bool = False, dup: bool = False, id: int = 0,
        **values: Any,
    ) -> int:  # fmt: skip
        """Send a PUBLISH; its packet id. No answer is waited for."""
        body = text(topic)
        if qos:
            id = id or self.next_id()
            body += struct.pack(">H", id)
        if self.version == 5:
            body += properties(**values)
        self.send(packet(0x30 | dup << 3 | qos << 1 | retain, body + payload))
        return id

    def publish_all(self, topic: str, payload: bytes = b"", qos: int = 1, **values: Any) -> Packet:
        """PUBLISH with its whole handshake; the PUBACK or PUBREC."""
        id = self.publish(topic, payload, qos, **values)
        answer = self.expect(PUBACK if qos == 1 else PUBREC)
        assert answer.id == id
        if qos == 2 and answer.reason < 0x80:
            self.ack(PUBREL, id)
            assert self.expect(PUBCOMP).id == id
        return answer

    def ack(self, kind: int, id: int, reason: int | None = None) -> None:
        body = struct.pack(">H", id) + (b"" if reason is None else bytes([reason]))
        self.send(packet(kind << 4 | (2 if kind == PUBREL else 0), body))

    def take(self, timeout_s: float | None = None) -> Packet:
        """The next PUBLISH, acknowledged in full."""
        found = self.expect(PUBLISH, timeout_s)
        if found.qos == 1:
            self.ack(PUBACK, found.id)
        elif found.qos == 2:
            self.ack(PUBREC, found.id)
            assert self.expect(PUBREL).id == found.id
            self.ack(PUBCOMP, found.id)
        return found

    def take_until_quiet(self, quiet_s: float) -> list[Packet]:
        """Each PUBLISH until nothing has come for that long, acknowledged; handshakes of QoS 2 may overlap."""
        found = []
        while True:
            try:
                got = self.receive(quiet_s)
            except TimeoutError:
                return found
            if got.kind == PUBREL:
                self.ack(PUBCOMP, got.id)
                continue
            assert got.kind == PUBLISH, got
            found.append(got)
            if got.qos:
                self.ack(PUBACK if got.qos == 1 else PUBREC, got.id)

    def disconnect(self, reason: int = 0, **values: Any) -> None:
        self.send(
            packet(0xE0, bytes([reason]) + properties(**values) if self.version == 5 and (reason or values) else b"")
        )
        self.close()


def connect_packet(
    client_id: str = "", *, version: int = 5, clean: bool = True, keep_alive: int = 60,
    will: tuple[str, bytes, int, bool] | None = None, will_properties: dict[str, Any] | None = None,
    user: str | None = None, password: bytes | None = None, **values: Any,
) -> bytes:  # fmt: skip
    """`will`: topic, payload, QoS, retain. `values`: properties of the CONNECT (version 5)."""
    flags = clean << 1
    payload = text(client_id)
    if will is not None:
        topic, message, qos, retain = will
        flags |= 0x04 | qos << 3 | retain << 5
        payload += (properties(**(will_properties or {})) if version == 5 else b"") + text(topic) + binary(message)
    if user is not None:
        flags |= 0x80
        payload += text(user)
    if password is not None:
        flags |= 0x40
        payload += binary(password)
    name = text("MQIsdp" if version == 3 else "MQTT")
    head = name + bytes([version, flags]) + struct.pack(">H", keep_alive)
    return packet(0x10, head + (properties(**values) if version == 5 else b"") + payload)
