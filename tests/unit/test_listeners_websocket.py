"""WebSocket filters against the client of the websockets library: frames cut and merged anywhere, refusals, floods."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from node.listeners.filters import FilterError
from node.listeners.websocket import IDLE_FRAMES_MAX, MESSAGE_SLACK_BYTES, WebSocketFilter

MAX_PACKET_BYTES = 4096
REQUEST = (
    b"GET /mqtt HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)
MQTT = b"Sec-WebSocket-Protocol: mqtt\r\n"
END = b"\r\n"


def make(origins: tuple[str, ...] = ()) -> WebSocketFilter:
    return WebSocketFilter("/mqtt", origins, MAX_PACKET_BYTES)


def opened() -> WebSocketFilter:
    part = make()
    assert part.receive(REQUEST + MQTT + END) == b""
    assert part.take().startswith(b"HTTP/1.1 101 ")
    return part


def frame(opcode: Opcode, data: bytes = b"", fin: bool = True, mask: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=mask)


def feed(part: WebSocketFilter, data: bytes, sizes: list[int]) -> bytes:
    """What comes out when `data` comes in pieces of `sizes`, the last one again and again."""
    plain, sizes = b"", list(sizes) or [len(data)]
    while data:
        size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
        plain += part.receive(data[:size])
        data = data[size:]
    return plain


def connected(subprotocol: str = "mqtt") -> tuple[WebSocketFilter, ClientProtocol]:
    part, client = make(), ClientProtocol(parse_uri("ws://h/mqtt"), subprotocols=[Subprotocol(subprotocol)])
    client.send_request(client.connect())
    for data in client.data_to_send():
        assert part.receive(data) == b""
    client.receive_data(part.take())
    (response,) = client.events_received()
    assert isinstance(response, Response)
    assert response.status_code == 101
    assert client.subprotocol == subprotocol
    assert client.state is State.OPEN
    return part, client


@pytest.mark.statement("MQTT-6.0.0-4")
@pytest.mark.parametrize("subprotocol", ["mqtt", "mqttv3.1"])
def test_a_client_of_the_library(subprotocol: str) -> None:
    part, client = connected(subprotocol)
    assert part.facts() == {"subprotocol": subprotocol}
    client.send_binary(b"hel", fin=False)
    client.send_ping(b"p")
    client.send_continuation(b"lo", fin=True)
    assert part.receive(b"".join(client.data_to_send())) == b"hello"
    part.send(b"one")
    part.send(b"two" * 1000)
    client.receive_data(part.take())
    frames = [event for event in client.events_received() if isinstance(event, Frame)]
    assert [(each.opcode, bytes(each.data)) for each in frames] == [
        (Opcode.PONG, b"p"),
        (Opcode.BINARY, b"one"),
        (Opcode.BINARY, b"two" * 1000),
    ]
    part.close()
    client.receive_data(part.take())
    assert client.close_rcvd is not None
    assert client.close_rcvd.code == 1000
    part.send(b"nobody reads this")
    assert part.take() == b""
    with pytest.raises(FilterError, match="closed by the client"):
        part.receive(b"".join(client.data_to_send()))


def test_client_closes_after_last_words() -> None:
    part, client = connected()
    client.send_binary(b"\xe0\0")
    client.send_close(1000)
    assert part.receive(b"".join(client.data_to_send())) == b"\xe0\0"
    client.receive_data(part.take())
    assert client.close_rcvd is not None  # the answer to its close frame
    with pytest.raises(FilterError, match="closed by the client"):
        part.receive(b"x")


@pytest.mark.statement("MQTT-6.0.0-2")
@given(
    packets=st.lists(st.binary(min_size=1, max_size=300), max_size=8),
    cuts=st.lists(st.integers(1, 400), max_size=8),
    pings=st.booleans(),
    sizes=st.lists(st.integers(1, 64), max_size=5),
)
@settings(deadline=None, max_examples=150)
def test_packets_split_and_merged_over_frames(
    packets: list[bytes], cuts: list[int], pings: bool, sizes: list[int]
) -> None:
    stream, raw, first = b"".join(packets), b"", True
    rest, sizes = stream, sizes or [7]
    for number, cut in enumerate([*cuts, len(stream) + 1]):
        if not rest and not first:
            break
        piece, rest = rest[:cut], rest[cut:]
        fin = number % 2 == 1 or not rest
        raw += frame(Opcode.BINARY if first else Opcode.CONT, piece, fin)
        raw += frame(Opcode.PING, b"?") if pings else b""
        first = fin
    part = opened()
    assert feed(part, raw, sizes) == stream


@pytest.mark.parametrize("size", [1, 2, 7, 50, 10_000])
def test_handshake_in_pieces(size: int) -> None:
    part = make()
    assert feed(part, REQUEST + MQTT + END, [size]) == b""
    assert part.take().startswith(b"HTTP/1.1 101 ")
    assert feed(part, frame(Opcode.BINARY, b"x" * 200), [size]) == b"x" * 200


HANDSHAKES = [
    (REQUEST + END, b"400"),  # no subprotocol
    (REQUEST + b"Sec-WebSocket-Protocol: chat, amqp\r\n" + END, b"400"),
    (REQUEST.replace(b"/mqtt", b"/other") + MQTT + END, b"404"),
    (REQUEST.replace(b"/mqtt", b"/mqtt/") + MQTT + END, b"404"),
    (REQUEST.replace(b"Version: 13", b"Version: 8") + MQTT + END, b"400"),
    (REQUEST.replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"short") + MQTT + END, b"400"),
    (REQUEST + MQTT + b"Origin: https://evil.test\r\n" + END, b"403"),
    (b"GET /mqtt HTTP/1.1\r\nHost: h\r\n\r\n", b"426"),
    (b"POST /mqtt HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nabcd", b"400"),
    (b"\x10\x0c\0\4MQTT\4\2\0\0\0\0\r\n\r\n", b"400"),
    (b"\x16\x03\x01\x02\x00\r\n", b"400"),
    (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n", b"400"),
    (REQUEST + (b"X-A: " + b"b" * 100 + b"\r\n") * 100, b"431"),
    (REQUEST + b"X-A: b\r\n" * 200 + END, b"400"),
    (REQUEST + MQTT + END + frame(Opcode.BINARY, b"x"), b"400"),  # it must wait for the answer
    (REQUEST + MQTT + END + frame(Opcode.PING), b"400"),
    (REQUEST + MQTT + END + frame(Opcode.CLOSE), b"400"),
    (REQUEST + END + b"\xff\xff", b"400"),
    (REQUEST.replace(b"dGhlIHNh", b"dGhl\xe9\xe9Nh") + MQTT + END, b"400"),  # not our error
]


@pytest.mark.parametrize(("request_bytes", "status"), HANDSHAKES)
def test_refused_handshakes(request_bytes: bytes, status: bytes) -> None:
    part = make(origins=("https://good.test",))
    with pytest.raises(FilterError, match="WebSocket: "):
        part.receive(request_bytes)
    assert part.take().split(b" ")[:2] == [b"HTTP/1.1", status]
    with pytest.raises(FilterError):
        part.receive(b"more")
    part.send(b"x")
    part.close()
    assert part.take() == b""


@pytest.mark.parametrize("extra", [b"", b"Origin: https://good.test\r\n"])
def test_origins(extra: bytes) -> None:
    part = make(origins=("https://good.test",))
    assert part.receive(REQUEST.replace(b"/mqtt", b"/mqtt?token=1") + MQTT + extra + END) == b""
    assert part.take().startswith(b"HTTP/1.1 101 ")


BAD_FRAMES = {
    "text": (frame(Opcode.TEXT, b"hello"), 1003),
    "text-begins": (frame(Opcode.TEXT, b"he", fin=False), 1003),
    "unmasked": (frame(Opcode.BINARY, b"x", mask=False), 1002),
    "nothing-to-continue": (frame(Opcode.CONT, b"x"), 1002),
    "not-continued": (frame(Opcode.BINARY, b"x", fin=False) + frame(Opcode.BINARY, b"x"), 1002),
    "reserved-opcode": (b"\x83\x80\0\0\0\0", 1002),
    "reserved-bit": (b"\xc2\x80\0\0\0\0", 1002),
    "fragmented-ping": (b"\x09\x80\0\0\0\0", 1002),
    "close-of-one-byte": (b"\x88\x81\0\0\0\0\0", 1002),
    "2-MB-declared": (b"\x82\xff" + b"\0\0\0\0\0\x20\0\0" + b"\0\0\0\0", 1009),  # refused before they come
    "too-large": (frame(Opcode.BINARY, b"x" * (MAX_PACKET_BYTES + MESSAGE_SLACK_BYTES + 1)), 1009),
    "pings": (frame(Opcode.PING, b"x") * (IDLE_FRAMES_MAX + 1), 1008),
    "pongs": (frame(Opcode.PONG, b"x") * (IDLE_FRAMES_MAX + 1), 1008),
    "empty": (frame(Opcode.BINARY) * (IDLE_FRAMES_MAX + 1), 1008),
}


@pytest.mark.statement("MQTT-6.0.0-1")
@pytest.mark.parametrize(("raw", "code"), BAD_FRAMES.values(), ids=BAD_FRAMES)
def test_bad_frames_close(raw: bytes, code: int) -> None:
    part = opened()
    with pytest.raises(FilterError, match="WebSocket: "):
        part.receive(raw)
    sent = part.take()
    assert code.to_bytes(2, "big") in sent
    assert len(sent) < 300
    with pytest.raises(FilterError):
        part.receive(b"more")


def test_largest_message_passes() -> None:
    data = b"x" * (MAX_PACKET_BYTES + MESSAGE_SLACK_BYTES)
    assert opened().receive(frame(Opcode.BINARY, data)) == data


def test_only_the_last_ping_is_answered() -> None:
    part = opened()
    raw = b"".join(frame(Opcode.PING, b"%d" % number) for number in range(IDLE_FRAMES_MAX))
    assert part.receive(raw + frame(Opcode.BINARY, b"data")) == b"data"
    assert part.take() == frame(Opcode.PONG, b"%d" % (IDLE_FRAMES_MAX - 1), mask=False)


@given(st.binary(max_size=200), st.integers(0, 2**32))
@settings(deadline=None, max_examples=300)
def test_garbage_closes_or_passes_but_never_breaks(garbage: bytes, seed: int) -> None:
    chance = random.Random(seed)
    raw = bytearray(REQUEST + MQTT + END)
    for _ in range(chance.randint(0, 3)):
        raw[chance.randrange(len(raw))] = chance.randrange(256)
    parts = [(make(), bytes(raw)), (make(), garbage), (opened(), garbage), (opened(), frame(Opcode.BINARY, garbage))]
    for part, data in parts:
        with suppress(FilterError):
            feed(part, data + garbage, [chance.randint(1, 60)])
        part.send(b"x")
        part.close()
        part.take()
