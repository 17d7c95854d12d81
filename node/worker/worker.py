"""A worker: `python -m node.worker --config FILE --index I`.

Owns its share of the clients (SO_REUSEPORT), their sessions and the host's topic tree; reads the store, never writes it.
Start: counters, unix socket, keeper (HELLO, welcome), subscriptions from the store, siblings, then listeners.
The compiled core (node/core/loop.pyx) moves the messages; this file answers its calls and the keeper's.
Everything that runs in a wake-up of the core must return at once; what may block runs in a greenlet or in the thread pool.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import gevent
from gevent.event import Event

from node import counters, log
from node.auth.authenticate import Authenticator
from node.auth.authorize import Action, Authorizer
from node.auth.throttle import Throttle
from node.begin import begin_worker
from node.config import Config, run_dir
from node.core import wire
from node.core.loop import Connection, Link, Loop, Session
from node.listeners.filters import ListenError
from node.listeners.sockets import FilterFactory, filter_factory, open_listener
from node.mqtt import client as codes
from node.mqtt.auth_exchange import AuthExchange
from node.mqtt.client import Handshake
from node.mqtt.connect import Connects
from node.mqtt.ends import Ends
from node.mqtt.moves import Moves
from node.mqtt.subscribe import Subscriptions, how_many
from node.mqtt.tokens import Tokens
from node.reload import tell_changes
from node.worker.links import Links
from node.worker.requests import Requests
from node.worker.settings import Settings
from node.worker.system import System
from storage.reader import Reader

TICK_S = 0.5


class Worker:
    """The handler of the compiled core's calls, and the state that its parts share."""

    def __init__(self, config: Config, index: int) -> None:
        self.config = config
        self.index = index
        self.log = log.logger("worker", worker=index)
        self.run_dir = run_dir(config)
        self.counters = counters.Counters(self.run_dir / "counters")
        self.slot = self.counters.claim(counters.WORKER_0 + index)
        self._ticked = time.monotonic()
        self._keepers = self.counters.slot(counters.KEEPER)
        self.loop = Loop(self, self.slot, config.limits, config.shared.strategy)
        self.links = Links(self)
        self.keeper = self.links.keeper
        self.clients: dict[str, Connection] = {}
        self._denied: set[int] = set()  # numbers of connections to which a rule has denied something
        self.leaving: dict[int, list[Any]] = {}  # number -> as in HELLO: connections that are over, unconfirmed
        self.stopping = False
        self.reader: Reader = None  # opened once the keeper has made the store
        self.authenticator = Authenticator(config.auth)
        self.authorizer = Authorizer(config.auth)
        self.throttle = Throttle(config.auth.connect_rate_per_address)
        self.tokens = Tokens(self)
        self.connects = Connects(self)
        self.ends = Ends(self)
        self.moves = Moves(self)
        self.subscriptions = Subscriptions(self)
        self.auth_exchange = AuthExchange(self)
        self.requests = Requests(self)
        self.system = System(self)
        self.settings = Settings(self)
        self.factories: dict[int, FilterFactory] = {}  # by the listener's place in the configuration
        self.pool = gevent.get_hub().threadpool
        self._packets: dict[int, Callable[[Connection, bytes], None]] = {
            wire.CONNECT: self.connects.packet,
            wire.SUBSCRIBE: self.subscriptions.packet,
            wire.UNSUBSCRIBE: self.subscriptions.unsubscribe_packet,
            wire.DISCONNECT: self.ends.packet,
            wire.AUTH: self.auth_exchange.packet,
        }
        self.apply_rules()

    # -- life ---------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve until SIGTERM."""
        hub = gevent.get_hub()
        self.loop.start(hub.loop.run_callback, hub.loop._callbacks)
        watcher = hub.loop.io(self.loop.fileno(), 1)
        watcher.start(self.loop.wake)
        ticker = hub.loop.timer(TICK_S, TICK_S)
        ticker.start(self._tick)
        self.stop = Event()
        gevent.signal_handler(signal.SIGTERM, self.stop.set)
        gevent.signal_handler(signal.SIGHUP, lambda: gevent.spawn(self.reload))
        self._open_unix_socket()
        gc.freeze()  # what is here now stays: no collection looks at it again
        self.links.run()
        self.listen()
        self.moves.look()
        self._tick()  # from the moment on that it is ready, what it shows is so
        self.slot[counters.INDEX["ready"]] = 1
        self.requests.ready()
        self.log.info("ready", listeners=[each.bind for each in self.config.listeners])
        gevent.spawn(self.system.run)
        self.stop.wait()
        self._shut_down()

    def show_clients(self) -> None:
        """Call it with each change: a host that leaves waits until there is none."""
        self.slot[counters.INDEX["clients_connected"]] = len(self.clients)

    def _tick(self) -> None:
        counters.beat(self.slot)
        self.loop.tick()
        self.tokens.tick()
        self.loop.refuses_publish = self.refuses("publish")
        gauge = counters.INDEX
        self.slot[gauge["keeper_connected"]] = int(self.keeper.link is not None)
        self.slot[gauge["siblings_connected"]] = self.links.sibling_count
        for place, listener in enumerate(self.config.listeners[: counters.LISTENERS_MAX]):
            self.slot[counters.LISTENER_0 + place] = self.loop.connections_at(listener)
            expires_at = self.factories[place].certificate_expires_at if place in self.factories else None
            self.slot[counters.CERTIFICATE_0 + place] = int(expires_at or 0)
        now = time.monotonic()
        self.slot[gauge["loop_lag_us"]] = max(0, int((now - self._ticked - TICK_S) * 1e6))
        self._ticked = now
        if self.slot[gauge["ready"]]:
            self.moves.look()

    def _open_unix_socket(self) -> None:
        path = self.run_dir / f"worker-{self.index}.sock"
        path.unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listening.setblocking(False)
        listening.bind(os.fspath(path))
        listening.listen(128)
        self.loop.accept_links(listening)

    def listen(self) -> None:
        """Accept clients."""
        self.factories.clear()
        for place, listener in enumerate(self.config.listeners):
            if listener.type == "unix" and self.index:
                continue  # a path has one owner
            factory = filter_factory(listener, self.config.limits)
            self.factories[place] = factory
            plain = listener.type in ("tcp", "unix") and listener.proxy_protocol == "off"
            for listening in open_listener(listener):
                self.loop.listen(listening, listener, None if plain else factory)

    def deafen(self) -> None:
        """Accept no more clients, but siblings and the admin process."""
        self.loop.unlisten()
        self._open_unix_socket()

    def _shut_down(self) -> None:
        """Tell everybody, let it be flushed, and go."""
        self.stopping = True
        self.slot[counters.INDEX["ready"]] = 0
        self.loop.unlisten()
        for connection in list(self.clients.values()):
            self.ends.drop(connection, codes.SERVER_SHUTTING_DOWN, "server shutting down")
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline and (self.loop.uncommitted or self.clients):
            gevent.sleep(0.01)
        self.log.info("stopped")

    def reload(self) -> list[str]:
        """Read users, rules and certificates anew; each keeps its old state if the new one is bad. Returns the errors."""
        errors = []
        parts: list[Authenticator | Authorizer | Tokens | FilterFactory]
        parts = [self.authenticator, self.authorizer, self.tokens, *self.factories.values()]
        for part in parts:
            try:
                part.reload()
            except Exception as error:  # a bad file must never open or close the door; the operator is told
                errors.append(str(error))
                self.log.error(
                    "reload_failed", cause=str(error), effect="the old state stays in force",
                    next="mend the file, then: mqnode reload",
                )  # fmt: skip
        self.apply_rules()
        self.ends.end_users(self.authenticator.revoked)
        if self.index == 0:  # it speaks for the host
            errors += tell_changes(self.config, self.log)
        return errors

    # -- calls of the core ------------------------------------------------------------------------------------------------

    def frame(self, link: Link, kind: int, body: bytes) -> None:
        self.links.frame(link, kind, body)

    def link_closed(self, link: Link) -> None:
        self.links.closed(link)

    def link_broken(self, link: Link) -> None:
        self.log.exception(
            "link_broken", role=link.role, index=link.index, effect="the link is made anew", next="report this as a bug"
        )

    def packet(self, connection: Connection, kind: int, body: bytes) -> None:
        handle = self._packets.get(kind)
        if handle is None:
            raise wire.ProtocolError(codes.PROTOCOL_ERROR, f"packet type {kind} is not for a server")
        handle(connection, body)

    def failed(self, connection: Connection, reason: int, text: str) -> None:
        self.ends.failed(connection, reason, text)

    def broken(self, connection: Connection) -> None:
        self.log.exception(
            "handler_error", address=connection.address, effect="this connection is closed", next="report this as a bug"
        )

    def timed_out(self, connection: Connection) -> None:
        self.ends.timed_out(connection)

    def closed(self, connection: Connection) -> None:
        self.ends.closed(connection)

    def ended(self, connection: Connection, reason: int) -> None:
        self.ends.drop(connection, reason, "the message was refused")

    def stalled(self, connection: Connection) -> None:
        self.log.warning(
            "slow_subscriber", client_id=connection.client_id, address=connection.address,
            cause=f"it has read too little for {self.config.limits.slow_subscriber_s} s",
            effect="its messages are dropped until it reads again", next="mqnode clients show ID, or kick it",
        )  # fmt: skip

    def accept_failed(self, number: int) -> None:
        self.log.error("accept_failed", cause=os.strerror(number), effect="new clients wait", next="raise LimitNOFILE")

    def filter_failed(self, connection: Connection, error: Exception) -> None:
        connection.end_reason = str(error)
        if not connection.claimed:  # else the end of its client is told
            self.access("handshake_failed", connection, cause=str(error))

    def filter_finished(self, connection: Connection) -> None:
        """A PROXY header was read: the client is who it says."""
        facts = connection.filter.facts()
        connection.address = facts.get("address") or connection.address
        connection.handshake = Handshake(facts.get("user"))
        connection.certified = facts.get("user") is not None

    # -- for the parts in node/mqtt -----------------------------------------------------------------------------------------

    def count(self, name: str, by: int = 1) -> None:
        self.slot[counters.INDEX[name]] += by

    def refuses(self, operation: str) -> bool:
        """While a member of the cluster is evicted (cluster.allow_during_split)."""
        allowed = operation in self.config.cluster.allow_during_split
        return not allowed and self._keepers[counters.INDEX["peers_evicted"]] > 0

    @property
    def is_joining(self) -> bool:
        """The host, and has nothing of its cluster yet (node/keeper/joining.py)."""
        return self._keepers[counters.INDEX["joining"]] > 0

    def access(self, event: str, connection: Connection, **fields: Any) -> None:
        if self.config.log.access:
            log.access(
                event, client_id=connection.client_id, user=connection.user, address=connection.address,
                listener=connection.listener.name or connection.listener.bind, worker=self.index, **fields,
            )  # fmt: skip

    def throttled(self, address: str) -> bool:
        return not self.throttle.allowed(_host(address), time.monotonic())

    def failed_attempt(self, address: str) -> None:
        self.throttle.failed(_host(address), time.monotonic())

    def in_thread(self, function: Callable[..., Any], arguments: tuple[Any, ...], done: Callable[[Any], None]) -> None:
        """Run it in the thread pool, `done(result)` in the loop; an error counts as False."""
        self.loop.awaits(gevent.spawn(self._in_thread, function, arguments, done))

    def _in_thread(self, function: Callable[..., Any], arguments: tuple[Any, ...], done: Callable[[Any], None]) -> None:
        try:
            result = self.pool.apply(function, arguments)
        except Exception:
            self.log.exception(
                "thread_error", function=function.__name__, effect="the client is refused", next="report this as a bug"
            )
            result = False
        done(result)

    def release(self, connection: Connection) -> None:
        """A claimed connection is over: detach its session, here and at the keeper."""
        session = connection.session
        sent = 0
        if session is not None:
            sent = session.sent_until if session.sid else 0
            self.subscriptions.count(session, how_many(session))
            session.detach()
            session.online = False
        number = connection.number
        will = "drop" if connection.normal_end or not connection.has_will else "moved" if self.moves.closed else "keep"
        self.keeper.call(
            "detach",
            [connection.client_id, number, connection.expiry_s, will, sent],
            lambda ok, result: self.leaving.pop(number),
        )
        self.leaving[number] = [connection.client_id, number, session.sid if session is not None else 0, 0]
        connection.claimed = False

    def left(self, connection: Connection) -> None:
        """Any connection is over, claimed or not."""
        self.count("connections_closed")
        self._denied.discard(connection.number)
        self.tokens.left(connection.number)

    # -- access rules -----------------------------------------------------------------------------------------------------

    def apply_rules(self) -> None:
        """Have the core ask where there are rules, and forget what it knew."""
        open_to_all = self.authorizer.allows_all
        self.loop.allows_all = open_to_all
        self.loop.authorize = self.may_publish
        self.loop.tree.receive_permitted = None if open_to_all else self._receive_permitted
        self.loop.permit_version += 1
        self.loop.tree.invalidate()

    def may_publish(self, connection: Connection, topic: bytes, qos: int, retain: bool) -> bool:
        name = topic.decode()
        allowed = self.authorizer.authorize("publish", connection.user, connection.client_id, name, qos, retain)
        return allowed or self._tell_denied(connection, "publish", name)

    def may_subscribe(self, connection: Connection, filter: bytes, qos: int) -> bool:
        if self.authorizer.allows_all:
            return True
        name = filter.decode()
        allowed = self.authorizer.authorize("subscribe", connection.user, connection.client_id, name, qos, False)
        return allowed or self._tell_denied(connection, "subscribe", name)

    def _tell_denied(self, connection: Connection, action: Action, name: str) -> bool:
        """Once: who tries on and on must not fill the log. False."""
        if connection.number not in self._denied:
            self._denied.add(connection.number)
            self.access("denied", connection, action=action, topic=name)
        return False

    def _receive_permitted(self, session: Session, topic: bytes) -> bool:
        return self.authorizer.authorize("receive", session.user, session.client_id, topic.decode(), 0, False)

    def may_receive(self, session: Session, topic: bytes) -> bool:
        return self.authorizer.allows_all or self._receive_permitted(session, topic)

    def will_permitted(self, client_id: str, record: bytes) -> bool:
        topic, author = wire.record_names(record)
        return self.authorizer.authorize("publish", author or None, client_id, topic.decode(), record[0] & 3,
                                         bool(record[0] & 4))  # fmt: skip

    def may_receive_retained(self, session: Session, record: bytes) -> bool:
        """May it be sent, and might its author still publish it (auth.check_retain_source)?"""
        if self.authorizer.allows_all:
            return True
        topic, author = wire.record_names(record)
        if not self._receive_permitted(session, topic):
            return False
        unchecked = not self.config.auth.check_retain_source
        return unchecked or self.authorizer.authorize_author(author or None, topic.decode(), 0)


def _host(address: str) -> str:
    return address.rpartition(":")[0]


def main(arguments: list[str]) -> None:
    try:
        Worker(*begin_worker(arguments)).run()
    except ListenError as error:
        sys.exit(f"mqnode: {error}")
