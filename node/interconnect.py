"""The interconnect process: `python -m node.interconnect --config FILE`. What leaves for other hosts and comes from them.

Between the keeper of this host and those of the others it carries messages in both directions as they are (node/replicas.py). The
table of members goes to each peer when it comes up and after each change. The command line asks it over interconnect.sock.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import socket as blocking
import struct
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import gevent
import msgspec
from gevent import socket
from gevent.event import Event
from gevent.server import StreamServer

from mesh import channel, transport
from mesh.hlc import StampError
from mesh.join import JoinError, JoinServer, check_free, join
from mesh.membership import Member, Membership, MembershipError
from mesh.token import SECRET_BYTES, Token, TokenError
from mesh.zap import TransportError
from node import counters, log, process
from node.cluster import Cluster
from node.config import Config, load, run_dir, worker_count
from node.crossing import KINDS, Crossing
from node.listeners.sockets import split_bind
from node.peers import take_frames

HELLO, REQUEST, REPLY, EVENT, PEER = 0, 4, 5, 6, 10  # frames of the unix sockets
KEEPER, TABLE = 1, 2  # frames between interconnects
BEAT_S = 0.2
RETRY_S = 0.05
FULL_S = 0.002
KEEPER_AWAY_S = 2.0
RECEIVE_BYTES = 1 << 20

_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.decode


def _frame(kind: int, body: bytes) -> bytes:
    return struct.pack("<IB", len(body), kind) + body


class Interconnect:
    """The handler of the transport, the door for who joins, and the keeper's bridge."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._log = log.logger("interconnect")
        self._run_dir = run_dir(config)
        interconnect = config.interconnect
        self.cluster = Cluster(
            Path(config.node.data_dir),
            config.node.name,
            interconnect.advertise or interconnect.bind,
            config.cluster.name,
        )
        self.tokens = self.cluster.tokens
        self._own_id = self.cluster.identity.node_id
        self._keeper: blocking.socket | None = None
        self._to_keeper = bytearray()
        self._to_send = Event()
        self._welcomed = Event()
        self._incarnation = 0
        self._keeper_seen_s = time.monotonic()
        self._up: set[bytes] = set()
        self._evicted: set[bytes] = set()
        self._transport: transport.Transport | None = None
        self._door: JoinServer | None = None
        self._crossing = Crossing(self._run_dir, worker_count(config), self._send)

    def run(self, slot: memoryview) -> None:
        self._crossing.slot = slot
        gevent.spawn(self._keep_keeper)
        gevent.spawn(self._write_keeper)
        self._welcomed.wait()
        self._start_transport()
        server = StreamServer(_listen(self._run_dir / "interconnect.sock"), self._serve)
        server.start()
        stop = Event()
        gevent.signal_handler(signal.SIGTERM, stop.set)
        slot[counters.INDEX["ready"]] = 1
        self._log.info("ready", bind=self._config.interconnect.bind, node_id=self.cluster.identity.node_id.hex())
        while not stop.wait(BEAT_S):
            counters.beat(slot)
            self._open_door()
            self._look_at_keeper()
        self._stop_transport()

    def _look_at_keeper(self) -> None:
        """A host whose keeper cannot serve must not make its peers wait for it."""
        if self._keeper is not None:
            self._keeper_seen_s = time.monotonic()
            if self._transport is None:
                self._start_transport()
        elif self._transport is not None and time.monotonic() - self._keeper_seen_s > KEEPER_AWAY_S:
            self._log.error("interconnect_closed", cause="the keeper does not run", effect="the peers go on without this host",
                            next="mqnode status")  # fmt: skip
            self._stop_transport()

    def _stop_transport(self) -> None:
        if self._transport is not None:
            self._transport.stop()
            self._transport = None
            for node_id in list(self._up):
                self.down(node_id, channel.EVICTED)

    def _start_transport(self) -> None:
        if self._transport is not None:
            self._transport.stop()
        self._transport = transport.Transport(
            self.cluster.identity,
            self.cluster.table,
            self._config.interconnect.bind,
            self,
            incarnation=self._incarnation,
        )

    # -- the keeper ---------------------------------------------------------------------------------------------------------

    def _keep_keeper(self) -> None:
        while True:
            link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                link.connect(os.fspath(self._run_dir / "keeper.sock"))
            except OSError:
                link.close()
                gevent.sleep(RETRY_S)
                continue
            self._keeper = link
            members = [each.node_id for each in self.cluster.table.active() if each.node_id != self._own_id]
            self._to_keeper[:] = _frame(HELLO, _encode({"role": "interconnect", "members": members}))
            for node_id in self._up:
                self._tell_keeper("peer_up", node_id=node_id)
            for node_id in self._evicted:
                self._tell_keeper("peer_down", node_id=node_id, evicted=True)
            self._to_send.set()
            with suppress(OSError):
                self._read_keeper(link)
            self._keeper = None
            link.close()
            self._log.warning("keeper_lost", effect="nothing is replicated until it is back", next="mqnode status")

    def _read_keeper(self, link: Any) -> None:
        buffer = bytearray()
        while data := link.recv(RECEIVE_BYTES):
            buffer += data
            for kind, body in take_frames(buffer):
                self._from_keeper(kind, body)

    def _from_keeper(self, kind: int, body: bytes) -> None:
        if kind == PEER:
            node_id = body[:16]
            while node_id in self._up and not self._send(node_id, KEEPER, body[16:]):
                gevent.sleep(FULL_S)
        elif kind == EVENT:
            method, arguments = _decode(body)
            if method == "welcome":
                self._crossing.clock_offset_ms = arguments["clock_offset_ms"]
            if method == "welcome" and not self._welcomed.is_set():
                self._incarnation = arguments["incarnation"]
                self._welcomed.set()

    def _send(self, node_id: bytes, kind: int, body: bytes) -> bool:
        return self._transport is not None and self._transport.send(node_id, kind, body)

    def _tell_keeper(self, method: str, **arguments: Any) -> None:
        self._queue(_frame(EVENT, _encode([method, arguments])))

    def _queue(self, frame: bytes) -> None:
        if self._keeper is not None:
            self._to_keeper += frame
            self._to_send.set()

    def _write_keeper(self) -> None:
        while True:
            self._to_send.wait()
            self._to_send.clear()
            while self._to_keeper and (link := self._keeper) is not None:
                try:
                    sent = link.send(bytes(memoryview(self._to_keeper)[:RECEIVE_BYTES]))
                except OSError:
                    break
                if link is self._keeper:  # else what waits now is for another one
                    del self._to_keeper[:sent]

    # -- the transport's handler ------------------------------------------------------------------------------------------------

    def up(self, node_id: bytes) -> None:
        if node_id in self._up:
            return  # after `suspect`: the same channel goes on
        self._up.add(node_id)
        self._evicted.discard(node_id)
        self._send(node_id, TABLE, self.cluster.table.to_json())
        self._tell_keeper("peer_up", node_id=node_id)
        self._crossing.peer_up(node_id)
        self._log.info("peer_up", peer=self._name(node_id))

    def suspect(self, node_id: bytes) -> None:
        self._log.warning(
            "peer_suspect", peer=self._name(node_id), cause="it has not answered for a second",
            effect="acknowledgements wait for it, for two seconds more", next="mqnode cluster nodes",
        )  # fmt: skip

    def down(self, node_id: bytes, reason: str) -> None:
        self._up.discard(node_id)
        self._crossing.peer_down(node_id)
        evicted = reason in (channel.EVICTED, transport.LEFT)
        if evicted:
            self._evicted.add(node_id)
        self._tell_keeper("peer_down", node_id=node_id, evicted=evicted)
        self._log.warning(
            "peer_down", peer=self._name(node_id), cause=reason,
            effect="this host goes on alone, at once or when it is evicted", next="mqnode cluster nodes",
        )  # fmt: skip

    def frame(self, node_id: bytes, kind: int, body: bytes) -> None:
        if kind == KEEPER:
            self._queue(_frame(PEER, node_id + body))
        elif kind in KINDS:
            self._crossing.peer_frame(node_id, kind, body)
        elif kind == TABLE:
            try:
                if self.cluster.learn(body):
                    self._changed()
            except (MembershipError, StampError) as error:
                self._log.error(
                    "members_refused", peer=self._name(node_id), cause=str(error),
                    effect="the list of hosts stays as it is here", next="mqnode cluster nodes, on both hosts",
                )  # fmt: skip

    def _name(self, node_id: bytes) -> str:
        return self.cluster.table.shown_names().get(node_id, node_id.hex())

    def _changed(self) -> None:
        """The table is another one: use it, and pass it on."""
        if self._transport is not None:
            self._transport.update_members(self.cluster.table)
        for node_id in self._up:
            self._send(node_id, TABLE, self.cluster.table.to_json())

    # -- who joins ----------------------------------------------------------------------------------------------------------

    def _open_door(self) -> None:
        wanted = self.tokens.outstanding(_now_ms()) > 0
        if wanted and self._door is None:
            self._door = JoinServer(self.cluster.identity, self._join_bind(), self)
        elif not wanted and self._door is not None:
            self._door.stop()
            self._door = None

    def _join_bind(self) -> str:
        return _next_port(self._config.interconnect.bind)

    def membership(self) -> Membership:
        return self.cluster.table

    def stamp(self) -> Any:
        return self.cluster.stamp()

    def admit(self, member: Member) -> Membership:
        table = self.cluster.table.with_member(member)
        self.cluster.keep_tokens()
        self.cluster.keep(table)
        gevent.spawn(self._changed)
        self._log.info("host_joined", name=member.name, address=member.address)
        return table

    def refused(self, address: str, why: str) -> None:
        self._log.warning(
            "join_refused", address=address, cause=why, effect="that host is no member",
            next="mqnode cluster token create, if it should be one",
        )  # fmt: skip

    # -- the command line ------------------------------------------------------------------------------------------------------

    def _serve(self, connection: Any, address: Any) -> None:
        buffer = bytearray()
        while data := connection.recv(RECEIVE_BYTES):
            buffer += data
            for kind, body in take_frames(buffer):
                if kind == REQUEST:
                    connection.sendall(_frame(REPLY, _encode(self._answer(*_decode(body)))))

    def _answer(self, number: int, method: str, arguments: dict[str, Any]) -> list[Any]:
        try:
            return [number, True, getattr(self, f"on_{method}")(**arguments)]
        except (JoinError, TokenError, MembershipError, TransportError) as error:
            return [number, False, str(error)]

    def on_token(self, ttl_s: int) -> dict[str, Any]:
        token = Token(
            self.cluster.table.cluster_id, _next_port(self.cluster.address), self.cluster.identity.public_key,
            secrets.token_bytes(SECRET_BYTES),
        )  # fmt: skip
        self.tokens.issue(token, ttl_s, _now_ms())
        self.cluster.keep_tokens()
        self._open_door()
        return {"token": token.text(), "address": token.address}

    def on_join(self, token: str) -> dict[str, Any]:
        parsed = Token.parse(token)
        check_free(self.cluster.table, parsed)
        table = join(self.cluster.identity, parsed, self.cluster.name, self.cluster.address)
        self.cluster.keep(table)
        self._start_transport()
        return self.on_nodes()

    def on_remove(self, name: str) -> dict[str, Any]:
        member = self.cluster.table.find(name)
        self.cluster.keep(self.cluster.table.without(member.node_id, self.cluster.stamp()))
        self._changed()
        return self.on_nodes()

    def on_nodes(self) -> dict[str, Any]:
        links = {} if self._transport is None else self._transport.counters()
        nodes = []
        for node_id, name in sorted(self.cluster.table.shown_names().items(), key=lambda each: each[1]):
            here = node_id == self.cluster.identity.node_id
            link = links.get(node_id)
            nodes.append(
                {
                    "name": name,
                    "node_id": node_id.hex(),
                    "address": self.cluster.table.members[node_id].address,
                    "this_host": here,
                    "state": "up" if here else ("down" if link is None else link.state),
                    "rtt_ms": None if here or link is None else link.rtt_ms,
                }
            )
        return {"cluster": self.cluster.table.name, "nodes": nodes}


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _next_port(bind: str) -> str:
    host, port = split_bind(bind)
    return f"[{host}]:{port + 1}" if ":" in host else f"{host}:{port + 1}"


def _listen(path: Path) -> Any:
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(os.fspath(path))
    listening.listen(16)
    return listening


def main(arguments: list[str]) -> None:
    process.die_with_parent()
    os.umask(0o077)
    parser = argparse.ArgumentParser(prog="node.interconnect")
    parser.add_argument("--config", required=True)
    config = load(parser.parse_args(arguments).config)
    log.setup(config.log, "interconnect")
    slot = counters.Counters(run_dir(config) / "counters").claim(counters.INTERCONNECT)
    Interconnect(config).run(slot)


if __name__ == "__main__":
    main(sys.argv[1:])
