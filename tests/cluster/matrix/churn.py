"""W8: a durable session that subscribes and unsubscribes, and a prober that publishes after each acknowledgement."""

from __future__ import annotations

import random
import struct
import threading
import time
from contextlib import suppress

from tests.cluster.hosts import Host
from tests.cluster.matrix.cluster import Cluster
from tests.cluster.matrix.history import History
from tests.cluster.matrix.load import end
from tests.faults.ledger import Peer
from tests.mqtt import (
    PUBACK,
    PUBLISH,
    SUBACK,
    SUBSCRIBE,
    UNSUBACK,
    UNSUBSCRIBE,
    Client,
    Closed,
    Packet,
    packet,
    properties,
    text,
)

ROUNDS = 5  # on one connection
ARRIVES_S = 5.0


class Churn(Peer):
    """Subscriber and prober are on hosts of their own choice, which is the same one while hosts do not see each other."""

    def __init__(self, history: History, cluster: Cluster) -> None:
        super().__init__(self._somewhere, "churn", 5, random.Random(3))
        self.history, self.cluster = history, cluster
        self.host = cluster.hosts[0]
        self.draining, self.idle = threading.Event(), threading.Event()
        self.number = 0

    def _somewhere(self, version: int) -> Client:
        if not self.history.split:
            self.host = self.random.choice(self.cluster.hosts)
        try:
            return self.host.client(version)
        except OSError:
            self.host = self.random.choice(self.cluster.hosts)
            raise

    def _connect(self, client: Client) -> None:
        try:
            super()._connect(client)
        except TimeoutError:
            self.host = self.random.choice(self.cluster.hosts)
            raise

    def session(self, client: Client) -> None:
        for _ in range(ROUNDS):
            if self.draining.is_set() or self.stopping.is_set():
                break
            self._round(client)
        while self.draining.is_set() and not self.stopping.is_set():
            self.idle.set()
            with suppress(TimeoutError):
                self._take(client, client.receive(0.2))

    def _round(self, client: Client) -> None:
        prober = self.host if self.history.split else self.random.choice(self.cluster.hosts)
        self.number += 1
        topic = f"churn/{self.number}"
        self._say("subscribes", topic)
        client.send(
            packet(SUBSCRIBE << 4 | 2, struct.pack(">H", client.next_id()) + properties() + text(topic) + b"\1")
        )
        self._until(client, SUBACK)
        self._say("subscribed", topic)
        self._probe(prober, topic, "heard")
        self._until(client, PUBLISH)
        client.send(packet(UNSUBSCRIBE << 4 | 2, struct.pack(">H", client.next_id()) + properties() + text(topic)))
        self._until(client, UNSUBACK)
        self._say("unsubscribed", topic)
        self._probe(prober, topic, "ghost")

    def _probe(self, host: Host, topic: str, payload: str) -> None:
        with host.client() as client:
            client.connect()
            began = time.monotonic()
            if client.publish_all(topic, payload.encode()).reason < 0x80:
                self.history.add(self.name, "acked", (topic, payload, host.name, began), host.name)

    def _until(self, client: Client, kind: int) -> None:
        """What comes before is taken, too. For an answer that does not come the session is asked over a new connection."""
        deadline = time.monotonic() + ARRIVES_S
        while time.monotonic() < deadline:
            with suppress(TimeoutError):
                found = client.receive(max(0.01, deadline - time.monotonic()))
                self._take(client, found)
                if found.kind == kind:
                    return
        raise Closed

    def _take(self, client: Client, found: Packet) -> None:
        if found.kind == PUBLISH:
            self._say("got", (found.topic, found.payload.decode()))
            client.ack(PUBACK, found.id)

    def _say(self, kind: str, what: object) -> None:
        self.history.add(self.name, kind, what, self.host.name)


class Churning:
    def __init__(self, history: History, cluster: Cluster) -> None:
        self.history, self.churn = history, Churn(history, cluster)

    def start(self) -> None:
        self.churn.start()

    def drain(self) -> None:
        self.churn.draining.set()

    def drained(self) -> bool:
        return self.churn.idle.is_set()

    def stop(self) -> None:
        end(self.history, self.churn)
