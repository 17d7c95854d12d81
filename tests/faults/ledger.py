"""Publishers and subscribers that keep a ledger: what was acknowledged, what arrived, how often and in which order.

All have sessions that outlive their connections. They reconnect whenever they lose one, and resume their flows as MQTT 5.0,
4.4 says. Nobody here forgives the broker anything: a session that is gone, a loss, a duplicate of QoS 2 is an entry in `errors`.
"""

from __future__ import annotations

import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress

from tests import mqtt
from tests.broker import wait_for
from tests.mqtt import Client, Closed, Packet

WINDOW = 20
TOPIC = "ledger"
Connect = Callable[[int], Client]  # a connection for MQTT of that version
_POLL_S = 0.01
_GO = {0x8B, 0x9C, 0x9D}  # reasons of a host that stops, or sends its clients to another one
_TAKEN_OVER = 0x8E  # by an earlier CONNECT of this client, which lay at a host that stood still


class Peer(threading.Thread):
    """Connects, runs `session` until the connection breaks, connects again; until `stop`."""

    def __init__(self, connect: Connect, name: str, version: int, random_: random.Random) -> None:
        super().__init__(name=name, daemon=True)
        self.connect, self.version, self.random = connect, version, random_
        self.stopping = threading.Event()
        self.errors: list[str] = []
        self.connects = 0
        self.client: Client | None = None

    def stop(self) -> None:
        self.stopping.set()
        self.join(30)
        assert not self.is_alive(), f"{self.name} hangs"

    def run(self) -> None:
        while not self.stopping.is_set():
            try:
                with self.connect(self.version) as self.client:
                    self._connect(self.client)
                    self.session(self.client)
            except (Closed, OSError, AssertionError) as error:
                if isinstance(error, AssertionError) and not _come_again(error):
                    self.errors.append(f"{self.name}: {error}")
                time.sleep(0.02)

    def _connect(self, client: Client) -> None:
        more = {"session_expiry": 3600, "receive_maximum": 100} if self.version == 5 else {}
        answer = client.connect(self.name, clean=False, **more)
        if self.connects and not answer.session_present:
            self.errors.append(f"{self.name}: the session is gone at connect {self.connects + 1}")
        self.connects += 1

    def session(self, client: Client) -> None:
        raise NotImplementedError


def _come_again(error: AssertionError) -> bool:
    """A CONNACK that refuses while the host is not complete, a DISCONNECT of one that stops or leaves: the client tries again."""
    text = str(error)
    return "kind=2" in text or (
        "kind=14" in text and any(f"reason={reason}," in text for reason in {*_GO, _TAKEN_OVER})
    )


class Publisher(Peer):
    """Publishes 0, 1, 2, … with one QoS. `acked`: those that the broker took over (PUBACK, PUBREC)."""

    def __init__(
        self, connect: Connect, name: str, version: int, qos: int, rate: float, random_: random.Random
    ) -> None:
        super().__init__(connect, name, version, random_)
        self.qos, self.rate, self.topic = qos, rate, TOPIC
        self.sequence = 0
        self.acked: set[int] = set()
        self.refused = 0
        self.open: OrderedDict[int, tuple[int, bool]] = OrderedDict()  # packet id -> sequence, released?
        self.draining = threading.Event()
        self._id = 0

    def session(self, client: Client) -> None:
        for id, (sequence, released) in list(self.open.items()):
            if released:
                client.ack(mqtt.PUBREL, id)
            else:
                self._publish(client, id, sequence, dup=True)
        due = time.monotonic()
        while not self.stopping.is_set():
            while not self.draining.is_set() and len(self.open) < WINDOW and time.monotonic() >= due:
                self._next(client)
                due = max(due + 1 / self.rate, time.monotonic() - 0.1)
            with suppress(TimeoutError):
                self._take(client, client.receive(_POLL_S))

    def _next(self, client: Client) -> None:
        while True:
            self._id = self._id % 65535 + 1
            if self._id not in self.open:
                break
        self.open[self._id] = (self.sequence, False)
        self.sequence += 1
        self._publish(client, self._id, self.sequence - 1)

    def _publish(self, client: Client, id: int, sequence: int, dup: bool = False) -> None:
        client.publish(f"{self.topic}/{self.name}", self.payload(sequence), self.qos, id=id, dup=dup)

    def payload(self, sequence: int) -> bytes:
        return f"{self.name}:{sequence}".encode()

    def acknowledged(self, sequence: int) -> None:
        self.acked.add(sequence)

    def _take(self, client: Client, packet: Packet) -> None:
        if packet.kind == mqtt.PUBCOMP:
            del self.open[packet.id]
            return
        assert packet.kind == (mqtt.PUBACK if self.qos == 1 else mqtt.PUBREC), packet
        if packet.id not in self.open:
            return  # the answer to a PUBLISH that was answered before the connection broke
        sequence, _ = self.open[packet.id]
        if packet.reason >= 0x80:
            self.refused += 1
            del self.open[packet.id]
            return
        self.acknowledged(sequence)
        if self.qos == 1:
            del self.open[packet.id]
        else:
            self.open[packet.id] = (sequence, True)
            client.ack(mqtt.PUBREL, packet.id)


