"""A host that joins a cluster has nothing of it. Until its first copy is here no client gets a session: another host may have it.

The store remembers the cluster of which it has had everything (META_CLUSTER). Who is alone in one has; who is told of another
one has not, until each of the other hosts that is there has said IN_SYNC, and one of them serves. Hosts that join at the same time
do not wait for each other in a circle: none of them says it later for what itself lacks, and where all are there and all join
there is nothing else to have. A restart forgets nothing of this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from node.counters import ALONE, COPYING, INDEX
from storage.layout import META_CLUSTER

if TYPE_CHECKING:
    from node.keeper.keeper import Keeper


class Joining:
    def __init__(self, keeper: Keeper) -> None:
        self._writer, self._replicas, self._slot, self._log = keeper.writer, keeper.replicas, keeper.slot, keeper.log
        self._cluster = b""
        with keeper.store.environment.begin() as transaction:
            stored = transaction.get(META_CLUSTER, db=keeper.store.databases["meta"])
        self.is_on = stored == b"" and bool(keeper.config.interconnect.bind)
        self._show()

    def belongs_to(self, cluster: bytes, is_alone: bool, now_ms: int) -> None:
        """This host to the cluster of that id, or to none."""
        known = self._writer.get("meta", META_CLUSTER)
        if known is None and self._writer.known:
            known = cluster  # by a release that did not say it
        self._cluster = cluster
        self._remember(cluster if is_alone or known == cluster else b"")
        was_on, self.is_on = self.is_on, bool(cluster) and self._writer.get("meta", META_CLUSTER) == b""
        if self.is_on and not was_on:
            self._log.info(
                "joining",
                effect="new clients are refused until what the other hosts have is here",
                next="mqnode status",
            )
        self._show()

    def look(self) -> None:
        """In each turn: is it over?"""
        if not self.is_on:
            return
        peers = self._replicas.peers.values()
        complete = [peer for peer in peers if peer.is_complete]
        has_it = any(peer.serves for peer in complete) or 0 < len(complete) == len(peers)
        if has_it and self._replicas.is_settled(0):
            self._remember(self._cluster)
            self.is_on = False
            self._log.info("copy_complete", effect="clients are let in")
        self._show()
        if not self.is_on:
            self._replicas.say_in_sync()

    def _remember(self, cluster: bytes) -> None:
        if self._writer.get("meta", META_CLUSTER) != cluster:
            self._writer.put("meta", META_CLUSTER, cluster)

    def _show(self) -> None:
        self._replicas.clock.is_joining = self.is_on
        is_answered = any(peer.node_id not in self._replicas.evicted for peer in self._replicas.peers.values())
        self._slot[INDEX["joining"]] = (COPYING if is_answered else ALONE) if self.is_on else 0
