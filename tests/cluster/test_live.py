"""Messages between clean sessions of several hosts: nothing of them is stored, and no host gets what nobody there wants."""

from __future__ import annotations

import os
import signal
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from tests.broker import wait_for
from tests.cluster.hosts import MESH, Host, in_sync, join, running_hosts
from tests.cluster.network import INTERCONNECT as SIDE
from tests.cluster.network import Network
from tests.mqtt import PUBACK, SUBACK, SUBSCRIBE, Client, packet, properties, text

QUIET_BYTES = 20_000  # on the interconnect while nothing but heartbeats passes, at most, in a test


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network("h1", "h2", "h3") as network:
        yield network


@pytest.fixture(scope="module")
def hosts(network: Network) -> Iterator[list[Host]]:
    with running_hosts(network, interconnect=MESH, workers=2) as hosts:
        join(*hosts)
        yield hosts


def connected(host: Host, **values: int) -> Client:
    client = host.client()
    client.connect(**values)
    return client


def flood(client: Client, topic: str, count: int, size: int) -> None:
    for number in range(count):
        client.publish(topic, str(number).encode().ljust(size))


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_messages_cross_both_ways_in_order(hosts: list[Host], qos: int) -> None:
    sent = [str(number).encode() for number in range(100)]
    for one, other in ((hosts[0], hosts[1]), (hosts[1], hosts[0])):
        with connected(one) as publisher, connected(other, receive_maximum=1) as subscriber:
            subscriber.subscribe(("way/+/x", qos))
            for payload in sent:
                if qos:
                    publisher.publish_all("way/1/x", payload, qos)
                else:
                    publisher.publish("way/1/x", payload)
            got = [subscriber.take() for _ in sent]
            assert [each.payload for each in got] == sent
            assert {(each.topic, each.qos, each.retain) for each in got} == {("way/1/x", qos, False)}
            subscriber.nothing()


def test_a_message_is_itself_elsewhere(hosts: list[Host]) -> None:
    """Properties, the retain flag for who asked to see it, and the expiry by the other host's clock."""
    with connected(hosts[0]) as publisher, connected(hosts[1]) as subscriber:
        subscriber.subscribe(("itself/#", 1 | 8))
        publisher.publish_all(
            "itself/t", b"kept", 1, retain=True, message_expiry=100, content_type="text", user_property=[("k", "v")]
        )
        got = subscriber.take()
        assert (got.payload, got.qos, got.retain) == (b"kept", 1, True)
        assert 97 <= got.properties.pop("message_expiry") <= 100
        assert got.properties == {"content_type": "text", "user_property": [("k", "v")]}
        publisher.publish_all("itself/t", b"", 1, retain=True)


def test_suback_means_that_all_hosts_route(hosts: list[Host]) -> None:
    with connected(hosts[0]) as publisher, connected(hosts[2]) as subscriber:
        for number in range(30):
            subscriber.subscribe(f"gap/{number}")
            publisher.publish(f"gap/{number}", b"at once")
            assert subscriber.take(2).topic == f"gap/{number}"


def test_suback_waits_for_a_host_that_routes_late(hosts: list[Host]) -> None:
    """Its link is well, so that it is not evicted; a worker that stands still for two seconds would be replaced."""
    with connected(hosts[0]) as publisher, connected(hosts[1]) as subscriber:
        with hosts[0].standing_still("worker-0"):
            subscriber.send(packet(SUBSCRIBE << 4 | 2, struct.pack(">H", 7) + properties() + text("late/t") + b"\0"))
            subscriber.nothing(1.3)
        subscriber.expect(SUBACK)
        publisher.publish("late/t", b"x")
        assert subscriber.take().payload == b"x"


