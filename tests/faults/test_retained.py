"""Retained messages, subscriptions and wills across kill -9: what was acknowledged is there after the restart."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from contextlib import ExitStack, suppress

import pytest

from tests import mqtt
from tests.broker import Broker, running, wait_for
from tests.faults.test_kill import SEED
from tests.mqtt import Client, Closed
from tests.placement import on_worker

TOPICS, ROUNDS = 20, 6


def publish_until_it_dies(port: int, acked: dict[str, int], sent: dict[str, int], sequence: int) -> int:
    """Set and delete retained messages, one after the other; the next sequence. A sequence divisible by 7 deletes."""
    with suppress(Closed, OSError), Client(port, 5) as client:
        client.connect()
        while True:
            topic = f"retained/{sequence % TOPICS}"
            payload = b"" if sequence % 7 == 0 else str(sequence).encode()
            sent[topic] = sequence
            sequence += 1
            answer = client.publish_all(topic, payload, 1, retain=True)
            assert answer.reason < 0x80, answer
            acked[topic] = sent[topic]
    return sequence


def retained(port: int) -> dict[str, int]:
    found = {}
    with Client(port, 5) as client:
        client.connect()
        client.subscribe(("retained/#", 1))
        client.send(mqtt.packet(mqtt.PINGREQ << 4))
        with suppress(TimeoutError):  # on a busy machine they begin behind PINGRESP
            while (packet := client.receive(0.5)).kind == mqtt.PUBLISH or not found:
                if packet.kind == mqtt.PUBLISH:
                    assert packet.retain
                    found[packet.topic] = int(packet.payload)
                    client.ack(mqtt.PUBACK, packet.id)
    return found


@pytest.mark.timeout(180)
def test_acknowledged_retained_messages_survive_kill_9() -> None:
    print(f"MQNODE_FAULT_SEED={SEED}")
    random_ = random.Random(SEED)
    acked: dict[str, int] = {}
    sent: dict[str, int] = {}
    sequence = 1
    with running() as broker:
        for round in range(ROUNDS):
            kill = broker.kill_all if round % 2 else lambda: broker.signal("keeper", signal.SIGKILL)
            timer = threading.Timer(random_.uniform(0.1, 0.5), kill)
            timer.start()
            if round % 2:
                sequence = publish_until_it_dies(broker.port, acked, sent, sequence)
                timer.join()
                broker.start()
            else:
                sequence = publish_over(broker, timer, acked, sent, sequence)
            found = retained(broker.port)
            for topic in sent:
                possible = range(acked.get(topic, 0), sent[topic] + 1)
                there = {each for each in possible if each % 7} & {found.get(topic, -1)}
                gone = topic not in found and (topic not in acked or any(each % 7 == 0 for each in possible))
                assert there or gone, (topic, found.get(topic), possible)
        assert sequence > 10 * ROUNDS


def publish_over(broker: Broker, timer: threading.Timer, acked: dict[str, int], sent: dict[str, int], next: int) -> int:
    """The same, over the death of the keeper, which the client does not see."""
    pid = broker.pid("keeper")
    until = time.monotonic() + 3
    with Client(broker.port, 5) as client:
        client.connect()
        while time.monotonic() < until and (broker.pid("keeper") in (0, pid)):
            topic = f"retained/{next % TOPICS}"
            sent[topic] = next
            next += 1
            client.publish_all(topic, b"" if sent[topic] % 7 == 0 else str(sent[topic]).encode(), 1, retain=True)
            acked[topic] = sent[topic]
    timer.join()
    broker.wait_ready()
    return next


@pytest.mark.timeout(60)
def test_a_subscription_lives_from_its_suback_on() -> None:
    with running() as broker:
        for number in range(3):
            with Client(broker.port, 4) as client:
                client.connect(f"c{number}", clean=False)
                client.subscribe((f"s/{number}", 1), (f"$share/g{number}/s/{number}", 1))
                broker.kill_all()
            broker.start()
            with Client(broker.port, 5) as publisher:
                publisher.connect()
                assert publisher.publish_all(f"s/{number}", b"x", 1).reason == 0
            with Client(broker.port, 4) as client:
                assert client.connect(f"c{number}", clean=False).session_present
                assert [client.take().payload, client.take().payload] == [b"x", b"x"]


@pytest.mark.timeout(60)
def test_a_will_fires_once_though_the_worker_and_the_keeper_die() -> None:
    with running() as broker, Client(broker.port, 5) as witness:
        wait_for(lambda: broker.pid("worker-1"))
        witness.connect("witness", clean=False, session_expiry=600)
        witness.subscribe(("wills/#", 2))
        clients = [Client(broker.port, 4) for _ in range(8)]
        for number, client in enumerate(clients):
            client.connect(f"will{number}", clean=True, will=(f"wills/{number}", b"", 2, False))
        witness.close()
        broker.kill_all()
        broker.start()
        with Client(broker.port, 5) as witness:
            assert witness.connect("witness", clean=False, session_expiry=600).session_present
            topics: list[str] = []
            released = 0
            while released < 8:
                packet = witness.receive(20)
                if packet.kind == mqtt.PUBREL:
                    released += 1
                    witness.ack(mqtt.PUBCOMP, packet.id)
                else:
                    assert packet.kind == mqtt.PUBLISH
                    assert not packet.dup
                    topics.append(packet.topic)
                    witness.ack(mqtt.PUBREC, packet.id)
            assert sorted(topics) == [f"wills/{number}" for number in range(8)]
            witness.nothing(3)


@pytest.mark.parametrize("known", [False, True], ids=["new-filter", "known-filter"])
@pytest.mark.parametrize("worker", [0, 1])
def test_who_subscribes_while_a_message_is_being_retained_gets_it(worker: int, known: bool) -> None:
    """It was published before the subscription, and committed behind SUBACK."""
    with running() as broker, ExitStack() as stack:
        publisher = stack.enter_context(on_worker(broker, 0, "publisher"))
        subscriber = stack.enter_context(on_worker(broker, worker, "subscriber"))
        if known:
            stack.enter_context(on_worker(broker, worker, "other")).subscribe("being/retained")
        pid = broker.signal("keeper", signal.SIGSTOP)
        try:
            publisher.publish("being/retained", b"x", 1, retain=True)
            publisher.send(mqtt.packet(mqtt.PINGREQ << 4))
            publisher.expect(mqtt.PINGRESP)
            subscriber.subscribe("being/retained")
        finally:
            os.kill(pid, signal.SIGCONT)
        found = subscriber.take()
        assert (found.payload, found.retain) == (b"x", True)
        publisher.expect(mqtt.PUBACK)


@pytest.mark.parametrize("worker", [0, 1])
def test_nothing_older_comes_behind_a_newer_retained_message(worker: int) -> None:
    """The newer one is sent live while the store still has the older one, which a new subscriber is about to get."""
    with running() as broker, ExitStack() as stack:
        publisher = stack.enter_context(on_worker(broker, 0, "publisher"))
        subscriber = stack.enter_context(on_worker(broker, worker, "subscriber"))
        publisher.publish_all("replaced/t", b"old", 1, retain=True)
        pid = broker.signal("keeper", signal.SIGSTOP)
        try:  # what is retained is not sent to the subscriber before the first of two commits
            publisher.publish("before/t", b"x", 1, retain=True)
            publisher.send(mqtt.packet(mqtt.PINGREQ << 4))
            publisher.expect(mqtt.PINGRESP)
            subscriber.subscribe("replaced/t")
            publisher.publish("replaced/t", b"new".ljust(900_000), 1, retain=True)
            assert subscriber.take().payload[:3] == b"new"
        finally:
            os.kill(pid, signal.SIGCONT)
        assert all(publisher.expect(mqtt.PUBACK).reason < 0x80 for _ in range(2))
        subscriber.nothing()
        subscriber.subscribe("replaced/t")
        assert subscriber.take().payload[:3] == b"new"
