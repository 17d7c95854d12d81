"""docs/acceptance.md on one host, its workers in the place of hosts: where a client is connected makes no difference."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.broker import Broker, running, wait_for
from tests.mqtt import PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL, Client, Closed
from tests.placement import on_worker, worker_of

WORKERS = (0, 1)
PAIRS = list(itertools.product(WORKERS, WORKERS))
CLIENTS, GAPLESS_TRIES = 1000, 30


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with running() as broker:
        yield broker
        assert broker.errors() == []


def durable(version: int) -> dict[str, Any]:
    return {"clean": False, **({"session_expiry": 300} if version == 5 else {})}


def forget(broker: Broker, *names: str) -> None:
    for name in names:
        broker.get(f"/v1/sessions/{name}", method="DELETE")


# -- messages ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("publishes", "subscribes"), PAIRS)
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("version", [4, 5])
def test_delivery_from_each_worker_to_each(
    broker: Broker, version: int, qos: int, publishes: int, subscribes: int
) -> None:
    """Rows 16, 18, 42, 45, 79. One copy each, to a live and a durable session, and to the publisher's own."""
    with contextlib.ExitStack() as stack:
        live = stack.enter_context(on_worker(broker, subscribes, "live", version))
        kept = stack.enter_context(on_worker(broker, subscribes, "kept", version, **durable(version)))
        publisher = stack.enter_context(on_worker(broker, publishes, "publisher", 9 - version))
        for client in (live, kept, publisher):
            assert client.subscribe(("delivery/+/x", qos)).reasons == [qos]
        publisher.publish("delivery/a/x", b"payload", qos)
        publisher.publish("delivery/b", b"to nobody")
        for client in (live, kept):
            found = client.take()
            assert (found.topic, found.payload, found.qos) == ("delivery/a/x", b"payload", qos)
            client.nothing(0.02)
        assert collect(publisher, 1, published=min(qos, 1)) == [b"payload"]
    forget(broker, "kept")


def collect(client: Client, count: int, published: int = 0) -> list[bytes]:
    """The payloads of `count` messages, acknowledged in full; and the ends of `published` flows of its own."""
    found: list[bytes] = []
    open_flows = published
    while len(found) < count or open_flows:
        packet = client.receive(5)
        if packet.kind == PUBLISH:
            found.append(packet.payload)
            if packet.qos:
                client.ack(PUBACK if packet.qos == 1 else PUBREC, packet.id)
            open_flows += packet.qos == 2
        elif packet.kind == PUBREC:
            client.ack(PUBREL, packet.id)
        elif packet.kind == PUBREL:
            client.ack(PUBCOMP, packet.id)
            open_flows -= 1
        elif packet.kind in (PUBACK, PUBCOMP):
            open_flows -= 1
    return found


@pytest.mark.parametrize("durable_session", [False, True])
def test_subscribe_then_publish_elsewhere_without_a_gap(broker: Broker, durable_session: bool) -> None:
    """Row 44: after SUBACK, a message that enters at the other worker reaches the subscriber."""
    more = durable(5) if durable_session else {}
    with on_worker(broker, 0, "gap", **more) as subscriber, on_worker(broker, 1, "publisher") as publisher:
        for number in range(GAPLESS_TRIES):
            subscriber.subscribe((f"gap/{number}", 1))
            publisher.publish(f"gap/{number}", b"%d" % number, number % 2)
            assert subscriber.take().payload == b"%d" % number
            if number % 2:
                publisher.expect(PUBACK)
    forget(broker, "gap")


