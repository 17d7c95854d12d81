"""The PROXY protocol, versions 1 and 2: who the client behind a load balancer is.

One header, then the filter is finished and the core uses the socket directly; what came after the header is plain.
The header is required and bounded, and taken only from networks the operator named: whoever may send one can
claim any address, and with `identity` any user.
"""

from __future__ import annotations

import ipaddress
import struct

from node.listeners.filters import FilterError, usable_name

_V1_MAX_BYTES = 107  # with CR LF, by the specification
_V2_MAX_BYTES = 4096  # addresses and TLVs; the specification's 64 KiB are for nobody
_V2_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_V2_HEADER = struct.Struct("!12sBBH")
_TLV = struct.Struct("!BH")
_SSL = struct.Struct("!BI")
_TYPE_SSL, _SSL_VERSION, _SSL_CN, _SSL_CIPHER = 0x20, 0x21, 0x22, 0x23
_CLIENT_CERTIFICATE = 0x02 | 0x04  # given in this connection, or in the TLS session that it resumes
_ADDRESSES = {0x11: struct.Struct("!4s4sHH"), 0x21: struct.Struct("!16s16sHH")}  # TCP over IPv4, IPv6
_UNIX_BYTES = 216
_LOCAL, _PROXY = 0x20, 0x21  # version 2 and the command

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class ProxyProtocolFilter:
    def __init__(self, identity: bool) -> None:
        """`identity`: believe the proxy's word for the common name of the client's certificate."""
        self.finished = False
        self._identity = identity
        self._header = b""
        self._out = b""
        self._facts: dict[str, object] = {}

    def receive(self, data: bytes) -> bytes:
        if self.finished:
            return data
        self._header += data
        if self._header[:12] == _V2_SIGNATURE[: len(self._header)]:
            length = self._parse_v2()
        elif self._header[:6] == b"PROXY "[: len(self._header)]:
            length = self._parse_v1()
        else:
            raise FilterError("PROXY protocol: header missing")
        if not length:
            return b""
        plain, self._header = self._header[length:], b""
        self.finished = True
        return plain

    def _parse_v1(self) -> int:
        """The length of the header, 0 while it is incomplete."""
        end = self._header.find(b"\r\n", 0, _V1_MAX_BYTES)
        if end < 0:
            if len(self._header) >= _V1_MAX_BYTES:
                raise FilterError("PROXY protocol: header too long")
            return 0
        words = self._header[:end].split(b" ")
        if words[1] != b"UNKNOWN":  # after which anything may stand
            try:
                family, source, _destination, port, _port = (word.decode("ascii") for word in words[1:])
                address = ipaddress.ip_address(source)
                if family != f"TCP{address.version}" or "%" in source or not port.isdigit():
                    raise ValueError(family)
                self._set_source(address, int(port))
            except ValueError as error:
                raise FilterError("PROXY protocol: malformed header") from error
        return end + 2

    def _parse_v2(self) -> int:
        if len(self._header) < _V2_HEADER.size:
            return 0
        _, command, family, length = _V2_HEADER.unpack_from(self._header)
        if command not in (_LOCAL, _PROXY) or length > _V2_MAX_BYTES:
            raise FilterError("PROXY protocol: malformed header")
        end: int = _V2_HEADER.size + length
        if len(self._header) < end:
            return 0
        if command == _PROXY:  # LOCAL is the proxy's own health check: the peer is who it seems
            body = self._header[_V2_HEADER.size : end]
            self._parse_tlvs(body[self._parse_addresses(family, body) :])
        return end

    def _parse_addresses(self, family: int, body: bytes) -> int:
        """The length of the addresses."""
        layout = _ADDRESSES.get(family)
        if layout is not None and len(body) >= layout.size:
            source, _, port, _ = layout.unpack_from(body)
            self._set_source(ipaddress.ip_address(source), port)
            return layout.size
        if family == 0x31 and len(body) >= _UNIX_BYTES:
            return _UNIX_BYTES
        if family == 0:
            return 0
        raise FilterError("PROXY protocol: malformed header")

    def _set_source(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> None:
        if not 0 <= port <= 65535:
            raise ValueError(port)
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        self._facts["address"] = f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"

    def _parse_tlvs(self, data: bytes) -> None:
        for kind, value in _tlvs(data):
            if kind != _TYPE_SSL:
                continue
            if len(value) < _SSL.size:
                raise FilterError("PROXY protocol: malformed header")
            client, verify = _SSL.unpack_from(value)
            fields = dict(_tlvs(value[_SSL.size :]))
            for field, name in ((_SSL_VERSION, "tls"), (_SSL_CIPHER, "cipher")):
                if field in fields:
                    self._facts[name] = fields[field].decode("ascii", "replace")
            if self._identity and client & _CLIENT_CERTIFICATE and verify == 0 and _SSL_CN in fields:
                self._facts["user"] = usable_name(fields[_SSL_CN])

    def send(self, data: bytes) -> None:
        self._out += data

    def take(self) -> bytes:
        data, self._out = self._out, b""
        return data

    def close(self) -> None:
        pass

    def facts(self) -> dict[str, object]:
        return self._facts


def _tlvs(data: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 0
    while at < len(data):
        if len(data) - at < _TLV.size:
            raise FilterError("PROXY protocol: malformed header")
        kind, length = _TLV.unpack_from(data, at)
        at += _TLV.size
        if length > len(data) - at:
            raise FilterError("PROXY protocol: malformed header")
        found.append((kind, data[at : at + length]))
        at += length
    return found


def check_peer(peer: str, networks: tuple[Network, ...]) -> None:
    """Raise FilterError unless `peer`, HOST:PORT or [IPV6]:PORT, may speak the PROXY protocol to us."""
    address = ipaddress.ip_address(peer.rpartition(":")[0].strip("[]").partition("%")[0])
    if not any(address in network for network in networks):
        raise FilterError(f"PROXY protocol: {peer} is not in proxy_networks")
