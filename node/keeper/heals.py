"""What a host that was given up brought when it came back: a short report of each heal, for people, durable (META_HEALS).

A heal begins when a host is evicted, and ends when each of the two has all that the other one has acknowledged. Meanwhile it
is counted what came from there, and which sessions both sides had changed without knowing of each other.
"""

from __future__ import annotations

from typing import Any

import msgspec

from node.keeper.peer import Peer
from storage.changes import decode
from storage.layout import HEADER_BYTES, META_HEALS, REPLICATED
from storage.writer import Writer

KEPT = 20
NAMED = 50  # sessions of one heal
BODIES = REPLICATED.index("bodies")

_encode = msgspec.msgpack.encode


class Heal(msgspec.Struct):
    peer: str  # node id, in hex
    number: int  # of its store
    from_ms: int  # of the store's clock: when it was given up
    until_ms: int | None = None  # when both had all again; None: it is still away, or has not all yet
    entries_received: int = 0  # put or erased here because of what it did
    commits_sent: int = 0  # of this host, that it lacked
    commits_undone: int = 0  # of this host's last ones before it died, which nobody was told of
    sessions_taken_over: int = 0  # of it, by this host: what it had sent them and not heard acknowledged came twice
    sessions: list[tuple[str, str]] = []  # changed on both sides: client id, whose record won: "this host", "peer"
    sessions_more: int = 0  # than are named


class Heals:
    def __init__(self, writer: Writer, log: Any) -> None:
        self._writer, self._log = writer, log
        self._log_of: list[Heal] | None = None
        self._together: dict[str, set[str]] = {}  # which side has all of the other: "here", "there"

    @property
    def all(self) -> list[Heal]:
        """The first use is within a transaction of the writer."""
        if self._log_of is None:
            stored = self._writer.get("meta", META_HEALS)
            self._log_of = msgspec.msgpack.decode(stored, type=list[Heal]) if stored else []
        return self._log_of

    def of(self, peer: Peer) -> Heal | None:
        """The one that goes on."""
        return next((each for each in self.all if each.peer == peer.node_id.hex() and each.until_ms is None), None)

    def began(self, peer: Peer, now_ms: int) -> Heal:
        """One of the two has given up the other."""
        self._together.pop(peer.node_id.hex(), None)
        heal = self.of(peer)
        if heal is None:
            heal = Heal(peer.node_id.hex(), peer.number, now_ms)
            self.all.append(heal)
            del self.all[:-KEPT]
            self._keep()
        return heal

    def opened(self, peer: Peer, has_evicted_us: bool, lacks: int, now_ms: int) -> None:
        """The link to it: it lacks so many of our commits."""
        heal = self.began(peer, now_ms) if has_evicted_us else self.of(peer)
        if heal is not None:
            heal.commits_sent = lacks

    def came(self, peer: Peer, changes: bytes) -> None:
        """Of the peer, and about to be taken: counted if it is another than what is here."""
        heal = self.of(peer)
        if heal is None:
            return
        for database, key, value, _ in decode(changes):
            if database != BODIES:
                ours = self._writer.get(REPLICATED[database], key)
                heal.entries_received += ours != (None if value is None else value[HEADER_BYTES:])

    def taken_over(self, number: int) -> None:
        """A session of that host, which could not be asked."""
        for heal in self.all:
            if heal.until_ms is None and heal.number == number:
                heal.sessions_taken_over += 1

    def undone(self, peer: Peer, count: int, now_ms: int) -> None:
        self.began(peer, now_ms).commits_undone += count

    def merged(self, client_id: str, is_ours: bool) -> bool:
        """Both sides had changed the session. Whose heal it is matters little if several go on at once: the last one's. False: it
        is named there already, as commits that are sent again may each tell of it."""
        heal = next((each for each in reversed(self.all) if each.until_ms is None), None)
        named = client_id, "this host" if is_ours else "peer"
        if heal is None:
            return True
        if named in heal.sessions:
            return False
        if len(heal.sessions) < NAMED:
            heal.sessions.append(named)
        else:
            heal.sessions_more += 1
        return True

    def has_all(self, peer: Peer, side: str, now_ms: int) -> None:
        """`side` of the two: "there", it has all of ours; "here", we have all of it."""
        together = self._together.setdefault(peer.node_id.hex(), set())
        together.add(side)
        heal = self.of(peer)
        if heal is None or len(together) < 2:
            return
        heal.until_ms = now_ms
        self._keep()
        self._log.info(
            "hosts_merged", peer=peer.name, apart_ms=now_ms - heal.from_ms, entries_received=heal.entries_received,
            commits_undone=heal.commits_undone, sessions_taken_over=heal.sessions_taken_over,
            sessions_merged=len(heal.sessions) + heal.sessions_more,
        )  # fmt: skip

    def _keep(self) -> None:
        self._writer.put("meta", META_HEALS, _encode(self.all))

    def describe(self) -> list[dict[str, Any]]:
        return [msgspec.to_builtins(each) for each in self.all]
