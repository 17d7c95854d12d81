"""What really happens to TCP: resets under load, and networks that swallow everything one way or both. Through proxies."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator

import gevent
import pytest
from gevent.server import StreamServer
from gevent.socket import create_connection

from mesh import channel
from mesh.hlc import Stamp
from tests.broker import busy, free_port
from tests.mesh.cluster import QUICK_S, pair_of_tables
from tests.mesh.host import SILENT, Host, green_wait


class Proxy:
    """In front of a host. `cut`: all that comes is swallowed, and nobody is told, as by a firewall."""

    def __init__(self, target: str) -> None:
        self._target = (target.rpartition(":")[0], int(target.rpartition(":")[2]))
        self._server = StreamServer(("127.0.0.1", 0), self._serve)
        self._server.start()
        self.address = f"127.0.0.1:{self._server.server_port}"
        self._open: set[socket.socket] = set()
        self.cut = False

    def _serve(self, incoming: socket.socket, _: object) -> None:
        self._open.add(incoming)
        outgoing = create_connection(self._target)
        self._open.add(outgoing)
        back = gevent.spawn(self._carry, outgoing, incoming)
        self._carry(incoming, outgoing)
        back.join()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                if not self.cut:
                    sink.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, sink):
                self._open.discard(end)
                end.close()

    def reset(self) -> None:
        """Every connection ends, and what was under way is lost."""
        for end in list(self._open):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.close()

    def stop(self) -> None:
        self._server.stop()
        self.reset()


class Pair:
    """Two hosts that reach each other through proxies: `proxies[0]` carries what the first one sends."""

    def __init__(self) -> None:
        addresses = (f"127.0.0.1:{free_port()}", f"127.0.0.2:{free_port()}")
        self.identities, table = pair_of_tables(addresses)
        self.ids = [identity.node_id for identity in self.identities]
        self.proxies = [Proxy(addresses[1]), Proxy(addresses[0])]
        for node_id, proxy in zip(reversed(self.ids), self.proxies, strict=True):
            table = table.renamed(node_id, Stamp(2, node_id), address=proxy.address)
        self.hosts = [
            Host(identity, table, address) for identity, address in zip(self.identities, addresses, strict=True)
        ]

    def states(self) -> list[str]:
        return [self.hosts[0].state(self.ids[1]), self.hosts[1].state(self.ids[0])]

    def names(self, side: int) -> list[str]:
        return [event[-1] if event[0] == "down" else event[0] for event in self.hosts[side].events]

    def stop(self) -> None:
        for host in self.hosts:
            host.transport.stop()
        for proxy in self.proxies:
            proxy.stop()


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    try:
        green_wait(lambda: made.states() == ["up", "up"], QUICK_S)
        yield made
    finally:
        made.stop()


def test_resets_under_load_lose_no_frame_unnoticed(pair: Pair) -> None:
    """The sender begins anew at each `up`, as a replication stream does from its last acknowledged number."""
    sender, receiver = pair.hosts
    sent = episode = 0

    def load() -> None:
        nonlocal sent, episode
        while True:
            ups = pair.names(0).count("up")
            if ups != episode:
                sent, episode = 0, ups
            while sender.transport.send(pair.ids[1], SILENT, b"%d %d " % (episode, sent) + bytes(2_000)):
                sent += 1
                if sent % 50 == 0:
                    gevent.sleep(0)
                    break
            else:
                gevent.sleep(0.005)

    stalled_s = 0.0

    def watch() -> None:
        nonlocal stalled_s
        while True:
            before_s = time.monotonic()
            gevent.sleep(0.05)
            stalled_s = max(stalled_s, time.monotonic() - before_s)

    loading, watching = gevent.spawn(load), gevent.spawn(watch)
    for _ in range(6):
        seen = len(receiver.frames)
        green_wait(lambda: len(receiver.frames) > seen + 500, 30)  # noqa: B023
        ups = pair.names(0).count("up")
        pair.proxies[1].reset()  # carries heartbeats only: if none is lost, nothing is
        pair.proxies[0].reset()
        green_wait(lambda: pair.names(0).count("up") > ups, 30, f"{pair.hosts[0].events}")  # noqa: B023
    loading.kill()
    watching.kill()
    arrived: dict[int, list[int]] = {}
    for _, _, body in receiver.frames:
        of, number = map(int, body.split(b" ")[:2])
        arrived.setdefault(of, []).append(number)
    assert len(arrived) >= 6
    assert all(numbers == list(range(len(numbers))) for numbers in arrived.values())
    if stalled_s < 1:  # else this process had no CPU, and silence was one
        assert channel.EVICTED not in pair.names(0) + pair.names(1)


@pytest.mark.parametrize("cut", [[0], [1], [0, 1]], ids=["there", "back", "both"])
def test_a_network_that_swallows_everything_is_down_for_both_and_heals(pair: Pair, cut: list[int]) -> None:
    for side in cut:
        pair.proxies[side].cut = True
    took = green_wait(lambda: pair.states() == ["evicted", "evicted"], 5)
    assert 2.6 < took < 4.2 * busy()
    for side, other in ((0, 1), (1, 0)):
        assert pair.names(side)[0:2] == ["up", "suspect"]
        assert channel.EVICTED in pair.names(side)
        assert not pair.hosts[side].transport.send(pair.ids[other], SILENT, b"x")
    for side in cut:
        pair.proxies[side].cut = False
    green_wait(lambda: pair.states() == ["up", "up"], 6)
    assert pair.hosts[0].transport.send(pair.ids[1], SILENT, b"healed")
    green_wait(lambda: (pair.ids[0], SILENT, b"healed") in pair.hosts[1].frames, QUICK_S)
