"""S03, S05-S07: what strangers can cost before CONNECT, and that one connection's trouble stays its own."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from tests.broker import Broker, busy, running, wait_for
from tests.mqtt import CONNACK, DISCONNECT, PUBLISH, Client, Closed, connect_packet, packet, properties, text
from tests.security.guarded import rss_kib

SOCKETS, CONNECT_TIMEOUT_S, RSS_KIB_MAX = 500, 2.0, 32
SEED = 20_261_121


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    limits = f"[limits]\nconnect_timeout_s = {CONNECT_TIMEOUT_S}\nmax_keepalive_s = 1\n"
    with running(limits) as broker:
        yield broker
        assert broker.errors() == []


STRANGERS = {
    "nothing": b"",
    "a byte now and then": connect_packet("slow"),
    "a huge remaining length": b"\x10\xff\xff\xff\x7f" + bytes(1000),
    "64 KiB of user properties": connect_packet("p", user_property=[("k" * 500, "v" * 500)] * 64)[:30_000],
}


@pytest.mark.parametrize("kind", STRANGERS)
def test_s05_strangers_cost_little_and_are_gone_in_time(broker: Broker, kind: str) -> None:
    data = STRANGERS[kind]
    workers = [broker.pid("worker-0"), broker.pid("worker-1")]
    before = sum(map(rss_kib, workers))
    begin = time.monotonic()
    with contextlib.ExitStack() as stack:
        strangers = [stack.enter_context(socket.create_connection(("127.0.0.1", broker.port))) for _ in range(SOCKETS)]
        for number, stranger in enumerate(strangers):
            stranger.sendall(data[: 1 + number % 9] if kind == "a byte now and then" else data)
        with Client(broker.port) as good:
            asked = time.monotonic()
            good.connect("good")
            assert time.monotonic() - asked < 1 * busy()
        if kind != "a huge remaining length":  # these are refused at once
            assert sum(map(rss_kib, workers)) - before < SOCKETS * RSS_KIB_MAX
        if kind == "a byte now and then":  # bytes do not buy time
            time.sleep(CONNECT_TIMEOUT_S / 2)
            for number, stranger in enumerate(strangers):
                stranger.sendall(data[1 + number % 9 :][:1])
        for stranger in strangers:
            stranger.settimeout(CONNECT_TIMEOUT_S + 3)
            assert _until_closed(stranger) == b""
        assert time.monotonic() - begin < (CONNECT_TIMEOUT_S + 2.5) * busy()
    assert sum(map(rss_kib, workers)) - before < SOCKETS * RSS_KIB_MAX
    wait_for(lambda: broker.get("/v1/status")[1]["clients_connected"] == 0, 5)


def _until_closed(stranger: socket.socket) -> bytes:
    got = b""
    with contextlib.suppress(ConnectionError):
        while data := stranger.recv(1000):
            got += data
    return got


@pytest.mark.parametrize(
    "data", [connect_packet("p", user_property=[("k", "v")] * 65), packet(0x10, bytes(40_000))[:100]]
)
def test_s05_a_connect_that_is_too_large_is_refused_at_once(broker: Broker, data: bytes) -> None:
    with Client(broker.port) as client:
        client.send(data)
        last = client.expect_closed(CONNECT_TIMEOUT_S / 2)
        assert last is None or last.reason >= 0x80


def test_s07_the_keep_alive_is_bounded(broker: Broker) -> None:
    """CVE-2020-13849: whoever asks for no keep-alive gets ours, in each version."""
    with contextlib.ExitStack() as stack:
        clients = []
        for version, keep_alive in [(3, 0), (4, 60), (4, 0), (5, 60), (5, 0)]:
            client = stack.enter_context(Client(broker.port, version))
            answer = client.connect(f"k{version}{keep_alive}", keep_alive=keep_alive)
            assert answer.properties.get("server_keep_alive") == (1 if version == 5 else None)
            clients.append(client)
        begin = time.monotonic()
        for client in clients:
            last = client.expect_closed(5)
            assert 1 < time.monotonic() - begin < 4 * busy()
            assert last is None if client.version < 5 else last is not None and last.reason == 0x8D


# -- S03: no packet reaches beyond its own connection ---------------------------------------------------------------------

FUZZ_TRIES = 300


def _seeds() -> list[bytes]:
    """One good packet of each kind that a client may send."""
    body = struct.pack(">H", 7)
    return [
        connect_packet("fuzz", will=("w", b"w", 1, True), user="u", password=b"p", session_expiry=5, user_property=[("a", "b")]),
        packet(0x32, text("a/b") + body + properties(topic_alias=1, content_type="c", user_property=[("a", "b")]) + b"x"),
        packet(0x34, text("a/b") + body + properties(message_expiry=5) + b"x"),
        packet(0x40, body), packet(0x50, body + b"\0" + properties(reason_string="r")), packet(0x62, body), packet(0x70, body),
        packet(0x82, body + properties(subscription_identifier=3) + text("a/+/#") + b"\x02" + text("$share/g/a") + b"\x01"),
        packet(0xA2, body + properties() + text("a/+/#")),
        packet(0xC0), packet(0xE0, b"\0" + properties(session_expiry=3)),
        packet(0xF0, b"\x19" + properties(authentication_method="SCRAM-SHA-256", authentication_data=b"x")),
    ]  # fmt: skip


def _mutated(random_: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(random_.randrange(4)):
        at = random_.randrange(len(changed))
        match random_.randrange(4):
            case 0:
                changed[at] = random_.randrange(256)
            case 1:
                del changed[at : at + random_.randrange(1, 4)]
            case 2:
                changed[at:at] = random_.randbytes(random_.randrange(1, 4))
            case _:
                changed[at] ^= 1 << random_.randrange(8)
        if not changed:
            return b"\0"
    return bytes(changed)


def test_s01_s03_a_broken_packet_ends_only_its_connection(broker: Broker) -> None:
    """Mutated packets from one side; a witness on each worker sees no gap, no process restarts, nothing is logged as ours."""
    random_ = random.Random(SEED)
    seeds = _seeds()
    pids = [broker.pid(name) for name in ("keeper", "worker-0", "worker-1")]
    with contextlib.ExitStack() as stack:
        witnesses = [stack.enter_context(Client(broker.port)) for _ in range(4)]
        for number, witness in enumerate(witnesses):
            witness.connect(f"witness {number}")
            witness.subscribe("witness")
        for number in range(FUZZ_TRIES):
            with Client(broker.port) as client, contextlib.suppress(OSError):
                if number % 3:
                    client.send(connect_packet("fuzz", keep_alive=1))
                client.send(b"".join(_mutated(random_, random_.choice(seeds)) for _ in range(3)))
                if number % 10 == 0:
                    _drain(client)
            if number % 50 == 0:
                witnesses[0].publish("witness", b"%d" % number)
                for witness in witnesses:
                    assert witness.expect(PUBLISH).payload == b"%d" % number
    assert [broker.pid(name) for name in ("keeper", "worker-0", "worker-1")] == pids
    assert broker.metric("mqnode_handler_errors_total") == 0
    assert broker.errors() == []


def _drain(client: Client) -> None:
    """Read what is answered: it must be well-formed."""
    with contextlib.suppress(Closed, TimeoutError):
        while True:
            assert client.receive(0.05).kind in (CONNACK, PUBLISH, 4, 5, 6, 7, 9, 11, 13, DISCONNECT, 15)


@pytest.mark.parametrize("first", [1, *range(2, 16)])
def test_s02_only_connect_comes_first(broker: Broker, first: int) -> None:
    for data in (packet(first << 4), packet(first << 4 | 2, bytes(2)), packet(first << 4, bytes(100))):
        with Client(broker.port) as client:
            client.send(data)
            last = client.expect_closed()
            assert last is None or (last.kind == CONNACK and last.reason)
