"""Hosts are cut apart, each a side of its own; clients with QoS 2 flows under way go from one to the other, then on."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import combinations

from tests.broker import wait_for
from tests.cluster.hosts import MESH, Host, join, running_hosts
from tests.cluster.network import Network
from tests.faults.ledger import Connect, Peer, Publisher, Subscriber
from tests.mqtt import DISCONNECT, PUBREL, TAKEN_OVER, Client, Closed, Packet

RATE = 80.0
STEP = 15  # messages between two moves


def comes_again(packet: Packet) -> None:
    """When all meet the session is where its last chain of takeovers was: connections elsewhere end."""
    if packet.kind == DISCONNECT and packet.reason == TAKEN_OVER:
        raise Closed


class Speaker(Publisher):
    """Its packet ids begin anew at each host. `stays`: what it sent first at each, without what it sent at others, too."""

    def __init__(self, connect: Connect) -> None:
        super().__init__(connect, "speaker", 5, 2, RATE, random.Random(1))
        self.stays: list[set[int]] = []
        self.resent: set[int] = set()

    def session(self, client: Client) -> None:
        again = {sequence for sequence, released in self.open.values() if not released}
        self.resent |= again
        self.stays.append(set())
        self._id = 0
        super().session(client)

    def _publish(self, client: Client, id: int, sequence: int, dup: bool = False) -> None:
        if not dup:
            self.stays[-1].add(sequence)
        super()._publish(client, id, sequence, dup)

    def _take(self, client: Client, packet: Packet) -> None:
        comes_again(packet)
        super()._take(client, packet)


class Listener(Subscriber):
    """`unended`: what was under way when it left a host."""

    def __init__(self, connect: Connect) -> None:
        super().__init__(connect, "listener", 5, 2, 0.0, random.Random(2))
        self.unended: set[int] = set()
        self._flows: dict[int, int] = {}  # packet id -> sequence

    def session(self, client: Client) -> None:
        self._flows.clear()
        try:
            super().session(client)
        finally:
            self.unended |= set(self._flows.values())

    def _take(self, client: Client, packet: Packet) -> None:
        comes_again(packet)
        if packet.kind == PUBREL:
            self._flows.pop(packet.id, None)
        else:
            self._flows[packet.id] = int(packet.payload.partition(b":")[2])
        super()._take(client, packet)


class Sides:
    """The hosts, and the clients, each of which connects to the host where it `is_at`."""

    def __init__(self, hosts: list[Host]) -> None:
        self.hosts, self.is_at = hosts, {"speaker": 0, "listener": 0}
        self.speaker = Speaker(lambda version: hosts[self.is_at["speaker"]].client(version))
        self.listener = Listener(lambda version: hosts[self.is_at["listener"]].client(version))

    def start(self) -> None:
        self.listener.start()
        assert self.listener.subscribed.wait(10), self.listener.errors
        self.speaker.start()
        self.goes_on()

    def move(self, peer: Peer, host: int) -> None:
        """In the middle of whatever it does; to be there when this returns."""
        before, self.is_at[peer.name] = peer.connects, host
        with suppress(OSError):
            assert peer.client is not None
            peer.client.socket.shutdown(socket.SHUT_RDWR)
        wait_for(lambda: peer.connects > before, 20, lambda: f"{peer.errors}")

    def step(self, speaker: int, listener: int) -> None:
        self.speaker.draining.clear()
        self.move(self.speaker, speaker)
        self.move(self.listener, listener)
        self.goes_on()

    def goes_on(self) -> None:
        acked = len(self.speaker.acked)
        wait_for(lambda: len(self.speaker.acked) >= acked + STEP, 20, lambda: f"{self.speaker.errors}")

    @property
    def received(self) -> list[int]:
        return self.listener.seen.get("speaker", [])

    def quiet(self) -> None:
        """All that was begun is ended, and nothing is until the next step."""
        self.speaker.draining.set()
        wait_for(
            lambda: not self.speaker.open and self.speaker.acked <= set(self.received) and not self.listener._held, 30,
            lambda: f"lost {sorted(self.speaker.acked - set(self.received))}, open {self.speaker.open}",
        )  # fmt: skip

    def wait_for_metric(self, name: str, value: int) -> None:
        wait_for(lambda: all(host.metric(name) == value for host in self.hosts), 30, self.hosts[0].log)

    def stop(self) -> None:
        for peer in (self.speaker, self.listener):
            if peer.ident is not None:
                peer.stop()


@contextmanager
def sides_of(*names: str) -> Iterator[Sides]:
    with Network(*names) as network, running_hosts(network, interconnect=MESH) as hosts:
        join(*hosts)
        sides = Sides(hosts)
        sides.start()
        try:
            yield sides
        finally:
            sides.stop()


def cut(sides: Sides, moves: list[tuple[int, int]]) -> tuple[list[int], set[int]]:
    """All hosts are apart while speaker and listener go to these; (what the listener got of that, what was under way).

    Whatever the cut, what was before it and comes behind it is in order, once."""
    network, others = sides.hosts[0].network, len(sides.hosts) - 1
    quiet_before_the_cut(sides)
    before, resent = len(sides.received), set(sides.speaker.resent)
    for one, other in combinations(sides.hosts, 2):
        network.cut(one.name, other.name)
    sides.wait_for_metric("mqnode_peers_evicted", others)
    first = sides.speaker.sequence
    sides.listener.unended.clear()
    sides.speaker.stays.append(set())
    for speaker, listener in moves:
        sides.step(speaker, listener)
    network.heal()
    sides.wait_for_metric("mqnode_peers_in_sync", others)
    sides.quiet()
    after = len(sides.received)
    assert min(sides.received[before:]) == first, "what was ended before the cut came again"
    in_order_behind_the_cut(sides, after)
    return sides.received[before:after], (sides.speaker.resent - resent) | sides.listener.unended


def quiet_before_the_cut(sides: Sides) -> None:
    sides.step(1, 0)
    sides.step(0, 1)
    sides.quiet()
    assert sides.received == sorted(set(sides.received)), "twice or out of order before any cut"


def in_order_behind_the_cut(sides: Sides, after: int) -> None:
    sides.step(1, 0)
    sides.step(0, 1)
    sides.quiet()
    late = sides.received[after:]
    assert late == list(range(late[0], sides.speaker.sequence)), "twice or out of order behind the cut"
    assert not sides.speaker.errors + sides.listener.errors


def test_qos_2_flows_that_go_to_and_fro_between_two_sides() -> None:
    """docs/guarantees.md, "What a partition does": nothing acknowledged is lost, however ids are used again. Twice comes what
    was under way at a change of sides, nothing else. Each side's order is kept; before and behind the cut all is in order, once."""
    with sides_of("h1", "h2") as sides:
        received, under_way = cut(sides, [(1, 0), (0, 1), (1, 1), (0, 0), (1, 0), (0, 1)])
        twice = {each for each in received if received.count(each) > 1}
        assert twice <= under_way, f"twice, and was not under way at a change: {sorted(twice - under_way)}"
        for stay in sides.speaker.stays:
            order = [each for each in dict.fromkeys(received) if each in stay - under_way]
            assert order == sorted(order), "the order of one side is not kept"


def test_qos_2_flows_that_go_to_and_fro_between_three_sides() -> None:
    """Which meet one after the other: nothing is lost, and behind the cut all is in order, once."""
    with sides_of("h1", "h2", "h3") as sides:
        cut(sides, [(2, 0), (1, 1), (0, 2), (1, 0), (2, 2), (0, 1)])