class Subscriber(Peer):
    """Takes everything; now and then it loses its connection, or goes away for a while."""

    def __init__(
        self, connect: Connect, name: str, version: int, qos: int, fickle: float, random_: random.Random
    ) -> None:
        super().__init__(connect, name, version, random_)
        self.qos, self.fickle, self.filter = qos, fickle, f"{TOPIC}/#"
        self.seen: dict[str, list[int]] = {}  # publisher -> sequences in the order of arrival
        self.last, self.gap_s = (
            time.monotonic(),
            0.0,
        )  # of deliveries: when the last one came, the longest time between two
        self.subscribed = threading.Event()
        self.journal: list[str] = []
        self._held: set[int] = set()  # packet ids of QoS 2 between PUBLISH and PUBREL

    def session(self, client: Client) -> None:
        if not self.subscribed.is_set():
            assert client.subscribe((self.filter, self.qos)).reasons == [self.qos]
            self.subscribed.set()
        until = time.monotonic() + self.random.expovariate(self.fickle) if self.fickle else float("inf")
        while not self.stopping.is_set() and time.monotonic() < until:
            with suppress(TimeoutError):
                self._take(client, client.receive(_POLL_S))
        if not self.stopping.is_set():
            client.close()
            self.stopping.wait(self.random.uniform(0, 0.5))

    def _take(self, client: Client, packet: Packet) -> None:
        if packet.kind == mqtt.PUBREL:
            self._held.discard(packet.id)
            client.ack(mqtt.PUBCOMP, packet.id)
            return
        assert packet.kind == mqtt.PUBLISH, packet
        before, self.last = self.last, time.monotonic()
        self.gap_s = max(self.gap_s, self.last - before)
        if packet.qos == 2:
            if packet.id not in self._held:
                self._held.add(packet.id)
                self.arrived(packet)
            client.ack(mqtt.PUBREC, packet.id)
        else:
            self.arrived(packet)
            client.ack(mqtt.PUBACK, packet.id)

    def arrived(self, packet: Packet) -> None:
        name, _, sequence = packet.payload.decode().partition(":")
        self.seen.setdefault(name, []).append(int(sequence))
        self.journal.append(
            f"{time.monotonic():.3f} connection {self.connects} id {packet.id} {'dup ' * packet.dup}{name}:{sequence}"
        )


