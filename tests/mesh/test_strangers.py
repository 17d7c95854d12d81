"""S28, S29: who is no member gets nowhere, and delays nobody. S28 goes on in tests/cluster/test_keys.py."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import gevent
import pytest
import zmq

from mesh.identity import create
from mesh.zap import TransportError, context
from tests.broker import busy
from tests.mesh.cluster import QUICK_S, Cluster, echoed
from tests.mesh.host import green_wait


def test_a_stranger_with_a_perfect_handshake_is_refused(cluster: Cluster) -> None:
    refused, thief = cluster.host.transport.refused, create()
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.setsockopt(zmq.IMMEDIATE, 1)
        dealer.setsockopt(zmq.CURVE_SERVERKEY, cluster.identity.public_key.encode())
        dealer.setsockopt(zmq.CURVE_PUBLICKEY, thief.public_key.encode())
        dealer.setsockopt(zmq.CURVE_SECRETKEY, thief.secret_key.encode())
        dealer.setsockopt(zmq.ROUTING_ID, cluster.children[0].id)  # says it is somebody else
        dealer.connect(f"tcp://{cluster.address}")
        green_wait(lambda: cluster.host.transport.refused > refused, QUICK_S)
        assert not dealer.poll(0, zmq.POLLOUT)
    assert not cluster.host.events


@pytest.mark.parametrize("mechanism", ["none", "plain"])
def test_a_stranger_without_curve_is_refused(cluster: Cluster, mechanism: str) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        monitor = dealer.get_monitor_socket()
        dealer.setsockopt(zmq.LINGER, 0)
        if mechanism == "plain":
            dealer.setsockopt(zmq.PLAIN_USERNAME, b"n2")
            dealer.setsockopt(zmq.PLAIN_PASSWORD, b"n2")
        dealer.connect(f"tcp://{cluster.address}")
        green_wait(lambda: monitor.poll(0), QUICK_S)
        gevent.sleep(0.2)
        seen = {monitor.recv_multipart()[0][:2] for _ in range(50) if monitor.poll(0)}
        dealer.disable_monitor()
        monitor.close()
        assert zmq.EVENT_HANDSHAKE_SUCCEEDED.to_bytes(2, "little") not in seen
    assert not cluster.host.events


def test_garbage_and_half_handshakes_delay_nobody(cluster: Cluster) -> None:
    """CVE-2020-15166: peers that speak no ZMTP starved a CURVE server."""
    greeting = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"CURVE".ljust(20, b"\0")
    host, _, port = cluster.address.rpartition(":")
    strangers = []
    for number in range(150):
        stranger = socket.create_connection((host, int(port)))
        strangers.append(stranger)
        stranger.sendall(
            [b"", b"GET / HTTP/1.1\r\n\r\n" * 50, greeting, greeting.ljust(64, b"\0"), b"\xff" * 9][number % 5]
        )
    slowest = max(echoed(cluster, child, b"%d" % number) for number in range(40) for child in cluster.children)
    child = cluster.children[0]
    child.kill()  # and a real peer gets in past them
    child.start(cluster.membership)
    green_wait(lambda: ["up", child.id.hex()] in cluster.host.events)
    assert slowest < 0.5 * busy()
    for stranger in strangers:
        stranger.settimeout(8)
        try:
            while stranger.recv(1 << 16):
                pass  # closed in the end, after 5 s at most
        except ConnectionResetError:
            pass
        stranger.close()


def test_filters_are_never_subscriptions_of_zeromq() -> None:
    """libzmq recursed as deep as a topic is long: nothing here publishes or subscribes by ZeroMQ."""
    root = Path(__file__).parent.parent.parent
    sources = [path for folder in ("mesh", "node") for path in (root / folder).rglob("*.py*") if path.suffix != ".pyc"]
    types = {found for path in sources for found in re.findall(r"zmq\.([A-Z]+)\)", path.read_text())}
    assert {"ROUTER", "DEALER"} <= types, "the test can see the types of sockets"
    assert not types & {"PUB", "SUB", "XPUB", "XSUB"}


def test_a_libzmq_with_known_holes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zmq, "zmq_version_info", lambda: (4, 3, 2))
    monkeypatch.setattr(zmq, "zmq_version", lambda: "4.3.2")
    with pytest.raises(TransportError, match=r"4\.3\.2 has known holes.*4\.3\.3"):
        context()
