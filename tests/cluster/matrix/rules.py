"""W10: at each host a client to which the host's ACL file by turns grants and denies its topic, and one that reads them all."""

from __future__ import annotations

import random
import threading
import zlib
from pathlib import Path

from tests.cluster.hosts import Host
from tests.cluster.matrix.cluster import ALL_IS_GRANTED, Cluster
from tests.cluster.matrix.flows import Sink
from tests.cluster.matrix.history import History
from tests.cluster.matrix.load import end
from tests.faults.ledger import Peer
from tests.mqtt import Client

TOPIC = "rules"
DENIED = f"{ALL_IS_GRANTED}pattern deny {TOPIC}/%c\n"  # to the client of that name; who reads has another one
PROBES, PAUSE_S = 4, 0.1


class Prober(Peer):
    """Nothing is asked from the change of the file to a reload that the whole host takes over; the death of a process
    or of the host between probes changes no rule. A probe without an answer shows nothing."""

    def __init__(self, history: History, host: Host, acl_file: Path) -> None:
        super().__init__(host.client, f"rules-{host.name}", 5, random.Random(5))
        self.history, self.host, self.acl_file = history, host, acl_file
        self.draining, self.idle = threading.Event(), threading.Event()
        self.granted = False
        self.in_force = False  # is what the file says known to be what the host does?
        self.number = 0
        self.due: set[int] = set()
        self.asked: set[bool] = set()  # under a granting rule, under a denying one

    def _connect(self, client: Client) -> None:
        client.connect(self.name)

    def session(self, client: Client) -> None:
        while not (self.stopping.is_set() or (self.draining.is_set() and len(self.asked) == 2)):
            for _ in range(PROBES if self.in_force else 0):
                self._probe(client)
                self.draining.wait(PAUSE_S)
            self._change()
        self.idle.set()
        self.stopping.wait()

    def _probe(self, client: Client) -> None:
        self.number += 1
        plain = f"{self.name}:{self.number}".encode()
        reason = client.publish_all(f"{TOPIC}/{self.name}", plain + b"/%08x" % zlib.crc32(plain)).reason
        self.history.add(self.name, "answered", ((self.name, self.number), self.granted, reason), self.host.name)
        self.asked.add(self.granted)
        if reason < 0x80:
            self.due.add(self.number)

    def _change(self) -> None:
        self.in_force, self.granted = False, not self.granted
        new = self.acl_file.with_suffix(".new")  # the file is replaced as a whole: a process may read it just now
        new.write_text(ALL_IS_GRANTED if self.granted else DENIED)
        new.replace(self.acl_file)
        while not (self.in_force or self.stopping.wait(PAUSE_S)):
            self.in_force = self.host.get("/v1/reload", method="POST")[0] == 200


class Changing:
    def __init__(self, history: History, cluster: Cluster) -> None:
        self.history = history
        self.reader = Sink(history, cluster.client, "rules-reader", 5, 1, filter=f"{TOPIC}/+")
        self.probers = [Prober(history, host, cluster.acl_files[host.name]) for host in cluster.hosts]

    def start(self) -> None:
        self.reader.start()
        assert self.reader.subscribed.wait(15), self.reader.errors
        for prober in self.probers:
            prober.start()

    def drain(self) -> None:
        for prober in self.probers:
            prober.draining.set()

    def drained(self) -> bool:
        heard = self.reader.seen
        return all(prober.idle.is_set() and prober.due <= set(heard.get(prober.name, ())) for prober in self.probers)

    def stop(self) -> None:
        end(self.history, *self.probers, self.reader)
