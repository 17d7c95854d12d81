"""The table of members goes to each peer when it comes up, after each change, and again as long as the peer has another one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from mesh.hlc import StampError
from mesh.membership import MembershipError
from node import log
from node.interconnect.cluster import Cluster

AGAIN_S = 2.0


class TableExchange:
    """`send`: a table, as JSON, to a peer. `changed`: the table here is another one. `name`: of a host."""

    def __init__(
        self, cluster: Cluster, send: Callable[[bytes, bytes], object], changed: Callable[[], None], name: Callable[[bytes], str]
    ) -> None:  # fmt: skip
        self._cluster, self._send, self._changed, self._name = cluster, send, changed, name
        self._log = log.logger("interconnect")
        self._sent_s = 0.0
        self._refused: set[bytes] = set()  # peers whose table this host did not take

    def send(self, peers: Iterable[bytes]) -> None:
        self._sent_s = time.monotonic()
        for node_id in peers:
            self._send(node_id, self._cluster.table.to_json())

    def send_again(self, peers: Iterable[bytes]) -> None:
        """To these, now and then: who refused it may take it later."""
        if time.monotonic() - self._sent_s > AGAIN_S:
            self.send(peers)

    def learn(self, node_id: bytes, table: bytes) -> None:
        """From a peer."""
        was_member = not self._cluster.has_left
        try:
            if self._cluster.learn(table):
                self._changed()
            self._refused.discard(node_id)
        except (MembershipError, StampError) as error:
            if node_id not in self._refused:
                self._refused.add(node_id)
                self._log.error(
                    "members_refused", peer=self._name(node_id), cause=str(error),
                    effect="the list of hosts stays as it is here", next="mqnode cluster nodes, on both hosts",
                )  # fmt: skip
        if was_member and self._cluster.has_left:
            self._say_removed(node_id)

    def removed(self, node_id: bytes) -> None:
        """A peer says it, and nobody is there who says otherwise."""
        if self._cluster.removed_by(node_id):
            self._changed()
            self._say_removed(node_id)

    def _say_removed(self, node_id: bytes) -> None:
        self._log.error(
            "not_a_member", peer=self._name(node_id), cause="this host was removed: mqnode cluster remove, at another one",
            effect="it serves nobody", next="mqnode join: what only its disk has comes along",
        )  # fmt: skip
