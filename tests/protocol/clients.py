"""Clients of a running host, each on the worker that a test wants; every client id and topic of a test run is new."""

from __future__ import annotations

import itertools
import os
import socket
import struct
from pathlib import Path
from typing import Any

from tests.broker import Broker, wait_for
from tests.mqtt import PINGREQ, PINGRESP, PUBACK, PUBCOMP, PUBLISH, PUBREC, PUBREL, Client, Packet, packet

TRIES = 64
_NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST = 4, 20, 1
_numbers = itertools.count(1)


def new_name(prefix: str = "c") -> str:
    return f"{prefix}{next(_numbers)}"


class Placed(Client):
    """A connected client: `connack` is how it was accepted."""

    connack: Packet
    client_id = ""

    def expect_refused(self, reason: int) -> None:
        """The server ends the connection; MQTT 5 clients are told this reason."""
        last = self.expect_closed()
        assert (last and last.reason) == (reason if self.version == 5 else None)

    def abort(self) -> None:
        """Close by a reset: no TIME_WAIT is left behind."""
        if self.socket.fileno() >= 0:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def take_all(self, count: int) -> list[Packet]:
        """The next `count` messages, each acknowledged in full, in whatever order the handshakes interleave."""
        found: list[Packet] = []
        open_ids: set[int] = set()
        while len(found) < count or open_ids:
            got = self.receive()
            if got.kind == PUBREL:
                self.ack(PUBCOMP, got.id)
                open_ids.discard(got.id)
                continue
            assert got.kind == PUBLISH, got
            found.append(got)
            if got.qos:
                self.ack(PUBACK if got.qos == 1 else PUBREC, got.id)
            if got.qos == 2:
                open_ids.add(got.id)
        assert len(found) == count
        return found

    def payloads(self, count: int) -> list[bytes]:
        return [each.payload for each in self.take_all(count)]

    def expect_nothing(self) -> None:
        """The server owed nothing before the answer to this PINGREQ."""
        self.send(packet(PINGREQ << 4))
        self.expect(PINGRESP)


class Clients:
    """Opens clients, closes them all at the end."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self._opened: list[Placed] = []
        self._pids = [broker.pid(f"worker-{index}") for index in range(broker.workers)]

    def connect(
        self, client_id: str = "", version: int = 5, worker: int = 0, *, durable: bool = False, **options: Any
    ) -> Placed:
        """`durable`: a session that is resumed and outlives the connection."""
        client = self.open(version, worker)
        client.client_id = client_id or new_name()
        if durable:
            options.setdefault("clean", False)
            if version == 5:
                options.setdefault("session_expiry", 1000)
        client.connack = client.connect(client.client_id, **options)
        return client

    def open(self, version: int = 5, worker: int = 0) -> Placed:
        """A connection to `worker`, nothing sent yet. The kernel places connections: try until it is the right one."""
        for _ in range(TRIES):
            client = Placed(self.broker.port, version)
            if self._is_with(client, worker):
                self._opened.append(client)
                return client
            client.abort()
        raise AssertionError(f"no connection came to worker {worker}")

    def close(self) -> None:
        for client in self._opened:
            client.abort()

    def _is_with(self, client: Client, worker: int) -> bool:
        wanted = f"socket:[{self._inode(client)}]"
        return any(_link(each) == wanted for each in Path(f"/proc/{self._pids[worker]}/fd").iterdir())

    def _inode(self, client: Client) -> int:
        """Of the broker's end of the connection, once it is accepted: sock_diag(7), inet_diag.h."""
        (here, from_port), (there, to_port) = client.socket.getsockname(), client.socket.getpeername()
        ends = struct.pack(">HH4s12x4s12x", to_port, from_port, socket.inet_aton(there), socket.inet_aton(here))
        question = struct.pack("=BBBxI", socket.AF_INET, socket.IPPROTO_TCP, 0, 0xFFFFFFFF) + ends
        question += struct.pack("=IQ", 0, 0xFFFFFFFFFFFFFFFF)
        head = struct.pack("=IHHII", 16 + len(question), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 0, 0)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:

            def accepted() -> int:
                kernel.send(head + question)
                answer = kernel.recv(8192)
                return struct.unpack_from("=I", answer, 84)[0] if len(answer) > 88 else 0

            return int(wait_for(accepted, what="the connection is not accepted"))


def _link(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
