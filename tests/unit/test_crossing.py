"""Crossings of several hosts, joined by plain calls: whose clock, who is asked, who waits, who is left out."""

from __future__ import annotations

import struct
from pathlib import Path

import gevent
import pytest

from node.counters import INDEX
from node.interconnect import crossing
from node.interconnect.crossing import Crossing
from node.peers import REQUEST, encode

HOUR_MS = 3_600_000


class Worker:
    """A worker's link as Crossing sees it; it notes what it is sent."""

    waiting_bytes = 0
    is_connected = True

    def __init__(self) -> None:
        self.sent: list[tuple[int, bytes]] = []

    def send(self, kind: int, body: bytes) -> None:
        self.sent.append((kind, bytes(body)))

    def publish(self, messages: bytes) -> None:
        self.send(crossing.PUBLISH, messages)

    def messages(self) -> list[bytes]:
        return [body for kind, body in self.sent if kind == crossing.PUBLISH]


class Host:
    """`deaf`: it is up, and takes nothing."""

    def __init__(self, name: bytes, network: dict[bytes, Host]) -> None:
        self.name, self.deaf = name, False
        self.got: list[int] = []
        self.network = network
        self.worker = Worker()
        self.crossing = Crossing(Path("/nowhere"), 0, self.send)
        network[name] = self

    def send(self, node_id: bytes, kind: int, *body: bytes) -> bool:
        host = self.network[node_id]
        if host.deaf:
            return False
        host.got.append(kind)
        host.crossing.peer_frame(self.name, kind, b"".join(body))
        return True

    def subscribe(self, filter: bytes) -> None:
        self.crossing.frame(self.worker, crossing.ROUTES, struct.pack("<BHHH", 1, len(filter), 0, 0) + filter)

    def publish(self, topic: bytes, expires_ms: int = 0, payload: bytes = b"!") -> bytes:
        message = struct.pack("<BHIIQ", 0, len(topic), 0, len(payload), expires_ms) + topic + payload
        self.crossing.frame(self.worker, crossing.PUBLISH, message)
        return message

    def sync(self) -> None:
        self.crossing.frame(self.worker, REQUEST, encode((1, "sync", {})))

    @property
    def dropped(self) -> int:
        return self.crossing.slot[INDEX["dropped_interconnect"]]


@pytest.fixture
def hosts() -> list[Host]:
    network: dict[bytes, Host] = {}
    hosts = [Host(name, network) for name in (b"a", b"b", b"c")]
    for one in hosts:
        for other in hosts:
            if one is not other:
                one.crossing.peer_up(other.name)
    return hosts


def test_a_message_expires_by_the_clock_of_the_host_that_it_came_to(hosts: list[Host]) -> None:
    a, b, _ = hosts
    b.crossing.clock_offset_ms = HOUR_MS
    b.subscribe(b"t")
    a.publish(b"t", 10 * HOUR_MS)
    a.publish(b"t")
    expiries = [struct.unpack_from("<Q", body, 11)[0] for body in b.worker.messages()]
    assert 0 <= expiries[0] - 11 * HOUR_MS < 1000
    assert expiries[1] == 0


def test_what_came_from_a_host_goes_to_no_other(hosts: list[Host]) -> None:
    a = hosts[0]
    for host in hosts:
        host.subscribe(b"t/#")
    message = a.publish(b"t/x")
    assert [host.worker.messages() for host in hosts] == [[], [message], [message]]
    assert [host.got.count(crossing.MESSAGES) for host in hosts] == [0, 1, 1]


def test_a_shared_message_whose_members_have_just_left_goes_back(hosts: list[Host]) -> None:
    """Here as the sender's interconnect knows already; what is under way by then comes back from the other host's workers."""
    a, b, _ = hosts
    group = struct.pack("<BHHH", 2, 3, 1, 0) + b"g/t"
    b.crossing.frame(b.worker, crossing.ROUTES, group)
    message = struct.pack("<BHIIQH", 9, 1, 0, 1, 0, 3) + b"g/t" + b"t!"
    a.crossing.frame(a.worker, crossing.PUBLISH, message)
    assert b.worker.messages() == [message]
    b.crossing.frame(b.worker, crossing.ROUTES, struct.pack("<BHHH", 2, 3, 0, 0) + b"g/t")
    a.crossing.frame(a.worker, crossing.PUBLISH, message)
    assert a.worker.messages() == [message]
    assert b.worker.messages() == [message]


