"""Our last commits of earlier lives, if all others lack them: they waited for a host that has gone on without us when we died, so
nobody was told of them. What they said may have been said there again: so they are undone before we begin with anybody, unless
that host has not seen all that we have of third hosts, or only what came of it: what our commits made of that would be lost.

A host that stood still for so long that others may have gone on without it is as one that died: its keeper ends, and the next one
begins so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mesh.detector import STANDSTILL_MS
from node.keeper.heals import Heals
from node.keeper.peer import Peer, Say
from node.sessions.directory import Directory
from storage.layout import META_EVICTED
from storage.writer import Writer

RETRY_MS = 50
MOST_MS = 4000  # that others wait for us: more than an eviction takes


class Tail:
    """`say(peer, say, message)` sends; `go_on()`: look again whether it `is_over`."""

    def __init__(
        self, writer: Writer, directory: Directory, heals: Heals, log: Any, say: Callable[[Peer, Say, bytes], None],
        go_on: Callable[[], None],
    ) -> None:  # fmt: skip
        self._writer, self._directory, self._heals, self._log = writer, directory, heals, log
        self._say, self._go_on = say, go_on
        self._first = writer.seq  # our last commit of earlier lives
        self._asked: tuple[Peer, int] | None = None  # who is to say what is there instead, behind which commit
        self._until_ms: int | None = None
        self._is_planned = False
        self.is_left_behind = False  # this keeper is to end

    def stood_still(self, for_s: float, now_ms: int) -> None:
        """By so much the keeper was late, or the interconnect, which says so before anything of peers (mesh/transport.py)."""
        is_served = self._writer.known and not self._writer.is_settling
        if for_s * 1000 > STANDSTILL_MS and is_served and not self.is_left_behind:
            self.is_left_behind = True
            self._log.warning(
                "stood_still", cause=f"this host stood still for {for_s:.1f} s: others may have gone on without it",
                effect="the keeper starts anew; clients that went to other hosts stay there", next="mqnode cluster heal-report",
            )  # fmt: skip

    def is_over(self, there: list[Peer], are_all: bool) -> bool:
        """May we begin with those who have said what they have? `are_all`: the others are gone."""
        known, now_ms = max((peer.has for peer in there), default=0), self._directory.now_ms
        if known >= self._first or not self._writer.keeps(known + 1):
            return True
        if self._until_ms is None:
            self._until_ms = now_ms + MOST_MS
        sources = [peer for peer in there if peer.went_on and peer.is_heard and peer.has == known >= peer.saw]
        if now_ms >= self._until_ms or (are_all and not sources):
            self._asked = None
            self._first = 0  # they stay: from now on clients are told of them
            return True
        if are_all and self._asked is None:
            self._asked = sources[0], known
            self._say(sources[0], Say.TAIL, self._writer.tail(known, self._first))
        if not self._is_planned:
            self._is_planned = True
            self._directory.timers.at(now_ms + RETRY_MS, self._look_again)
        return False

    def _look_again(self, now_ms: int) -> None:
        self._is_planned = False
        self._go_on()

    def link_anew(self, peer: Peer) -> None:
        """What it was asked it does not answer."""
        if self._asked is not None and self._asked[0] is peer:
            self._asked = None

    def answered(self, peer: Peer, changes: bytes, peers: list[Peer], now_ms: int) -> None:
        """This is what the keys of our commits hold at the peer, whose context is as new."""
        if self._asked is None or self._asked[0] is not peer:
            return
        after, self._asked = self._asked[1], None
        is_known = any(each.is_heard and each.has > after for each in peers)
        if is_known or any(peer.context.get(number, 0) < seq for number, seq in self._writer.known.items()):
            return  # asked again soon
        told = self._directory.elsewhere.apply(self._writer.records_in(changes), now_ms)
        self._writer.reset(after, self._first, changes, self._may_be_seen(after, peers))
        self._directory.subscriptions.make_known(told, lambda ok, result: None)
        peer.ahead = peer.context
        self._heals.undone(peer, self._first - after, now_ms)
        self._log.warning(
            "commits_undone", peer=peer.name, count=self._first - after,
            cause="this host died before anybody was told of them, and the peer went on", effect="none is missing", next="nothing",
        )  # fmt: skip
        self._first = 0
        self._go_on()

    def goes_without(self, peers: list[Peer]) -> None:
        """Clients are told what these may lack, evicted or not: that is on disk before, else we undid it after a restart."""
        for peer in peers if not self._writer.is_settling else ():
            if self._writer.get("meta", META_EVICTED + peer.node_id) is None:
                self._writer.put("meta", META_EVICTED + peer.node_id, b"")

    def _may_be_seen(self, after: int, peers: list[Peer]) -> bool:
        """By a third host. One that was removed may join again, with its disk."""
        is_one_removed = bool(self._directory.elsewhere.removed)
        return is_one_removed or not all(peer.is_heard and peer.saw <= after for peer in peers)
