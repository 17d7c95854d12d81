"""A client comes here and another host delivers its session: it becomes ours.

That host is asked (`release`) and hands it over. Only from one that cannot be asked is it taken, and then all others are asked
before: one may have taken it already. Of two that are about to take the same session the host with the lower number does.
A host that dies may have told another one more than us: who is asked says what it has, and that is waited for, however slowly it
comes: else what the dead host had moved into the queue would be moved again. A client that waits too long is refused: it may
come to the host that has it.

Where the client is connected its session is not released at once: it may have gone there from here, before we knew. Who hears that
and has a client that waits still asks to `end` that connection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from node.sessions.outbox import Answer, Link

if TYPE_CHECKING:
    from node.sessions.directory import Directory

RELEASE_MS = 4000  # more than an eviction takes
RETRY_MS = 50
SEEN_MS = 5
PATIENCE_MS = 10_000


class Fetch:
    """`fetched()` in the end, also when it `is_wanted()` no more."""

    def __init__(
        self, directory: Directory, cid: str, now_ms: int, fetched: Callable[[], None], is_wanted: Callable[[], bool]
    ) -> None:
        self._directory, self._elsewhere, self._cid = directory, directory.elsewhere, cid
        self._fetched, self._is_wanted = fetched, is_wanted
        self._began_ms, self._until_ms = now_ms, now_ms + RELEASE_MS
        self._is_denied = False
        self._others: list[Link] = []  # who are to be asked before it is taken
        self._asked: Link | None = None  # the last one of them that was
        self._is_agreed = False  # none of them has it
        self._lacked: dict[int, int] = {}  # then: commits of hosts that are gone, which another one has
        self._ends = False  # the client's connection elsewhere, too
        self._is_over = False
        self._go_on(now_ms)

    def _go_on(self, now_ms: int) -> None:
        elsewhere, record = self._elsewhere, self._directory.sessions.get(self._cid)
        if self._is_over:
            return
        if record is None or elsewhere.owns(record) or not self._is_wanted():  # it may have been given to us meanwhile
            self._end()
        elif record.owner == elsewhere.number:  # handed over to us, and the answer was lost
            self._own(True)
        elif record.owner in elsewhere.peers and not (self._is_denied and now_ms > self._until_ms):
            self._ask(elsewhere.peers[record.owner], self._answered)
        elif record.owner in elsewhere.peers or elsewhere.is_gone(record.owner):
            self._take(now_ms)
        else:
            self._directory.timers.at(now_ms + RETRY_MS, self._go_on)

    def _ask(self, peer: Link, answer: Answer) -> None:
        sid = self._directory.sessions[self._cid].sid
        self._directory.outbox.ask(peer, "release", {"cid": self._cid, "sid": sid, "end": self._ends}, answer)

    def _answered(self, ok: bool, result: Any) -> None:
        if ok and result:
            self._released(result, self._directory.now_ms)
            return
        if not ok:
            self._is_connected_there()
            return
        self._is_denied = self._is_denied or result is False  # else its link broke: it may be back at once
        self._directory.timers.at(self._directory.now_ms + RETRY_MS, self._go_on)

    def _is_connected_there(self) -> None:
        self._ends = True
        self._directory.timers.at(self._directory.now_ms + SEEN_MS, self._go_on)

    def _released(self, seen: dict[int, int], now_ms: int) -> None:
        """What it has of third hosts must be here, too: it may have delivered some of it."""
        record = self._directory.sessions.get(self._cid)
        if record is not None and record.owner != self._elsewhere.number:
            self._go_on(now_ms)  # the answer took long, and another host has taken it since
        elif self._directory.writer.has_seen(seen) or now_ms > self._until_ms:
            self._own(True)
        else:
            self._directory.timers.at(now_ms + SEEN_MS, lambda due_ms: self._released(seen, due_ms))

    def _take(self, now_ms: int) -> None:
        if self._is_agreed and self._cid in self._elsewhere.taking:
            if self._is_more_to_come():
                self._wait(now_ms, self._go_on)
            else:
                self._own(False)
            return
        self._elsewhere.taking.add(self._cid)
        self._is_agreed = False
        self._others = list(self._elsewhere.peers.values())
        if self._others:
            self._directory.timers.at(now_ms + RELEASE_MS, self._unanswered)
        self._ask_next(True, False)

    def _is_more_to_come(self) -> bool:
        """Not what those have heard since who see a host that we do not: that may never end."""
        lacking = self._elsewhere.lacking()
        return not self._directory.writer.has_seen({each: seq for each, seq in self._lacked.items() if each in lacking})

    def _wait(self, now_ms: int, then: Callable[[int], None]) -> None:
        """The longer it takes, the longer until the next look: all clients of a dead host may wait here."""
        waited_ms = now_ms - self._began_ms
        if waited_ms > PATIENCE_MS:
            self._directory.refuse(self._cid, "another host has more of this session, and has not sent it yet")
        self._directory.timers.at(now_ms + SEEN_MS + waited_ms // 8, then)

    def _unanswered(self, now_ms: int) -> None:
        """Who is in sync will answer, or is evicted: all that is acknowledged here waits for it, too."""
        if self._is_agreed or self._is_over:
            return
        if self._is_wanted() and self._elsewhere.is_in_sync(self._asked):
            self._wait(now_ms, self._unanswered)
        else:
            self._agreed(now_ms)

    def _ask_next(self, ok: bool, result: Any) -> None:
        if ok and result:
            self._released(result, self._directory.now_ms)
        elif not ok:
            self._is_connected_there()
        elif self._others and self._cid in self._directory.sessions:
            self._asked = self._others.pop()
            self._ask(self._asked, self._ask_next)
        else:
            self._agreed(self._directory.now_ms)

    def _agreed(self, now_ms: int) -> None:
        if not self._is_agreed:
            self._is_agreed = True
            self._lacked = self._elsewhere.lacking()
        self._go_on(now_ms)

    def _own(self, asked: bool) -> None:
        record = self._directory.sessions.get(self._cid)
        if record is not None and not self._elsewhere.owns(record) and not self._is_over:
            if asked:
                record.detached_ms = self._directory.now_ms  # by its last owner's clock it had not expired
            self._elsewhere.own(record, asked)
        self._end()

    def _end(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._elsewhere.taking.discard(self._cid)
            self._fetched()
