"""Shared subscriptions whose members are on several hosts: who gets a message, and who gets it when that one leaves."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from threading import Event

import pytest

from tests.cluster.hosts import MESH, Host, join, running_hosts
from tests.cluster.network import Network
from tests.mqtt import PUBACK, PUBLISH, SUBSCRIBE, UNSUBSCRIBE, Client, packet, properties, text

QUEUED = 20
ROUNDS, BURST = 60, 200
_groups = count()


@pytest.fixture(scope="module")
def hosts() -> Iterator[list[Host]]:
    with Network("h1", "h2", "h3") as network, running_hosts(network, interconnect=MESH) as hosts:
        join(*hosts)
        yield hosts


@pytest.fixture
def topic() -> str:
    return f"shared/{next(_groups)}"


@pytest.fixture
def clients() -> Iterator[list[Client]]:
    """To be closed at the end of the test."""
    found: list[Client] = []
    yield found
    for client in found:
        client.close()


@pytest.fixture
def member(clients: list[Client], topic: str) -> Callable[..., Client]:
    """Connects a member of the topic's group; with a name it is durable."""

    def connect(host: Host, name: str = "", *, qos: int = 1, subscribes: bool = True, **values: int) -> Client:
        client = host.client()
        clients.append(client)
        if name:
            client.connect(f"{topic}/{name}", clean=False, session_expiry=600, **values)
        else:
            client.connect(**values)
        if subscribes:
            client.subscribe((f"$share/g/{topic}", qos))
        return client

    return connect


def publish(host: Host, topic: str, first: int, number: int, qos: int = 1) -> list[bytes]:
    """Acknowledged by `host`."""
    sent = [b"%d" % each for each in range(first, first + number)]
    with host.client() as client:
        client.connect()
        for payload in sent:
            assert client.publish_all(topic, payload, qos).reason == 0
    return sent


def payloads(client: Client, number: int) -> list[bytes]:
    return [client.take().payload for _ in range(number)]


def all_that_came(clients: list[Client], number: int) -> Counter[bytes]:
    """Of these members together: `number` messages, within some seconds, and what comes shortly after."""
    found: Counter[bytes] = Counter()
    deadline, quiet = time.monotonic() + 20, False
    while time.monotonic() < deadline and not (quiet and found.total() >= number):
        before = found.total()
        for client in clients:
            found.update(each.payload for each in client.take_until_quiet(0.1))
        quiet = before == found.total()
    return found


def test_who_is_online_at_any_host_comes_before_who_is_away(
    hosts: list[Host], topic: str, member: Callable[..., Client]
) -> None:
    for number, host in enumerate(hosts):
        member(host, f"away {number}").disconnect()
    online = member(hosts[1], "online")
    for place in (1, 2):
        if place != 1:  # it comes to another host
            online = member(hosts[place], "online", subscribes=False)
        for number, host in enumerate(hosts):
            sent = publish(host, topic, 10 * number, 6)
            assert sorted(payloads(online, 6)) == sorted(sent), f"{host.name} to {hosts[place].name}"
    online.disconnect()
    sent = publish(hosts[0], topic, 0, 8)
    back = [member(hosts[0], f"away {number}", subscribes=False) for number in range(3)]
    back.append(member(hosts[0], "online", subscribes=False))
    assert all_that_came(back, 8) == Counter(sent)


@pytest.mark.parametrize("end", ["clean start", "clean start elsewhere", "expiry 0", "delete"])
def test_what_an_ended_session_has_not_acknowledged_goes_to_members_at_other_hosts(
    hosts: list[Host], topic: str, member: Callable[..., Client], end: str
) -> None:
    """Each once, but for the QoS 2 message that was sent [MQTT-4.8.2-5]."""
    first, second, third = hosts
    gone = member(first, "gone", qos=2, receive_maximum=2)
    sent = publish(second, topic, 0, QUEUED, 2) + publish(second, topic, QUEUED, QUEUED, 1)
    for _ in range(2):
        gone.expect(PUBLISH)
    heirs = [member(second, "heir", qos=2), member(third, qos=2)]
    if end == "expiry 0":
        gone.disconnect(session_expiry=0)
    elif end == "delete":
        done = third.mqnode("sessions", "delete", f"{topic}/gone", "--yes")
        assert done.returncode == 0, done.stderr
    else:
        with (first if end == "clean start" else third).client() as client:
            client.connect(f"{topic}/gone")
    assert all_that_came(heirs, len(sent) - 2) == Counter(sent[2:])


def test_live_members_that_come_and_go_at_another_host_lose_nothing(
    hosts: list[Host], topic: str, member: Callable[..., Client]
) -> None:
    """What is on its way to a member that has just left goes to another one."""
    stays, restless = member(hosts[0]), member(hosts[1], qos=1)
    filter, over = f"$share/g/{topic}", Event()
    with ThreadPoolExecutor(2) as pool, hosts[0].client() as publisher:
        publisher.connect()
        stayed = pool.submit(collect, stays, over)
        came_and_went = pool.submit(collect, restless, over)
        for turn in range(ROUNDS):
            kind = UNSUBSCRIBE if turn % 2 == 0 else SUBSCRIBE
            options = b"" if kind == UNSUBSCRIBE else b"\1"
            restless.send(packet(kind << 4 | 2, b"\0\x09" + properties() + text(filter) + options))
            for number in range(turn * BURST, (turn + 1) * BURST):
                publisher.publish(topic, b"%d" % number, 1)
            for _ in range(BURST):
                publisher.expect(PUBACK)
        over.set()
        found = stayed.result() + came_and_went.result()
    assert found == Counter(b"%d" % each for each in range(ROUNDS * BURST))


def collect(client: Client, over: Event) -> Counter[bytes]:
    """What comes until it is `over` and nothing comes any more."""
    found: Counter[bytes] = Counter()
    quiet = False
    while not (over.is_set() and quiet):
        try:
            got = client.receive(0.3)
        except TimeoutError:
            quiet = True
            continue
        quiet = False
        if got.kind == PUBLISH:
            found[got.payload] += 1
            client.ack(PUBACK, got.id)
    return found