def test_a_message_that_is_being_retained_elsewhere_reaches_a_new_subscriber(hosts: list[Host]) -> None:
    """It was published there before that host knew of the subscription, and committed behind SUBACK."""
    with connected(hosts[0]) as publisher, connected(hosts[1]) as subscriber:
        pid = hosts[0].signal("keeper", signal.SIGSTOP)
        try:
            publisher.publish("being/retained", b"x", 1, retain=True)
            publisher.nothing(0.01)
            subscriber.subscribe("being/retained")
        finally:
            os.kill(pid, signal.SIGCONT)
        assert subscriber.take().payload == b"x"
        publisher.expect(PUBACK)


def test_nothing_older_comes_behind_a_newer_retained_message_of_another_host(hosts: list[Host]) -> None:
    with connected(hosts[0]) as publisher, connected(hosts[1]) as subscriber:
        publisher.publish_all("being/replaced", b"old", 1, retain=True)
        pid = hosts[0].signal("keeper", signal.SIGSTOP)
        try:  # what is retained is not sent to the subscriber before the first of two commits
            publisher.publish("being/retained", b"", 1, retain=True)
            publisher.nothing(0.01)
            subscriber.subscribe("being/replaced")
            publisher.publish("being/replaced", b"new".ljust(900_000), 1, retain=True)
            assert subscriber.take().payload[:3] == b"new"
        finally:
            os.kill(pid, signal.SIGCONT)
        assert publisher.expect(PUBACK).id < publisher.expect(PUBACK).id
        subscriber.nothing()
        publisher.publish_all("being/replaced", b"", 1, retain=True)


def test_unsuback_ends_it_and_others_go_on(hosts: list[Host]) -> None:
    with connected(hosts[0]) as publisher, connected(hosts[1]) as one, connected(hosts[1]) as other:
        for client in (one, other):
            client.subscribe("both/t")
        one.unsubscribe("both/t")
        publisher.publish("both/t", b"1")
        assert other.take().payload == b"1"
        one.nothing()


def test_one_copy_for_each_subscriber(hosts: list[Host]) -> None:
    """However many of its filters match, and however many sessions, workers and hosts there are."""
    subscribers = [connected(host) for host in hosts for _ in range(4)]
    for client in subscribers:
        client.subscribe("copy/#", "copy/t", "+/t")
    with connected(hosts[1]) as publisher:
        publisher.publish("copy/t", b"one")
        for client in subscribers:
            assert client.take().payload == b"one"
            client.nothing(0.05)
            client.close()


def test_a_durable_session_gets_each_message_once(hosts: list[Host]) -> None:
    """QoS 1 by the store, QoS 0 by the live way."""
    with connected(hosts[0]) as publisher, hosts[1].client() as subscriber:
        subscriber.connect("durable-once", clean=False, session_expiry=60)
        subscriber.subscribe(("dur/#", 1), ("dur0/#", 0))
        for topic, qos in (("dur/t", 1), ("dur/t", 0), ("dur0/t", 1), ("dur0/t", 0)):
            if qos:
                publisher.publish_all(topic, b"x", qos)
            else:
                publisher.publish(topic, b"x")
            found = subscriber.take()
            assert (found.topic, found.qos) == (topic, min(qos, 0 if topic == "dur0/t" else 1))
            subscriber.nothing(0.1)


def test_a_will_is_seen_on_all_hosts(hosts: list[Host]) -> None:
    subscribers = [connected(host) for host in hosts]
    for subscriber in subscribers:
        subscriber.subscribe("will/#")
    with hosts[0].client() as client:
        client.connect("dies", will=("will/t", b"gone", 0, False))
    for subscriber in subscribers:
        assert subscriber.take().payload == b"gone"
        subscriber.nothing(0.1)
        subscriber.close()