# -- sessions ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "then"), [(0, 1), (1, 0)])
@pytest.mark.parametrize("version", [4, 5])
def test_a_session_goes_on_at_the_other_worker(broker: Broker, version: int, first: int, then: int) -> None:
    """Rows 2, 17, 20, 21, 23, 27, 51, 52: only CONNECT is sent; subscriptions and missed messages are there."""
    filters = [("s/+/x", 1), ("$share/g/s/shared", 1), ("s/#", 2)]
    with on_worker(broker, first, "moving", version, **durable(version)) as earlier:
        earlier.subscribe(*filters)
        subscriptions = broker.get("/v1/sessions/moving")[1]["subscriptions"]
        assert len(subscriptions) == 3
    wait_for(lambda: not broker.get("/v1/sessions/moving")[1]["connected"], 5)
    for worker in WORKERS:  # missed messages enter anywhere
        with on_worker(broker, worker, "publisher") as publisher:
            for number in range(5):
                publisher.publish_all(f"s/{number}", b"%d %d" % (worker, number), 1 + number % 2)
    with on_worker(broker, then, "moving", version, **durable(version)) as later:
        assert collect(later, 10) == [b"%d %d" % (worker, number) for worker in WORKERS for number in range(5)]
        later.nothing(0.02)
        session = broker.get("/v1/sessions/moving")[1]
        assert session["subscriptions"] == subscriptions
        assert (session["connected"], session["worker"]) == (True, then)
    with Client(broker.port, version) as again:
        assert again.connect("moving", **durable(version)).session_present
    forget(broker, "moving")


@pytest.mark.parametrize(("first", "then"), [(0, 1), (1, 0)])
def test_the_list_of_sessions_follows_a_takeover(broker: Broker, first: int, then: int) -> None:
    """Row 23: within a second it names the new worker."""
    with on_worker(broker, first, "taken", **durable(5)):
        assert _listed(broker, "taken") == first
        with on_worker(broker, then, "taken", **durable(5)):
            wait_for(lambda: _listed(broker, "taken") == then, 1)
    forget(broker, "taken")


def _listed(broker: Broker, name: str) -> int | None:
    return next(each["worker"] for each in broker.get("/v1/sessions")[1] if each["client_id"] == name)


@pytest.mark.parametrize(("first", "then"), [(0, 1), (1, 0)])
@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("after", ["PUBLISH", "PUBREC"])
def test_a_publisher_ends_its_qos_2_flow_elsewhere(
    broker: Broker, after: str, version: int, first: int, then: int
) -> None:
    """Row 54, client to server: whether PUBREC was seen or not, one delivery."""
    with on_worker(broker, then, "watch") as watch:
        watch.subscribe(("flow", 2))
        with on_worker(broker, first, "flow", version, **durable(version)) as publisher:
            id = publisher.publish("flow", b"once", 2)
            if after == "PUBREC":
                publisher.expect(PUBREC)
            else:
                assert watch.take().payload == b"once"  # it was taken over; the answer is lost
        with on_worker(broker, then, "flow", version, **durable(version)) as publisher:
            if after == "PUBLISH":
                publisher.publish("flow", b"once", 2, id=id, dup=True)
                publisher.expect(PUBREC)
            publisher.ack(PUBREL, id)
            assert publisher.expect(PUBCOMP).reason == 0
        if after == "PUBREC":
            assert watch.take().payload == b"once"
        watch.nothing(0.1)
    forget(broker, "flow")


@pytest.mark.parametrize(("first", "then"), [(0, 1), (1, 0)])
@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("after", ["PUBLISH", "PUBREC", "PUBREL"])
def test_a_subscriber_ends_its_qos_2_flow_elsewhere(
    broker: Broker, after: str, version: int, first: int, then: int
) -> None:
    """Row 54, server to client: with the same packet id, PUBLISH again only if no PUBREC was sent."""
    with on_worker(broker, first, "flow", version, **durable(version)) as subscriber:
        subscriber.subscribe(("flow", 2))
        with on_worker(broker, then, "publisher") as publisher:
            publisher.publish_all("flow", b"once", 2)
        id = subscriber.expect(PUBLISH).id
        if after != "PUBLISH":
            subscriber.ack(PUBREC, id)
            if after == "PUBREL":
                subscriber.expect(PUBREL)
            else:  # nobody reads the PUBREL, but the PUBREC has arrived
                wait_for(lambda: _received(broker), 5)
    with on_worker(broker, then, "flow", version, **durable(version)) as subscriber:
        if after == "PUBLISH":
            found = subscriber.expect(PUBLISH)
            assert (found.id, found.dup, found.payload) == (id, True, b"once")
            subscriber.ack(PUBREC, id)
        assert subscriber.expect(PUBREL).id == id
        subscriber.ack(PUBCOMP, id)
        subscriber.nothing(0.02)
        wait_for(lambda: broker.get("/v1/sessions/flow")[1]["queued_messages"] == 0, 5)
    forget(broker, "flow")


