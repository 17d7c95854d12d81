"""ZeroMQ between hosts: what channel.py decides, over CURVE.

One ROUTER at interconnect.bind receives from all peers; one DEALER for each peer sends to it. A connection is accepted if its
key is a member's, and a message is from the member whose key the connection has, whatever else it says. The ROUTER sends one thing
only: to who is a member no more, that it is. A refused handshake does not say it: anybody at the peer's address can refuse one.

All runs in greenlets of one thread, and the handler is called from one of them: it must not block. One greenlet receives, tells the
time to the channels, and judges peers only after it has read what they sent: a pause of this process evicts nobody. Another one
sends. ZeroMQ may stop connecting for good after a refused handshake, so a link that is not open is dialled anew.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import gevent
import msgspec
import zmq
from gevent.event import Event

from mesh import addresses, channel, frames, greenlets, life, zap
from mesh.channel import Change, Channel, Down, Party
from mesh.detector import STANDSTILL_MS
from mesh.identity import Identity
from mesh.life import Life
from mesh.membership import Member, Membership, is_address

TICK_MS = 50
TURN_MESSAGES = 16  # received before other greenlets have their turn
TURNS_MAX = 16  # before a tick that is due
SEND_MESSAGES = 8  # of at most 128 KiB each, that ZeroMQ holds for a peer
CONNECT_MS = 2000
RECONNECT_MS, RECONNECT_MS_MAX = 100, 1000  # by ZeroMQ, of one socket
DIAL_MS, DIAL_MS_MAX = 1000, 4000  # with a new socket
LINGER_MS = 100  # at the end, for what was said last
DIAL_HEARD_MS = 300  # when the peer reaches us and we do not reach it

LEFT = "left: the peer is no longer a member"


class Handler(Protocol):
    """The user of a transport. `up` says: send anew all that the peer has not acknowledged, or, after `suspect`: go on.

    `stood_still` is said before anything of peers who may have evicted us meanwhile. `removed`: this host, by this table, as JSON.
    """

    def frame(self, node_id: bytes, kind: int, body: bytes) -> None: ...
    def up(self, node_id: bytes) -> None: ...
    def suspect(self, node_id: bytes) -> None: ...
    def down(self, node_id: bytes, reason: str) -> None: ...
    def stood_still(self, for_s: float) -> None: ...
    def removed(self, node_id: bytes, table: bytes) -> None: ...


@dataclass(slots=True)
class Counters:
    """Of one peer; totals are since the start of this process."""

    state: str = "down"  # down, up, suspect, evicted
    address: str = ""
    frames_in: int = 0
    frames_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    queue_bytes: int = 0
    refused_sends: int = 0  # not up, or the queue was full
    opened: int = 0
    late_batches: int = 0
    rtt_ms: float | None = None
    version: int = 0
    incarnation: int = 0
    trouble: str = ""
    life_port: bool = False  # open: the peer's death would be noticed at once
    refusals: int = 0  # times that the peer turned out not to fit to this host


class Peer:
    """A member, its channel, and the socket that sends to it."""

    def __init__(self, member: Member, link: Channel) -> None:
        self.member = member
        self.channel = link
        self.counters = Counters()
        self.socket: zap.Socket | None = None
        self.monitor: zap.Socket | None = None  # says that a handshake was refused
        self.watcher: gevent.hub.loop.io | None = None
        self.dialled_ms = 0.0
        self.dial_at_ms = 0.0
        self.dial_wait_ms = DIAL_MS
        self.dialling = False
        self.reached = ""  # the IP address and port that were dialled
        self.life = Life()

    def writable(self) -> bool:
        return self.socket is not None and bool(zap.events(self.socket) & zap.POLLOUT)

    def leads_nowhere(self) -> bool:
        return self.socket is None or not self.channel.open

    def hang_up(self, linger_ms: int = 0) -> None:
        if self.watcher is not None:
            self.watcher.stop()
            self.watcher.close()
        if self.monitor is not None and self.socket is not None:
            self.socket.disable_monitor()
            self.monitor.close()
        if self.socket is not None:
            self.socket.close(linger_ms)
        self.socket = self.watcher = self.monitor = None

    def look_for_refusal(self) -> None:
        while self.monitor is not None and zap.events(self.monitor) & zap.POLLIN:
            self.monitor.recv_multipart()
            self.channel.trouble = channel.NO_MEMBER

    def answers(self) -> Iterator[bytes]:
        while self.socket is not None and zap.events(self.socket) & zap.POLLIN:
            yield self.socket.recv(zmq.NOBLOCK)


def now_ms() -> float:
    return time.monotonic() * 1000


class Transport:
    def __init__(
        self, identity: Identity, membership: Membership, bind: str, handler: Handler, *, incarnation: int = 0,
        release: str = "",
    ) -> None:  # fmt: skip
        self._identity = identity
        own = membership.members.get(identity.node_id)
        self._party = Party(identity.node_id, membership.cluster_id, incarnation, own.address if own else "", release)
        self._handler = handler
        self._source = addresses.source(bind)
        self._peers: dict[bytes, Peer] = {}
        self._by_key: dict[str, Peer] = {}
        self._left: dict[str, bytes] = {}  # by key: what is answered to who is a member no more
        self.strangers = 0  # their messages
        self._context = zap.context()
        self._authenticator = zap.Authenticator(
            self._context, "mesh", lambda key: key in self._by_key or key in self._left
        )
        try:
            self._router = zap.server(self._context, "mesh", bind, identity.secret_key, frames.MESSAGE_BYTES_MAX)
        except zap.TransportError:
            self._authenticator.stop()
            self._context.term()
            raise
        self.address = self._router.getsockopt_string(zmq.LAST_ENDPOINT).removeprefix("tcp://")
        self._sendable = Event()
        self.update_members(membership)
        self._receiver, self._sender = greenlets.spawn(self._receive), greenlets.spawn(self._send)

    def stop(self) -> None:
        """Nothing more is sent or received; the handler is not called any more."""
        gevent.killall([self._receiver, self._sender])
        for peer in self._peers.values():
            peer.hang_up(LINGER_MS)
        self._peers.clear()
        self._router.close()
        self._authenticator.stop()
        self._context.term()

    # -- for the user -------------------------------------------------------------------------------------------------------

    def hear_no_more(self) -> None:
        """Only what is to be said last is still sent. Not from within the handler."""
        self._receiver.kill()

    def send(self, node_id: bytes, kind: int, *body: bytes) -> bool:
        """A body, of parts: ordered and complete as long as the peer is up. False: it is not, or too much waits; try again
        after its answers."""
        peer = self._peers.get(node_id)
        if peer is None:
            return False
        if not peer.channel.queue(kind, *body):
            peer.counters.refused_sends += 1
            return False
        peer.counters.frames_out += 1
        self._sendable.set()
        return True

    def stopped(self, node_id: bytes) -> None:
        """The peer said that its host stops: it is evicted within 50 ms."""
        if node_id in self._peers:
            self._peers[node_id].life.stopped()

    def use_key(self, identity: Identity) -> None:
        """This host has other keys now, which its peers accept already: all connections are made anew at once."""
        self._identity = identity
        self._router.unbind(f"tcp://{self.address}")
        self._router.setsockopt(zmq.CURVE_SECRETKEY, identity.secret_key.encode())
        greenlets.spawn(partial(zap.bind_again, self._router, self.address))
        for peer in list(self._peers.values()):
            self._redial(peer)

    def _redial(self, peer: Peer) -> None:
        peer.hang_up()
        self._tell(peer, peer.channel.lost())
        peer.dial_at_ms = 0.0

    def refuse(self, node_id: bytes, why: str) -> None:
        """The handler does not understand what this peer says: no link with it until it has started anew."""
        if (peer := self._peers.get(node_id)) is not None:
            self._tell(peer, peer.channel.refuse(why))

    def counters(self) -> dict[bytes, Counters]:
        for peer in self._peers.values():
            counters, link = peer.counters, peer.channel
            counters.state, counters.address = link.state, peer.member.address
            counters.queue_bytes, counters.late_batches = link.queue_bytes, link.late
            counters.rtt_ms, counters.trouble = link.rtt_ms, link.trouble
            counters.life_port = peer.life.listens
            counters.version, counters.incarnation, counters.refusals = link.version, link.incarnation, link.refusals
        return {node_id: peer.counters for node_id, peer in self._peers.items()}

    @property
    def refused(self) -> int:
        """Handshakes with a key that is no member's."""
        return self._authenticator.refused

    def update_members(self, membership: Membership) -> None:
        """Who is accepted and dialled from now on."""
        members = {each.node_id: each for each in membership.active() if each.node_id != self._identity.node_id}
        for node_id in [node_id for node_id in self._peers if node_id not in members]:
            peer = self._peers.pop(node_id)
            self._send_to(peer)
            peer.hang_up(LINGER_MS)
            self._handler.down(node_id, LEFT)
        for node_id, member in members.items():
            peer = self._peers.setdefault(node_id, Peer(member, self._channel(node_id)))
            if peer.member.public_key == member.next_key:
                member = _with_next_key(member)  # it uses it already, and this table is older
            if (peer.member.address, peer.member.public_key) != (member.address, member.public_key):
                peer.member = member
                peer.channel.address = ""
                self._redial(peer)
            peer.member = member
        self._by_key = {
            key: peer for peer in self._peers.values() for key in (peer.member.public_key, peer.member.next_key) if key
        }
        self._left = {each.public_key: membership.only(each.node_id).to_json() for each in membership.left()}

    def _channel(self, peer_id: bytes) -> Channel:
        return Channel(self._party, peer_id, lambda: secrets.randbits(64) or 1, now_ms())

    # -- in ---------------------------------------------------------------------------------------------------------------

    def _receive(self) -> None:
        tick_at, turns, before = now_ms(), 0, now_ms()
        while True:
            is_readable = zap.wait_readable(self._router, max(tick_at - now_ms(), 0.0) / 1000)
            stood_still_ms, before = now_ms() - before, now_ms()
            if stood_still_ms > STANDSTILL_MS:
                self._handler.stood_still(stood_still_ms / 1000)
            more = is_readable and self._drain()
            turns += 1
            if now_ms() >= tick_at and (not more or turns >= TURNS_MAX):  # first read what waits, then judge
                self._tick(now_ms())
                tick_at, turns = now_ms() + TICK_MS, 0

    def _drain(self) -> bool:
        """Receive a turn's messages; True if there may be more."""
        for _ in range(TURN_MESSAGES):
            try:
                routing_id, *parts = self._router.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return False
            for part in parts:
                self._message(routing_id, part)
        return True

    def _message(self, routing_id: zmq.Frame, part: zmq.Frame) -> None:
        key = str(part.get("User-Id"))
        peer = self._by_key.get(key)
        if peer is None:
            self.strangers += 1
            if key in self._left:
                self._router.send_multipart([routing_id, self._left[key]], zmq.NOBLOCK)
            return
        if key == peer.member.next_key:
            peer.member = _with_next_key(peer.member)
            self._redial(peer)
        peer.counters.bytes_in += len(part)
        self._tell(peer, peer.channel.received(now_ms(), part.buffer))
        if not peer.channel.open and not peer.writable():
            peer.dial_at_ms = min(peer.dial_at_ms, peer.dialled_ms + DIAL_HEARD_MS)

    def _tick(self, now: float) -> None:
        for peer in list(self._peers.values()):
            peer.look_for_refusal()
            for answer in peer.answers():
                self._handler.removed(peer.member.node_id, answer)
            self._tell(peer, peer.channel.tick(now))
            if (proof := peer.life.proof()) is not None:
                self._tell(peer, peer.channel.gone(now, proof))
            if peer.channel.state != "evicted" and peer.life.due(now, peer.channel.silent_ms(now)):
                greenlets.spawn(partial(self._ask, peer))
            if peer.leads_nowhere() and now >= peer.dial_at_ms and not peer.dialling:
                peer.dialling = True
                greenlets.spawn(partial(self._dial, peer))

    def _tell(self, peer: Peer, events: list[channel.Event]) -> None:
        node_id, counters = peer.member.node_id, peer.counters
        for event in events:
            if self._peers.get(node_id) is not peer:
                return  # the handler has removed it just now
            match event:
                case (kind, body):
                    counters.frames_in += 1
                    self._handler.frame(node_id, kind, body)
                case Change.UP:
                    counters.opened += 1
                    peer.life.opened()
                    peer.dial_wait_ms = DIAL_MS
                    self._handler.up(node_id)
                case Change.SUSPECT:
                    self._handler.suspect(node_id)
                case Down(reason):
                    peer.dial_at_ms = now_ms() + (0 if reason in channel.EVICTIONS else DIAL_MS)
                    self._handler.down(node_id, reason)
        if peer.channel.has_more:  # an answer, a beat
            self._sendable.set()

    # -- out --------------------------------------------------------------------------------------------------------------

    def _send(self) -> None:
        while True:
            self._sendable.wait()
            self._sendable.clear()
            for peer in list(self._peers.values()):
                self._send_to(peer)

    def _send_to(self, peer: Peer) -> None:
        while peer.writable():  # to be asked again in the end: until then ZeroMQ goes on signalling
            message = peer.channel.take(now_ms())
            if message is None:
                return
            assert peer.socket is not None
            try:
                peer.socket.send(message, zmq.NOBLOCK)
            except zmq.Again:  # the connection ended just now
                self._tell(peer, peer.channel.lost())
                return
            peer.counters.bytes_out += len(message)

    def _ask(self, peer: Peer) -> None:
        asked = peer.life
        asked.answered(life.ask(peer.reached, self._source.removesuffix(":0;").strip("[]")))

    def _dial(self, peer: Peer) -> None:
        """A new connection in the place of the present one, which leads nowhere. Who has moved has said so in its HELLO."""
        wanted = peer.channel.address if is_address(peer.channel.address) else peer.member.address
        try:
            address = addresses.resolve(wanted, self._source)
        except (OSError, UnicodeError) as error:
            peer.channel.trouble = f"{wanted} leads to no address: {error}"
            address = ""
        peer.dialling = False
        now = now_ms()
        peer.dialled_ms = now
        peer.dial_at_ms = now + peer.dial_wait_ms * random.uniform(1, 1.5)
        peer.dial_wait_ms = min(peer.dial_wait_ms * 2, DIAL_MS_MAX)
        if address and peer.leads_nowhere() and self._peers.get(peer.member.node_id) is peer:
            peer.hang_up()
            if address != peer.reached:
                peer.reached, peer.life = address, Life()
            peer.socket = self._socket(peer.member.public_key, is_ipv6="[" in address)
            peer.monitor = peer.socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
            peer.socket.connect(f"tcp://{self._source}{address}")
            peer.watcher = gevent.get_hub().loop.io(peer.socket.getsockopt(zmq.FD), 1)
            peer.watcher.start(self._sendable.set)

    def _socket(self, public_key: str, is_ipv6: bool) -> zap.Socket:
        socket = self._context.socket(zmq.DEALER)
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.IPV6, is_ipv6),
            (zmq.IMMEDIATE, 1),  # nothing waits for a connection that is not there
            (zmq.SNDHWM, SEND_MESSAGES),
            (zmq.CURVE_SERVERKEY, public_key.encode()),
            (zmq.CURVE_PUBLICKEY, self._identity.public_key.encode()),
            (zmq.CURVE_SECRETKEY, self._identity.secret_key.encode()),
            (zmq.HANDSHAKE_IVL, zap.HANDSHAKE_MS),
            (zmq.CONNECT_TIMEOUT, CONNECT_MS),
            (zmq.RECONNECT_IVL, RECONNECT_MS),
            (zmq.RECONNECT_IVL_MAX, RECONNECT_MS_MAX),
        ):
            socket.setsockopt(option, value)
        return socket


def _with_next_key(member: Member) -> Member:
    return msgspec.structs.replace(member, public_key=member.next_key, next_key="")
