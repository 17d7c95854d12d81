"""W6: retained messages as registers, each with one writer that counts up, and deletes now and then; it changes hosts often."""

from __future__ import annotations

import random
import threading
import time

from tests.cluster.matrix.cluster import Cluster
from tests.cluster.matrix.history import History
from tests.cluster.matrix.load import end
from tests.faults.ledger import Peer
from tests.mqtt import Client

WRITES, PAUSE_S = 8, 0.02


class Writer(Peer):
    """`deletes`: every fifth write is an empty payload."""

    def __init__(self, history: History, cluster: Cluster, name: str, deletes: bool) -> None:
        super().__init__(lambda version: cluster.client(version), name, 5, random.Random(name))
        self.history, self.deletes = history, deletes
        self.number = 0
        self.draining = threading.Event()

    def _connect(self, client: Client) -> None:
        self.connects += 1
        client.connect(f"{self.name}-{self.connects}".replace("/", "-"))  # no rule with %c fits a name with a slash

    def session(self, client: Client) -> None:
        for _ in range(WRITES):
            if self.stopping.is_set() or self.draining.is_set():
                self.stopping.wait(PAUSE_S)
                return
            self.number += 1
            value = "" if self.deletes and self.number % 5 == 0 else str(self.number)
            self.history.add(self.name, "sent", value)
            if client.publish_all(self.name, value.encode(), 1, retain=True).reason < 0x80:
                self.history.add(self.name, "acked", value)
            time.sleep(PAUSE_S)


class Registers:
    def __init__(self, history: History, cluster: Cluster) -> None:
        self.history, self.cluster = history, cluster
        self.writers = [Writer(history, cluster, f"register/{name}", name == "gone") for name in ("kept", "gone")]

    def start(self) -> None:
        for writer in self.writers:
            writer.start()

    def drain(self) -> None:
        for writer in self.writers:
            writer.draining.set()

    def drained(self) -> bool:
        return True

    def stop(self) -> None:
        end(self.history, *self.writers)

    def read(self) -> None:
        """What each host holds in the end."""
        for host in self.cluster.hosts:
            with host.client() as client:
                client.connect()
                for writer in self.writers:
                    client.subscribe((writer.name, 1))
                    self.history.add(writer.name, "read", _retained(client), host.name)


def _retained(client: Client) -> str:
    try:
        return client.take(0.3).payload.decode()
    except TimeoutError:
        return ""