def _received(broker: Broker) -> bool:
    """What is left of the message in the queue is its packet id."""
    return int(broker.get("/v1/sessions/flow")[1]["queued_bytes"]) < 20


@pytest.mark.parametrize(("publishes", "subscribes"), PAIRS)
def test_retained_messages_are_the_same_at_each_worker(broker: Broker, publishes: int, subscribes: int) -> None:
    """Row 53; deletions too. (That they outlive a kill -9 is shown in tests/faults.)"""
    topics = [f"kept/{number}" for number in range(20)]
    with on_worker(broker, publishes, "publisher") as publisher, on_worker(broker, subscribes, "new") as new:
        for topic in topics:
            publisher.publish_all(topic, topic.encode(), 1, retain=True)
        new.subscribe("kept/#")
        assert sorted(new.take().topic for _ in topics) == sorted(topics)
        new.unsubscribe("kept/#")
        for topic in topics:
            publisher.publish_all(topic, b"", 1, retain=True)
        new.subscribe("kept/#")
        new.nothing(0.05)


# -- many clients, and the death of a worker ----------------------------------------------------------------------------


def test_a_thousand_clients_are_spread_over_the_workers(broker: Broker) -> None:
    """Rows 1, 50: the kernel spreads them; the lists show all; who stays connected gets everything."""
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(Client(broker.port))
        first.connect("first")
        first.subscribe("after")
        for number in range(CLIENTS):
            client = stack.enter_context(Client(broker.port, 4))
            client.connect(f"many{number:04}")
        listed = broker.get("/v1/clients?limit=2000&match=many*")[1]
        assert [each["client_id"] for each in listed] == [f"many{number:04}" for number in range(CLIENTS)]
        shares = [sum(each["worker"] == worker for each in listed) for worker in WORKERS]
        assert min(shares) > CLIENTS * 0.4
        for index in WORKERS:
            gauge = f'mqnode_clients_connected{{worker="{index}"}}'
            wait_for(lambda: shares[index] <= broker.metric(gauge) <= shares[index] + 1)  # noqa: B023
        client.publish("after", b"x")
        assert first.take().payload == b"x"


def test_the_death_of_a_worker_is_no_business_of_the_others(broker: Broker) -> None:
    """Rows 2, 25, 27, 63, 115: its clients come back to a sibling with their sessions; the other's notice nothing."""
    names = [f"s{number:02}" for number in range(60)]
    clients = {name: Client(broker.port, 4 + number % 2) for number, name in enumerate(names)}
    try:
        for name, client in clients.items():
            client.connect(name, **durable(client.version))
            client.subscribe((f"death/{name}", 1))
        homes = {name: worker_of(broker, name) for name in names}
        dying = [name for name in names if homes[name] == 0]
        assert 10 < len(dying) < 50
        starts = starts_of(broker, "worker-0")
        broker.signal("worker-0", 9)
        for name in dying:
            assert clients[name].expect_closed(5) is None
        with ThreadPoolExecutor(len(dying)) as storm:
            clients.update(
                zip(dying, storm.map(lambda name: come_back(broker.port, clients[name], name), dying), strict=True)
            )
        with Client(broker.port) as publisher:
            publisher.connect("publisher")
            for name in names:
                assert publisher.publish_all(f"death/{name}", name.encode()).reason == 0
        for name, client in clients.items():
            assert client.take().payload == name.encode()
            client.nothing(0)
        wait_for(lambda: starts_of(broker, "worker-0") > starts)
        with on_worker(broker, 0, "newcomer"):  # connections flow to the new worker
            pass
    finally:
        for client in clients.values():
            client.close()
        forget(broker, *names)


