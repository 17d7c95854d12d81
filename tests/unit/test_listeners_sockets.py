"""Listening sockets with the real kernel, and the filters composed for a listener: PROXY, TLS and WebSocket in one."""

from __future__ import annotations

import os
import socket
import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509
from websockets.client import ClientProtocol
from websockets.frames import Frame
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from node.config import Limits, Listener
from node.listeners.filters import FilterError, ListenError
from node.listeners.proxy_protocol import ProxyProtocolFilter
from node.listeners.sockets import UNACKNOWLEDGED_MS, check_free, filter_factory, open_listener, split_bind
from node.listeners.tls import TlsError, TlsFilter
from node.listeners.websocket import WebSocketFilter
from tests.unit.certificates import Authority
from tests.unit.test_listeners_tls import Client

NEEDS_IPV6 = pytest.mark.skipif(not Path("/proc/net/if_inet6").exists(), reason="no IPv6 here")


def tcp(bind: str) -> Listener:
    return Listener(type="tcp", bind=bind)


def test_tcp_is_shared_between_workers_but_not_with_others() -> None:
    (first,) = open_listener(tcp("127.0.0.1:0"))
    bind = f"127.0.0.1:{first.getsockname()[1]}"
    (second,) = open_listener(tcp(bind))
    with first, second:
        assert not first.getblocking()
        assert not os.get_inheritable(first.fileno())
        with pytest.raises(ListenError, match=r"Address already in use.*ss -ltnp"):
            check_free(bind)
        socket.create_connection(first.getsockname()).close()
    check_free(bind)  # at once, whatever is in TIME_WAIT
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(ListenError, match="in use"):
        open_listener(tcp(f"127.0.0.1:{other.getsockname()[1]}"))


@pytest.mark.parametrize("address", ["127.0.0.1:0", pytest.param("[::1]:0", marks=NEEDS_IPV6)])
def test_accepted_sockets_inherit_what_the_listener_was_given(address: str) -> None:
    (listening,) = open_listener(tcp(address))
    listening.setblocking(True)
    with listening, socket.create_connection(listening.getsockname()[:2]), listening.accept()[0] as accepted:
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == UNACKNOWLEDGED_MS


@NEEDS_IPV6
def test_ipv6_does_not_take_ipv4_along() -> None:
    (six,) = open_listener(tcp("[::]:0"))
    port = six.getsockname()[1]
    (four,) = open_listener(tcp(f"0.0.0.0:{port}"))
    with six, four:
        assert six.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        assert six.family == socket.AF_INET6


@pytest.mark.parametrize(
    ("bind", "reason"),
    [
        ("1883", "not ADDRESS:PORT"),
        ("127.0.0.1:", "not ADDRESS:PORT"),
        ("127.0.0.1:mqtt", "not ADDRESS:PORT"),
        ("127.0.0.1:65536", "no port 65536"),
        ("::1:1883", "not ADDRESS:PORT"),
        ("192.0.2.7:1883", "ip address"),
        ("no-such-host.invalid:1883", "has no address"),
    ],
)
def test_bad_addresses_are_explained(bind: str, reason: str) -> None:
    with pytest.raises(ListenError, match=reason):
        open_listener(tcp(bind))


def test_split() -> None:
    assert split_bind("[::1]:1883") == ("::1", 1883)
    assert split_bind("localhost:0") == ("localhost", 0)


def unix(path: Path, mode: str = "0660") -> Listener:
    return Listener(type="unix", bind=str(path), mode=mode)


