"""What the command line asks the interconnect process, over interconnect.sock: each method `on_NAME` is a request of that name."""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from gevent import socket
from gevent.server import StreamServer

from mesh.join import JoinError, check_free, join
from mesh.membership import MembershipError
from mesh.token import SECRET_BYTES, Token, TokenError
from mesh.zap import TransportError
from node.keeper_bridge import RECEIVE_BYTES, REPLY, REQUEST, frame
from node.listeners.sockets import split_bind
from node.peers import take_frames

if TYPE_CHECKING:
    from node.interconnect import Interconnect

_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.decode


class ClusterRequests:
    def __init__(self, interconnect: Interconnect) -> None:
        self._interconnect = interconnect
        self._cluster = interconnect.cluster

    def start(self, path: Path) -> None:
        StreamServer(_listen(path), self._serve).start()

    def _serve(self, connection: Any, address: Any) -> None:
        buffer = bytearray()
        while data := connection.recv(RECEIVE_BYTES):
            buffer += data
            for kind, body in take_frames(buffer):
                if kind == REQUEST:
                    connection.sendall(frame(REPLY, _encode(self._answer(*_decode(body)))))

    def _answer(self, number: int, method: str, arguments: dict[str, Any]) -> list[Any]:
        try:
            return [number, True, getattr(self, f"on_{method}")(**arguments)]
        except (JoinError, TokenError, MembershipError, TransportError) as error:
            return [number, False, str(error)]

    def on_token(self, ttl_s: int) -> dict[str, Any]:
        token = Token(
            self._cluster.table.cluster_id, next_port(self._cluster.address), self._cluster.identity.public_key,
            secrets.token_bytes(SECRET_BYTES),
        )  # fmt: skip
        self._cluster.tokens.issue(token, ttl_s, now_ms())
        self._cluster.keep_tokens()
        self._interconnect.open_door()
        return {"token": token.text(), "address": token.address}

    def on_join(self, token: str) -> dict[str, Any]:
        parsed = Token.parse(token)
        check_free(self._cluster.table, parsed)
        table = join(self._cluster.identity, parsed, self._cluster.name, self._cluster.address)
        self._cluster.keep(table)
        self._interconnect.start_transport()
        return self.on_nodes()

    def on_remove(self, name: str) -> dict[str, Any]:
        member = self._cluster.table.find(name)
        self._cluster.keep(self._cluster.table.without(member.node_id, self._cluster.stamp()))
        self._interconnect.table_changed()
        return self.on_nodes()

    def on_nodes(self) -> dict[str, Any]:
        links = self._interconnect.links()
        nodes = []
        for node_id, name in sorted(self._cluster.table.shown_names().items(), key=lambda each: each[1]):
            here = node_id == self._cluster.identity.node_id
            link = links.get(node_id)
            nodes.append(
                {
                    "name": name,
                    "node_id": node_id.hex(),
                    "address": self._cluster.table.members[node_id].address,
                    "this_host": here,
                    "state": "up" if here else ("down" if link is None else link.state),
                    "rtt_ms": None if here or link is None else link.rtt_ms,
                }
            )
        return {"cluster": self._cluster.table.name, "nodes": nodes}


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def next_port(bind: str) -> str:
    """The port for who joins is the one above the interconnect's."""
    host, port = split_bind(bind)
    return f"[{host}]:{port + 1}" if ":" in host else f"{host}:{port + 1}"


def _listen(path: Path) -> Any:
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(os.fspath(path))
    listening.listen(16)
    return listening
