"""W1 to W4, W9 and W11: publishers and durable subscribers of the ledger, everything they do on the history.

W1 a set of QoS 1, W2 transfers of QoS 2, W3 the order of each publisher, W4 subscribers that are away half of the time;
W9 a shared group; W11 large payloads to a subscriber that takes its time.
"""

from __future__ import annotations

import random
import time
import zlib

from tests.cluster.matrix.history import History
from tests.cluster.matrix.load import end
from tests.faults.ledger import Connect, Publisher, Subscriber
from tests.mqtt import Client, Packet

SHARED, LARGE = "shared", "large"
LARGE_BYTES, SLOW_S = 60_000, 0.03


class Source(Publisher):
    """Adds what is sent and what the broker took over. `size`: of the payload, which ends with a checksum of the rest."""

    def __init__(self, history: History, connect: Connect, name: str, version: int, qos: int, rate: float,
                 topic: str = "", size: int = 0) -> None:  # fmt: skip
        super().__init__(connect, name, version, qos, rate, random.Random(name))
        self.history, self.size = history, size
        self.topic = topic or self.topic

    def session(self, client: Client) -> None:
        self.history.add(self.name, "connected")
        super().session(client)

    def payload(self, sequence: int) -> bytes:
        plain = super().payload(sequence)
        if self.size:
            plain += b":" + bytes(self.size)
        return plain + b"/%08x" % zlib.crc32(plain)

    def _next(self, client: Client) -> None:
        self.history.add(self.name, "sent", self.sequence)
        super()._next(client)

    def acknowledged(self, sequence: int) -> None:
        if sequence not in self.acked:
            self.history.add(self.name, "acked", sequence)
        super().acknowledged(sequence)


class Sink(Subscriber):
    """Adds what arrives: (publisher, sequence), or (publisher, -1) for what nobody sent like that."""

    def __init__(self, history: History, connect: Connect, name: str, version: int, qos: int, *, fickle: float = 0.0,
                 filter: str = "", slow_s: float = 0.0) -> None:  # fmt: skip
        super().__init__(connect, name, version, qos, fickle, random.Random(name))
        self.history, self.slow_s = history, slow_s
        self.filter = filter or self.filter

    def session(self, client: Client) -> None:
        self.history.add(self.name, "connected")
        super().session(client)

    def arrived(self, packet: Packet) -> None:
        plain, _, checksum = packet.payload.rpartition(b"/")
        publisher, sequence = plain.split(b":")[:2]
        intact = checksum == b"%08x" % zlib.crc32(plain)
        self.history.add(self.name, "got", (publisher.decode(), int(sequence) if intact else -1))
        self.seen.setdefault(publisher.decode(), []).append(int(sequence))
        self.last = time.monotonic()
        time.sleep(self.slow_s)


class Flows:
    """Publishers and subscribers that are due all of it, between them if they `share`."""

    def __init__(
        self, history: History, publishers: list[Source], subscribers: list[Sink], share: bool = False
    ) -> None:
        self.history, self.publishers, self.subscribers, self.share = history, publishers, subscribers, share

    def start(self) -> None:
        for subscriber in self.subscribers:
            subscriber.start()
        for subscriber in self.subscribers:
            assert subscriber.subscribed.wait(15), subscriber.errors
        for publisher in self.publishers:
            publisher.start()

    def drain(self) -> None:
        for publisher in self.publishers:
            publisher.draining.set()

    def drained(self) -> bool:
        if any(publisher.open for publisher in self.publishers):
            return False
        quiet = all(time.monotonic() - subscriber.last > 0.5 for subscriber in self.subscribers)
        return quiet and not any(self.missing(publisher) for publisher in self.publishers)

    def missing(self, publisher: Source) -> set[int]:
        """What it was acknowledged and has not arrived yet."""
        seen = [set(subscriber.seen.get(publisher.name, ())) for subscriber in self.subscribers]
        return publisher.acked - (set.union(*seen) if self.share else set.intersection(*seen))

    def stop(self) -> None:
        end(self.history, *self.publishers, *self.subscribers)
        for publisher in self.publishers:
            if publisher.open:
                self.history.add(publisher.name, "failed", f"{len(publisher.open)} flows without an end")


def ledger(history: History, connect: Connect) -> Flows:
    """W1 to W4."""
    publishers = [
        Source(history, connect, f"flow-p{index}", version, qos, 40.0)
        for index, (version, qos) in enumerate([(5, 1), (4, 1), (5, 2), (4, 2)])
    ]
    subscribers = [
        Sink(history, connect, "flow-steady", 5, 2),
        Sink(history, connect, "flow-away4", 4, 2, fickle=2.0),
        Sink(history, connect, "flow-away5", 5, 1, fickle=2.0),
    ]
    return Flows(history, publishers, subscribers)


def shared_group(history: History, connect: Connect) -> Flows:
    """W9."""
    members = [Sink(history, connect, f"shared-m{index}", 5, 1, filter=f"$share/g/{SHARED}/#") for index in range(3)]
    return Flows(history, [Source(history, connect, "shared-p", 5, 1, 20.0, topic=SHARED)], members, share=True)


def large_payloads(history: History, connect: Connect) -> Flows:
    """W11."""
    slow = Sink(history, connect, "large-slow", 5, 1, filter=f"{LARGE}/#", slow_s=SLOW_S)
    return Flows(history, [Source(history, connect, "large-p", 5, 1, 15.0, topic=LARGE, size=LARGE_BYTES)], [slow])
