"""Attacks on what lies between the socket and MQTT (hardening.md S26): WebSocket, TLS, the PROXY protocol."""

from __future__ import annotations

import os
import ssl
import struct
import time
from random import Random

from tests.fuzz import packets
from tests.fuzz.target import Target
from tests.fuzz.volley import cut, fire
from tests.mqtt import connect_packet

AT_ONCE = 24
REQUEST = (
    b"GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
)
PROXY_2 = b"\r\n\r\n\0\r\nQUIT\n"


def frame(rng: Random, payload: bytes, opcode: int = 2, *, end: bool = True, mask: bool = True, lie: int = 0) -> bytes:
    """One WebSocket frame; `lie` is added to its length."""
    size = max(0, len(payload) + lie)
    head = bytes([end << 7 | opcode])
    if size < 126:
        head += bytes([mask << 7 | size])
    else:
        head += (
            bytes([mask << 7 | 126]) + struct.pack(">H", size)
            if size < 65536
            else bytes([mask << 7 | 127]) + struct.pack(">Q", size)
        )
    if not mask:
        return head + payload
    key = rng.randbytes(4)
    return head + key + bytes(byte ^ key[at & 3] for at, byte in enumerate(payload))


def websocket_frames(target: Target, rng: Random, until: float) -> None:
    """MQTT cut across frames and merged in them; unmasked, text, control, fragmented, oversized and lying frames."""
    while time.monotonic() < until:
        streams = []
        for _ in range(AT_ONCE):
            stream = b""
            for piece in cut(rng, b"".join(packets.conversation(rng))):
                stream += _frames(rng, piece)
            streams.append(stream)
        for heard in fire(rng, target.ports["ws"], streams, greeting=REQUEST):
            assert heard.startswith(b"HTTP/1.1 101 "), heard[:100]


def _frames(rng: Random, piece: bytes) -> bytes:
    good = frame(rng, piece)
    fault = rng.randrange(24)
    if fault == 0:
        return frame(rng, piece, mask=False)
    if fault == 1:
        return frame(rng, piece, rng.randrange(16))
    if fault == 2:
        return (
            frame(rng, piece, end=False)
            + frame(rng, rng.randbytes(rng.choice((5, 130))), rng.choice((8, 9, 10)))
            + good
        )
    if fault == 3:
        return frame(rng, piece, lie=rng.choice((-1, 1, 65536, 2**40)))
    if fault == 4:
        return frame(rng, rng.randbytes(9), 9) * rng.choice((1, 64, 500))
    if fault == 5:
        return frame(rng, b"", 0) * 100
    if fault == 6:
        return frame(rng, struct.pack(">H", rng.randrange(65536)) + rng.randbytes(rng.randrange(130)), 8)
    if fault == 7:
        return packets.flip_bits(rng, good)
    if fault == 8:
        return b"\x82\xff" + struct.pack(">Q", rng.choice((2**63, 2**64 - 1, 2**31))) + bytes(4)
    return good


def websocket_requests(target: Target, rng: Random, until: float) -> None:
    """Handshakes spoiled, endless, or of another protocol."""
    while time.monotonic() < until:
        streams = []
        for _ in range(AT_ONCE):
            lines = REQUEST.split(b"\r\n")
            at = rng.randrange(len(lines) - 2)
            lines[at] = rng.choice((
                b"", packets.flip_bits(rng, lines[at] or b"x"), packets.insert(rng, lines[at]), b"X: " + b"y" * 9000,
                b"X: \xff\xfe\0", b"Sec-WebSocket-Protocol: \xe9", b"Upgrade", b"GET /mqtt HTTP/9.9", b": ", b"Origin: \xe9",
                b"Content-Length: 99999999999", b"Sec-WebSocket-Extensions: permessage-deflate; x=\"",
            ))  # fmt: skip
            lines[at:at] = rng.choice(([], [], [b"X-%d: y" % number for number in range(300)]))
            begin = rng.choice((b"", b"", rng.randbytes(20), connect_packet("raw")))
            streams.append(begin + b"\r\n".join(lines) + rng.choice((b"", frame(rng, connect_packet("w")))))
        for heard in fire(rng, target.ports["ws"], streams):
            assert heard.startswith(b"HTTP/1.1 ") or not heard, heard[:100]


