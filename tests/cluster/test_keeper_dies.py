"""A keeper dies between a commit and those who were to be told of it: the next one, its workers and the other host agree."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from tests.broker import wait_for
from tests.cluster.hosts import MESH, Host, in_sync, join, running_hosts
from tests.cluster.network import Network
from tests.mqtt import CONNACK, PUBACK, PUBREC, UNSUBACK, UNSUBSCRIBE, Client, connect_packet, packet, properties, text

QUOTA_EXCEEDED = 0x97
FULL = 3  # messages in a queue


@pytest.fixture(scope="module")
def hosts(network: Network) -> Iterator[list[Host]]:
    more = f'[limits]\nmax_queued_messages = {FULL}\nqueue_policy = "refuse"\n'
    with running_hosts(network, interconnect=MESH, workers=2, more=more) as hosts:
        join(*hosts)
        yield hosts


def connected(host: Host) -> Client:
    client = host.client()
    client.connect()
    return client


def test_a_will_fires_once_though_the_keeper_dies_before_it_says_that_the_client_is_in(hosts: list[Host]) -> None:
    """The grant is in the store and waits for another host; the next keeper is asked again."""
    with connected(hosts[1]) as witness, hosts[0].client() as client:
        witness.subscribe("granted/#")
        wait_for(lambda: hosts[0].metric("mqnode_wills_pending") == 0)
        pid = hosts[1].signal("keeper", signal.SIGSTOP)
        try:
            client.send(connect_packet("granted", will=("granted/t", b"gone", 0, False)))
            wait_for(lambda: hosts[0].metric("mqnode_wills_pending") == 1)
            hosts[0].signal("keeper", signal.SIGKILL)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert client.expect(CONNACK).reason == 0
        client.close()
        assert witness.take().payload == b"gone"
        wait_for(lambda: hosts[0].metric("mqnode_wills_pending") == 0)
        witness.nothing(0.1)
    in_sync(*hosts)


def test_no_will_of_who_said_goodbye_while_the_keeper_was_away(hosts: list[Host]) -> None:
    with connected(hosts[1]) as witness, hosts[0].client() as client:
        witness.subscribe("goodbye/#")
        client.connect("goodbye", will=("goodbye/t", b"false", 0, False))
        pid, closed = hosts[0].signal("keeper", signal.SIGSTOP), hosts[0].metric("mqnode_connections_closed_total")
        client.disconnect()
        wait_for(lambda: hosts[0].metric("mqnode_connections_closed_total") > closed)
        os.kill(pid, signal.SIGKILL)
        with connected(hosts[0]) as publisher:
            publisher.publish_all("again/there", b"x", 1, retain=True)  # what the metrics say is of the next keeper
        wait_for(lambda: hosts[0].metric("mqnode_wills_pending") == 0)
        witness.nothing(0.1)
    in_sync(*hosts)


@pytest.mark.parametrize(("qos", "answer"), [(1, PUBACK), (2, PUBREC)])
def test_a_message_that_was_refused_is_not_acknowledged_by_the_next_keeper(
    hosts: list[Host], qos: int, answer: int
) -> None:
    """The one before had stored that, and died while it waited for the other host to have it."""
    first, second = hosts
    with first.client() as client:
        client.connect(f"full-{qos}", clean=False, session_expiry=60)
        client.subscribe((f"full/{qos}", 1))
        client.disconnect()
    with first.client() as publisher:
        publisher.connect()
        for _ in range(FULL):
            assert publisher.publish_all(f"full/{qos}", b"kept", 1).reason == 0
        refused = 'mqnode_messages_refused_total{reason="quota"}'
        before = first.metric(refused)
        pid = second.signal("keeper", signal.SIGSTOP)
        try:
            publisher.publish("again/there", b"x", 1, id=1, retain=True)
            publisher.publish(f"full/{qos}", b"refused", qos, id=2)
            wait_for(lambda: first.metric(refused) > before)
            first.signal("keeper", signal.SIGKILL)
        finally:
            os.kill(pid, signal.SIGCONT)
        answers = [publisher.receive() for _ in range(2)]
        assert [(each.kind, each.id, each.reason) for each in answers] == [
            (PUBACK, 1, 0x10),
            (answer, 2, QUOTA_EXCEEDED),
        ]
    in_sync(*hosts)


def test_who_went_before_its_host_could_answer_ends_no_later_connection(hosts: list[Host]) -> None:
    """Its session was claimed from a keeper that died; a balancer has sent it to another host meanwhile."""
    first, second = hosts
    with first.client() as client:
        client.connect("moves", clean=False, session_expiry=60)
        client.disconnect()
    keeper, closed = first.signal("keeper", signal.SIGSTOP), first.metric("mqnode_connections_closed_total")
    with first.client() as client:
        client.send(connect_packet("moves", clean=False, session_expiry=60))
    wait_for(lambda: first.metric("mqnode_connections_closed_total") > closed)
    workers = [first.signal(name, signal.SIGSTOP) for name in ("worker-0", "worker-1")]
    os.kill(keeper, signal.SIGKILL)  # and the next one is asked by the other host first
    with second.client() as client:
        assert client.connect("moves", clean=False, session_expiry=60).session_present
        for pid in workers:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        first.wait_ready()
        client.nothing(0.5)
    in_sync(*hosts)


def test_a_host_whose_keeper_was_away_for_long_does_not_go_on_without_the_others(hosts: list[Host]) -> None:
    """It has closed its interconnect meanwhile, and that is no eviction: the others are there, and may still count on it."""
    first, second = hosts
    socket = second.run_dir / "keeper.sock"
    keeper = second.signal("keeper", signal.SIGSTOP)
    socket.unlink()
    socket.mkdir()  # now no keeper can start
    os.kill(keeper, signal.SIGKILL)
    wait_for(lambda: "interconnect_closed" in second.log(), 15, second.log)
    socket.rmdir()
    second.wait_ready()
    in_sync(first, second)
    assert second.metric(f'mqnode_evictions_total{{peer="{first.name}"}}') == 0


@pytest.mark.parametrize("where", [0, 1], ids=["here", "at-the-other-host"])
def test_unsuback_means_all_workers_though_the_keeper_dies(hosts: list[Host], where: int) -> None:
    """It dies when it has stored that a subscription is gone, or before it could; its workers live on."""
    first, other = hosts[0], hosts[1 - where]
    with hosts[where].client() as client, ExitStack() as stack:
        client.connect(f"unsubscribes-{where}", clean=False, session_expiry=60)
        client.subscribe(("unsubscribed/#", 1))
        publishers = [stack.enter_context(connected(first)) for _ in range(12)]  # on both workers
        stopped = other.signal("keeper", signal.SIGSTOP)
        client.send(packet(UNSUBSCRIBE << 4 | 2, b"\0\7" + properties() + text("unsubscribed/#")))
        if where == 0:
            client.nothing(0.2)  # it is stored here, and nobody is told before the other host has it
            first.signal("keeper", signal.SIGKILL)
            os.kill(stopped, signal.SIGCONT)
        else:
            os.kill(stopped, signal.SIGKILL)
        assert client.expect(UNSUBACK).id == 7
        for publisher in publishers:
            publisher.publish_all("again/there", b"x", 1, retain=True)  # its worker has a keeper
            publisher.publish_all("unsubscribed/t", b"ghost", 1)
        client.nothing()
    in_sync(*hosts)
