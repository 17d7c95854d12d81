"""The ledger of the load engine against a broker that loses, doubles, reorders, refuses and breaks as it is told."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from node.core.load import Load
from tests.broker import free_port
from tests.mqtt import packet, text

CONNACK, SUBACK = packet(0x20, b"\0\0"), packet(0x90, b"\0\1\0")
SIZE = 64
Deliver = Callable[[list[bytes]], list[bytes]]  # PUBLISH packets as they came -> what subscribers get


class Scripted:
    """Serves one Load: the first connection that subscribes gets what `deliver` makes of the messages of the others."""

    def __init__(self, deliver: Deliver, messages: int, connack: bytes = CONNACK) -> None:
        self.deliver, self.messages, self.connack = deliver, messages, connack
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        self.subscriber: socket.socket | None = None
        self.came: list[bytes] = []
        self.lock = threading.Lock()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        with suppress(OSError):
            while True:
                peer = self.listener.accept()[0]
                threading.Thread(target=self.serve, args=(peer,), daemon=True).start()

    def serve(self, peer: socket.socket) -> None:
        with peer, peer.makefile("rb") as stream, suppress(OSError):
            while first := stream.read(1):
                length, shift = 0, 0
                while (byte := stream.read(1)[0]) & 128:
                    length, shift = length | (byte & 127) << shift, shift + 7
                self.answer(peer, first[0], stream.read(length | byte << shift))

    def answer(self, peer: socket.socket, first: int, body: bytes) -> None:
        if first == 0x10:
            peer.sendall(self.connack)
        elif first == 0x82:
            self.subscriber = peer
            peer.sendall(SUBACK)
        elif first >> 4 == 3:
            with self.lock:
                self.came.append(packet(0x30, body[: 2 + len("t")] + body[-SIZE:]))
                if first >> 1 & 3 == 1:
                    peer.sendall(packet(0x40, body[3:5]))
                if len(self.came) == self.messages and self.subscriber is not None:
                    self.subscriber.sendall(b"".join(self.deliver(self.came)))


@contextmanager
def played(deliver: Deliver, messages: int = 10, **broker: Any) -> Iterator[Load]:
    scripted = Scripted(deliver, messages, **broker)
    load = Load("127.0.0.1", scripted.port)
    load.add(1, prefix="s", subscribe="t")
    load.add(1, prefix="p", publish="t", qos=1, size=SIZE, window=3, messages=messages)
    try:
        yield load
    finally:
        load.close()
        scripted.listener.close()


def until(load: Load, condition: Callable[[], bool]) -> dict[str, Any]:
    for _ in range(500):
        if condition():
            return dict(load.stats())
        load.step(20)
    raise AssertionError(load.stats())


@pytest.mark.parametrize(
    ("order", "missing", "duplicates", "reordered"),
    [
        ("0123456789", 0, 0, 0),
        ("012356789", 1, 0, 0),
        ("56789", 5, 0, 0),
        ("0122345678899", 0, 3, 0),
        ("0132456789", 0, 0, 1),
        ("9876543210", 0, 0, 9),
        ("0913579", 4, 1, 4),
        ("0555", 4, 2, 0),
        ("06246", 3, 1, 2),
    ],
)
def test_ledger(order: str, missing: int, duplicates: int, reordered: int) -> None:
    with played(lambda came: [came[int(each)] for each in order]) as load:
        until(load, lambda: load.ready)
        load.publish()
        stats = until(load, lambda: load.done and load.stats()["received"] == len(order))
        assert (stats["sent"], stats["acknowledged"]) == (10, 10)
        assert (stats["missing"], stats["duplicates"], stats["reordered"]) == (missing, duplicates, reordered)
        assert load.histogram("delivery")["count"] == len(order) - duplicates
        assert load.histogram("acknowledgement")["count"] == 10


def test_messages_of_others_are_no_part_of_the_ledger() -> None:
    strange = [packet(0x30, text("t") + b"short"), packet(0x30, text("t") + bytes(64))]
    with played(lambda came: strange + came) as load:
        until(load, lambda: load.ready)
        load.publish()
        stats = until(load, lambda: load.stats()["received"] == 10)
        assert (stats["foreign"], stats["missing"], stats["duplicates"]) == (2, 0, 0)


def test_a_refused_connection_is_counted() -> None:
    with played(lambda came: came, connack=packet(0x20, b"\0\5")) as load:
        stats = until(load, lambda: load.ready)
        assert (stats["connect_refused"], stats["connects"], stats["last_reason"]) == (2, 0, 5)


def test_nobody_listens() -> None:
    load = Load("127.0.0.1", free_port())
    load.add(3)
    stats = until(load, lambda: load.ready)
    assert (stats["connect_failed"], stats["last_error"]) == (3, "Connection refused")


@pytest.mark.parametrize("broken", [b"\x30\xff\xff\xff\xff\x01", packet(0x32, text("t")), packet(0x30, b"\0\x50t")])
def test_bytes_that_are_no_mqtt_end_the_connection(broken: bytes) -> None:
    with played(lambda came: [broken]) as load:
        until(load, lambda: load.ready)
        load.publish()
        stats = until(load, lambda: load.stats()["malformed"] == 1)
        assert stats["connected"] == 1


def test_an_acknowledgement_that_nobody_waits_for_is_counted() -> None:
    with played(lambda came: [packet(0x40, struct.pack(">H", 7)), *came]) as load:
        until(load, lambda: load.ready)
        load.publish()
        stats = until(load, lambda: load.stats()["received"] == 10)
        assert stats["unexpected_acks"] == 1


@pytest.mark.parametrize(
    "wrong", [{"size": 23}, {"window": 0}, {"window": 65536}, {"publish": "t" * 513}, {"prefix": "{i}" * 30}]
)
def test_what_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"payload|window|template"):
        Load("127.0.0.1", 1883).add(1, **wrong)
