"""The broker under attack, what must hold after each attack, and the witnesses who go on exchanging messages meanwhile."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography import x509

from node.auth.passwords import Password
from node.auth.users import add_user
from tests.broker import Broker, free_port, running, wait_for
from tests.mqtt import Client, Closed
from tests.unit.certificates import Authority

WORKERS = ("worker-0", "worker-1")
PROCESSES = (*WORKERS, "keeper", "admin", "watchdog")
CONNECT_TIMEOUT_S = 2
# of a worker: 32 MB of output, 16 to the other worker, 64 to the keeper, each twice while it grows or is copied; input, caches
GROWTH_MAX_BYTES = 320 * 2**20
WITNESS_BOUND_S = 4.0  # a stalled subscriber may hold a publisher back for slow_subscriber_s, which is 1 s here
_CONFIG = """
[[listeners]]
type = "ws"
bind = "127.0.0.1:{ws}"
[[listeners]]
type = "tls"
bind = "127.0.0.1:{tls}"
certificate = "{certificate}"
key = "{key}"
[[listeners]]
type = "tcp"
bind = "127.0.0.1:{proxy}"
proxy_protocol = "required"
proxy_networks = ["127.0.0.1"]
[limits]
connect_timeout_s = {timeout_s}
slow_subscriber_s = 1
max_output_bytes = 1048576
max_worker_output_bytes = 33554432
max_topic_levels = 1024
max_topic_bytes = 65535
max_queued_messages = 1000
max_session_expiry_s = 5
[log]
access = true
"""


class Witness(threading.Thread):
    """A publisher and a subscriber at different workers: QoS 1 messages one by one, each due within WITNESS_BOUND_S."""

    def __init__(self, broker: Broker, name: str) -> None:
        super().__init__(daemon=True)
        self.name, self._broker = name, broker
        self._publisher, place = self._join(f"{name}-publisher", -1)
        self._subscriber, _ = self._join(f"{name}-subscriber", place)
        self._topic = f"{name}/messages"
        self._subscriber.subscribe((self._topic, 1))
        self._ending = threading.Event()
        self.exchanged, self.slowest_s, self.failure = 0, 0.0, ""
        self.start()

    def _join(self, client_id: str, other_worker: int) -> tuple[Client, int]:
        """A connection that the kernel gave to another worker than `other_worker`."""
        for attempt in range(64):
            client = Client(self._broker.port, timeout_s=WITNESS_BOUND_S)
            client.connect(f"{client_id}-{attempt}", keep_alive=0)
            line = re.compile(rf'"event":"connect","client_id":"{client_id}-{attempt}".*"worker":(\d)')
            found = wait_for(lambda: line.search(self._broker.log()))  # noqa: B023
            if int(found[1]) != other_worker:
                return client, int(found[1])
            client.close()
        raise AssertionError("all connections went to one worker")

    def run(self) -> None:
        try:
            while not self._ending.is_set():
                self._exchange()
                time.sleep(0.01)
        except (AssertionError, Closed, OSError) as error:
            self.failure = f"{self.name}, message {self.exchanged}: {error!r}"

    def _exchange(self) -> None:
        begin = time.monotonic()
        answer = self._publisher.publish_all(self._topic, b"%d" % self.exchanged, 1)
        assert answer.reason == 0, answer
        got = self._subscriber.take()
        assert (got.topic, got.payload) == (self._topic, b"%d" % self.exchanged), got
        self.exchanged += 1
        self.slowest_s = max(self.slowest_s, time.monotonic() - begin)
        assert self.slowest_s < WITNESS_BOUND_S

    def end(self) -> None:
        self._ending.set()
        self.join(2 * WITNESS_BOUND_S)
        self._publisher.close()
        self._subscriber.close()


class Target:
    def __init__(self, broker: Broker, ports: dict[str, int], ca: str) -> None:
        self.broker, self.ports, self.ca = broker, ports, ca
        self.witnesses = [Witness(broker, f"witness{number}") for number in range(2)]
        self._pids = {name: broker.pid(name) for name in PROCESSES}
        self._resident = {name: self.resident(name) for name in WORKERS}
        self._log_at = 0

    def resident(self, name: str) -> int:
        for line in Path(f"/proc/{self._pids[name]}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"{name} is gone")

    def cpu_s(self, name: str) -> float:
        """Processor time that the process has used."""
        return self.broker.metric(f'mqnode_process_cpu_seconds_total{{process="{name}"}}')

    def check(self) -> None:
        """Nothing crashed, nothing grew out of bounds, nothing was logged as ours, the witnesses saw every message."""
        before = [witness.exchanged for witness in self.witnesses]
        wait_for(
            lambda: all(now.exchanged > then or now.failure for now, then in zip(self.witnesses, before, strict=True)),
            2 * WITNESS_BOUND_S, "the witnesses stand still",
        )  # fmt: skip
        failures = [witness.failure for witness in self.witnesses if witness.failure]
        assert failures == [], failures
        assert {name: self.broker.pid(name) for name in PROCESSES} == self._pids, "a process was started anew"
        errors = self.broker.errors()
        assert errors == [], errors
        assert self.broker.metric("mqnode_handler_errors_total") == 0
        growth = {name: self.resident(name) - self._resident[name] for name in WORKERS}
        assert max(growth.values()) < GROWTH_MAX_BYTES, growth

    def check_nobody_stays(self) -> None:
        """Of all who came, only the witnesses are still connected, and nothing waits for those who left."""
        mine = 2 * len(self.witnesses)
        wait_for(lambda: self._open() == mine, 10, lambda: f"{self._open()} connections, not {mine}")
        wait_for(lambda: self._total("mqnode_connections") == mine and not self._total("mqnode_output_bytes"), 10)

    def _open(self) -> float:
        """At this moment; the gauges are of the last half second."""
        opened, closed = (f"mqnode_{name}_total" for name in ("sockets_opened", "connections_closed"))
        return self.broker.metric(opened) - self.broker.metric(closed)

    def _total(self, gauge: str) -> float:
        """Over its labels."""
        lines = str(self.broker.get("/metrics")[1]).splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{gauge}{{"))

    def end(self) -> None:
        for witness in self.witnesses:
            witness.end()


@contextmanager
def attacked(folder: Path) -> Iterator[Target]:
    """A 2-worker broker with a listener of each kind, a user for SCRAM, and its witnesses."""
    authority = Authority(folder)
    certificate, key = authority.issue("server", "localhost", [x509.DNSName("localhost")])
    ports = {kind: free_port() for kind in ("ws", "tls", "proxy")}
    add_user(folder / "passwords", "alice", Password("secret"), scram=True)
    auth = f'allow_anonymous = true\npassword_file = "{folder}/passwords"'
    config = _CONFIG.format(**ports, certificate=certificate, key=key, timeout_s=CONNECT_TIMEOUT_S)
    with running(config, auth=auth) as broker:
        target = Target(broker, {"tcp": broker.port, **ports}, authority.path)
        try:
            yield target
        finally:
            target.end()