def test_nothing_leaves_the_host_for_its_own_subscribers(network: Network, hosts: list[Host]) -> None:
    with (
        connected(hosts[0]) as publisher,
        connected(hosts[0]) as subscriber,
        connected(hosts[1]) as elsewhere,
        connected(hosts[1]) as left,
    ):
        subscriber.subscribe("local/#")
        elsewhere.subscribe("local/other")
        left.subscribe("local/t")
        left.unsubscribe("local/t")
        with network.capture(hosts[0].name, SIDE) as capture:
            flood(publisher, "local/t", 300, 1000)
            for _ in range(300):
                subscriber.take()
            assert sum(capture.read().bytes.values()) < QUIET_BYTES
            publisher.publish("local/other", bytes(QUIET_BYTES))
            elsewhere.take()
            assert sum(capture.read().bytes.values()) >= QUIET_BYTES


def test_only_the_interested_host_gets_it(network: Network, hosts: list[Host]) -> None:
    with connected(hosts[0]) as publisher, connected(hosts[1]) as subscriber, connected(hosts[2]) as other:
        subscriber.subscribe("three/+")
        other.subscribe("three/t/below")
        with network.capture(hosts[2].name, SIDE) as away, network.capture(hosts[1].name, SIDE) as there:
            flood(publisher, "three/t", 200, 1000)
            for _ in range(200):
                subscriber.take()
            assert sum(there.read().bytes.values()) > 200_000
            assert sum(away.read().bytes.values()) < QUIET_BYTES
        other.nothing()


def test_two_hosts_ask_a_third_one_for_a_session_at_the_same_time(hosts: list[Host]) -> None:
    """Both are answered: whoever waits for the session gets it in the end."""

    def connects(host: Host) -> None:
        with host.client() as client:
            client.connect("wanted", clean=False, session_expiry=60)

    with ThreadPoolExecutor() as pool:
        for _ in range(10):
            with hosts[0].client() as client:
                client.connect("wanted", clean=False, session_expiry=60)
                for each in [pool.submit(connects, host) for host in hosts[1:]]:
                    each.result(20)


@pytest.mark.parametrize("expiry_s", [0, 60])
def test_a_client_is_kicked_from_any_host(hosts: list[Host], expiry_s: int) -> None:
    with hosts[1].client() as client:
        client.connect("kicked", session_expiry=expiry_s)
        assert hosts[0].mqnode("clients", "kick", "kicked", "--yes").returncode == 0
        farewell = client.expect_closed()
        assert farewell is not None
        assert farewell.reason == 0x98
    asked = hosts[0].mqnode("clients", "kick", "kicked", "--yes")
    assert asked.returncode == 1
    assert "no client 'kicked' is connected" in asked.stderr


@pytest.mark.parametrize("qos", [0, 1])
def test_a_shared_group_has_members_on_all_hosts(hosts: list[Host], qos: int) -> None:
    members = [connected(host) for host in hosts for _ in range(2)]
    for member in members:
        member.subscribe((f"$share/g{qos}/shared/#", qos))
    with connected(hosts[0]) as publisher:
        for number in range(120):
            publisher.publish(f"shared/{number % 7}", str(number).encode(), qos)
        for _ in range(120 if qos else 0):
            publisher.expect(PUBACK)
        got = {member: payloads(member) for member in members}
    assert Counter(each for one in got.values() for each in one) == {str(number).encode(): 1 for number in range(120)}
    assert all(len(each) >= 10 for each in got.values()), [len(each) for each in got.values()]
    for member in members:
        member.close()


def test_a_shared_group_of_durable_and_clean_sessions(hosts: list[Host]) -> None:
    members = [hosts[0].client(), hosts[1].client(), connected(hosts[2])]
    for number, member in enumerate(members[:2]):
        member.connect(f"durable-member-{number}", clean=False, session_expiry=60)
    for member in members:
        member.subscribe(("$share/mixed/mixed/#", 1))
    for host in hosts:
        with connected(host) as publisher:
            for number in range(60):
                publisher.publish_all("mixed/t", f"{host.name} {number}".encode(), 1)
    got = [payloads(member) for member in members]
    expected = {f"{host.name} {number}".encode(): 1 for host in hosts for number in range(60)}
    assert Counter(each for one in got for each in one) == expected
    assert all(got), [len(each) for each in got]
    for member in members:
        member.close()


