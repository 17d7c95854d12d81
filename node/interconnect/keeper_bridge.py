"""The interconnect's link to the keeper of this host: frames of other keepers in both directions, and who of the peers is there.

A keeper that starts anew is told what it missed: the members, who is up, who is evicted. What waits for a keeper that is gone goes
nowhere, for the next one begins a new conversation with each peer (node/keeper/replicas.py). Nor does what it said to a peer before
it heard that the link is another one: who has gone on without this host would take it for what was acknowledged.
"""

from __future__ import annotations

import os
import socket as blocking
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import gevent
import msgspec
from gevent import socket
from gevent.event import Event

from mesh import greenlets
from node import log
from node.interconnect.outgoing import Outgoing
from node.peers import frame, take_frames

HELLO, REQUEST, REPLY, EVENT, PEER = 0, 4, 5, 6, 10  # frames of the unix sockets
NODE_ID_BYTES = 16
GREETING = 0  # node/keeper/peer.py, Say.HELLO: with it the keeper begins a conversation
RETRY_S = 0.05
FULL_S = 0.002
RECEIVE_BYTES = 1 << 20

_HEADER = struct.Struct("<IB")
_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.decode


class KeeperBridge:
    """`deliver(node_id, message)` is False while the peer's queue is full; `welcome(arguments)` comes with each keeper, and
    `refuse(node_id, what)` when a peer says what the keeper does not understand."""

    def __init__(
        self,
        run_dir: Path,
        members: Callable[[], dict[str, Any]],
        deliver: Callable[[bytes, bytes], bool],
        welcome: Callable[[dict[str, Any]], None],
        refuse: Callable[[bytes, str], None],
    ) -> None:
        self.up: set[bytes] = set()
        self.copies: dict[bytes, dict[str, Any]] = {}  # how far each peer is with our commits, as the keeper said last
        self.digests: Any = None  # what the keeper's store holds: node/keeper/digests.py
        self.heals: list[dict[str, Any]] = []  # node/keeper/heals.py
        self._asked = False
        self._evicted: set[bytes] = set()
        self._not_greeted: set[bytes] = set()  # since they are up
        self._log = log.logger("interconnect")
        self._path = os.fspath(run_dir / "keeper.sock")
        self._members, self._deliver, self._welcome = members, deliver, welcome
        self._refuse = refuse
        self._keeper: blocking.socket | None = None
        self._output = Outgoing()
        self._to_send = Event()

    def start(self) -> None:
        greenlets.spawn(self._keep)
        greenlets.spawn(self._write)

    @property
    def connected(self) -> bool:
        return self._keeper is not None

    # -- what the keeper is told ----------------------------------------------------------------------------------------------

    def peer_up(self, node_id: bytes) -> None:
        self.up.add(node_id)
        self._evicted.discard(node_id)
        self._tell_up(node_id)

    def _tell_up(self, node_id: bytes) -> None:
        self._not_greeted.add(node_id)
        self._tell("peer_up", node_id=node_id)

    def peer_down(self, node_id: bytes, evicted: bool) -> None:
        self.up.discard(node_id)
        if evicted:
            self._evicted.add(node_id)
        self._tell("peer_down", node_id=node_id, evicted=evicted)

    def stood_still(self, for_s: float) -> None:
        self._tell("stood_still", for_s=for_s)

    def peer_left(self, node_id: bytes) -> None:
        """It is no member any more."""
        self.up.discard(node_id)
        self._evicted.discard(node_id)
        self._tell("peer_left", node_id=node_id)

    def tell_members(self) -> None:
        """They are others now."""
        self._tell("members", members=self._members()["members"])
        self.tell_cluster()

    def tell_cluster(self) -> None:
        """This host is a member of it, or of none."""
        told = self._members()
        self._tell("belongs_to", cluster=told["cluster"], is_alone=not told["members"])

    def from_peer(self, node_id: bytes, message: bytes) -> None:
        self._queue(_HEADER.pack(NODE_ID_BYTES + len(message), PEER), node_id, message)

    def look(self) -> None:
        """Bring `copies` up to date, soon."""
        if not self._asked:
            self._asked = self.connected
            self._queue(frame(REQUEST, _encode([0, "peers", {}])))

    def _tell(self, method: str, **arguments: Any) -> None:
        self._queue(frame(EVENT, _encode([method, arguments])))

    def _queue(self, *parts: bytes) -> None:
        if self._keeper is not None:
            self._output.add(*parts)
            self._to_send.set()

    # -- the link -------------------------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        while True:
            link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                link.connect(self._path)
            except OSError:
                link.close()
                gevent.sleep(RETRY_S)
                continue
            self._keeper = link
            self._output.clear()
            self._queue(frame(HELLO, _encode({"role": "interconnect"} | self._members())))
            for node_id in self.up:
                self._tell_up(node_id)
            for node_id in self._evicted:
                self._tell("peer_down", node_id=node_id, evicted=True)
            self._to_send.set()
            with suppress(OSError):
                self._read(link)
            self._keeper = None
            self._asked = False
            self.copies, self.digests = {}, None
            link.close()
            self._log.warning("keeper_lost", effect="nothing is replicated until it is back", next="mqnode status")

    def _read(self, link: Any) -> None:
        buffer, received = bytearray(), memoryview(bytearray(RECEIVE_BYTES))
        while size := link.recv_into(received):
            buffer += received[:size]
            for kind, body in take_frames(buffer):
                self._from_keeper(kind, body)

    def _from_keeper(self, kind: int, body: bytes) -> None:
        if kind == PEER:
            self._to_peer(body[:NODE_ID_BYTES], body[NODE_ID_BYTES:])
        elif kind == REPLY:
            self._asked = False
            _, ok, result = _decode(body)
            if ok:
                self.copies = {bytes.fromhex(each["node_id"]): each for each in result["peers"]}
                self.digests, self.heals = result["digests"], result["heals"]
        elif kind == EVENT:
            method, arguments = _decode(body)
            if method == "welcome":
                self._welcome(arguments)
            elif method == "refuse":
                self._refuse(arguments["node_id"], arguments["what"])

    def _to_peer(self, node_id: bytes, message: bytes) -> None:
        if message[0] == GREETING:
            self._not_greeted.discard(node_id)
        while node_id in self.up and node_id not in self._not_greeted and not self._deliver(node_id, message):
            gevent.sleep(FULL_S)

    def _write(self) -> None:
        while True:
            self._to_send.wait()
            self._to_send.clear()
            while self._output and (link := self._keeper) is not None:
                try:
                    self._output.write(link)
                except OSError:
                    break
