"""Where the client libraries meet: one broker with TCP, WebSocket and TLS listeners, and those who stay connected."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cryptography import x509

from tests.broker import Broker, free_port, running
from tests.interop.peers import Kind, Peer, Session, connect
from tests.unit.certificates import Authority


class Hall:
    def __init__(self, broker: Broker, ports: dict[str, int], ca: str, stack: ExitStack) -> None:
        self.broker, self._ports, self._ca, self._stack = broker, ports, ca, stack
        self._guests: dict[Kind, Peer] = {}

    def open(self, kind: Kind, client_id: str, **options: object) -> Peer:
        session = Session(self._ports[kind.transport], client_id, ca=self._ca, **options)  # type: ignore[arg-type]
        peer = connect(kind, session)
        self._stack.callback(peer.close)
        return peer

    def guest(self, kind: Kind) -> Peer:
        """Subscribed to to/KIND/# with QoS 2, from its first use to the end."""
        if kind not in self._guests:
            self._guests[kind] = self.open(kind, f"guest-{kind}")
            self._guests[kind].subscribe(f"to/{kind}/#", 2)
        return self._guests[kind]


@contextmanager
def opened(folder: Path) -> Iterator[Hall]:
    authority = Authority(folder)
    certificate, key = authority.issue("server", "localhost", [x509.DNSName("localhost")])
    ports = {"ws": free_port(), "tls": free_port()}
    more = (
        f'[[listeners]]\ntype = "ws"\nbind = "127.0.0.1:{ports["ws"]}"\n'
        f'[[listeners]]\ntype = "tls"\nbind = "127.0.0.1:{ports["tls"]}"\ncertificate = "{certificate}"\nkey = "{key}"\n'
        "[sys]\ninterval_s = 1\n"
    )
    with running(more) as broker, ExitStack() as stack:
        yield Hall(broker, {"tcp": broker.port, **ports}, authority.path, stack)
        assert broker.errors() == []
