"""Which of our commits the peers have, and so which may be acknowledged (guarantees.md §2). Pure.

When a peer lacks little, acknowledgements begin to wait for it; it is in sync once it has what was acknowledged before that,
and stays so until it is evicted. With none in sync a host acknowledges alone, or, if it is strict, nothing. Commits are
numbered 1, 2, 3 …; a peer takes them in this order and says which was the last.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable
from dataclasses import dataclass
from operator import itemgetter

WINDOW_BYTES = 16 << 20  # sent to a peer and not acknowledged
NEAR = 64  # commits that a peer lacks when we begin to wait for it
TIMES_MAX, SPACING_MS = 1000, 100


@dataclass(slots=True)
class Peer:
    """`sent`, `has`: numbers of commits. `sending`: the link is open and the peer has said what it has."""

    sent: int = 0
    has: int = 0
    sending: bool = False
    in_sync: bool = False
    behind: int | None = None  # the last commit that was acknowledged without it; from then on all wait for it
    unacknowledged_bytes: int = 0


class Times:
    """When commits were made that some peer lacks: the longer it lacks them, the coarser."""

    def __init__(self) -> None:
        self._points: list[tuple[int, int]] = []
        self._spacing_ms = SPACING_MS
        self._last = (0, 0)

    def committed(self, number: int, now_ms: int, had: int) -> None:
        """`had`: the last one that every peer has."""
        del self._points[: bisect_right(self._points, had, key=itemgetter(0))]
        if not self._points:
            self._spacing_ms = SPACING_MS
        if not self._points or now_ms - self._points[-1][1] >= self._spacing_ms:
            self._points.append((number, now_ms))
        if len(self._points) > TIMES_MAX:
            del self._points[1::2]
            self._spacing_ms *= 2
        self._last = (number, now_ms)

    def lag_ms(self, has: int, now_ms: int) -> int:
        """Since when has there been a commit behind `has`?"""
        number, at_ms = self._last
        if has >= number:
            return 0
        place = bisect_right(self._points, has, key=itemgetter(0))
        return now_ms - (self._points[place][1] if place < len(self._points) else at_ms)


class Replication:
    def __init__(self, last: int, strict: bool = False) -> None:
        self.last = last  # commit
        self.strict = strict
        self.peers: dict[Hashable, Peer] = {}
        self._copied = 0  # up to here some peer has our commits, as far as we know; of use while none is in sync

    def opened(self, key: Hashable, has: int) -> Peer:
        """The peer is there and has our commits up to `has`: those behind it are to be sent."""
        peer = self.peers.setdefault(key, Peer())
        if has < peer.has:  # an old copy of its disk: it lacks what was acknowledged
            peer.in_sync, peer.behind = False, None
        peer.sent = peer.has = has
        peer.sending = True
        peer.unacknowledged_bytes = 0
        self._look(peer)
        return peer

    def broken(self, key: Hashable) -> None:
        """The link is down; what waits for the peer goes on waiting, it may be back at once."""
        peer = self.peers.get(key)
        if peer is not None:
            peer.sending = False
            peer.behind = peer.behind if peer.in_sync else None

    def is_open(self, key: Hashable) -> bool:
        return key in self.peers and self.peers[key].sending

    def is_in_sync(self, key: Hashable) -> bool:
        return self.is_open(key) and self.peers[key].in_sync

    def waits_for(self, key: Hashable) -> bool:
        """Is nothing acknowledged that the peer lacks?"""
        return key in self.peers and self.peers[key].behind is not None

    def evicted(self, key: Hashable) -> None:
        """The peer is gone: nothing waits for it any more. The caller has made that durable and visible before."""
        self._copied = self.released
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
        if peer.behind is None and self.last - peer.has <= NEAR:
            peer.behind = self.last
        if peer.behind is not None and peer.has >= peer.behind:
            peer.in_sync = True

    def wants(self, key: Hashable) -> bool:
        """Is there something to send that the peer has room for?"""
        peer = self.peers.get(key)
        return peer is not None and peer.sending and peer.sent < self.last and peer.unacknowledged_bytes < WINDOW_BYTES

    @property
    def released(self) -> int:
        """The last commit that this host and every peer in sync has; a strict host's that any other had."""
        alone = self._copied if self.strict else self.last
        if self.strict and not self.in_sync:
            return alone
        return min((peer.has for peer in self.peers.values() if peer.behind is not None), default=alone)

    @property
    def in_sync(self) -> int:
        return sum(peer.in_sync for peer in self.peers.values())
