"""Do the hosts hold the same? Each tells the others the digests of its store (storage/writer.pyx) every EVERY_MS and soon after a
link opens, in the order of its commits. Who gets them compares if its own store has the same commits. If it has others, as under
load, it tells its own a little later instead: so the two try again until one of them can compare.

What differs then should not: a disk has lost something, or mqnode has a bug. It is said, counted and repaired: each of the two
asks for all that the other one has, and takes what it lacks, even if it was once deleted; rather a message twice than one lost.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from node.keeper.peer import Context, Peer, Say, is_whole
from node.sessions.directory import Directory
from storage.layout import REPLICATED
from storage.writer import Writer

EVERY_MS = 30_000
AFTER_OPENING_MS = 1000  # when the two have told each other what they lacked
AGAIN_MS = 100  # from one try to the next: under load one of dozens finds equal commits
REPAIR_MS = 60_000  # from one to the next of a pair
PART_BYTES = 1 << 20

DigestsOf = dict[str, tuple[int, int]]  # database -> how many keys, digest
NONE = (0, 0)  # of a database that is not named

_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.Decoder(tuple[Context, DigestsOf]).decode
_decode_part = msgspec.msgpack.Decoder(tuple[Context, bytes]).decode


class Digests:
    """`speak(peer)` sends what is `to_say`; `apply(peer, changes, context, now_ms)` what repairs ours."""

    def __init__(
        self, writer: Writer, directory: Directory, log: Any, peers: dict[bytes, Peer], speak: Callable[[Peer], None],
        apply: Callable[[Peer, bytes, Context, int], None],
    ) -> None:  # fmt: skip
        self._writer, self._directory, self._log, self._peers = writer, directory, log, peers
        self._speak, self._apply = speak, apply
        self._is_planned = False
        self._due: set[Peer] = set()  # who are to be told
        self._again: set[Peer] = set()  # who will be
        self._repaired: dict[Peer, tuple[int, bytes]] = {}  # who have asked: up to which key they have been sent all
        self._asked_ms: dict[Peer, int] = {}
        self._differing: dict[Peer, list[str]] = {}

    def own(self) -> tuple[Context, DigestsOf] | None:
        """The context of this store and its digests, None while they do not fit: what a peer sent again may be ahead."""
        fits = not self._writer.covered.parts and is_whole(self._writer, self._peers.values())
        digests = self._writer.digests() if fits else None
        return None if digests is None else (self._writer.context(), digests)

    @property
    def differing(self) -> int:
        """Databases that differed from another host's when last compared."""
        return len({name for names in self._differing.values() for name in names})

    # -- telling ----------------------------------------------------------------------------------------------------------------

    def opened(self, peer: Peer) -> None:
        now_ms = self._directory.now_ms
        self._repaired.pop(peer, None)
        self._directory.timers.at(now_ms + AFTER_OPENING_MS, lambda _: self._due.add(peer))
        if not self._is_planned:
            self._is_planned = True
            self._directory.timers.at(now_ms + EVERY_MS, self._tell_all)

    def gone(self, peer: Peer) -> None:
        """Evicted or no member any more."""
        peer.ahead = {}
        self._differing.pop(peer, None)

    def _tell_all(self, now_ms: int) -> None:
        self._due.update(self._there)
        self._directory.timers.at(now_ms + EVERY_MS, self._tell_all)

    @property
    def _there(self) -> list[Peer]:
        return [peer for peer in self._directory.elsewhere.peers.values() if isinstance(peer, Peer)]

    def tell(self) -> None:
        """After a commit."""
        own = self.own() if self._due else None
        if own is not None:
            for peer in [peer for peer in self._there if peer in self._due]:
                self._send(peer, Say.DIGEST, _encode(own))
        self._due.clear()

    def _send(self, peer: Peer, say: Say, message: bytes) -> None:
        """In the order of our commits."""
        peer.to_say.append((self._writer.seq, say, message))
        self._speak(peer)

    # -- comparing --------------------------------------------------------------------------------------------------------------

    def take(self, peer: Peer, say: int, message: bytes, now_ms: int) -> None:
        if say == Say.DIGEST:
            self._compare(peer, *_decode(message), now_ms)
        elif message:
            self._repair(peer, *_decode_part(message), now_ms)
        else:
            self._repaired[peer] = (0, b"")

    def _compare(self, peer: Peer, context: Context, theirs: DigestsOf, now_ms: int) -> None:
        own = self.own()
        if own is None or own[0] != context:
            self._directory.count("digests_skipped")
            self._try_again(peer, now_ms)
            return
        self._directory.count("digests_compared")
        ours = own[1]
        different = sorted(name for name in theirs | ours if theirs.get(name, NONE) != ours.get(name, NONE))
        self._differing[peer] = different
        if not different:
            return
        self._directory.count("digest_mismatches")
        repairs = now_ms - self._asked_ms.get(peer, -REPAIR_MS) >= REPAIR_MS
        counts = {name: [each.get(name, NONE)[0] for each in (ours, theirs)] for name in different}
        self._log.error(
            "stores_differ", peer=peer.name, databases=counts,
            cause="a disk has lost something, or mqnode has a bug: both have the same commits and not the same entries",
            effect="what one lacks it gets from the other" + ("" if repairs else ", within a minute")
            + "; a message that was delivered may be delivered again",
            next="mqnode cluster digest; check the disk of both hosts, report it if it comes again",
        )  # fmt: skip
        if repairs:
            self._asked_ms[peer] = now_ms
            self._send(peer, Say.REPAIR, b"")

    def _try_again(self, peer: Peer, now_ms: int) -> None:
        def tell(_: int) -> None:
            self._again.discard(peer)
            self._due.add(peer)

        if peer not in self._again:
            self._again.add(peer)
            self._directory.timers.at(now_ms + AGAIN_MS, tell)

    # -- repairing --------------------------------------------------------------------------------------------------------------

    def send_repairs(self) -> bool:
        """A part to each who has asked; True if there is more to do at once."""
        for peer, (database, after) in list(self._repaired.items()):
            if peer.to_say:
                continue  # the part before waits for a commit
            part, database, after = self._writer.snapshot(database, after, PART_BYTES)
            self._send(peer, Say.REPAIR, _encode((self._writer.context(), part)))
            self._repaired[peer] = (database, after)
            if database == len(REPLICATED):
                del self._repaired[peer]
        return bool(self._repaired)

    def _repair(self, peer: Peer, context: Context, part: bytes, now_ms: int) -> None:
        """Only if the peer knows all that third hosts have deleted here: else it comes again."""
        changes, count = self._writer.missing(part, context)
        if not count:
            return
        self._directory.count("digest_repairs")
        self._apply(peer, changes, context, now_ms)
        self._log.warning("repaired", peer=peer.name, count=count, cause="the stores differed",
                          effect="messages may be delivered again", next="mqnode cluster digest")  # fmt: skip
