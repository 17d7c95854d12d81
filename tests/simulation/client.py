"""Simulated clients with durable sessions, and the ledger of what they were promised."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.simulation.world import World

if TYPE_CHECKING:
    from tests.simulation.host import Host
    from tests.simulation.worker import Connection

PACKET_IDS = range(1, 12)
CONNECT_MS = 4000
NEVER = 0xFFFFFFFF


@dataclass
class Message:
    id: str
    publisher: str
    topic: str
    qos: int
    retain: bool
    number: int  # of the publisher
    due: set[str]  # client ids whose subscription was acknowledged before it was sent
    sent_ms: float
    deletes: bool  # what is retained
    acked_ms: float = float("inf")
    released: bool = False  # PUBREC is here
    places: set[str] = field(default_factory=set)  # hosts that it was sent to


class Ledger:
    def __init__(self) -> None:
        self.messages: dict[str, Message] = {}
        self.subscribed: dict[str, set[str]] = {}  # topic -> client ids
        self.delivered: dict[str, list[str]] = {}  # client id -> message ids
        self.all_know = True  # what is acknowledged: no host serves clients on another side of a cut

    def owes_no_more(self, cid: str, topic: str | None = None) -> None:
        """Nothing more that is not acknowledged yet and, if its session may be over (no `topic`), nothing at all."""
        for name, cids in self.subscribed.items():
            if topic in (None, name):
                cids.discard(cid)
        for message in self.messages.values():
            if topic is None or (message.topic == topic and message.acked_ms == float("inf")):
                message.due.discard(cid)

    def lost(self) -> list[str]:
        return [
            f"{message.id} ({message.topic}, QoS {message.qos}) was acknowledged and never reached {cid}"
            for message in self.messages.values()
            if message.acked_ms < float("inf")
            for cid in sorted(message.due)
            if message.id not in self.delivered[cid]
        ]

    def stale(self, retained: dict[str, str], wild: bool) -> list[str]:
        """Topics that retain what its publisher knew to be stored before another one was sent. `retained`: topic -> message.

        Not where there were deletions in a "wild" run: what was on another side of a cut stays.
        """
        found = []
        for topic in {message.topic for message in self.messages.values() if message.retain}:
            tried = [each for each in self.messages.values() if each.retain and each.topic == topic]
            acked = [each for each in tried if each.acked_ms < float("inf")]
            if wild and any(each.deletes for each in tried):
                continue
            id = retained.get(topic)
            may_be = [self.messages[id]] if id is not None else [each for each in tried if each.deletes]
            if acked and all(any(later.sent_ms > each.acked_ms for later in acked) for each in may_be):
                found.append(f"{topic} retains {id}, behind which another message was acknowledged")
        return found

    def twice(self) -> list[str]:
        return [
            f"{id} reached {cid} {ids.count(id)} times"
            for cid, ids in self.delivered.items()
            for id in dict.fromkeys(ids)
            if self.messages[id].qos == 2 and ids.count(id) > 1
        ]

    def disordered(self, sent_by: str = "") -> list[str]:
        """First deliveries, for each publisher, topic, QoS and subscriber. `sent_by`: of those that this publisher, which went to
        several sides of a cut, has sent to the same host, and to no other."""
        found = []
        for cid, ids in self.delivered.items():
            last: dict[tuple[str, str, int, str], int] = {}
            for id in dict.fromkeys(ids):
                message = self.messages[id]
                if cid not in message.due:
                    continue  # subscribed meanwhile: a copy sent again may come
                if sent_by and (message.publisher != sent_by or len(message.places) > 1):
                    continue
                key = message.publisher, message.topic, message.qos, min(message.places) if sent_by else ""
                if message.number < last.get(key, 0):
                    found.append(f"{id} reached {cid} behind a later one")
                last[key] = max(message.number, last.get(key, 0))
        return found


class Client:
    def __init__(self, world: World, hosts: list[Host], ledger: Ledger, cid: str) -> None:
        self.cid = cid
        self.expiry_s = NEVER
        self.will: dict[str, Any] | None = None  # of its next connection
        self.early_ms = 0  # its session may expire so much before its time
        self.is_strict = True  # no fault may change its session
        self.subscriptions: dict[str, int] = {}  # topic -> the session for which that was acknowledged
        self.over: set[int] = set()  # sessions before its last one
        self.left_ms = 0.0  # when its last connection that was granted ended
        self._world, self._hosts, self._ledger = world, hosts, ledger
        self.connection: Connection | None = None
        self.is_connected = False
        self._had_session = 0
        self._born_ms: dict[int, float] = {}  # session -> when it was asked for
        self._unsubscribed_ms: dict[str, float] = {}  # topic -> when that was acknowledged; inf: it is not yet
        self._asked_ms = 0.0
        self._is_unsure = False  # it has asked for a clean start, and left before it was told that it had it
        self._open: dict[int, Message] = {}  # by packet id, in the order of the first sending
        self._received: set[int] = set()
        self._came: set[str] = set()  # QoS 2 messages, on this connection
        self._number = 0
        ledger.delivered[cid] = []

    # -- what it does -----------------------------------------------------------------------------------------------------

    def connect(self, host: Host, clean: bool = False) -> None:
        self._world.say(f"{self.cid} connects at {host}" + " with a clean start" * clean)
        self.leave(self._world.chance(0.3))
        if host.worker is not None:
            connection = self.connection = host.worker.connect(self, clean)
            self._asked_ms = self._world.now
            self._world.at(CONNECT_MS, lambda: self._give_up(connection))

    def _give_up(self, connection: Connection) -> None:
        if self.connection is connection and not self.is_connected:
            self._world.say(f"{self.cid} gives up waiting at {connection.worker.host}")
            self.leave(False)

    def leave(self, half_open: bool) -> None:
        """`half_open`: nobody tells the host."""
        connection = self.connection
        self._disconnected()
        if connection is not None:
            connection.out.end()
            if half_open:
                connection.back.end()
            else:
                connection.back.send(("gone",))

    def publish(self, topic: str, qos: int, retain: bool, deletes: bool = False) -> None:
        free = [each for each in PACKET_IDS if each not in self._open]
        if not free or not self.is_connected:
            return
        self._number += 1
        due = set(self._ledger.subscribed.get(topic, ()))
        id, now_ms = f"{self.cid}-{self._number}", self._world.now
        message = Message(id, self.cid, topic, qos, retain, self._number, due, now_ms, deletes)
        self._ledger.messages[message.id] = message
        self._open[free[0]] = message
        self._send(free[0], message)

    def subscribe(self, topic: str) -> None:
        if self.is_connected and self.connection is not None:
            self._unsubscribed_ms.pop(topic, None)
            self.connection.back.send(("subscribe", topic))

    def unsubscribe(self, topic: str) -> None:
        if self.is_connected and self.connection is not None:
            self.subscriptions.pop(topic, None)
            self._unsubscribed_ms[topic] = float("inf")
            self._ledger.owes_no_more(self.cid, topic)
            self.connection.back.send(("unsubscribe", topic))

    def _send(self, packet_id: int, message: Message) -> None:
        assert self.connection is not None
        if message.released:
            self.connection.back.send(("pubrel", packet_id))
            return
        self._world.say(f"{self.cid} sends {message.id} QoS {message.qos} to {message.topic}, packet id {packet_id}")
        message.places.add(str(self.connection.worker.host))
        payload = "" if message.deletes else message.id
        packet = ("publish", packet_id, message.qos, message.topic, payload, message.retain)
        self.connection.back.send(packet)

    @property
    def is_done(self) -> bool:
        return self.is_connected and not self._open

    @property
    def held(self) -> set[int]:
        """Packet ids of QoS 2 messages that it has, until PUBREL: another message under one of them would be lost."""
        return self._received

    # -- what comes ---------------------------------------------------------------------------------------------------------

    def packet(self, connection: Connection, kind: str, *arguments: Any) -> None:
        if connection is self.connection:
            getattr(self, f"_on_{kind}")(*arguments)

    def _answer(self, *packet: Any) -> None:
        assert self.connection is not None
        connection = self.connection
        self._world.at(self._world.random.choice([0, 1, 1, 40]), lambda: connection.back.send(packet))

    def _on_closed(self) -> None:
        self._disconnected()

    def _disconnected(self) -> None:
        if self.is_connected:
            self.left_ms = self._world.now
        elif self.connection is not None and self.connection.clean:
            self._is_unsure = True
        self.connection, self.is_connected = None, False
        self._came.clear()

    def _on_connack(self, present: bool, sid: int) -> None:
        self._world.say(f"{self.cid} is connected, session {sid:x}")
        self._judge(present, sid)
        if sid != self._had_session:
            self._open.clear()
            self._received.clear()
            self._ledger.owes_no_more(self.cid)
            self._unsubscribed_ms.clear()
        if not present:
            self.over |= self._born_ms.keys()
            assert self.connection is not None
            is_alone = (
                self.connection.clean or self.is_strict
            )  # else it may get what another one has, of another side of a cut
            self._born_ms[sid] = self._asked_ms if is_alone else 0
        self._born_ms.setdefault(sid, 0)
        self._had_session = sid
        self.is_connected = True
        for packet_id, message in self._open.items():
            self._send(packet_id, message)

    def _judge(self, present: bool, sid: int) -> None:
        """May the server say so?"""
        had, connection = self._had_session, self.connection
        assert connection is not None
        may_be_over = self._world.now - self.left_ms >= self.expiry_s * 1000 - self.early_ms
        if connection.clean:
            is_right = not present
        elif not present:
            is_right = not had or may_be_over or (not self.is_strict and self.expiry_s != NEVER)
        else:
            is_right = sid == had or self._is_unsure or may_be_over or not self.is_strict
        if present and may_be_over and not self.is_strict:
            self.over.discard(sid)  # those after it have expired, on another side of a cut
        if not is_right or (self.is_strict and sid in self.over):
            self._world.fault(f"session of {self.cid} is lost: {had:x}, now {sid:x}, present {present}")

    def _on_suback(self, topic: str) -> None:
        self._world.say(f"{self.cid} has subscribed to {topic}")
        if topic in self._unsubscribed_ms:
            return
        self.subscriptions[topic] = self._had_session
        if self._ledger.all_know:
            self._ledger.subscribed.setdefault(topic, set()).add(self.cid)

    def _on_unsuback(self, topic: str) -> None:
        self._world.say(f"{self.cid} has unsubscribed from {topic}")
        if topic in self._unsubscribed_ms:
            self._unsubscribed_ms[topic] = self._world.now

    def _on_puback(self, packet_id: int) -> None:
        message = self._open.get(packet_id)
        if message is not None and message.qos == 1:
            message.acked_ms = self._world.now
            del self._open[packet_id]

    def _on_pubrec(self, packet_id: int) -> None:
        message = self._open.get(packet_id)
        if message is not None and message.qos == 2:
            message.acked_ms = min(message.acked_ms, self._world.now)
            message.released = True
            self._answer("pubrel", packet_id)

    def _on_pubcomp(self, packet_id: int) -> None:
        message = self._open.get(packet_id)
        if message is not None and message.released:
            del self._open[packet_id]

    def _on_publish(self, packet_id: int, qos: int, id: str) -> None:
        self._world.say(f"{self.cid} gets {id} QoS {qos}, packet id {packet_id}")
        message = self._ledger.messages[id]
        if message.acked_ms < self._born_ms[self._had_session]:
            self._world.fault(f"{id} reached {self.cid}, whose session began later")
        if self._ledger.all_know and message.sent_ms > self._unsubscribed_ms.get(message.topic, float("inf")):
            self._world.fault(f"{id} reached {self.cid}, which had unsubscribed from {message.topic} before")
        if qos == 1:
            self._ledger.delivered[self.cid].append(id)
            self._answer("puback", packet_id)
            return
        if packet_id not in self._received:
            self._received.add(packet_id)
            is_numbered_once = len(self._hosts) == 2  # of more sides each may have done that
            if is_numbered_once and id in self._came and len(message.places) == 1:
                self._world.fault(f"{id} reached {self.cid} twice on one connection")
            self._came.add(id)
            self._ledger.delivered[self.cid].append(id)
        self._answer("pubrec", packet_id)

    def _on_pubrel(self, packet_id: int) -> None:
        self._world.say(f"{self.cid} releases packet id {packet_id}")
        self._received.discard(packet_id)
        self._answer("pubcomp", packet_id)