def starts_of(broker: Broker, process: str) -> int:
    """How often it said that it is ready."""
    return sum(f'"process":"{process}"' in line and '"event":"ready"' in line for line in broker.log().splitlines())


def come_back(port: int, lost: Client, name: str, timeout_s: float = 5.0) -> Client:
    """As clients do: who reaches a socket of the dead process is reset, and tries again."""
    deadline = time.monotonic() + timeout_s
    while True:
        client = Client(port, lost.version)
        try:
            assert client.connect(name, **durable(client.version)).session_present
        except (Closed, ConnectionError):
            client.close()
            assert time.monotonic() < deadline, f"{name} is not let in"
        else:
            return client


def test_a_restart_keeps_sessions() -> None:
    """Rows 66, 74: stopped like systemctl does, clients are told, and all is there again afterwards."""
    with running() as broker:
        with Client(broker.port) as client:
            client.connect("kept", **durable(5))
            client.subscribe(("t", 1))
            with Client(broker.port) as publisher:
                publisher.connect("publisher")
                publisher.publish_all("t", b"before")
                publisher.publish_all("r", b"retained", retain=True)
            assert broker.stop() == 0
            client.expect(PUBLISH)  # not acknowledged
            last = client.expect_closed()
            assert last is not None
            assert last.reason == 0x8B
        broker.start()
        with Client(broker.port) as client:
            assert client.connect("kept", **durable(5)).session_present
            assert client.take().payload == b"before"
            client.subscribe("r")
            assert client.take().payload == b"retained"


# -- people -----------------------------------------------------------------------------------------------------------------


def test_the_access_log_tells_who_is_where(broker: Broker) -> None:
    """Row 48."""
    before = len(broker.log())
    with on_worker(broker, 1, "seen") as client:
        client.subscribe("a/+", "$share/g/b")
        client.unsubscribe("a/+")
        client.disconnect()
    wait_for(lambda: [line for line in _access(broker.log()[before:], "disconnect") if line["worker"] == 1], 5)
    text = broker.log()[before:]
    assert _access(text, "connect")[-1]["worker"] == 1
    assert _access(text, "connect")[-1]["address"].startswith("127.0.0.1:")
    assert [line["filters"] for line in _access(text, "subscribe")] == [["a/+", "$share/g/b"]]
    assert [line["filters"] for line in _access(text, "unsubscribe")] == [["a/+"]]


def _access(text: str, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in text.splitlines() if '"log":"access"' in line]
    return [line for line in lines if line["event"] == event and line["client_id"] == "seen"]


@pytest.mark.parametrize("version", ["mqttv31", "mqttv311", "mqttv5"])
@pytest.mark.parametrize("qos", ["0", "1", "2"])
def test_the_stock_clients_are_served(broker: Broker, version: str, qos: str) -> None:
    """Row 13."""
    talk(broker, broker.port, version, qos)


def talk(broker: Broker, port: int, version: str, qos: str) -> None:
    """mosquitto_sub gets what mosquitto_pub sends."""
    to = ["-h", "127.0.0.1", "-p", str(port), "-t", "sensors/temperature", "-q", qos, "-V", version]
    subscriber = subprocess.Popen(["mosquitto_sub", *to, "-C", "1", "-W", "10"], stdout=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: broker.get("/v1/topics/match?topic=sensors/temperature")[1], 10)
        subprocess.run(["mosquitto_pub", *to, "-m", "25"], check=True, timeout=10)
        assert subscriber.communicate(timeout=10)[0] == "25\n"
    finally:
        subscriber.kill()
        subscriber.wait()
