"""From whom a store takes what it lacks: from one host at a time.

Whoever greets is answered with what we have (OPEN), and sends the rest. Whoever has nothing of a host's commits, or lacks more than
outboxes keep, is sent a snapshot, of all that this host has. So of several such hosts one is answered first, the source. When
its snapshot is here, nearly all of the others' commits are, too: they are answered then, and go on from there. If the source
ends before, or says nothing for STALL_MS, the next one is the source.

A host that is gone may have told one of the others only: who has commits of it that are not here is asked for a snapshot (SYNC).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec

from node.keeper.old_copy import OldCopy
from node.keeper.peer import Context, Peer, Say
from node.sessions.directory import Directory
from storage.writer import Writer

KEPT_COMMITS = 200_000  # in the outbox, for a peer that is away; beyond it gets a snapshot
SPARE_COMMITS = 10_000  # that all peers have: one that joins may get its snapshot from another, which lacks them
STALL_MS = 10_000
ASK_MS = 250  # at least, between two snapshots of a whole store that a host asks of another …
ASK_MOST_MS = 10_000  # … and as long as the last one took, but no longer

_encode = msgspec.msgpack.encode


class Sources:
    """`say(peer, say, message)` sends; `answer(peer, has)`: we have its commits up to this one."""

    def __init__(
        self, writer: Writer, directory: Directory, number: int, old_copy: OldCopy,
        say: Callable[[Peer, Say, bytes], None], answer: Callable[[Peer, int], None],
    ) -> None:  # fmt: skip
        self._writer, self._directory, self._number, self._old_copy = writer, directory, number, old_copy
        self._say, self._answer = say, answer
        directory.elsewhere.lacking, directory.elsewhere.tell_context = self.lacking, self._tell
        self._waiting: list[Peer] = []  # to be answered
        self._source: Peer | None = None
        self._until: int | None = None  # its last commit when it greeted; None: we wait for the end of a snapshot
        self._since_ms = self._heard_ms = 0

    # -- hosts come and go ------------------------------------------------------------------------------------------------

    def greeted(self, peer: Peer, now_ms: int) -> None:
        """It wants to know what we have."""
        if peer is self._source:  # it has forgotten that, and is answered before it is asked again
            self._source = None
        if peer not in self._waiting:
            self._waiting.append(peer)
        self._go_on(now_ms)

    def left(self, peer: Peer, now_ms: int) -> None:
        if peer in self._waiting:
            self._waiting.remove(peer)
        if peer is self._source:
            self._source = None
            self._go_on(now_ms)

    def came(self, peer: Peer, now_ms: int, part: bool = False) -> None:
        """Something of it is here. But what waits for commits of a third host may wait for that to be asked for: no progress."""
        if peer is not self._source:
            return
        if part or not peer.waiting:
            self._heard_ms = now_ms
        if self._until is not None and self._old_copy.known(peer.number, self._until) >= self._until:
            self.left(peer, now_ms)

    def ended(self, peer: Peer, now_ms: int) -> None:
        """All of its snapshot is here."""
        if peer is self._source and self._until is None:
            peer.rests_until_ms = now_ms + min(max(ASK_MS, now_ms - self._since_ms), ASK_MOST_MS)
        self.left(peer, now_ms)

    def _go_on(self, now_ms: int) -> None:
        for peer in list(self._waiting):
            has = self._old_copy.known(peer.number, peer.last)
            if has == 0 or peer.last - has > KEPT_COMMITS:
                if self._source is not None:
                    continue
                self._take(peer, peer.last, now_ms)
            self._waiting.remove(peer)
            self._answer(peer, has)
        for peer in self._directory.elsewhere.peers.values():
            if self._source is None and self._lacks(peer.context):
                self._ask(peer, now_ms)

    def _take(self, peer: Peer, until: int | None, now_ms: int) -> None:
        self._source, self._until = peer, until
        self._since_ms = self._heard_ms = now_ms
        self._directory.timers.at(now_ms + STALL_MS, partial(self._look, peer))

    def _look(self, peer: Peer, now_ms: int) -> None:
        if peer is not self._source:
            return
        if now_ms - self._heard_ms >= STALL_MS:
            self.ended(peer, now_ms)
        else:
            self._directory.timers.at(self._heard_ms + STALL_MS, partial(self._look, peer))

    # -- what a host that is gone has told one of us only -------------------------------------------------------------------

    def compare(self) -> None:
        for peer in self._directory.elsewhere.peers.values():
            self._tell(peer)
        self._go_on(self._directory.now_ms)

    def _tell(self, peer: Peer) -> None:
        self._say(peer, Say.CONTEXT, _encode(self._writer.context()))

    def look_at(self, peer: Peer, context: Context) -> None:
        """What it has."""
        peer.context = context
        if self._source is None and self._lacks(context):
            self._go_on(self._directory.now_ms)

    def lacking(self) -> Context:
        """Up to which commit of theirs hosts that are gone have told a host that is there more than us."""
        found: Context = {}
        for peer in self._directory.elsewhere.peers.values():
            for number, seq in peer.context.items():
                if self._is_lacked(number, seq):
                    found[number] = max(seq, found.get(number, 0))
        return found

    def _ask(self, peer: Peer, now_ms: int) -> None:
        if peer.rests_until_ms <= now_ms:
            self._take(peer, None, now_ms)
            self._say(peer, Say.SYNC, b"")
        elif not peer.rests:
            peer.rests = True
            self._directory.timers.at(peer.rests_until_ms, partial(self._rested, peer))

    def _rested(self, peer: Peer, now_ms: int) -> None:
        peer.rests = False
        self._go_on(now_ms)

    def _lacks(self, context: Context) -> bool:
        """Commits of hosts that are gone, which will not send them any more."""
        return any(self._is_lacked(number, seq) for number, seq in context.items())

    def _is_lacked(self, number: int, seq: int) -> bool:
        return seq > self._writer.peer_seq(number) and self._is_gone(number)

    def _is_gone(self, number: int) -> bool:
        elsewhere = self._directory.elsewhere
        return number != self._number and number not in elsewhere.peers and elsewhere.is_gone(number)
