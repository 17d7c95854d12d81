"""What a host says of itself, in /metrics and under $SYS, is what its clients did."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from storage.layout import open_environment
from tests.broker import Broker, free_port, running, wait_for
from tests.mqtt import PINGREQ, PINGRESP, PUBCOMP, PUBLISH, PUBREC, PUBREL, Client, packet
from tests.unit.certificates import DAY, NOW, Authority

DURABLE = {"clean": False, "session_expiry": 100}
Host = tuple[Broker, Authority]
IN = {"connect": 3, "subscribe": 1, "publish": 2, "pubrec": 1, "pubrel": 1, "pubcomp": 1, "pingreq": 1}
OUT = {"connack": 3, "suback": 1, "publish": 2, "pubrec": 2, "pubrel": 1, "pubcomp": 1, "pingresp": 1}
COUNTED = {  # of what the clients below do
    **{f'mqnode_packets_total{{dir="in",type="{kind}"}}': count for kind, count in IN.items()},
    **{f'mqnode_packets_total{{dir="out",type="{kind}"}}': count for kind, count in OUT.items()},
    'mqnode_publish_bytes_total{dir="in"}': 10, 'mqnode_publish_bytes_total{dir="out"}': 10,
    'mqnode_duplicates_total{dir="in"}': 1, 'mqnode_duplicates_total{dir="out"}': 1,
}  # fmt: skip

LOADS = (
    "bytes/received", "bytes/sent", "connections", "messages/received", "messages/sent", "publish/dropped", "publish/received",
    "publish/sent", "sockets",
)  # fmt: skip
MOSQUITTO = {  # the topics of mosquitto 2.0.11
    "bytes/received", "bytes/sent", "clients/active", "clients/connected", "clients/disconnected", "clients/expired",
    "clients/inactive", "clients/maximum", "clients/total", "heap/current", "heap/maximum", "messages/received",
    "messages/sent", "messages/stored", "publish/bytes/received", "publish/bytes/sent", "publish/messages/dropped",
    "publish/messages/received", "publish/messages/sent", "retained messages/count", "shared_subscriptions/count",
    "store/messages/bytes", "store/messages/count", "subscriptions/count", "uptime", "version",
    *(f"load/{load}/{minutes}min" for load in LOADS for minutes in (1, 5, 15)),
}  # fmt: skip


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    authority = Authority(tmp_path_factory.mktemp("certificates"))
    certificate, key = authority.issue("server", "localhost", days=30)
    listener = f'type = "tls"\nbind = "127.0.0.1:{free_port()}"\ncertificate = "{certificate}"\nkey = "{key}"\n'
    with running(f'[[listeners]]\nname = "lock"\n{listener}[sys]\ninterval_s = 1\n') as broker:
        yield broker, authority


def test_the_end_of_the_certificate_in_use_is_told(host: Host) -> None:
    broker, authority = host
    series = 'mqnode_cert_expiry_timestamp_seconds{listener="lock"}'
    wait_for(lambda: broker.metric(series) == (NOW + 30 * DAY).timestamp())
    authority.issue("server", "localhost", days=90)
    assert broker.metric(series) == (NOW + 30 * DAY).timestamp()
    assert broker.process is not None
    broker.process.send_signal(signal.SIGHUP)
    wait_for(lambda: broker.metric(series) == (NOW + 90 * DAY).timestamp())


def test_a_read_of_the_store_is_counted_while_it_goes_on(host: Host) -> None:
    broker = host[0]
    wait_for(lambda: broker.metric("mqnode_store_readers") == 0)
    environment = open_environment(broker.data_dir / "store", 0, readonly=True)
    with environment.begin():
        wait_for(lambda: broker.metric("mqnode_store_readers") == 1)
    environment.close()
    wait_for(lambda: broker.metric("mqnode_store_readers") == 0)


def test_memory_is_told_under_sys(host: Host) -> None:
    """That which is the processes' own: a good part of what is resident, and never all of it."""
    broker = host[0]
    told: dict[str, int] = {}
    with Client(broker.port) as client:
        client.connect("heap")
        client.subscribe_amid("$SYS/broker/heap/+")
        while len(told) < 2:
            message = client.take()
            told[message.topic] = int(message.payload)
    names = ("keeper", "admin", "worker-0", "worker-1")
    resident = sum(broker.metric(f'mqnode_process_resident_bytes{{process="{name}"}}') for name in names)
    assert resident / 4 < told["$SYS/broker/heap/current"] <= told["$SYS/broker/heap/maximum"] < resident


def test_all_that_mosquitto_tells_under_sys_is_told(host: Host) -> None:
    missing = set(MOSQUITTO)
    with Client(host[0].port) as client:
        client.connect("watcher")
        client.subscribe_amid("$SYS/broker/#")
        wait_for(
            lambda: missing.discard(client.take().topic.removeprefix("$SYS/broker/")) or not missing,
            what=lambda: str(missing),
        )


