"""PROXY protocol headers: a table of valid and malformed ones, each whole, byte by byte and with a tail."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.listeners.filters import FilterError
from node.listeners.proxy_protocol import ProxyProtocolFilter, check_peer

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
TCP4 = struct.pack("!4s4sHH", bytes([192, 0, 2, 1]), bytes([198, 51, 100, 2]), 56324, 1883)
V6 = ipaddress.ip_address("2001:db8::1").packed
TCP6 = struct.pack("!16s16sHH", V6, V6, 1, 65535)
MAPPED = struct.pack("!16s16sHH", ipaddress.ip_address("::ffff:192.0.2.1").packed, V6, 5, 6)


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def v2(body: bytes, command: int = 0x21, family: int = 0x11) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(body)) + body


def ssl_tlv(name: bytes, client: int = 0x07, verify: int = 0) -> bytes:
    fields = tlv(0x21, b"TLSv1.3") + tlv(0x22, name) + tlv(0x23, b"TLS_AES_128_GCM_SHA256")
    return tlv(0x20, struct.pack("!BI", client, verify) + fields)


SOURCE4 = {"address": "192.0.2.1:56324"}
TLS = {"tls": "TLSv1.3", "cipher": "TLS_AES_128_GCM_SHA256"}
VALID = [
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 1883\r\n", SOURCE4),
    (b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n", {"address": "[2001:db8::1]:1"}),
    (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 56324 2\r\n", SOURCE4),
    (b"PROXY UNKNOWN\r\n", {}),
    (b"PROXY UNKNOWN ffff::1 what ever\r\n", {}),
    (b"PROXY UNKNOWN " + b"f" * 91 + b"\r\n", {}),  # 107 bytes
    (v2(TCP4), SOURCE4),
    (v2(TCP6, family=0x21), {"address": "[2001:db8::1]:1"}),
    (v2(MAPPED, family=0x21), {"address": "192.0.2.1:5"}),
    (v2(bytes(216), family=0x31), {}),
    (v2(b"", family=0), {}),
    (v2(tlv(4, b"noop"), family=0), {}),
    (v2(b"", command=0x20, family=0), {}),
    (v2(TCP4 + b"junk", command=0x20), {}),  # LOCAL: all of it is to be ignored
    (v2(TCP4 + tlv(1, b"h2") + tlv(4, b"")), SOURCE4),
    (v2(TCP4 + tlv(4, bytes(4096 - 12 - 3))), SOURCE4),
    (v2(TCP4 + ssl_tlv(b"alice")), {**SOURCE4, **TLS, "user": "alice"}),
    (v2(TCP4 + ssl_tlv(b"alice", client=0x05)), {**SOURCE4, **TLS, "user": "alice"}),  # resumed session
    (v2(TCP4 + ssl_tlv(b"alice", client=0x01)), {**SOURCE4, **TLS}),  # no certificate
    (v2(TCP4 + ssl_tlv(b"alice", verify=1)), {**SOURCE4, **TLS}),  # not verified
    (v2(TCP4 + tlv(0x20, bytes(5))), SOURCE4),
]
MALFORMED = [
    b"\x10\x0c\0\4MQTT\4\2\0\0\0\0",
    b"PROXY\r\n" + bytes(20),
    b"PROXY TCP4\r\n",
    b"PROXY  UNKNOWN\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 56324\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 1883 x\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 65536 1883\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 -1 1883\r\n",
    b"PROXY TCP4 192.0.2.256 198.51.100.2 1 1883\r\n",
    b"PROXY TCP4 2001:db8::1 ::1 1 2\r\n",
    b"PROXY TCP6 192.0.2.1 198.51.100.2 1 2\r\n",
    b"PROXY TCP6 fe80::1%/+# ::1 1 2\r\n",
    b"PROXY UDP4 192.0.2.1 198.51.100.2 1 2\r\n",
    b"PROXY TCP4 \xff.0.2.1 198.51.100.2 1 2\r\n",
    b"PROXY UNKNOWN " + b"f" * 92 + b"\r\n",
    b"PROXY " + b"x" * 200,
    v2(TCP4, command=0x11),  # version 1 in the binary header
    v2(TCP4, command=0x22),
    v2(TCP4, family=0x12),  # UDP
    v2(TCP4[:-1]),
    v2(TCP6, family=0x22),
    v2(bytes(215), family=0x31),
    v2(TCP4 + b"\x01"),
    v2(TCP4 + b"\x01\0\x02x"),
    v2(TCP4 + tlv(0x20, b"\x07\0\0")),
    v2(TCP4 + tlv(0x20, bytes(5) + b"\x22\0\x09x")),
    v2(TCP4 + ssl_tlv(b"al#ice")),
    v2(TCP4 + ssl_tlv(b"\xff\xfe")),
    v2(TCP4 + ssl_tlv(b"")),
    v2(bytes(4097)),
]


@pytest.mark.parametrize(("header", "facts"), VALID)
@pytest.mark.parametrize("tail", [b"", b"\x10\x0c\0\4MQTT\4\2\0\0\0\0"])
def test_valid_headers(header: bytes, facts: dict[str, object], tail: bytes) -> None:
    part = ProxyProtocolFilter(identity=True)
    assert part.receive(header + tail) == tail
    assert part.finished
    assert part.facts() == facts
    assert part.receive(b"direct") == b"direct"
    part = ProxyProtocolFilter(identity=False)
    for at in range(len(header)):
        assert not part.finished
        assert part.receive(header[at : at + 1]) == b""
    assert part.finished
    assert part.receive(tail) == tail
    assert part.facts() == {key: value for key, value in facts.items() if key != "user"}


@pytest.mark.parametrize("header", MALFORMED)
def test_malformed_headers(header: bytes) -> None:
    with pytest.raises(FilterError):
        ProxyProtocolFilter(identity=True).receive(header)
    part = ProxyProtocolFilter(identity=True)
    with pytest.raises(FilterError):  # and no later than with the last byte
        any(part.receive(header[at : at + 1]) for at in range(len(header)))
    assert not part.finished


@given(st.sampled_from([header for header, _ in VALID] + MALFORMED), st.data())
@settings(deadline=None, max_examples=300)
def test_mutated_headers_never_break(header: bytes, data: st.DataObject) -> None:
    raw = bytearray(header)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    part = ProxyProtocolFilter(identity=True)
    try:
        part.receive(bytes(raw))
    except FilterError:
        assert not part.finished


def test_peers() -> None:
    networks = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fe80::/10"))
    check_peer("10.1.2.3:1", networks)
    check_peer("[fe80::1]:65535", networks)
    check_peer("[fe80::1%eth0]:1", networks)
    for stranger in ("11.0.0.1:1", "[::1]:1", "[2001:db8::1]:1"):
        with pytest.raises(FilterError, match="not in proxy_networks"):
            check_peer(stranger, networks)