def payloads(client: Client) -> list[bytes]:
    """All that comes within a moment, of QoS 0 and 1."""
    found = []
    with suppress(TimeoutError):
        while True:
            found.append(client.take(0.5).payload)
    return found


def test_an_interconnect_that_dies_is_back_with_all_routes(hosts: list[Host]) -> None:
    with connected(hosts[0]) as publisher, connected(hosts[1]) as subscriber:
        subscriber.subscribe("again/t")
        assert arrives(publisher, subscriber)
        for host in hosts[:2]:
            host.signal("interconnect", 9)
            wait_for(lambda: arrives(publisher, subscriber), 20)
    in_sync(*hosts)


def test_a_worker_that_dies_is_back_with_all_routes(hosts: list[Host]) -> None:
    with connected(hosts[1]) as waiting:
        waiting.subscribe("again/t")
        before = workers_started(hosts[0])
        for index in range(hosts[0].workers):
            hosts[0].signal(f"worker-{index}", 9)
        wait_for(lambda: workers_started(hosts[0]) == before + hosts[0].workers, 20, hosts[0].log)
        publishers = [connected(hosts[0]) for _ in range(4)]
        subscribers = [connected(hosts[0]) for _ in range(4)]
        for client in subscribers:
            client.subscribe("again/t")
        for publisher in publishers:
            wait_for(lambda publisher=publisher: arrives(publisher, waiting), 20)
        for client in subscribers:
            wait_for(lambda client=client: arrives(waiting, client), 20)
        for client in (*publishers, *subscribers):
            client.close()


def workers_started(host: Host) -> int:
    return sum('"event":"ready"' in line and '"listeners"' in line for line in host.log().splitlines())


def arrives(publisher: Client, subscriber: Client) -> bool:
    publisher.publish("again/t", b"?")
    try:
        return subscriber.receive(0.2).payload == b"?"
    except TimeoutError:
        return False


def test_a_slow_subscriber_holds_publishers_of_other_hosts_back(hosts: list[Host]) -> None:
    """As those of its own host: nothing is dropped, and what waits for it there stays small."""
    size, count = 10_000, 20_000
    with connected(hosts[0]) as publisher, connected(hosts[1]) as subscriber:
        subscriber.subscribe("slow/t")
        flooding = threading.Thread(target=flood, args=(publisher, "slow/t", count, size))
        publisher.socket.settimeout(60)
        before = hosts[0].metric("mqnode_publishers_paused_total")
        flooding.start()
        wait_for(lambda: hosts[0].metric("mqnode_publishers_paused_total") > before)
        waiting = sum(per_worker(hosts[1], "mqnode_output_bytes"))
        assert waiting < count * size / 2, waiting
        assert flooding.is_alive()
        got = [int(subscriber.take().payload) for _ in range(count)]
        flooding.join()
        assert got == list(range(count))


def per_worker(host: Host, series: str) -> list[float]:
    return [host.metric(f'{series}{{worker="{index}"}}') for index in range(host.workers)]


def test_a_host_that_takes_nothing_costs_its_messages_only(network: Network, hosts: list[Host]) -> None:
    """The publisher waits a moment, what was for the other host is dropped and counted, and it goes on."""
    with connected(hosts[0]) as publisher, connected(hosts[1]) as away, connected(hosts[2]) as subscriber:
        away.subscribe("cut/#")
        subscriber.subscribe("cut/#")
        network.cut(hosts[0].name, hosts[1].name)
        try:
            flood(publisher, "cut/t", 300, 50_000)
            for _ in range(300):
                subscriber.take()
            assert hosts[0].metric('mqnode_messages_dropped_total{reason="interconnect"}') > 0
        finally:
            network.heal()
    in_sync(*hosts)
