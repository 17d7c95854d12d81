"""Two hosts and more: what a peer in sync and a message to another host cost, how long a client waits when its host dies.

All hosts share this machine, so a rate with two of them is what half of it gives; what a message takes of one host's CPU is what
it would take of its own machine.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from statistics import median

from bench.brokers import Subject
from bench.clients import STORM
from bench.durable import persistent_pairs
from bench.hosts import Hosts, fall_silent, received_bytes
from bench.measure import Failed, memory_bytes, settle
from bench.messages import PAIRS
from bench.scenario import Bar, Numbers, Scenario
from node.core.load import Load
from tests.cluster.hosts import Host
from tests.mqtt import PUBLISH, Client, Closed

RUNS = 5
DEVICES = 10_000
EVICTED_S = 3.0  # docs/guarantees.md
PUBLISH_EVERY_S = 0.005


def peer_in_sync(subject: Subject, seconds: float) -> Numbers:
    """QoS 1 for persistent sessions: acknowledged when it is on one disk, then when it is on two."""
    assert isinstance(subject, Hosts)
    alone = persistent_pairs(subject, seconds, 0)
    peer = subject.join(subject.one_more())
    subject.measured.remove(peer)
    both = persistent_pairs(subject, seconds, 0)
    return {
        "kept_first": alone["cpu"] / both["cpu"],
        "kept_rate": both["rate"] / alone["rate"],
        "cpu_first": both["cpu"],
        "rate": both["rate"],
        "ack_p99": both["ack_p99"],
    }


def forwarding(subject: Subject, seconds: float) -> Numbers:
    """Publishers at one host, subscribers at the other; the CPU of both hosts."""
    assert isinstance(subject, Hosts)
    alone = PAIRS.measure(subject, seconds)
    other = subject.join(subject.one_more())
    across = PAIRS.measure(subject, seconds, (other.address, other.port))
    if across["missing"]:
        raise Failed(f"messages were lost on the way: {across}")
    return {"kept": alone["cpu"] / across["cpu"], "cpu": across["cpu"], "rate": across["rate"]}


# -- a host dies ------------------------------------------------------------------------------------------------------------


def killed(subject: Subject, seconds: float) -> Numbers:
    """kill -9 of all its processes: whoever is connected to it sees that at once."""
    return failovers(subject, Host.kill_all)


def silent(subject: Subject, seconds: float) -> Numbers:
    """It stops without a word; the clients go to the other host at once, which has to find out."""
    return failovers(subject, fall_silent)


def failovers(subject: Subject, end: Callable[[Host], None]) -> Numbers:
    assert isinstance(subject, Hosts)
    subject.join(subject.one_more())
    connacks, deliveries = [], []
    for number in range(RUNS):
        survivor, victim = subject.hosts[number % 2], subject.hosts[1 - number % 2]
        connack, delivery = failover(f"device-{number}", victim, survivor, end)
        connacks.append(connack * 1000)
        deliveries.append(delivery * 1000)
        victim.kill_all()
        victim.start()
        subject.in_sync()
    return {
        "failover_p50": median(deliveries), "failover_max": max(deliveries),
        "connack_p50": median(connacks), "connack_max": max(connacks),
    }  # fmt: skip


def failover(name: str, victim: Host, survivor: Host, end: Callable[[Host], None]) -> tuple[float, float]:
    """Seconds from the end of a subscriber's host to its CONNACK and its first message at the other, where the publisher is."""
    with _client(victim) as subscriber:
        subscriber.connect(name, clean=False, session_expiry=600)
        subscriber.subscribe((name, 1))
        with _Publishing(survivor, name):
            subscriber.take()
            started = time.monotonic()
            end(victim)
            with _reconnected(survivor, name, started) as again:
                connected = time.monotonic() - started
                while again.receive(30).kind != PUBLISH:
                    pass
                return connected, time.monotonic() - started


def _client(host: Host) -> Client:
    return Client(host.port, 5, host=host.address, timeout_s=30)