def test_packets_payloads_repetitions_and_what_is_in_flight_are_counted(host: Host) -> None:
    broker = host[0]
    before = samples(broker)
    with Client(broker.port) as publisher, Client(broker.port) as subscriber, Client(broker.port) as again:
        publisher.connect("publisher")
        subscriber.connect("subscriber", **DURABLE)
        subscriber.subscribe(("counted", 2))
        id = publisher.publish("counted", b"12345", 2)
        publisher.expect(PUBREC)
        publisher.publish("counted", b"12345", 2, dup=True, id=id)
        publisher.expect(PUBREC)
        publisher.ack(PUBREL, id)
        publisher.expect(PUBCOMP)
        subscriber.expect(PUBLISH)
        wait_for(lambda: in_flight(broker) == 1)
        subscriber.close()
        wait_for(lambda: in_flight(broker) == 0)
        again.connect("subscriber", **DURABLE)
        again.take()
        again.send(packet(PINGREQ << 4))
        again.expect(PINGRESP)
        after = samples(broker)
        assert {name: count - before[name] for name, count in after.items() if count != before[name]} == COUNTED
        again.subscribe_amid("$SYS/broker/publish/bytes/received")
        wait_for(lambda: int(again.take().payload) == after['mqnode_publish_bytes_total{dir="in"}'])
        again.disconnect(session_expiry=0)


def test_the_stages_of_an_acknowledgement_are_timed(host: Host) -> None:
    """Those that there are: nobody else has a copy here."""
    broker = host[0]
    count = 'mqnode_ack_latency_seconds_count{{stage="{}"}}'.format
    before = {stage: broker.metric(count(stage)) for stage in ("total", "fsync", "replica")}
    with Client(broker.port) as publisher:
        publisher.connect("publisher")
        publisher.publish_all("kept", b"x", 1, retain=True)
    wait_for(lambda: broker.metric(count("total")) == before["total"] + 1)
    assert broker.metric(count("fsync")) > before["fsync"]
    assert broker.metric(count("replica")) == before["replica"] == 0


def samples(broker: Broker) -> dict[str, float]:
    """By series."""
    lines = (line.rpartition(" ") for line in str(broker.get("/metrics")[1]).splitlines())
    names = ("mqnode_packets_total", "mqnode_publish_bytes_total", "mqnode_duplicates_total")
    return {series: float(value) for series, _, value in lines if series.startswith(names)}


def in_flight(broker: Broker) -> float:
    return sum(broker.metric(f'mqnode_inflight{{worker="{index}"}}') for index in range(2))


def test_subscriptions_and_sessions_are_counted(host: Host) -> None:
    broker = host[0]
    with Client(broker.port) as live, Client(broker.port) as durable:
        live.connect("live")
        live.subscribe("a", "b/#", "$share/group/a")
        live.subscribe("a")  # anew
        live.unsubscribe("b/#", "never/there")
        durable.connect("durable", **DURABLE)
        durable.subscribe("a", "$share/group/a")
        with Client(broker.port) as away:
            away.connect("away", **DURABLE)
            away.subscribe("c")
        with Client(broker.port) as gone, Client(broker.port) as ended:
            gone.connect("gone")
            gone.subscribe("d", "$share/group/d")
            ended.connect("ended", **DURABLE)
            ended.subscribe("d", "$share/group/d")
            ended.disconnect(session_expiry=0)
        wanted = {
            "subscriptions/count": b"6", "shared_subscriptions/count": b"2", "clients/connected": b"2",
            "clients/disconnected": b"1", "clients/total": b"3",
        }  # fmt: skip
        live.subscribe_amid("$SYS/broker/#")
        told: dict[str, bytes] = {}
        deadline = time.monotonic() + 20
        while {name: told.get(f"$SYS/broker/{name}") for name in wanted} != wanted:
            assert time.monotonic() < deadline, told
            message = live.take()
            told[message.topic] = message.payload
        for client in (live, durable):
            client.close()
        wait_for(lambda: broker.metric("mqnode_subscriptions") == 3)
        wait_for(lambda: broker.metric('mqnode_sessions{state="disconnected"}') == 2)
        assert broker.metric('mqnode_sessions{state="connected"}') == 0
        broker.signal("keeper", signal.SIGKILL)
        broker.signal("worker-0", signal.SIGKILL)
        wait_for(lambda: broker.metric('mqnode_worker_restarts_total{worker="0"}') == 1)
        broker.wait_ready()
        wait_for(lambda: broker.metric("mqnode_subscriptions") == 3)
        assert broker.metric('mqnode_sessions{state="disconnected"}') == 2
        assert broker.metric('mqnode_worker_restarts_total{worker="1"}') == 0