class Ledger:
    """A few publishers of QoS 1 and 2, a few subscribers, MQTT 3.1.1 and 5.0; `connect` finds a host for each connection."""

    def __init__(self, connect: Connect, seed: int, *, rate: float = 150.0, fickle: float = 0.3) -> None:
        self.publishers = [
            Publisher(connect, f"p{index}", version, qos, rate, random.Random(f"{seed}p{index}"))
            for index, (version, qos) in enumerate([(5, 1), (4, 1), (5, 2), (4, 2)])
        ]
        self.subscribers = [
            Subscriber(connect, f"s{index}", version, qos, how, random.Random(f"{seed}s{index}"))
            for index, (version, qos, how) in enumerate([(5, 2, 0.0), (4, 2, fickle), (5, 1, fickle)])
        ]

    def start(self) -> None:
        for each in self.subscribers:
            each.start()
        for each in self.subscribers:
            assert each.subscribed.wait(10), each.errors
        for each in self.publishers:
            each.start()

    def acked(self) -> dict[str, int]:
        """How many messages of each publisher the broker took over."""
        return {each.name: len(each.acked) for each in self.publishers}

    def wait_acked(self, count: int, since: dict[str, int] | None = None, timeout_s: float = 30.0) -> None:
        """More than `count` messages of each publisher; beyond those of `since`, an earlier `acked`."""
        least = {each.name: count + (since[each.name] if since else 0) for each in self.publishers}
        wait_for(lambda: all(now > least[name] for name, now in self.acked().items()), timeout_s, self.summary)

    def settle(self, drain_s: float = 30.0) -> None:
        """Finish: nothing is lost, nothing doubled, all in order."""
        errors = self.finish(drain_s)
        print(self.summary())
        assert not errors, "\n".join(errors)

    def finish(self, drain_s: float = 30.0) -> list[str]:
        """Let all flows end, stop everybody; what went wrong."""
        for publisher in self.publishers:
            publisher.draining.set()
        deadline = time.monotonic() + drain_s
        while time.monotonic() < deadline and not self._drained():
            time.sleep(0.05)
        for each in [*self.publishers, *self.subscribers]:
            each.stop()
        errors = [error for each in [*self.publishers, *self.subscribers] for error in each.errors]
        errors += [f"{each.name}: {len(each.open)} flows without an end" for each in self.publishers if each.open]
        return errors + [error for each in self.subscribers for error in self._check(each)]

    def _drained(self) -> bool:
        if any(publisher.open for publisher in self.publishers):
            return False
        return all(
            publisher.acked <= set(subscriber.seen.get(publisher.name, []))
            for publisher in self.publishers
            for subscriber in self.subscribers
        ) and all(time.monotonic() - each.last > 1 for each in self.subscribers)

    def _check(self, subscriber: Subscriber) -> list[str]:
        errors = []
        for publisher in self.publishers:
            seen = subscriber.seen.get(publisher.name, [])
            which = f"{publisher.name} (QoS {publisher.qos}) to {subscriber.name} (QoS {subscriber.qos})"
            lost = publisher.acked - set(seen)
            if lost:
                errors.append(f"{which}: {len(lost)} of {len(publisher.acked)} lost: {sorted(lost)[:10]}")
            firsts = list(dict.fromkeys(seen))
            if firsts != sorted(firsts):
                errors.append(f"{which}: out of order: {_first_disorder(firsts)}")
                errors += _gaps(subscriber.journal, publisher.name)
            if min(publisher.qos, subscriber.qos) == 2 and len(firsts) != len(seen):
                again = sorted({each for each in seen if seen.count(each) > 1})
                errors.append(f"{which}: {len(again)} more than once: {again[:10]}")
        return errors

    def summary(self) -> str:
        connects = {each.name: each.connects for each in [*self.publishers, *self.subscribers]}
        return f"acknowledged {self.acked()}, connects {connects}"


def _first_disorder(firsts: list[int]) -> list[int]:
    for at in range(1, len(firsts)):
        if firsts[at] < firsts[at - 1]:
            return firsts[max(0, at - 5) : at + 5]
    return []


def _gaps(journal: list[str], name: str) -> list[str]:
    """The lines around each place where the next sequence is not the one after the last."""
    found = []
    before = -1
    for at, line in enumerate(journal):
        who, _, sequence = line.rpartition(" ")[2].partition(":")
        if who == name:
            if int(sequence) not in (before + 1, before):
                found += ["...", *journal[max(0, at - 6) : at + 3]]
            before = int(sequence)
    return found[:60]