def test_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "mqtt.sock"
    (first,) = open_listener(unix(path, "0600"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["mqtt.sock"]
    with pytest.raises(ListenError, match="another program answers"):
        open_listener(unix(path))
    first.close()
    (second,) = open_listener(unix(path))  # a stale path is nobody's
    with second, socket.socket(socket.AF_UNIX) as client:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        client.connect(str(path))
        second.accept()[0].close()


def test_unix_paths_that_cannot_be(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("data")
    with pytest.raises(ListenError, match="no socket"):
        open_listener(unix(precious))
    assert precious.read_text() == "data"
    with pytest.raises(ListenError, match="cannot make the socket"):
        open_listener(unix(tmp_path / "missing" / "mqtt.sock"))
    with pytest.raises(ListenError, match="longer than"):
        open_listener(unix(tmp_path / ("x" * 100)))


def test_factory_gives_what_the_listener_needs(tmp_path: Path) -> None:
    certificate, key = Authority(tmp_path).issue("server", "mqtt.test")
    tls = {"certificate": certificate, "key": key}
    limits = Limits()
    assert filter_factory(tcp("127.0.0.1:0"), limits)("127.0.0.1:5") is None
    assert filter_factory(unix(tmp_path / "x"), limits)("unix") is None
    assert isinstance(filter_factory(Listener(type="ws", bind="x:1"), limits)("[::1]:5"), WebSocketFilter)
    factory = filter_factory(Listener(type="tls", bind="x:1", **tls), limits)  # type: ignore[arg-type]
    assert isinstance(factory("[::1]:5"), TlsFilter)
    assert factory.certificate_expires_at is not None
    factory.reload()
    Path(key).unlink()
    with pytest.raises(TlsError):
        factory.reload()
    assert isinstance(factory("[::1]:5"), TlsFilter)
    proxied = Listener(type="tcp", bind="x:1", proxy_protocol="required", proxy_networks=("10.0.0.0/8",), identity="cn")
    assert isinstance(filter_factory(proxied, limits)("10.1.1.1:5"), ProxyProtocolFilter)
    with pytest.raises(FilterError, match="not in proxy_networks"):
        filter_factory(proxied, limits)("11.1.1.1:5")
    local = Listener(type="unix", bind="/x", proxy_protocol="required")
    assert isinstance(filter_factory(local, limits)("unix"), ProxyProtocolFilter)


@pytest.mark.parametrize(
    "broken",
    [
        {"proxy_protocol": "required"},
        {"proxy_protocol": "required", "proxy_networks": ("10.0.0.1/8",)},
        {"proxy_protocol": "required", "proxy_networks": ("10.0.0.0/8",), "identity": "san_dns"},
        {"identity": "cn"},
        {"type": "wss"},
    ],
)
def test_factory_refuses_contradictions(broken: dict[str, object]) -> None:
    with pytest.raises(ListenError, match="listener x:1"):
        filter_factory(Listener(**{"type": "tcp", "bind": "x:1", **broken}), Limits())  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1, 100, 1_000_000])
def test_all_three_filters_with_a_client_certificate(tmp_path: Path, size: int) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server", "mqtt.test", [x509.DNSName("mqtt.test")])
    listener = Listener(
        type="wss", bind="x:1", certificate=certificate, key=key, client_ca=authority.path, identity="cn",
        client_certificate="required", proxy_protocol="required", proxy_networks=("10.0.0.0/8",),
    )  # fmt: skip
    part = filter_factory(listener, Limits())("10.0.0.1:5")
    assert part is not None
    context = ssl.create_default_context(cafile=authority.path)
    context.load_cert_chain(*authority.issue("client", "alice"))
    client = Client(part, context, cut=lambda data: [data[at : at + size] for at in range(0, len(data), size)])
    client._shake()
    hello = b"PROXY TCP4 192.0.2.1 10.0.0.9 5555 443\r\n" + client.outgoing.read()
    for piece in client.cut(hello):  # header and ClientHello may come in one
        assert part.receive(piece) == b""
    client.incoming.write(part.take())
    client.connect()
    web = ClientProtocol(parse_uri("wss://mqtt.test/mqtt"), subprotocols=[Subprotocol("mqtt")])
    web.send_request(web.connect())
    web_send(client, web)
    web.receive_data(client.read())
    web.events_received()
    web.send_binary(b"x" * 5000)
    web_send(client, web)
    assert client.received == b"x" * 5000
    part.send(b"y" * 70_000)
    client.pump()
    web.receive_data(client.read())
    (frame,) = web.events_received()
    assert isinstance(frame, Frame)
    assert frame.data == b"y" * 70_000
    facts = part.facts()
    assert facts["user"] == "alice"
    assert facts["address"] == "192.0.2.1:5555"
    assert facts["subprotocol"] == "mqtt"
    assert facts["tls"] == "TLSv1.3"
    assert not part.finished
    part.close()
    client.incoming.write(part.take())
    web.receive_data(client.read())
    assert web.close_rcvd is not None
    client.tls.unwrap()


def web_send(client: Client, web: ClientProtocol) -> None:
    for data in web.data_to_send():
        client.tls.write(data)
    client.pump()


def test_a_refused_handshake_is_told_through_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server", "mqtt.test", [x509.DNSName("mqtt.test")])
    part = filter_factory(Listener(type="wss", bind="x:1", certificate=certificate, key=key), Limits())("[::1]:5")
    assert part is not None
    client = Client(part, ssl.create_default_context(cafile=authority.path))
    client.connect()
    client.tls.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    with pytest.raises(FilterError, match="404"):
        client.pump()
    assert client.read().startswith(b"HTTP/1.1 404 ")
