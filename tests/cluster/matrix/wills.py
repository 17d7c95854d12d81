"""W7: clients that break off and clients that say goodbye, and one that listens for their wills."""

from __future__ import annotations

import random
import secrets
import threading
import time

from tests.cluster.matrix.cluster import Cluster
from tests.cluster.matrix.history import History
from tests.cluster.matrix.load import end
from tests.faults.ledger import Peer, Subscriber
from tests.mqtt import Client, Packet

TOPIC = "wills"
ALIVE_S = (0.02, 0.3)


class Mourner(Subscriber):
    """Gets each will once: wills are of QoS 2."""

    def __init__(self, history: History, cluster: Cluster, life: str) -> None:
        super().__init__(lambda version: cluster.client(version), "will-mourner", 5, 2, 0.0, random.Random(1))
        self.history, self.filter = history, f"{TOPIC}/{life}/+"
        self.heard: set[str] = set()

    def arrived(self, packet: Packet) -> None:
        self.history.add(self.name, "got", packet.payload.decode())
        self.heard.add(packet.payload.decode())


class Mortal(Peer):
    """One connection after the other, each with a will and a client id of its own. It dies by a closed socket, or takes leave."""

    def __init__(self, history: History, cluster: Cluster, life: str) -> None:
        super().__init__(lambda version: cluster.client(version), "will-mortal", 5, random.Random(2))
        self.history = history
        self.draining = threading.Event()
        self.due: set[str] = set()
        self.number = 0
        self.life = life

    def _connect(self, client: Client) -> None:
        self.number += 1
        id = self._id()
        self.history.add(self.name, "tried", id)
        client.connect(id, will=(f"{TOPIC}/{self.life}/{id}", id.encode(), 2, False))
        self.history.add(self.name, "connected", id)

    def _id(self) -> str:
        return f"mortal-{self.life}-{self.number}"

    def session(self, client: Client) -> None:
        id, leaves = self._id(), self.number % 3 == 0
        try:
            client.nothing(self.random.uniform(*ALIVE_S))
            if leaves:
                self.history.add(self.name, "leaves", id)
                client.disconnect()
        finally:
            if client.socket.fileno() >= 0:
                self.history.add(self.name, "dies", id)
                self.due.add(id)
                client.close()
        while self.draining.is_set() and not self.stopping.is_set():
            time.sleep(0.05)


class Wills:
    def __init__(self, history: History, cluster: Cluster) -> None:
        self.history = history
        life = secrets.token_hex(2)  # the will of who died with a host of an earlier run may come in this one
        self.mourner, self.mortal = Mourner(history, cluster, life), Mortal(history, cluster, life)

    def start(self) -> None:
        self.mourner.start()
        assert self.mourner.subscribed.wait(15), self.mourner.errors
        self.mortal.start()

    def drain(self) -> None:
        self.mortal.draining.set()

    def drained(self) -> bool:
        return self.mortal.due <= self.mourner.heard

    def stop(self) -> None:
        end(self.history, self.mortal, self.mourner)