def tls(target: Target, rng: Random, until: float) -> None:
    """Records of noise, a spoiled ClientHello, and a good handshake with noise behind it."""
    hello = _client_hello(target)
    while time.monotonic() < until:
        streams = []
        for _ in range(AT_ONCE):
            record = struct.pack(
                ">BHH", rng.choice((20, 21, 22, 23, 24, 255)), 0x0301, rng.choice((0, 1, 50, 16384, 65535))
            )
            streams.append(rng.choice((
                rng.randbytes(rng.choice((1, 5, 300))), record + rng.randbytes(60), hello[: rng.randrange(len(hello))],
                packets.flip_bits(rng, hello), packets.lie_inside(rng, hello), hello + hello, hello + rng.randbytes(200),
                hello + record + rng.randbytes(60), connect_packet("plain"), hello + b"\x15\3\3\0\2\2\x28",
            )))  # fmt: skip
        fire(rng, target.ports["tls"], streams)
        _inside_tls(target, rng)


def _client_hello(target: Target) -> bytes:
    into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = ssl.create_default_context(cafile=target.ca).wrap_bio(into, out, server_hostname="localhost")
    try:
        session.do_handshake()
    except ssl.SSLWantReadError:
        return out.read()
    raise AssertionError("a handshake without a server")


def _inside_tls(target: Target, rng: Random) -> None:
    """A good session; in it, and on its socket, bytes that are not."""
    import socket

    context = ssl.create_default_context(cafile=target.ca)
    raw = socket.create_connection(("127.0.0.1", target.ports["tls"]), 5)
    with context.wrap_socket(raw, server_hostname="localhost") as session:
        session.settimeout(0.02)
        try:
            for packet in packets.spoil(rng, packets.conversation(rng)):
                session.send(packet)
            session.recv(65536)
            if rng.random() < 0.5:
                os.write(session.fileno(), rng.randbytes(50))
        except (OSError, ssl.SSLError):
            return


def proxy(target: Target, rng: Random, until: float) -> None:
    """PROXY headers of both versions: good, spoiled, cut, lying about their length, with odd parts."""
    while time.monotonic() < until:
        streams = []
        for _ in range(AT_ONCE):
            addresses = rng.randbytes(rng.choice((0, 4, 12, 36, 216)))
            parts = b"".join(
                struct.pack(">BH", rng.choice((1, 2, 5, 0x20, 0x22, 0x30)), rng.choice((0, 3, 9, 65535)))
                + rng.randbytes(9)
                for _ in range(rng.randrange(4))
            )
            length = rng.choice((len(addresses + parts), 0, 1, 12, 4097, 65535))
            head = struct.pack(
                ">BBH", rng.choice((0x20, 0x21, 0x22, 0x11, 0xFF)), rng.choice((0, 0x11, 0x21, 0x31, 0xFF)), length
            )
            line = rng.choice((
                b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", b"PROXY UNKNOWN\r\n", b"PROXY TCP6 ::1 ::1 1 2\r\n", b"PROXY \r\n",
                b"PROXY TCP4 1.2.3.4 5.6.7.8 99999 -1\r\n", b"PROXY TCP4 \xff\xff 5.6.7.8 1 1\r\n", b"PROXY " + b"x" * 200,
            ))  # fmt: skip
            header = rng.choice((PROXY_2 + head + addresses + parts, line))
            if rng.random() < 0.4:
                header = packets.flip_bits(rng, header)
            streams.append(header + b"".join(packets.conversation(rng)))
        fire(rng, target.ports["proxy"], streams)


ATTACKS = (websocket_frames, websocket_requests, tls, proxy)
