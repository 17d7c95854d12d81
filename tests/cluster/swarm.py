"""Clients of MQTT 5 by the thousand in one thread: a durable session and a subscription each, to the topic of its own name.

Message n of a topic has the payload n, and each client counts what comes. It goes to another host when its own one sends it there.
"""

from __future__ import annotations

import select
import socket
import threading
from collections import Counter, deque

from tests.cluster.network import CLI, Network
from tests.mqtt import (
    CONNACK,
    DISCONNECT,
    PUBACK,
    PUBLISH,
    SUBACK,
    Client,
    Packet,
    connect_packet,
    packet,
    properties,
    taken,
    text,
)  # fmt: skip

HANDSHAKES = 100  # at a time
WINDOW = 100  # messages that wait for their acknowledgements
VERSION = 5


class Member:
    """One client: `came` is the number of the message that comes next."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.socket: socket.socket | None = None
        self.data = bytearray()
        self.came = self.connects = 0
        self.next: tuple[str, int] | None = None  # host that it was sent to
        self.is_ready = False


class Swarm(threading.Thread):
    """Until `stop`. `errors`: sessions that were gone, messages that were, hosts that refused; `ends`: why connections ended."""

    def __init__(self, network: Network, prefix: str, count: int, address: tuple[str, int]) -> None:
        super().__init__(daemon=True)
        self.network = network
        self.members = [Member(f"{prefix}{number}") for number in range(count)]
        self.errors: list[str] = []
        self.ends: Counter[int] = Counter()
        self.repeats = 0
        self._waiting = deque((member, address) for member in self.members)
        self._handshakes = 0
        self._by_descriptor: dict[int, Member] = {}
        self._stopping = False

    def __enter__(self) -> Swarm:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        self.join(30)

    @property
    def ready(self) -> int:
        return sum(each.is_ready for each in self.members)

    @property
    def least(self) -> int:
        """Messages that every client has."""
        return min(each.came for each in self.members)

    @property
    def homes(self) -> Counter[str]:
        """Address of the host to the number of its clients."""
        return Counter(each.socket.getpeername()[0] for each in self.members if each.socket and each.is_ready)

    def run(self) -> None:
        self.network.inside(CLI, self._serve)

    def _serve(self) -> None:
        with select.epoll() as self._epoll:
            while not self._stopping:
                while self._waiting and self._handshakes < HANDSHAKES:
                    self._connect(*self._waiting.popleft())
                for descriptor, _ in self._epoll.poll(0.05):
                    self._receive(self._by_descriptor[descriptor])
            for member in self._by_descriptor.values():
                member.socket.close()

    def _connect(self, member: Member, address: tuple[str, int]) -> None:
        try:
            member.socket = socket.create_connection(address, 10)
        except OSError as error:
            self.errors.append(f"{member.name}: {address}: {error}")
            return
        member.data.clear()
        member.socket.sendall(connect_packet(member.name, clean=False, session_expiry=600))
        self._handshakes += 1
        self._by_descriptor[member.socket.fileno()] = member
        self._epoll.register(member.socket, select.EPOLLIN)

    def _receive(self, member: Member) -> None:
        try:
            data = member.socket.recv(65536)
        except ConnectionError:
            data = b""
        member.data += data
        while (found := taken(member.data, VERSION)) is not None:
            self._packet(member, found)
        if not data:
            self._end(member)

    def _packet(self, member: Member, found: Packet) -> None:
        if found.kind == CONNACK:
            self._connected(member, found)
        elif found.kind == SUBACK:
            self._ready(member)
        elif found.kind == PUBLISH:
            self._message(member, int(found.payload))
            member.socket.sendall(packet(PUBACK << 4, found.id.to_bytes(2, "big")))
        elif found.kind == DISCONNECT:
            self.ends[found.reason] += 1
            host, _, port = str(found.properties.get("server_reference", "")).split(" ")[0].rpartition(":")
            member.next = (host, int(port)) if host else None

    def _connected(self, member: Member, found: Packet) -> None:
        if found.reason or found.session_present != bool(member.connects):
            self.errors.append(f"{member.name}: connect {member.connects}: {found.reason:#x}, {found.session_present}")
        member.connects += 1
        if found.session_present:
            self._ready(member)
        else:
            member.socket.sendall(packet(0x82, b"\0\1" + properties() + text(member.name) + b"\1"))

    def _ready(self, member: Member) -> None:
        member.is_ready = True
        self._handshakes -= 1

    def _message(self, member: Member, number: int) -> None:
        if number > member.came:
            self.errors.append(f"{member.name}: message {number} came before {member.came}")
        self.repeats += number < member.came
        member.came = max(member.came, number + 1)

    def _end(self, member: Member) -> None:
        """It goes where it was sent."""
        self._epoll.unregister(member.socket)
        del self._by_descriptor[member.socket.fileno()]
        member.socket.close()
        if not member.is_ready:
            self._handshakes -= 1
        member.is_ready = False
        if member.next is None:
            self.errors.append(f"{member.name}: its connection ended, and it was not told where to go")
        else:
            self._waiting.append((member, member.next))
            member.next = None


def publish_round(publisher: Client, swarm: Swarm, number: int) -> None:
    """Message `number` to each of them; all are acknowledged when it returns."""
    waiting = 0
    for at, member in enumerate(swarm.members):
        publisher.publish(member.name, b"%d" % number, 1, id=at % 65535 + 1)
        waiting += 1
        if waiting == WINDOW:
            acknowledged(publisher, waiting)
            waiting = 0
    acknowledged(publisher, waiting)


def acknowledged(publisher: Client, count: int) -> None:
    for _ in range(count):
        assert publisher.receive().reason in (0, 0x10)