def _reconnected(host: Host, name: str, started: float) -> Client:
    while time.monotonic() - started < 30:
        client = _client(host)
        with suppress(Closed, AssertionError, OSError):
            client.connect(name, clean=False, session_expiry=600)
            return client
        client.close()
    raise Failed("the other host refused the client for 30 s")


class _Publishing(threading.Thread):
    """A message of QoS 1 every few milliseconds, acknowledged or not."""

    def __init__(self, host: Host, topic: str) -> None:
        super().__init__(daemon=True)
        self.topic = topic
        self.client = _client(host)
        self.stopping = threading.Event()

    def __enter__(self) -> None:
        self.client.connect("publisher")
        self.start()

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self.join()
        self.client.close()

    def run(self) -> None:
        number = 0
        while not self.stopping.wait(PUBLISH_EVERY_S):
            number += 1
            self.client.publish(self.topic, b"x", 1, id=number)
            with suppress(TimeoutError):
                while True:
                    self.client.receive(0)


def storm(subject: Subject, seconds: float) -> Numbers:
    """All clients of a host that was killed come to the other one at once; they have what they had."""
    assert isinstance(subject, Hosts)
    victim = subject.join(subject.one_more())
    there = Load(victim.address, victim.port)
    there.add(DEVICES, prefix="device", clean=False, subscribe="device/{i}", qos=1)
    settle(there)
    subject.in_sync()
    started = time.monotonic()
    victim.kill_all()
    there.close()
    here = subject.load(burst=STORM)
    here.add(DEVICES, prefix="device", clean=False)
    settle(here)
    took, latency, present = time.monotonic() - started, here.histogram("connection"), here.stats()["sessions_present"]
    here.close()
    if present != DEVICES:
        raise Failed(f"only {present} of {DEVICES} sessions were there")
    return {"storm": took * 1000, "connect_p99": latency["p99"] / 1e6, "connect_max": latency["max"] / 1e6}


# -- a host joins -----------------------------------------------------------------------------------------------------------


def joins(subject: Subject, seconds: float, sessions: int) -> Numbers:
    """A second host, a third, … with so many sessions that have a subscription each: from the command until in sync."""
    assert isinstance(subject, Hosts)
    for number in range(sessions // DEVICES):
        load = subject.load()
        load.add(DEVICES, prefix=f"device-{number}", clean=False, subscribe=f"device/{number}/{{i}}", qos=1)
        settle(load)
        load.close()
    numbers = {}
    for count in range(2, len(subject.hosts) + 1):
        host = subject.one_more()
        keeper = [host.pid("keeper")]
        memory, received, started = memory_bytes(keeper), received_bytes(host), time.monotonic()
        subject.join(host)
        numbers[f"join_{count}"] = time.monotonic() - started
        numbers[f"wire_{count}"] = (received_bytes(host) - received) / sessions
        if count == 2:
            numbers["session_memory"] = (memory_bytes(keeper) - memory) / sessions
    return numbers


MQNODE = ("mqnode",)
SCENARIOS = (
    Scenario("QoS 1 with a peer in sync", peer_in_sync, (Bar("kept_first", 0.6, "limit", "more"),), MQNODE, hosts=2),
    Scenario("host to host, QoS 0", forwarding, (Bar("kept", 0.5, "limit", "more"),), MQNODE, hosts=2),
    Scenario("host killed", killed, (Bar("failover_max", 1000, "limit"),), MQNODE, hosts=2),
    Scenario("host silent", silent, (Bar("failover_max", (EVICTED_S + 1) * 1000, "limit"),), MQNODE, hosts=2),
    Scenario("10,000 sessions reconnect", storm, (), MQNODE, hosts=2),
    Scenario("join with 100,000 sessions", partial(joins, sessions=100_000), (), MQNODE, hosts=5),
    Scenario("join with 20,000 sessions", partial(joins, sessions=20_000), (), MQNODE, hosts=7),
)
