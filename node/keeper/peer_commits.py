"""What other hosts have committed, on its way into this host's store, and the answer that it is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from node.keeper.heals import Heals
from node.keeper.peer import Changes, Context, Peer, Say, decode_changes, decode_context
from node.keeper.sources import Sources
from node.sessions.directory import Directory
from storage.writer import Writer

RENEWED_BYTES = 8 << 20  # in one commit, which crosses in one frame: the queue of one session may have 256 MiB


class PeerCommits:
    """`say(peer, say, message)` sends; `take(peer, say, message, now_ms)`: what else comes in their order."""

    def __init__(
        self, writer: Writer, directory: Directory, number: int, peers: dict[bytes, Peer], heals: Heals, sources: Sources,
        say: Callable[[Peer, Say, bytes], None], take: Callable[[Peer, int, bytes, int], None],
    ) -> None:  # fmt: skip
        self._writer, self._directory, self._number, self._peers = writer, directory, number, peers
        self._heals, self._sources, self._say, self._take = heals, sources, say, take
        self._have: list[Peer] = []

    def came(self, peer: Peer, say: int, message: bytes, now_ms: int) -> None:
        peer.waiting.append((say, decode_changes(message) if say == Say.CHANGES else message))
        self.go_on(now_ms)

    def go_on(self, now_ms: int) -> None:
        """Take what came in the order of commits, but no commit before those of third hosts that its host had seen: so order
        holds for a publisher that goes from one host to another."""
        more = True
        while more:
            more = False
            for peer in self._peers.values():
                while peer.waiting and self._has_room() and self._may_take(peer, *peer.waiting[0]):
                    self._take_one(peer, *peer.waiting.popleft(), now_ms)
                    more = True
        if not self._has_room():
            self._directory.timers.at(now_ms, self.go_on)  # in the next commit

    def _has_room(self) -> bool:
        """Is there room in this commit for another session, all of whose queue is put anew (Writer.renew)?"""
        return bool(self._writer.renewed_bytes < RENEWED_BYTES)

    def _may_take(self, peer: Peer, say: int, message: bytes | Changes) -> bool:
        if isinstance(message, bytes):
            return True
        number, context, _, is_new = message
        if context.keys() <= {peer.number, self._number}:
            return True
        self._sources.look_at(peer, context)
        is_next = number == self._writer.peer_seq(peer.number) + 1  # else it was sent before its host knew what we have
        return not is_next or not is_new or bool(self._writer.has_seen(context | {peer.number: 0}))

    def _take_one(self, peer: Peer, say: int, message: bytes | Changes, now_ms: int) -> None:
        if isinstance(message, bytes):
            self._take(peer, say, message, now_ms)
        else:
            number, context, changes, is_new = message
            peer.sends_again = not is_new
            if not is_new:  # without what later commits have changed
                peer.ahead = context
            self._changes(peer, number, context, changes, is_new, now_ms)

    def _changes(self, peer: Peer, number: int, context: Context, changes: bytes, is_new: bool, now_ms: int) -> None:
        known = self._writer.peer_seq(peer.number)
        if number <= known:  # sent again
            peer.applying.append([known, 0])
            self._have.append(peer)
        elif number == known + 1:
            if not is_new:
                self._writer.may_lack(context)
            told = self._apply(peer, changes, context, now_ms)
            self._writer.learn({peer.number: number})
            self._known(peer, number, told)

    def part(
        self, peer: Peer, database: int, after: bytes, last: int, until: bytes, context: Context, part: bytes,
        burials: list[tuple[int, bytes, int, bool]], now_ms: int
    ) -> None:  # fmt: skip
        """Of the peer's snapshot: what it has there, and what it has no more."""
        peer.ahead, peer.sends_again = context, False
        gone = self._writer.overtaken(burials) + self._writer.absent(database, after, last, until, part, context)
        self._writer.covering = True
        told = self._apply(peer, part, context, now_ms, gone)
        self._writer.covering = False
        self._writer.cover((database, after), (last, until), context)
        self._directory.subscriptions.make_known(told, lambda ok, result: None)

    def _apply(self, peer: Peer, changes: bytes, context: Context, now_ms: int, gone: bytes = b"") -> list[Any]:
        """`gone`: other keys, which the sessions among the changes may show to be wanted still."""
        self._heals.came(peer, gone + changes)
        told = self._directory.elsewhere.apply(self._writer.records_of(peer.number, changes + gone, context), now_ms)
        self._writer.apply_changes(peer.number, gone + changes, context)
        self._directory.elsewhere.look_at_strays(now_ms)
        return told

    def repair(self, peer: Peer, changes: bytes, context: Context, now_ms: int) -> None:
        """Of the peer's store: what is missing in ours."""
        self._writer.repairing = True
        told = self._apply(peer, changes, context, now_ms)
        self._writer.repairing = False
        self._directory.subscriptions.make_known(told, lambda ok, result: None)

    def _known(self, peer: Peer, number: int, told: list[Any]) -> None:
        """We have all of its commits up to this one. It is told so when they are on disk, and when our workers know."""
        entry = [number, 1]
        peer.applying.append(entry)

        def known(ok: bool, result: Any) -> None:
            entry[1] = 0
            if peer not in self._have:
                self._have.append(peer)

        self._directory.subscriptions.make_known(told, known)

    def snapshot_ended(self, peer: Peer, message: bytes, now_ms: int) -> None:
        self._writer.learn(decode_context(message))
        self._known(peer, self._writer.peer_seq(peer.number), [])
        self.go_on(now_ms)

    def answer(self) -> None:
        """After our commit: what is on disk now, too."""
        for peer in self._have:
            self._answer(peer)
        self._have.clear()

    def _answer(self, peer: Peer) -> None:
        number = 0
        while peer.applying and not peer.applying[0][1]:
            number = peer.applying.popleft()[0]
        if number:
            self._say(peer, Say.HAVE, number.to_bytes(8, "little"))
