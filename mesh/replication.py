"""Which of our commits the peers have, and so which may be acknowledged (guarantees.md §2). Pure.

A peer is in sync once it has acknowledged our last commit; from then on every acknowledgement waits for it, until it is
evicted. Commits are numbered 1, 2, 3 …; a peer takes them in this order and says which was the last.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

WINDOW_BYTES = 16 << 20  # sent to a peer and not acknowledged


@dataclass(slots=True)
class Peer:
    """`sent`, `has`: numbers of commits. `sending`: the link is open and the peer has said what it has."""

    sent: int = 0
    has: int = 0
    sending: bool = False
    in_sync: bool = False
    unacknowledged_bytes: int = 0


class Replication:
    def __init__(self, last: int) -> None:
        self.last = last  # commit
        self.peers: dict[Hashable, Peer] = {}

    def opened(self, key: Hashable, has: int) -> Peer:
        """The peer is there and has our commits up to `has`: those behind it are to be sent."""
        peer = self.peers.setdefault(key, Peer())
        peer.sent = peer.has = has
        peer.sending = True
        peer.unacknowledged_bytes = 0
        self._look(peer)
        return peer

    def broken(self, key: Hashable) -> None:
        """The link is down; what waits for the peer goes on waiting, it may be back at once."""
        if key in self.peers:
            self.peers[key].sending = False

    def evicted(self, key: Hashable) -> None:
        """The peer is gone: nothing waits for it any more. The caller has made that durable and visible before."""
        self.peers.pop(key, None)

    def committed(self, number: int) -> None:
        self.last = number

    def sent(self, key: Hashable, number: int, size: int) -> None:
        peer = self.peers[key]
        peer.sent = number
        peer.unacknowledged_bytes += size

    def acknowledged(self, key: Hashable, number: int) -> None:
        """The peer has our commits up to `number` on its disk."""
        peer = self.peers.get(key)
        if peer is None or not peer.sending:
            return
        peer.has = max(peer.has, min(number, peer.sent))
        if peer.has == peer.sent:
            peer.unacknowledged_bytes = 0
        self._look(peer)

    def _look(self, peer: Peer) -> None:
        if peer.has == self.last:
            peer.in_sync = True

    def wants(self, key: Hashable) -> bool:
        """Is there something to send that the peer has room for?"""
        peer = self.peers.get(key)
        return peer is not None and peer.sending and peer.sent < self.last and peer.unacknowledged_bytes < WINDOW_BYTES

    @property
    def released(self) -> int:
        """The last commit that this host and every peer in sync has."""
        return min((peer.has for peer in self.peers.values() if peer.in_sync), default=self.last)

    @property
    def in_sync(self) -> int:
        return sum(peer.in_sync for peer in self.peers.values())

    @property
    def oldest_wanted(self) -> int:
        """Every peer that we know has the commits up to here."""
        return min((peer.has for peer in self.peers.values()), default=self.last)
