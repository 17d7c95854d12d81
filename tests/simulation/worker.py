"""A simulated worker: its side of docs/internals.md, towards the keeper and towards its clients.

It reads queues from the store, as the real one does, and lets nothing out that the keeper has not committed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from node.keeper.keeper import COMMITTED, HELLO, OPS, WAKE
from node.sessions.claim import Claim
from node.sessions.outbox import EVENT, REPLY, REQUEST
from storage.layout import Subscription, u64
from storage.writer import parse_entry
from tests.simulation.host import Host, Pipe, SimKeeper, decode, encode
from tests.simulation.invariants import are_in_step
from tests.simulation.world import Wire

if TYPE_CHECKING:
    from tests.simulation.client import Client

PUBLISH, DONE, RECEIVED, RELEASED = 1, 2, 3, 4
WINDOW = 4
Done = Callable[[bool, Any], None]


def message(topic: str, payload: str, qos: int, retain: bool, now_ms: int) -> bytes:
    name, content = topic.encode(), payload.encode()
    return struct.pack("<BQQHHII", qos | retain << 2, now_ms, 0, len(name), 0, 0, len(content)) + name + content


def payload_of(record: bytes) -> str:
    return record[29 + int.from_bytes(record[17:19], "little") :].decode()


def operation(kind: int, body: bytes) -> bytes:
    return struct.pack("<BI", kind, len(body)) + body


def claim(
    cid: str, number: int, *, clean: bool = False, expiry_s: int = 600, will: dict[str, Any] | None = None,
    at_ms: int = 1 << 62,
) -> Claim:  # fmt: skip
    """What a worker asks for when a client with a durable session connects, on its connection of that number.

    `at_ms`: when its CONNECT came, if that is long ago.
    """
    return Claim(cid, number, clean, expiry_s, None, will, at_ms)


class Connection:
    """The server's end of a client's connection."""

    def __init__(self, worker: Worker, client: Client, number: int, clean: bool) -> None:
        world = worker.host.world
        self.worker, self.client, self.number, self.clean = worker, client, number, clean
        self.since = world.now
        self.sid = self.position = self.sent_before = self.until = 0
        self.present = self.closed = self.claimed = False
        self.will = "keep" if client.will else "drop"  # at its end
        self.inflight: dict[int, int] = {}  # packet id -> qseq
        self.out = Wire(world, lambda packet: client.packet(self, *packet), 3)
        self.back = Wire(world, self._packet, 3, worker.host)

    def _packet(self, packet: tuple[Any, ...]) -> None:
        if not self.closed:
            getattr(self, f"_on_{packet[0]}")(*packet[1:])

    def send(self, *packet: Any) -> None:
        if not self.closed:
            self.out.send(packet)

    def close(self) -> None:
        if not self.closed:
            self.worker.closed(self)
            self.closed = True
            self.back.end()
            self.out.send(("closed",))

    # -- the client publishes ---------------------------------------------------------------------------------------------

    def _on_publish(self, packet_id: int, qos: int, topic: str, payload: str, retain: bool) -> None:
        worker = self.worker
        targets = worker.targets(topic, qos)
        answer = "puback" if qos == 1 else "pubrec"
        if qos == 1 and not targets and not retain:
            self.send(answer, packet_id)
            return
        head = struct.pack("<QHQQQH", self.sid, packet_id if qos == 2 else 0, 0, 0, 0, len(targets))
        record = message(topic, payload, qos, retain, worker.now_ms())
        worker.operate(operation(PUBLISH, head + b"".join(targets) + record), lambda: self.send(answer, packet_id))

    def _on_pubrel(self, packet_id: int) -> None:
        body = struct.pack("<QH", self.sid, packet_id)
        self.worker.operate(operation(RELEASED, body), lambda: self.send("pubcomp", packet_id))

    def _on_subscribe(self, topic: str) -> None:
        arguments = {"sid": self.sid, "subs": [[topic, 2, 0]]}
        self.worker.call("subscribe", arguments, lambda ok, _: self.send("suback", topic) if ok else self.close())

    def _on_unsubscribe(self, topic: str) -> None:
        arguments = {"sid": self.sid, "filters": [topic]}
        self.worker.call("unsubscribe", arguments, lambda ok, _: self.send("unsuback", topic) if ok else self.close())

    # -- the client receives ----------------------------------------------------------------------------------------------

    def deliver(self, until: int) -> None:
        self.until = max(self.until, until)
        if self.closed or not self.claimed:
            return
        store = self.worker.host.keeper.store if self.worker.host.keeper is not None else None
        if store is None:
            return
        with store.environment.begin() as transaction:
            cursor = transaction.cursor(db=store.databases["queue"])
            more = cursor.set_range(u64(self.sid) + u64(self.position + 1))
            while more and len(self.inflight) < WINDOW:
                key, value = cursor.item()
                qseq = int.from_bytes(key[8:], "big")
                packet_id = 1 + qseq % 65535
                if key[:8] != u64(self.sid) or qseq > self.until or packet_id in self.inflight:
                    break
                self.position = qseq
                self._deliver_one(transaction, store, qseq, packet_id, value)
                more = cursor.next()

    def _deliver_one(self, transaction: Any, store: Any, qseq: int, packet_id: int, value: bytes) -> None:
        entry = parse_entry(value)
        assert entry is not None
        received, options, _, record, _, body = entry
        self.inflight[packet_id] = qseq
        if received:
            self.send("pubrel", packet_id)
            return
        if record is None:
            stored = transaction.get(u64(body), db=store.databases["bodies"])
            if stored is None:
                self.worker.host.world.fault(f"{self.worker.host}: body {body:x} of {self.sid:x}/{qseq:x} is missing")
                self.inflight.pop(packet_id)
                return
            record = stored[12:]
        payload, host = payload_of(record), self.worker.host
        if not host.world.minted(self.sid, qseq, payload):
            host.world.fault(f"I3: {host} sends {payload} as {self.sid:x}/{qseq:x}, which another message was")
        self.send("publish", packet_id, options & 3, payload)

    def _on_puback(self, packet_id: int) -> None:
        qseq = self.inflight.pop(packet_id, None)
        if qseq is not None:
            self.worker.operate(operation(DONE, struct.pack("<QQ", self.sid, qseq)), lambda: None)
            self.deliver(0)

    _on_pubcomp = _on_puback

    def _on_pubrec(self, packet_id: int) -> None:
        qseq = self.inflight.get(packet_id)
        if qseq is None:
            self.send("pubrel", packet_id)
            return
        body = struct.pack("<QQ", self.sid, qseq)
        self.worker.operate(operation(RECEIVED, body), lambda: self.send("pubrel", packet_id))

    def _on_disconnect(self) -> None:
        self.will = "drop"
        self.close()

    def _on_gone(self) -> None:
        self.close()


class Worker:
    def __init__(self, host: Host) -> None:
        self.host = host
        self._instance = host.world.random.getrandbits(60)
        self._pipe: Pipe | None = None
        self._wire: Wire | None = None
        self._welcomed = False
        self._clock_offset_ms = 0
        self._batches: list[tuple[int, bytes, Callable[[], None]]] = []
        self._batch = 0
        self._requests: dict[int, tuple[bytes, Done]] = {}
        self._request = 0
        self._connections = 0
        self.subscriptions: Any = None  # {(sid, filter)}, once welcome
        self.present: set[int] = set()  # sids of members of shared groups
        self.clients: dict[str, Connection] = {}
        self.all: list[Connection] = []
        self.wills: list[str] = []  # client ids of those that it has published

    # -- the keeper -------------------------------------------------------------------------------------------------------

    def keeper_came(self, keeper: SimKeeper) -> None:
        self._pipe = pipe = Pipe(self.host, self._frame)
        keeper.attach(pipe)
        self._wire = Wire(self.host.world, lambda frame: self.host.take(pipe, *frame), 0.5, self.host)
        now = self.host.world.now
        clients = [[cid, each.number, each.sid, int(now - each.since) // 1000] for cid, each in self.clients.items()]
        hello = {
            "role": "worker",
            "index": 0,
            "instance": self._instance,
            "clients": clients,
            "loaded": self.subscriptions is not None,
        }
        self._wire.send((HELLO, encode(hello)))

    def keeper_left(self) -> None:
        for wire in (self._wire, self._pipe and self._pipe.wire):
            if wire is not None:
                wire.end()
        self._pipe = self._wire = None
        self._welcomed = False

    def die(self) -> None:
        self.keeper_left()
        for connection in self.all:
            connection.closed = True
            connection.out.send(("closed",))

    def operate(self, body: bytes, done: Callable[[], None]) -> None:
        self._batch += 1
        self._batches.append((self._batch, struct.pack("<Q", self._batch) + body, done))
        if self._welcomed and self._wire is not None:
            self._wire.send((OPS, self._batches[-1][1]))

    def call(self, method: str, arguments: Any, done: Done = lambda ok, result: None) -> None:
        self._request += 1
        body = encode([self._request, method, arguments])
        self._requests[self._request] = (body, done)
        if self._welcomed and self._wire is not None:
            self._wire.send((REQUEST, body))

    def _frame(self, frame: tuple[int, bytes]) -> None:
        kind, body = frame
        if kind == COMMITTED:
            self._committed(int.from_bytes(body[:8], "little"))
        elif kind == WAKE:
            by_sid = {each.sid: each for each in self.clients.values()}
            for sid, qseq in struct.iter_unpack("<QQ", body):
                if sid in by_sid:
                    by_sid[sid].deliver(qseq)
        elif kind == REPLY:
            number, ok, result = decode(body)
            _, done = self._requests.pop(number, (b"", None))
            if done is not None:
                done(ok, result)
        elif kind == REQUEST:
            number, method, arguments = decode(body)
            getattr(self, f"_on_{method}")(**arguments)
            if self._wire is not None:
                self._wire.send((REPLY, encode([number, True, True])))
        elif kind == EVENT:
            method, arguments = decode(body)
            getattr(self, f"_on_{method}")(**arguments)

    def _committed(self, until: int) -> None:
        while self._batches and self._batches[0][0] <= until:
            self._batches.pop(0)[2]()

    def now_ms(self) -> int:
        """The store clock."""
        return self.host.times()[1] + self._clock_offset_ms

    def _on_welcome(self, committed: int, clock_offset_ms: int, **_: Any) -> None:
        self._clock_offset_ms = clock_offset_ms
        keeper = self.host.keeper
        assert keeper is not None
        assert self._wire is not None
        if self.subscriptions is None:
            _, _, stored = keeper.store.contents()
            self.subscriptions = {
                (sid, msgspec.msgpack.decode(value, type=Subscription).filter) for sid, value in stored
            }
        self._committed(committed)
        self._welcomed = True
        for _, body, _ in self._batches:
            self._wire.send((OPS, body))
        for body, _ in self._requests.values():
            self._wire.send((REQUEST, body))

    def _on_subs_changed(self, changes: list[list[Any]]) -> None:
        if self.subscriptions is None:
            return  # it will read them all
        for sid, _, _, filter, options, _ in changes:
            if options is None:
                self.subscriptions.discard((sid, filter))
            else:
                self.subscriptions.add((sid, filter))

    def _on_subscriptions_missed(self) -> None:
        keeper = self.host.keeper
        assert keeper is not None
        _, _, stored = keeper.store.contents()
        self.subscriptions &= {(sid, msgspec.msgpack.decode(value, type=Subscription).filter) for sid, value in stored}

    def _on_session_ended(self, sid: int) -> None:
        if self.subscriptions is not None:
            self.subscriptions = {each for each in self.subscriptions if each[0] != sid}

    def _on_presence(self, online: list[int], offline: list[int]) -> None:
        self.present.update(online)
        self.present.difference_update(offline)

    def _on_present(self, sids: list[int]) -> None:
        self.present = set(sids)

    def _on_publish_will(self, will_id: int, cid: str, record: bytes) -> None:
        self.wills.append(cid)
        topic = record[29 : 29 + int.from_bytes(record[17:19], "little")].decode()
        targets = self.targets(topic, record[0] & 3)
        head = struct.pack("<QHQQQH", 0, 0, will_id, 0, 0, len(targets))
        self.operate(operation(PUBLISH, head + b"".join(targets) + record), lambda: None)

    def _on_redispatch(self, sid: int, qseq: int, share: str, record: bytes) -> None:
        targets = self._member(share, record[0] & 3)
        head = struct.pack("<QHQQQH", 0, 0, 0, sid, qseq, len(targets))
        self.operate(operation(PUBLISH, head + b"".join(targets) + record), lambda: None)

    def targets(self, topic: str, qos: int) -> list[bytes]:
        """Of an operation: the sessions that have subscribed, and one member of the group `g`."""
        plain = sorted({sid for sid, filter in self.subscriptions if filter == topic})
        return [struct.pack("<QBB", sid, qos, 0) for sid in plain] + self._member(f"g/{topic}", qos)

    def _member(self, share: str, qos: int) -> list[bytes]:
        members = {sid for sid, filter in self.subscriptions if filter == f"$share/{share}"}
        if not members:
            return []
        chosen = self.host.world.random.choice(sorted(members & self.present or members))
        return [struct.pack("<QBBH", chosen, qos | 8, 0, len(share)) + share.encode()]

    def _on_takeover(self, cid: str, conn: int, reason: int) -> None:
        connection = self.clients.get(cid)
        if connection is not None and connection.number == conn:
            connection.close()

    # -- clients ----------------------------------------------------------------------------------------------------------

    def connect(self, client: Client, clean: bool) -> Connection:
        self._connections += 1
        connection = Connection(self, client, self._connections, clean)
        self.all.append(connection)
        at_ms = self.host.keeper.now_ms() if self.host.keeper is not None else 1 << 62
        arguments = claim(
            client.cid, connection.number, clean=clean, expiry_s=client.expiry_s, will=client.will, at_ms=at_ms
        )
        self.call("claim", arguments, lambda ok, result: self._claimed(connection, ok, result))
        return connection

    def _claimed(self, connection: Connection, ok: bool, result: Any) -> None:
        if not ok:
            connection.close()
            return
        connection.sid, connection.sent_before = result["sid"], result["sent"]
        connection.claimed = True
        if connection.closed:
            self._release(connection)
            return
        previous = self.clients.get(connection.client.cid)
        if previous is not None:
            previous.close()
        self.clients[connection.client.cid] = connection
        self._look_elsewhere(connection.client.cid)
        connection.send("connack", result["present"], result["sid"])
        connection.deliver(result["last_qseq"])

    def _look_elsewhere(self, cid: str) -> None:
        """I6, of a client that is let in, and stays."""
        for other in self.host.others if self.host.has_client(cid) and not self.host.world.was_cut else ():
            if other.has_client(cid) and are_in_step(self.host, other):
                self.host.world.fault(f"I6: {self.host} lets {cid} in, which is connected at {other}")

    def closed(self, connection: Connection) -> None:
        if self.clients.get(connection.client.cid) is connection:
            del self.clients[connection.client.cid]
        if connection.claimed:
            self._release(connection)
        else:
            self.call("unclaim", {"cid": connection.client.cid, "conn": connection.number})

    def _release(self, connection: Connection) -> None:
        client = connection.client
        self.call("detach", [client.cid, connection.number, client.expiry_s, connection.will, connection.position])
