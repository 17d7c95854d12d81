"""What an operator may choose for the time when a host is alone: acknowledge or wait, queue or drop, allow or refuse.

One pair of hosts; the first is started anew with other keys in [cluster] for each test.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.broker import wait_for
from tests.cluster.hosts import MESH, Host, in_sync, join, running_hosts
from tests.cluster.network import Network
from tests.mqtt import CONNACK, PUBACK, PUBREC, Closed, connect_packet

ALONE_S = 20.0  # for an eviction, on a busy machine
DROPPED, QUEUED = 'mqnode_messages_dropped_total{reason="owner_down"}', "mqnode_owner_down_queued_total"
STALLED = 'publishers of QoS 1 and 2 and durable sessions wait: cluster.ack_policy is "strict"'
Pair = tuple[Host, Host]


@pytest.fixture(scope="module")
def pair(network: Network) -> Iterator[Pair]:
    with running_hosts(network, interconnect=MESH + "[cluster]\n# policy\n") as (first, second):
        join(first, second)
        yield first, second


def choose(pair: Pair, keys: str) -> Pair:
    """The first host with these keys, in sync again."""
    first, _ = pair
    first.kill_all()
    first.config.write_text(re.sub(r"(?s)\[cluster\].*", f"[cluster]\n{keys}\n", first.config.read_text()))
    first.start()
    in_sync(*pair)
    return pair


@contextmanager
def alone(first: Host, second: Host) -> Iterator[None]:
    """The first host without the second one."""
    second.kill_all()
    try:
        wait_for(lambda: first.metric("mqnode_peers_evicted") == 1, ALONE_S, first.log)
        assert first.metric("mqnode_degraded") == 1
        yield
    finally:
        second.start()
    in_sync(first, second)


def subscribed(host: Host, client_id: str, filter: str) -> None:
    """A durable session that is away; the host delivers it."""
    with host.client() as client:
        client.connect(client_id, clean=False, session_expiry=600)
        client.subscribe((filter, 1))
        client.disconnect()


def test_each_host_tells_where_sessions_and_topics_are(pair: Pair) -> None:
    with pair[0].client() as one, pair[1].client() as two, pair[1].client() as shared:
        one.connect("seen-1", clean=False, session_expiry=600)
        one.subscribe(("s/+", 1))
        two.connect("seen-2", clean=False, session_expiry=600)
        shared.connect("shared")
        shared.subscribe("$share/g/s/x")
        sessions, topics = "/v1/sessions?match=seen-*", "/v1/topics/route?topic=s/x"
        route = [{"host": "h1", "connected": True, "sessions": 1}, {"host": "h2", "connected": True, "sessions": 0}]
        for host in pair:
            found = {each["client_id"]: (each["node"], each["worker"]) for each in host.get(sessions)[1]}
            assert found == {"seen-1": ("h1", 0), "seen-2": ("h2", 0)}
            wait_for(lambda host=host: host.get(topics)[1] == route, what=lambda host=host: str(host.get(topics)))
        one.disconnect()
        shared.disconnect()
        for host in pair:
            wait_for(lambda host=host: host.get(topics)[1] == [route[0] | {"connected": False}])
            wait_for(lambda host=host: host.get("/v1/sessions/seen-1")[1]["worker"] is None)
            assert host.get("/v1/sessions/seen-1")[1]["node"] == "h1"


def test_alone_it_acknowledges_and_queues_and_is_degraded(pair: Pair) -> None:
    """C13, I13: the metric is there before the first acknowledgement that only one disk holds, and with no other one."""
    first, second = pair
    subscribed(first, "counted", "c/#")
    subscribed(second, "queued", "q/#")
    queued, dropped = first.metric(QUEUED), first.metric(DROPPED)
    solo = first.metric("mqnode_solo_acks_total")
    waited = 'mqnode_ack_latency_seconds_sum{stage="replica"}'

    def publish(count: int) -> None:
        for _ in range(count):
            assert publisher.publish_all("c/1", b"x", 1).reason == 0

    with first.client() as publisher:
        publisher.connect("publisher")
        publish(20)
        assert (first.metric("mqnode_solo_acks_total"), first.metric("mqnode_degraded")) == (solo, 0)
        waited_s = first.metric(waited)
        second.signal("keeper", signal.SIGSTOP)  # at once: what comes after kill_all may come after the eviction
        publisher.publish("c/1", b"x", 1)
        with pytest.raises(TimeoutError):
            publisher.receive(0.3)
        solo_since, degraded = first.metric("mqnode_solo_acks_total") - solo, first.metric("mqnode_degraded")
        assert degraded or not solo_since  # no solo acknowledgement before it is degraded …
        assert first.metric("mqnode_peers_evicted") >= degraded  # … and not degraded before the other one is evicted
        second.kill_all()
        publisher.expect(PUBACK, ALONE_S)
        assert first.metric("mqnode_degraded") == 1
        assert first.metric(waited) > waited_s + 0.3
        wait_for(lambda: first.metric('mqnode_link_state{peer="h2"}') == 0)
        wait_for(lambda: first.metric('mqnode_evictions_total{peer="h2"}') == 1)
        publish(20)
        wait_for(lambda: first.metric('mqnode_replication_lag_ops{peer="h2"}') >= 20)
        wait_for(lambda: first.metric('mqnode_replication_lag_seconds{peer="h2"}') > 0)
        wait_for(lambda: first.metric("mqnode_solo_acks_total") >= solo + 21)
        assert publisher.publish_all("q/1", b"kept", 1).reason == 0
        wait_for(lambda: first.metric(QUEUED) == queued + 1)
        told_to_an_operator(first)
        second.start()
        in_sync(first, second)
        wait_for(lambda: first.metric('mqnode_replication_lag_ops{peer="h2"}') == 0)
        assert first.metric('mqnode_link_state{peer="h2"}') == 2
        solo = first.metric("mqnode_solo_acks_total")
        publish(20)
        assert (first.metric("mqnode_solo_acks_total"), first.metric("mqnode_degraded")) == (solo, 0)
    assert first.metric(DROPPED) == dropped
    with second.client() as client:
        client.connect("queued", clean=False, session_expiry=600)
        assert client.take().payload == b"kept"


def told_to_an_operator(first: Host) -> None:
    """Nothing that the dead host told of itself, and where to look next."""
    status = json.loads(first.mqnode("cluster", "status", "--json").stdout)
    assert [(each["from"], each["to"], each["state"]) for each in status["links"]] == [("h1", "h2", "evicted")]
    assert [each["in_sync_with"] for each in status["nodes"]] == [[], []]
    assert "Look at it with: mqnode cluster status" in first.mqnode("check", "insync").stdout
    unknown = first.mqnode("clients", "show", "elsewhere").stderr
    assert "no client 'elsewhere' is connected to this host. All of this host: mqnode clients list" in unknown


def test_messages_for_its_sessions_are_dropped_and_other_operations_refused(pair: Pair) -> None:
    first, second = choose(pair, 'on_owner_down = "drop"\nallow_during_split = ["publish"]')
    queued, dropped = first.metric(QUEUED), first.metric(DROPPED)
    subscribed(second, "dropped", "d/#")
    subscribed(first, "here", "d/#")
    with first.client() as five, first.client(4) as old, first.client(4) as older, first.client() as late:
        for number, client in enumerate((five, old, older)):
            client.connect(f"client-{number}")
            client.subscribe("before")
        with alone(first, second):
            assert five.publish_all("d/1", b"x", 1).reason == 0
            wait_for(lambda: first.metric(DROPPED) == dropped + 1)
            assert five.subscribe("after", "before").reasons == [0x83, 0x83]
            assert old.subscribe("after").reasons == [0x80]
            assert five.unsubscribe("before").reasons == [0x83]
            with pytest.raises(Closed):  # MQTT 3 has no word for it
                older.unsubscribe("before")
            late.send(connect_packet("late"))
            assert late.expect(CONNACK).reason == 0x88
            with first.client(4) as later:
                later.send(connect_packet("later", version=4))
                assert later.expect(CONNACK).reason == 3
            five.publish("before", b"still subscribed")
            assert (five.take().payload, old.take().payload) == (b"still subscribed",) * 2
        assert five.subscribe("after").reasons == [0]
        assert five.unsubscribe("before").reasons == [0]
    assert first.metric(QUEUED) == queued
    for host, name, payloads in ((first, "here", [b"x"]), (second, "dropped", [])):
        with host.client() as client:
            assert client.connect(name, clean=False, session_expiry=600).session_present
            assert [client.take().payload for _ in payloads] == payloads
            client.nothing()


def test_publishing_refused(pair: Pair) -> None:
    first, second = choose(pair, 'allow_during_split = ["connect", "subscribe", "unsubscribe"]')
    with first.client() as five, first.client(4) as old:
        for client in (five, old):
            client.connect()
        five.subscribe(("p", 1))
        refused = 'mqnode_messages_refused_total{reason="split"}'
        with alone(first, second):
            wait_for(lambda: five.publish_all("other", b"no", 1).reason == 0x83)  # workers look every 250 ms
            before = first.metric(refused)
            assert five.publish_all("p", b"no", 1).reason == 0x83
            assert five.publish_all("p", b"no", 2).reason == 0x83
            five.publish("p", b"no")
            old.publish("p", b"no", 1)
            with pytest.raises(Closed):
                old.receive()
            wait_for(lambda: first.metric(refused) == before + 4)
            five.nothing(0)
            shown = first.get("/v1/status")[1]["warnings"]
            assert "while a host of the cluster is away it refuses publish (cluster.allow_during_split)" in shown
        assert first.get("/v1/status")[1]["warnings"] == []
        wait_for(lambda: five.publish_all("other", b"yes", 1).reason < 0x80)  # and workers look again
        for qos, answer in ((1, PUBACK), (2, PUBREC)):
            assert five.publish("p", b"yes", qos)
            found = {each.kind: each for each in (five.receive(), five.receive())}
            assert found[answer].reason == 0, found


def test_strict_acknowledges_nothing_alone_and_all_when_the_peer_is_back(pair: Pair) -> None:
    first, second = choose(pair, 'ack_policy = "strict"')
    solo = first.metric("mqnode_solo_acks_total")
    subscribed(first, "device", "t/#")
    with first.client() as publisher, first.client() as live:
        publisher.connect("publisher")
        live.connect("live")
        live.subscribe(("live", 0))
        assert publisher.publish_all("t/0", b"0", 1).reason == 0
        with alone(first, second):
            assert first.log().count("acknowledgements_wait") == 1
            for command in (
                ["status"],
                ["cluster", "status"],
                ["check", "insync"],
            ):  # an operator who wonders is told why
                wait_for(lambda command=command: STALLED in first.mqnode(*command).stdout, what=first.log)
            assert first.get("/ready")[0] == 200
            for number in range(1, 4):
                publisher.publish("t/0", str(number).encode(), 1)
            publisher.publish("live", b"goes on")  # QoS 0 waits for nobody
            assert live.take().payload == b"goes on"
            with first.client() as another:  # nor does who wants nothing kept
                another.connect("another")
            with first.client() as waiting:
                waiting.send(connect_packet("waiting", clean=False, session_expiry=600))
                with pytest.raises(TimeoutError):
                    waiting.receive(1.0)
            publisher.nothing()
            first.replace("keeper")  # a new one knows of no copies either
            first.wait_ready()
            publisher.nothing(1.0)
            assert first.metric("mqnode_solo_acks_total") == solo
        for _ in range(3):
            assert publisher.expect(PUBACK, 30).reason == 0
    with second.client() as client:
        assert client.connect("device", clean=False, session_expiry=600).session_present
        assert [client.take().payload for _ in range(4)] == [b"0", b"1", b"2", b"3"]
