"""S08: each limit of [limits], exceeded: the reason code, the counter, and memory that stays."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest

from tests.broker import Broker, running, wait_for
from tests.mqtt import CONNACK, PUBACK, PUBLISH, PUBREC, Client, connect_packet, packet, properties, text, varint
from tests.placement import on_worker
from tests.security.guarded import attempt, grows, rss_kib

FILTER_INVALID, TOPIC_INVALID, RECEIVE_MAXIMUM_EXCEEDED, ALIAS_INVALID = 0x8F, 0x90, 0x93, 0x94
TOO_LARGE, QUOTA_EXCEEDED, CLIENT_ID_NOT_VALID, SERVER_BUSY = 0x95, 0x97, 0x85, 0x89
SLOW_S = 3.0
LIMITS = f"""
[limits]
max_packet_bytes = 100000
max_topic_levels = 8
max_topic_bytes = 100
max_client_id_bytes = 40
max_user_properties = 3
max_subscriptions_per_client = 4
receive_maximum = 5
max_inflight = 7
topic_alias_maximum = 2
max_session_expiry_s = 100
max_queued_messages = 3
max_queued_bytes = 5000
max_retained_messages = 3
max_retained_bytes = 500
max_output_bytes = 1000000
slow_subscriber_s = {SLOW_S}
"""


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with running(LIMITS) as broker:
        yield broker
        assert broker.errors() == []


@pytest.fixture
def client(broker: Broker) -> Iterator[Client]:
    with Client(broker.port) as client:
        client.connect("c")
        yield client


ENDS = {
    "packet size": (packet(0x30, text("t") + b"\0" + bytes(100_000)), TOO_LARGE),
    "declared packet size": (b"\x30" + varint(268_435_455), TOO_LARGE),
    "topic levels": (packet(0x30, text("/" * 8) + b"\0"), TOPIC_INVALID),
    "topic bytes": (packet(0x30, text("t" * 101) + b"\0"), TOPIC_INVALID),
    "user properties": (packet(0x30, text("t") + properties(user_property=[("k", "v")] * 4)), QUOTA_EXCEEDED),
    "topic alias": (packet(0x30, text("t") + properties(topic_alias=3)), ALIAS_INVALID),
    "receive maximum": (
        b"".join(packet(0x34, text("t") + struct.pack(">H", id) + b"\0") for id in range(1, 7)),
        RECEIVE_MAXIMUM_EXCEEDED,
    ),
}


@pytest.mark.parametrize("what", ENDS)
def test_s08_a_packet_beyond_a_limit_ends_the_connection(broker: Broker, client: Client, what: str) -> None:
    data, reason = ENDS[what]
    before = broker.metric('mqnode_protocol_errors_total{kind="protocol"}')
    client.send(data)
    while (answer := client.receive()).kind in (PUBACK, PUBREC):
        pass
    assert (answer.kind, answer.reason) == (14, reason)
    grows(broker, 'mqnode_protocol_errors_total{kind="protocol"}', before)


def test_s08_the_client_is_told_the_limits(broker: Broker) -> None:
    with Client(broker.port) as client:
        told = client.connect("c", session_expiry=1000).properties
        assert told["receive_maximum"] == 5
        assert told["maximum_packet_size"] == 100_000
        assert told["topic_alias_maximum"] == 2
        assert told["session_expiry"] == 100
        client.disconnect(session_expiry=0)


def test_s08_client_id(broker: Broker) -> None:
    assert attempt(broker.port, client_id="c" * 40).reason == 0
    assert attempt(broker.port, client_id="c" * 41).reason == CLIENT_ID_NOT_VALID
    assert attempt(broker.port, 4, client_id="c" * 41).reason == 2


def test_s08_filters_and_subscriptions(client: Client) -> None:
    assert client.subscribe("/" * 8, "f" * 101, "a", "b", "c", "d", "e").reasons == [
        FILTER_INVALID, FILTER_INVALID, 0, 0, 0, 0, QUOTA_EXCEEDED,
    ]  # fmt: skip
    assert client.subscribe("$share/g/a").reasons == [QUOTA_EXCEEDED]
    assert client.subscribe(("a", 1)).reasons == [1]  # not a new one
    client.unsubscribe("b")
    assert client.subscribe("e").reasons == [0]


def test_s08_open_deliveries(broker: Broker, client: Client) -> None:
    with Client(broker.port) as slow:
        slow.connect("slow")
        slow.subscribe(("t", 1))
        for _ in range(10):
            client.publish_all("t")
        for _ in range(7):
            slow.expect(PUBLISH)
        slow.nothing(0.1)


@pytest.mark.parametrize(("size", "reason"), [(10, "queue_full"), (3000, "queue_bytes")])
def test_s08_a_queue_is_bounded_in_messages_and_bytes(broker: Broker, client: Client, size: int, reason: str) -> None:
    with Client(broker.port) as away:
        away.connect("away", session_expiry=60)
        away.subscribe(("t", 1))
    wait_for(lambda: not broker.get("/v1/sessions/away")[1]["connected"], 5)
    series = f'mqnode_messages_dropped_total{{reason="{reason}"}}'
    before = broker.metric(series)
    for _ in range(5):
        assert client.publish_all("t", bytes(size)).reason == 0
    session = broker.get("/v1/sessions/away")[1]
    assert session["queued_messages"] == (3 if size == 10 else 1)
    assert session["queued_bytes"] <= 5000
    grows(broker, series, before, 5 - session["queued_messages"])
    broker.get("/v1/sessions/away", method="DELETE")


def test_s08_retained_messages_are_bounded_in_number_and_size(broker: Broker, client: Client) -> None:
    before = broker.metric('mqnode_messages_refused_total{reason="quota"}')
    assert client.publish_all("r/large", bytes(500), 1, retain=True).reason == QUOTA_EXCEEDED
    for number in range(3):
        assert client.publish_all(f"r/{number}", b"x", 1, retain=True).reason < 0x80
    assert client.publish_all("r/3", b"x", 1, retain=True).reason == QUOTA_EXCEEDED
    assert client.publish_all("r/0", b"y", 2, retain=True).reason < 0x80  # in the place of another one
    assert broker.metric("mqnode_retained_messages") == 3
    grows(broker, 'mqnode_messages_refused_total{reason="quota"}', before, 2)
    for number in range(3):
        assert client.publish_all(f"r/{number}", b"", 1, retain=True).reason < 0x80


def test_s08_connections() -> None:
    with running("[limits]\nmax_connections = 3\n", workers=1) as broker, contextlib.ExitStack() as stack:
        for number in range(3):
            stack.enter_context(Client(broker.port)).connect(f"c{number}")
        assert attempt(broker.port, client_id="one more").reason == SERVER_BUSY
        assert attempt(broker.port, 4, client_id="one more").reason == 3


# -- slow subscribers -------------------------------------------------------------------------------------------------------

MESSAGE = packet(0x30, text("flood") + b"\0" + bytes(50_000))
MEMORY_KIB_MAX = 80_000  # most of it the buffers of the link between the workers
HELD_BYTES_MAX = 60_000_000  # much less than loopback carries in SLOW_S


class Flood(threading.Thread):
    """Publishes QoS 0 as fast as the broker takes it, until `stopping`."""

    def __init__(self, client: Client) -> None:
        super().__init__(daemon=True)
        self.client, self.sent, self.stopping = client, 0, False

    def run(self) -> None:
        self.client.socket.settimeout(0.1)
        rest = b""
        while not self.stopping:
            rest = rest or MESSAGE
            with contextlib.suppress(TimeoutError):
                size = self.client.socket.send(rest)
                self.sent, rest = self.sent + size, rest[size:]


@pytest.mark.parametrize("publisher_worker", [0, 1])
def test_s08_a_subscriber_that_stops_reading_costs_little(broker: Broker, publisher_worker: int) -> None:
    """First its publishers are held back; after slow_subscriber_s it no longer counts, and its messages are dropped."""
    dropped = 'mqnode_messages_dropped_total{reason="slow_subscriber"}'
    before = broker.metric(dropped), broker.metric("mqnode_publishers_paused_total")
    workers = [broker.pid("worker-0"), broker.pid("worker-1")]
    with on_worker(broker, 0, "stuck") as stuck, on_worker(broker, publisher_worker, "flood") as publisher:
        stuck.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        stuck.subscribe("flood")
        memory = sum(map(rss_kib, workers))
        flood = Flood(publisher)
        flood.start()
        try:
            wait_for(lambda: broker.metric("mqnode_publishers_paused_total") > before[1], SLOW_S)
            time.sleep(SLOW_S / 3)
            assert flood.sent < HELD_BYTES_MAX
            assert sum(map(rss_kib, workers)) - memory < MEMORY_KIB_MAX
            held = flood.sent
            grows(broker, dropped, before[0], 100)
            assert sum(map(rss_kib, workers)) - memory < MEMORY_KIB_MAX
            wait_for(lambda: flood.sent > held + len(MESSAGE) * 100, 10)
            with Client(broker.port) as other:  # nobody else suffers
                other.connect("other")
                other.subscribe("other")
                other.publish("other", b"x")
                assert other.take(2).payload == b"x"
        finally:
            flood.stopping = True
            flood.join()
    assert "slow_subscriber" in broker.log()


def test_s08_a_connect_beyond_the_limits(broker: Broker) -> None:
    with Client(broker.port) as client:
        client.send(connect_packet("c", user_property=[("k", "v")] * 4))
        last = client.expect_closed()
        assert last is None or (last.kind == CONNACK and last.reason == QUOTA_EXCEEDED)
