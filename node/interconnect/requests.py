"""What the command line asks the interconnect process, over interconnect.sock: each method `on_NAME` is a request of that name."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from gevent import socket
from gevent.server import StreamServer

from mesh import approval
from mesh.hlc import StampError
from mesh.identity import fingerprint
from mesh.join import Joiner, JoinError, check_free, join, request
from mesh.membership import MembershipError
from mesh.token import SECRET_BYTES, Token, TokenError
from mesh.zap import TransportError
from node.interconnect.door import JOIN_PORT, KNOCK_PORT, now_ms, port_above
from node.interconnect.keeper_bridge import RECEIVE_BYTES, REPLY, REQUEST
from node.interconnect.key_rotation import rotate_key
from node.peers import frame, take_frames

if TYPE_CHECKING:
    from node.interconnect.interconnect import Interconnect

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
        with suppress(ConnectionError):  # the command was interrupted
            while data := connection.recv(RECEIVE_BYTES):
                buffer += data
                for kind, body in take_frames(buffer):
                    if kind == REQUEST:
                        connection.sendall(frame(REPLY, _encode(self._answer(*_decode(body)))))

    def _answer(self, number: int, method: str, arguments: dict[str, Any]) -> list[Any]:
        try:
            return [number, True, getattr(self, f"on_{method}")(**arguments)]
        except (JoinError, TokenError, MembershipError, StampError, TransportError) as error:
            return [number, False, str(error)]

    # -- on a member ----------------------------------------------------------------------------------------------------------

    def _must_be_member(self) -> None:
        if self._interconnect.has_left:
            raise MembershipError(
                "this host is no member of its cluster any more, so it cannot let another one in: nothing was done. Run this on a "
                "member, or make this host one first: mqnode join"
            )

    def on_token(self, ttl_s: int) -> dict[str, Any]:
        self._must_be_member()
        token = Token(
            self._cluster.table.cluster_id, port_above(self._cluster.address, JOIN_PORT), self._cluster.identity.public_key,
            secrets.token_bytes(SECRET_BYTES),
        )  # fmt: skip
        self._cluster.tokens.issue(token, ttl_s, now_ms())
        try:
            self._interconnect.door.look()
        except TransportError:  # nobody could come with it
            self._cluster.tokens.withdraw(token.number)
            raise
        self._cluster.keep_tokens()
        return {"token": token.text(), "address": token.address}

    def on_pending(self) -> dict[str, Any]:
        self._must_be_member()
        return self._interconnect.door.pending() | {"found": self._interconnect.discovery.candidates()}

    def on_approve(self, fingerprint: str) -> dict[str, Any]:
        self._must_be_member()
        return self._interconnect.door.approve(fingerprint)

    # -- on a host that joins -------------------------------------------------------------------------------------------------

    def on_join(self, token: str) -> dict[str, Any]:
        parsed = Token.parse(token)
        if parsed.public_key == self._cluster.identity.public_key:
            raise JoinError(
                "this token was made on this very host: nothing was done. Run the line on the host that is to join"
            )
        with self._cluster.joining(parsed.cluster_id):
            self._interconnect.joined(join(self._joiner(), parsed))
        return self.on_nodes()

    def on_knock(self, peer: str) -> dict[str, Any] | None:
        """Who says that it is the member at `peer`, its address for joining hosts: for the operator to compare. None: nobody."""
        joiner = self._joiner()
        place = port_above(peer, KNOCK_PORT - JOIN_PORT)
        here = approval.knock(joiner.identity, place, joiner.name, joiner.address)
        if here is None:
            return None
        check_free(self._cluster.table, here.cluster_id)
        return {
            "fingerprint": self._cluster.fingerprint,
            "member_fingerprint": fingerprint(here.public_key),
            "member": {"address": peer, "public_key": here.public_key, "cluster_id": here.cluster_id},
        }

    def on_request(self, address: str, public_key: str, cluster_id: bytes) -> bool:
        """Has that member taken this host in?"""
        with self._cluster.joining(cluster_id):
            table = request(self._joiner(), address, public_key, cluster_id)
            if table is not None:
                self._interconnect.joined(table)
        return table is not None

    def _joiner(self) -> Joiner:
        cluster = self._cluster
        return Joiner(cluster.identity, cluster.name, cluster.address, cluster.wanted_name, now_ms())

    # -- the hosts ------------------------------------------------------------------------------------------------------------

    def on_remove(self, name: str) -> dict[str, Any]:
        member = self._cluster.table.find(name)
        self._cluster.keep(self._cluster.table.without(member.node_id, self._cluster.stamp()))
        self._interconnect.table_changed()
        return self.on_nodes()

    def on_rotate_key(self) -> dict[str, str]:
        return rotate_key(self._interconnect)

    def on_leave(self) -> bool:
        self._interconnect.leave()
        return True

    def on_references(self) -> dict[str, list[str]]:
        return self._interconnect.references()

    def on_nodes(self) -> dict[str, Any]:
        return self._interconnect.reports.nodes()

    def on_interested(self, topic: str) -> list[str]:
        """The hosts with connected subscribers, as they have told."""
        return [node_id.hex() for node_id in self._interconnect.interested(topic.encode())]

    def on_links(self) -> dict[str, Any]:
        return self._interconnect.reports.links()

    def on_digest(self, within_s: float) -> dict[str, Any]:
        return self._interconnect.reports.digests(within_s)

    def on_heals(self) -> dict[str, Any]:
        return {"host": self._cluster.name, "heals": self._interconnect.heals()}

    def on_status(self) -> dict[str, Any]:
        return self._interconnect.reports.status()


def _listen(path: Path) -> Any:
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(os.fspath(path))
    listening.listen(16)
    return listening
