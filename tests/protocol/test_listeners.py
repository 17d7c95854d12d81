"""Each kind of listener of a running host, used by paho's and mosquitto's clients: TLS, WebSocket, PROXY, unix."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from cryptography import x509
from paho.mqtt.enums import CallbackAPIVersion

from tests.broker import free_port
from tests.unit.certificates import Authority

CONNECT_TIMEOUT_S = 2
KINDS = ("tcp", "tls", "mtls", "ws", "wss", "proxy")


class Host:
    """A running host with one listener of each kind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder)
        self.server = self.authority.issue("server", "localhost", [x509.DNSName("localhost")])
        self.alice = self.authority.issue("alice", "alice")
        self.port = {kind: free_port() for kind in KINDS}
        self.unix = folder / "mqtt.sock"
        config = folder / "mqnode.toml"
        config.write_text(self._configuration())
        self.log = (folder / "log").open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "node.supervise", "--config", str(config)],
            stdout=self.log, stderr=self.log, cwd=folder,
        )  # fmt: skip

    def _configuration(self) -> str:
        tls = f'certificate = "{self.server[0]}"\nkey = "{self.server[1]}"\n'
        ca = f'client_ca = "{self.authority.path}"\nclient_certificate = "required"\nidentity = "cn"\n'
        more = {
            "tcp": 'type = "tcp"\n',
            "tls": 'type = "tls"\n' + tls,
            "mtls": 'type = "tls"\n' + tls + ca + "allow_anonymous = false\n",
            "ws": 'type = "ws"\norigins = ["https://good.test"]\n',
            "wss": 'type = "wss"\n' + tls + ca + "allow_anonymous = false\n",
            "proxy": 'type = "tcp"\nproxy_protocol = "required"\nproxy_networks = ["127.0.0.1"]\n',
        }
        listeners = [f'[[listeners]]\nbind = "127.0.0.1:{self.port[kind]}"\n{more[kind]}' for kind in KINDS]
        listeners.append(f'[[listeners]]\ntype = "unix"\nbind = "{self.unix}"\n')
        admin = f'[admin]\nbind = "127.0.0.1:{free_port()}"\n'
        node = f'[node]\ndata_dir = "{self.folder}/data"\nworkers = 2\n'
        limits = f"[limits]\nconnect_timeout_s = {CONNECT_TIMEOUT_S}\n"
        return node + admin + limits + "[auth]\nallow_anonymous = true\n" + "".join(listeners)

    def text(self) -> str:
        return (self.folder / "log").read_text()

    def wait_until_serving(self) -> None:
        wait_for(lambda: self.text().count('"event":"ready"') >= 3, 20, self.text)


def wait_for(condition: Callable[[], bool], timeout_s: float, what: Callable[[], str]) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    host = Host(tmp_path_factory.mktemp("host"))
    try:
        host.wait_until_serving()
        yield host
    finally:
        host.process.send_signal(signal.SIGTERM)
        try:
            host.process.wait(30)
        finally:
            host.process.kill()
            host.log.close()


class Client(paho.Client):
    """A paho client that remembers what came."""

    def __init__(self, transport: str = "tcp") -> None:
        super().__init__(CallbackAPIVersion.VERSION2, transport=transport)  # type: ignore[arg-type]
        self.came: list[bytes] = []
        self.results: list[str] = []
        self.subscribed = False
        self.on_message = lambda client, data, message: self.came.append(bytes(message.payload))
        self.on_connect = lambda client, data, flags, reason, properties: self.results.append(str(reason))
        self.on_subscribe = lambda *_: setattr(self, "subscribed", True)


def connect(host: Host, kind: str, certificate: tuple[str, str] | None = None) -> Client:
    client = Client("websockets" if kind in ("ws", "wss") else "tcp")
    if kind in ("ws", "wss"):
        client.ws_set_options(path="/mqtt", headers={"Origin": "https://good.test"})
    if kind in ("tls", "mtls", "wss"):
        context = ssl.create_default_context(cafile=host.authority.path)
        if certificate:
            context.load_cert_chain(*certificate)
        client.tls_set_context(context)
    client.connect("localhost", host.port[kind])
    client.loop_start()
    return client


@pytest.mark.parametrize("kind", ["tls", "mtls", "ws", "wss"])
@pytest.mark.parametrize("size", [10, 300_000])
def test_messages_pass_both_ways(host: Host, kind: str, size: int) -> None:
    plain, other = connect(host, "tcp"), connect(host, kind, host.alice)
    try:
        for client, topic in ((plain, f"to/{kind}"), (other, f"from/{kind}")):
            client.subscribe(topic, 1)
            wait_for(lambda: client.subscribed, 10, host.text)  # noqa: B023
        for client, topic in ((plain, f"from/{kind}"), (other, f"to/{kind}")):
            for number in range(20):
                client.publish(topic, b"%d" % number + b"x" * size, 1)
        for client in (plain, other):
            wait_for(lambda: len(client.came) == 20, 20, host.text)  # noqa: B023
            assert client.came == [b"%d" % number + b"x" * size for number in range(20)]
    finally:
        plain.disconnect()
        other.disconnect()
        plain.loop_stop()
        other.loop_stop()