def test_who_comes_late_is_told_everything_and_who_leaves_is_forgotten(hosts: list[Host]) -> None:
    a, b, _ = hosts
    b.subscribe(b"t")
    a.crossing.peer_down(b"b")
    a.publish(b"t")
    assert b.worker.messages() == []
    late = Worker()
    a.crossing.connected(late)
    assert late.sent == []
    a.crossing.peer_up(b"b")
    b.crossing.peer_down(b"a")
    b.crossing.peer_up(b"a")
    assert b.worker.messages() == []
    a.crossing.connected(late)
    assert late.sent == [(crossing.ROUTES, struct.pack("<BHHH", 1, 1, 0, 0) + b"t")]
    message = a.publish(b"t")
    assert b.worker.messages() == [message]


def test_a_sync_asks_all_hosts_that_are_up(hosts: list[Host]) -> None:
    a, b, c = hosts
    a.sync()
    assert (b.got[-1], c.got[-1], len(a.worker.sent)) == (crossing.SYNC, crossing.SYNC, 1)
    b.deaf = True
    a.sync()
    assert len(a.worker.sent) == 1, "b has not answered"
    a.crossing.peer_down(b"b")
    assert len(a.worker.sent) == 2, "b is not asked any more"


def test_a_sync_is_answered_without_a_host_that_is_slow(hosts: list[Host], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crossing, "SYNC_S", 0.05)
    a, b, _ = hosts
    b.deaf = True
    a.sync()
    assert a.worker.sent == []
    with gevent.Timeout(2):
        while not a.worker.sent:
            gevent.sleep(0.005)
    assert a.crossing.slot[INDEX["routes_unconfirmed"]] == 1
    b.deaf = False
    with gevent.Timeout(2):
        while crossing.SYNC not in b.got:
            gevent.sleep(0.005)
    assert len(a.worker.sent) == 1, "its answer, late, is none"


def test_a_host_that_takes_nothing_delays_once(hosts: list[Host], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its worker does not read. The publishers wait for a moment, then they go on without it."""
    monkeypatch.setattr(crossing, "PATIENCE_S", 0.05)
    a, b, c = hosts
    for host in (b, c):
        host.subscribe(b"t")
    b.crossing._links.append(b.worker)  # dialled, if there were a worker
    b.worker.waiting_bytes = crossing.WORKER_BYTES + 1
    a.publish(b"t", payload=bytes(crossing.WINDOW_BYTES))
    waits: list[float] = []
    monkeypatch.setattr(gevent, "sleep", lambda seconds, sleep=gevent.sleep: (waits.append(seconds), sleep(seconds)))
    a.publish(b"t")
    assert waits, "its publishers wait a moment"
    waits.clear()
    a.publish(b"t")
    assert not waits, "then they go on"
    assert (a.dropped, len(b.worker.messages()), len(c.worker.messages())) == (2, 1, 3)
    b.worker.waiting_bytes = 0
    b.crossing.sent()
    a.publish(b"t")
    assert (a.dropped, len(b.worker.messages())) == (2, 2)


def test_publishers_wait_for_a_slow_subscriber_elsewhere(hosts: list[Host]) -> None:
    a, b, c = hosts
    links = [Worker() for _ in hosts]
    for host, link in zip(hosts, links, strict=True):
        host.crossing._links.append(link)  # dialled, if there were a worker
    b.crossing.frame(b.worker, crossing.HOLD, b"t")
    c.crossing.frame(c.worker, crossing.HOLD, b"t")
    assert [link.sent for link in links] == [[(crossing.HOLD, b"t")]] * 3, "each once, and each of b and c by the other"
    b.crossing.frame(b.worker, crossing.HOLD, b"")
    assert links[0].sent[1:] == [], "c still holds it"
    a.crossing.peer_down(b"c")
    assert links[0].sent[1:] == [(crossing.HOLD, b"")]
