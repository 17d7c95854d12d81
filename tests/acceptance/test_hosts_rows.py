"""docs/acceptance.md on two hosts behind HAProxy, over real networks: the clients' one and the interconnect."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import product
from typing import Any

import pytest

from tests.broker import busy, wait_for
from tests.cluster.balancer import Balancer
from tests.cluster.hosts import MESH, Host, in_sync, join, running_hosts
from tests.cluster.network import CLI, CLIENTS, INTERCONNECT, Network
from tests.mqtt import DISCONNECT, PINGREQ, PINGRESP, PUBCOMP, PUBLISH, PUBREC, PUBREL, Client, Closed, packet

MESH_PORT = 7001  # as MESH has it
SHOWN_S, KNOWN_S, TOLD_S = 5.0, 0.1, 1.0  # eviction takes 3
MANY, ABREAST = 1000, 8
STEPS = ("PUBLISH", "PUBREC", "PUBREL")
LARGE = bytes(1000)
DURABLE: dict[str, Any] = {"clean": False, "session_expiry": 300}


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[Host, Host]]:
    with Network("h1", "h2") as network, running_hosts(network, interconnect=MESH) as (first, second):
        join(first, second)
        yield first, second


def connected(host: Host | Balancer, client_id: str = "", **options: Any) -> Client:
    client = host.client()
    client.connect(client_id, **options)
    return client


def resumed(host: Host | Balancer, client_id: str) -> Client:
    client = host.client()
    assert client.connect(client_id, **DURABLE).session_present
    return client


def asked(host: Host, *command: str) -> Any:
    return json.loads(host.mqnode(*command, "--json").stdout)


def nodes(host: Host) -> dict[str, Any]:
    """Name to what `mqnode cluster nodes` says of it there, but for what only that host can know."""
    return {each["name"]: each for each in asked(host, "cluster", "nodes")["nodes"]}


def test_every_host_lists_the_same_hosts(pair: tuple[Host, Host]) -> None:
    """Row 22."""
    first, second = pair
    lists = [{name: each["address"] for name, each in nodes(host).items()} for host in pair]
    assert lists[0] == lists[1]
    assert set(lists[0]) == {first.name, second.name}


def told(host: Host) -> dict[str, Any]:
    """What it says of "roams" and of the cluster that must be the same on every host."""
    [session] = asked(host, "sessions", "list", "--match", "roams")
    status = asked(host, "cluster", "status")
    return {
        "at": (session["node"], session["connected"]),
        "nodes": {each["name"]: (each["state"], each["clients"]) for each in status["nodes"]},
        "links": links(status),
    }


def links(answer: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    return [(each["from"], each["to"], each["state"], each["in_sync"]) for each in answer["links"]]


def test_within_a_second_each_host_tells_where_a_client_is_now(pair: tuple[Host, Host]) -> None:
    """Rows 22, 23, 48: a client is taken over to and fro; the access log of each host has its part of that."""
    first, second = pair
    before = [len(host.log()) for host in pair]
    lines = [("h1", "h2", "up", True), ("h2", "h1", "up", True)]
    with ExitStack() as stack, ThreadPoolExecutor(2) as both:
        for host, other in ((first, second), (second, first), (first, second)):
            client = stack.enter_context(connected(host, "roams", **DURABLE))
            clients = {host.name: ("up", 1), other.name: ("up", 0)}
            expected = {"at": (host.name, True), "nodes": clients, "links": lines}
            agree = partial(lambda expected: list(both.map(told, pair)) == [expected] * 2, expected)
            who_asks_a_second_later(agree)
            client.subscribe((f"roams/{host.name}", 1))
        assert [links(asked(host, "cluster", "links")) for host in pair] == [[line] for line in lines]
        assert [{name: each["state"] for name, each in nodes(host).items()} for host in pair] == [
            {"h1": "up", "h2": "up"}
        ] * 2
        client.unsubscribe("roams/h1")
        client.disconnect()
    visit = ["connect", "subscribe roams/{0}", "disconnect"]
    for host, since, events in (
        (first, before[0], [*visit, *visit[:2], "unsubscribe roams/{0}", "disconnect"]),
        (second, before[1], visit),
    ):
        expected = [event.format(host.name) for event in events]
        wait_for(lambda: access(host, since, "roams") == expected, 5, lambda: str(access(host, since, "roams")))  # noqa: B023


def who_asks_a_second_later(is_told_so: Callable[[], bool]) -> None:
    """However long the answer takes."""
    began, asked_s = time.monotonic(), 0.0
    while not is_told_so():
        assert asked_s < TOLD_S * busy()
        asked_s = time.monotonic() - began


def access(host: Host, since: int, client_id: str) -> list[str]:
    """What its access log says of the client, from there on."""
    lines = [json.loads(line) for line in host.log()[since:].splitlines() if '"log":"access"' in line]
    return [" ".join([line["event"], *line.get("filters", ())]) for line in lines if line["client_id"] == client_id]


def test_a_thousand_clients_are_spread_over_the_hosts_and_outlive_one(pair: tuple[Host, Host]) -> None:
    """Rows 1, 25, 50, 63: by turns; who is connected stays; those of a dead host find their sessions at the other one, and
    when it is back it gets its share of new ones."""
    first, second = pair
    names = [f"many{number:04}" for number in range(MANY)]
    with Balancer(pair, by_client_id=False) as balancer, ExitStack() as stack, ThreadPoolExecutor(ABREAST) as storm:

        def come(name: str, present: bool) -> Client:
            """HAProxy also cuts who is on the way to a host in the moment when it takes that for dead: they come again."""
            client = stack.enter_context(balancer.client())
            try:
                assert client.connect(name, **DURABLE).session_present == present
            except Closed:
                cut.append(name)
                assert len(cut) <= ABREAST * present
                return come(name, present)
            return client

        cut: list[str] = []
        clients = dict(zip(names, storm.map(lambda name: come(name, False), names), strict=True))
        homes = at(first)
        assert sorted(homes) == names
        assert at(second) == homes
        dying = [name for name in names if homes[name] == "h2"]
        assert abs(len(dying) - MANY / 2) <= 2
        stay = [name for name in names if homes[name] == "h1"]
        for name in (some := stay[:20] + dying[:20]):
            clients[name].subscribe(("many", 1))
        second.kill_all()
        try:
            clients |= zip(dying, storm.map(lambda name: come(name, True), dying), strict=True)
            with connected(balancer) as publisher:
                publisher.publish_all("many", b"to all")
            assert [clients[name].take().payload for name in some] == [b"to all"] * len(some)
            for name in stay:
                clients[name].nothing(0)
        finally:
            second.start()
        in_sync(first, second)
        wait_for(lambda: balancer.up() == {"h1", "h2"})
        list(storm.map(lambda number: come(f"more{number}", False), range(10)))
        assert 4 <= sum(home == "h2" for home in at(second, "more*").values()) <= 6


def at(host: Host, match: str = "many????") -> dict[str, str]:
    """Client id to host, as that one lists those who are connected."""
    listed = host.get(f"/v1/sessions?limit=2000&match={match}")[1]
    return {each["client_id"]: each["node"] for each in listed if each["connected"]}


def half_sent(client: Client, step: str) -> int:
    """A message of which it goes no further than that; its packet id."""
    id = client.publish(f"flow/{step}", b"once", 2)
    if step != "PUBLISH":
        client.expect(PUBREC)
    if step == "PUBREL":
        client.ack(PUBREL, id)
    return id


def sent(client: Client, step: str, id: int) -> None:
    """The rest. Who has released a packet id, and does not know whether that arrived, may hear that there is none."""
    if step == "PUBLISH":
        client.publish(f"flow/{step}", b"once", 2, id=id, dup=True)
        assert client.expect(PUBREC).id == id
    client.ack(PUBREL, id)
    answer = client.expect(PUBCOMP)
    assert answer.id == id
    assert answer.reason in ((0, 0x92) if step == "PUBREL" else (0,))


def half_received(client: Client, step: str, other: Host) -> int:
    """As `half_sent`. The other host knows of the PUBREC."""
    id = client.expect(PUBLISH).id
    if step != "PUBLISH":
        client.ack(PUBREC, id)
        wait_for(lambda: other.get(f"/v1/sessions/gets-{step}")[1]["queued_bytes"] < len(LARGE))
    if step == "PUBREL":
        client.expect(PUBREL)
    return id


def received(client: Client, step: str, id: int) -> None:
    if step == "PUBLISH":
        again = client.expect(PUBLISH)
        assert (again.id, again.dup, again.payload) == (id, True, LARGE)
        client.ack(PUBREC, id)
    assert client.expect(PUBREL).id == id
    client.ack(PUBCOMP, id)
    client.nothing(0)


def no_message(client: Client, had_died: bool) -> None:
    """One that had died cannot know whether it sent what was acknowledged elsewhere: then the client waits for its PUBREL."""
    client.send(packet(PINGREQ << 4))
    while (found := client.receive()).kind != PINGRESP:
        assert had_died
        assert found.kind == PUBREL
        client.ack(PUBCOMP, found.id)
    client.nothing(0)


@pytest.mark.parametrize(("order", "dies"), [(1, False), (-1, False), (1, True)])
def test_qos_2_flows_that_broke_off_end_at_the_other_host(pair: tuple[Host, Host], order: int, dies: bool) -> None:
    """Row 54: after each step of both directions; one delivery, also when the host is back that died."""
    here, there = pair[::order]
    with connected(there, "watch", **DURABLE) as watch, connected(there) as publisher:
        watch.subscribe(("flow/+", 2))
        with ExitStack() as stack:
            senders, receivers = (
                {step: stack.enter_context(connected(here, f"{does}-{step}", **DURABLE)) for step in STEPS}
                for does in ("sends", "gets")
            )
            for step, client in receivers.items():
                client.subscribe((f"to/{step}", 2))
                publisher.publish_all(f"to/{step}", LARGE, 2)
            incoming = {step: half_received(client, step, there) for step, client in receivers.items()}
            outgoing = {}
            for step, client in senders.items():
                outgoing[step] = half_sent(client, step)
                assert watch.take().topic == f"flow/{step}"
            if dies:
                here.kill_all()
        try:
            for step in STEPS:
                with resumed(there, f"sends-{step}") as client:
                    sent(client, step, outgoing[step])
                with resumed(there, f"gets-{step}") as client:
                    received(client, step, incoming[step])
        finally:
            if dies:
                here.start()
        in_sync(*pair)
        for step in STEPS:
            with resumed(here, f"gets-{step}") as client:
                no_message(client, dies)
        watch.nothing()


def test_behind_one_address_they_are_one_broker(pair: tuple[Host, Host]) -> None:
    """Row 33. Whoever publishes, everybody who subscribed gets it, wherever the balancer put them."""
    with Balancer(pair, by_client_id=False) as balancer:
        clients = [connected(balancer) for _ in range(6)]
        assert all(host.get("/v1/clients")[1] for host in pair), "both have clients"
        for client in clients:
            client.subscribe(("one/+", 1))
        for number, publisher in enumerate(clients):
            publisher.publish(f"one/{number}", b"to all", 0)
            for client in clients:
                assert client.take().topic == f"one/{number}"
        for client in clients:
            client.nothing(0)
            client.close()


def test_hosts_talk_on_the_interconnect_only_by_one_port_and_in_batches(pair: tuple[Host, Host]) -> None:
    """Rows 36, 38, 83: both interfaces of both hosts are captured while a thousand messages cross, live ones and stored ones."""
    first, second = pair
    network = first.network
    assert isinstance(network, Network)
    client = network.address(CLI)
    inner = {network.address(host.name, INTERCONNECT) for host in pair}
    with (
        connected(first) as publisher,
        connected(second, "captured", **DURABLE) as subscriber,
        ExitStack() as stack,
    ):
        captures = [
            stack.enter_context(network.capture(*each)) for each in product(network.hosts, (CLIENTS, INTERCONNECT))
        ]
        subscriber.subscribe(("cross/#", 1))
        for number in range(1000):
            publisher.publish("cross/0", b"x" * 64, number % 10 == 0)
        for _ in range(1000):
            subscriber.take()
        counts = [capture.read() for capture in captures]
    for outside, between in (counts[:2], counts[2:]):
        assert outside.frames, "clients were there"
        assert all(client in (flow.source[0], flow.target[0]) for flow in outside.frames), list(outside.frames)
        assert {flow.source[0] for flow in between.frames} | {flow.target[0] for flow in between.frames} == inner
        assert all(MESH_PORT in (flow.source[1], flow.target[1]) for flow in between.frames), list(between.frames)
    there = sum(
        count for flow, count in counts[1].frames.items() if flow.source[0] == network.address("h1", INTERCONNECT)
    )
    assert there < 600, "frames carry many messages"


def test_a_subscription_is_known_on_the_other_host_at_once(pair: tuple[Host, Host]) -> None:
    """Row 40."""
    first, second = pair
    with connected(first) as publisher, connected(second) as subscriber:
        times = []
        for number in range(15):
            began = time.monotonic()
            subscriber.subscribe(f"known/{number}")
            times.append(time.monotonic() - began)
            publisher.publish(f"known/{number}", b"at once")
            assert subscriber.take(2).payload == b"at once"
        assert statistics.median(times) < KNOWN_S, times


def test_a_client_is_at_one_host(pair: tuple[Host, Host]) -> None:
    """Row 108: a cluster and not a mirror. The first connection ends, and the session is one, its queue too."""
    first, second = pair
    with connected(first, "only", **DURABLE) as before, connected(second) as publisher:
        before.subscribe(("only/t", 1))
        with second.client() as after:
            assert after.connect("only", **DURABLE).session_present
            assert before.expect(DISCONNECT).reason == 0x8E
            assert first.get("/v1/clients/only")[0] == 404
            publisher.publish_all("only/t", b"once")
            assert after.take().payload == b"once"
            after.nothing()


def clock(host: Host) -> float:
    """When it received a message just now, by its own clock."""
    with connected(host) as publisher:
        publisher.publish_all("clock", b"now", 1, retain=True)
    found: float = json.loads(host.mqnode("retained", "get", "clock", "--json").stdout)["received_at"]
    return found


def test_a_client_whose_session_ends_with_its_connection_is_at_one_host_too(pair: tuple[Host, Host]) -> None:
    first, second = pair
    with connected(first, "live") as before, second.client() as after:
        began = clock(first)
        wait_for(lambda: clock(second) > began)  # by it the later connection stays
        assert not after.connect("live").session_present
        assert before.expect(DISCONNECT).reason == 0x8E


def test_a_session_is_deleted_at_any_host(pair: tuple[Host, Host]) -> None:
    """Row 105: at the one that does not own it, too, and while its client is connected there."""
    first, second = pair
    for stays in (False, True):
        with connected(second, "change", **DURABLE) as client:
            client.subscribe("change/#")
            if not stays:
                client.disconnect()
                wait_for(lambda: not second.get("/v1/sessions/change")[1]["connected"])
            assert first.mqnode("sessions", "delete", "change", "--yes").returncode == 0
            assert not stays or client.expect_closed()
        for host in pair:
            with host.client() as again:
                assert not again.connect("change", clean=False).session_present


def test_a_retained_message_is_deleted_at_any_host(pair: tuple[Host, Host]) -> None:
    """Row 105: a change is made once."""
    first, second = pair
    with connected(second) as client:
        client.publish_all("change/kept", b"x", 1, retain=True)
        assert first.mqnode("retained", "delete", "change/kept", "--yes").returncode == 0
        client.subscribe("change/#")
        client.nothing()


def test_a_dead_host_is_shown_and_hinders_nobody(pair: tuple[Host, Host]) -> None:
    """Rows 24, 74, 97, 103: within 5 s it is listed as gone; the other goes on to serve, new clients and subscriptions too."""
    first, second = pair
    with connected(first) as stays:
        second.kill_all()
        began = time.monotonic()
        try:
            with connected(first, "subscribes", **DURABLE) as client:
                assert client.subscribe(("alone/#", 1)).reasons == [1]
                stays.publish_all("alone/t", b"m")
                assert client.take().payload == b"m"
            wait_for(lambda: nodes(first)["h2"]["state"] != "up", SHOWN_S + 3, lambda: str(nodes(first)))
            assert time.monotonic() - began < SHOWN_S
            assert first.metric("mqnode_degraded") == 1
            stays.nothing(0)
        finally:
            second.start()
        in_sync(first, second)
        wait_for(lambda: first.metric("mqnode_degraded") == 0)
