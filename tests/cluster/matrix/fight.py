"""W5: two connections with one client id, each at a host of its own, take the session from each other without end."""

from __future__ import annotations

import random
import threading
import time
from contextlib import suppress

from tests.cluster.hosts import Host
from tests.cluster.matrix.cluster import Cluster
from tests.cluster.matrix.history import History
from tests.cluster.matrix.load import end
from tests.faults.ledger import Peer
from tests.mqtt import PINGREQ, PINGRESP, Client, Closed, packet

CLIENT_ID = "fight"
HOLDS_S, PING_S = (0.1, 0.5), 0.02


class Fighter(Peer):
    """Pings while it has the session: a PINGRESP says that this connection was alive after the PINGREQ was sent."""

    def __init__(self, history: History, host: Host) -> None:
        super().__init__(host.client, f"fight-{host.name}", 5, random.Random(host.name))
        self.history, self.host = history, host
        self.draining = threading.Event()

    def _connect(self, client: Client) -> None:
        if self.draining.is_set():
            self.stopping.wait(0.1)
            raise Closed
        answer = client.connect(CLIENT_ID, clean=False, session_expiry=3600)
        self.connects += 1
        self.history.add(self.name, "connected", answer.session_present, self.host.name)

    def session(self, client: Client) -> None:
        until = time.monotonic() + self.random.uniform(*HOLDS_S)
        while time.monotonic() < until:
            asked = time.monotonic()
            client.send(packet(PINGREQ << 4))
            with suppress(TimeoutError):
                if client.receive(1.0).kind == PINGRESP:
                    self.history.add(self.name, "alive", (self.connects, asked), self.host.name)
            time.sleep(PING_S)
        client.close()
        self.stopping.wait(self.random.uniform(0, 0.1))


class Fight:
    def __init__(self, history: History, cluster: Cluster) -> None:
        self.history, self.cluster = history, cluster
        self.fighters = [Fighter(history, host) for host in cluster.hosts]

    def start(self) -> None:
        with self.cluster.hosts[0].client() as client:
            client.connect(CLIENT_ID, clean=True, session_expiry=3600)
        for fighter in self.fighters:
            fighter.start()

    def drain(self) -> None:
        for fighter in self.fighters:
            fighter.draining.set()

    def drained(self) -> bool:
        return True

    def stop(self) -> None:
        end(self.history, *self.fighters)

    def read(self) -> None:
        """Both connect for the last time: how many connections each host knows then."""
        clients = [host.client() for host in self.cluster.hosts]
        for client, host in zip(clients, self.cluster.hosts, strict=True):
            present = client.connect(CLIENT_ID, clean=False, session_expiry=3600).session_present
            self.history.add(f"fight-{host.name}", "connected", present, host.name)
        for host in self.cluster.hosts:
            connected = host.get(f"/v1/clients/{CLIENT_ID}")[0] == 200
            self.history.add("fight", "read", connected, host.name)
        for client in clients:
            client.close()