def test_the_certificate_is_the_user(host: Host) -> None:
    client = connect(host, "mtls", host.alice)
    wait_for(lambda: client.results == ["Success"], 10, host.text)
    wait_for(lambda: '"user":"alice"' in host.text(), 10, host.text)
    client.disconnect()
    client.loop_stop()


@pytest.mark.parametrize("kind", ["mtls", "wss"])
def test_no_certificate_no_connection(host: Host, kind: str) -> None:
    with pytest.raises((ssl.SSLError, ConnectionError, paho.WebsocketConnectionError)):  # noqa: PT012
        client = connect(host, kind)
        time.sleep(0.5)  # TLS 1.3: the client learns of it with the first thing that it reads
        client.loop_stop()
        assert client.results == []
        raise ConnectionError


def raw(host: Host, kind: str, data: bytes) -> bytes:
    """What the listener answers to `data` until it is quiet for a while or closes."""
    with socket.create_connection(("127.0.0.1", host.port[kind]), 5) as connection:
        connection.sendall(data)
        connection.settimeout(1)
        got = b""
        try:
            while chunk := connection.recv(65536):
                got += chunk
        except TimeoutError:
            return got + b"<open>"
        except ConnectionError:
            pass
        return got


CONNECT = b"\x10\x0d\0\4MQTT\4\2\0\x3c\0\1p"
CONNACK = b"\x20\2\0\0"


def test_proxy_header_is_required_and_believed(host: Host) -> None:
    header = b"PROXY TCP4 192.0.2.77 127.0.0.1 4242 1883\r\n"
    assert raw(host, "proxy", header + CONNECT) == CONNACK + b"<open>"
    assert '"address":"192.0.2.77:4242"' in host.text()
    assert raw(host, "proxy", CONNECT) == b""
    assert raw(host, "tcp", header + CONNECT) == b""


def test_websocket_refusals(host: Host) -> None:
    request = b"GET /mqtt HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    request += b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    mqtt = b"Sec-WebSocket-Protocol: mqtt\r\n"
    assert raw(host, "ws", request + b"\r\n").startswith(b"HTTP/1.1 400 ")
    assert raw(host, "ws", request + mqtt + b"Origin: https://evil.test\r\n\r\n").startswith(b"HTTP/1.1 403 ")
    assert raw(host, "ws", request.replace(b"/mqtt", b"/") + mqtt + b"\r\n").startswith(b"HTTP/1.1 404 ")
    good = raw(host, "ws", request + mqtt + b"Origin: https://good.test\r\n\r\n")
    assert good.startswith(b"HTTP/1.1 101 ")
    assert good.endswith(b"<open>")


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("tls", b""),
        ("tls", b"\x16\x03\x01\x02\x00\x01"),
        ("ws", b"GET /mqtt HTT"),
        ("wss", b""),
        ("proxy", b"PROXY TC"),
    ],
)
def test_unfinished_handshakes_end(host: Host, kind: str, data: bytes) -> None:
    """S05, S26: whoever dawdles is closed after the connect timeout."""
    with socket.create_connection(("127.0.0.1", host.port[kind]), 5) as connection:
        begin = time.monotonic()
        connection.sendall(data)
        connection.settimeout(CONNECT_TIMEOUT_S + 3)
        assert connection.recv(100) == b""
        assert time.monotonic() - begin > CONNECT_TIMEOUT_S / 2


def test_unix_socket(host: Host) -> None:
    command = ["mosquitto_pub", "--unix", str(host.unix), "-t", "a", "-m", "b", "-q", "1"]
    subprocess.run(command, check=True, timeout=10)


def test_certificates_are_read_anew_with_sighup(host: Host) -> None:
    def served() -> bytes:
        context = ssl.create_default_context(cafile=host.authority.path)
        connection = socket.create_connection(("127.0.0.1", host.port["tls"]), 5)
        with context.wrap_socket(connection, server_hostname="localhost") as secured:
            return secured.getpeercert(binary_form=True) or b""

    before = served()
    staying = connect(host, "tls")
    host.authority.issue("server", "localhost", [x509.DNSName("localhost")])
    host.process.send_signal(signal.SIGHUP)
    wait_for(lambda: {served() for _ in range(8)}.isdisjoint({before}), 10, host.text)
    assert staying.is_connected()
    staying.disconnect()
    staying.loop_stop()


@pytest.mark.parametrize(
    ("kind", "cause"), [("tls", "TLS: "), ("mtls", "TLS: "), ("ws", "404"), ("wss", "TLS: "), ("proxy", "PROXY")]
)
def test_a_failed_handshake_is_in_the_access_log(host: Host, kind: str, cause: str) -> None:
    """Once, with what was wrong: else nobody could find out why a client does not get in."""
    with socket.create_connection(("127.0.0.1", host.port[kind]), timeout=10) as client:
        address = "{}:{}".format(*client.getsockname())
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        while client.recv(4096):
            pass

    def found() -> list[dict[str, str]]:
        return [json.loads(line) for line in host.text().splitlines() if f'"{address}"' in line]

    wait_for(lambda: bool(found()), 5, host.text)
    assert [(each["event"], each["log"], cause in each["cause"]) for each in found()] == [
        ("handshake_failed", "access", True)
    ]
