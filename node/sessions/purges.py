"""Queues of sessions that are over: deleted bit by bit, so that nobody waits for a long one.

What a member of a shared subscription has not acknowledged another one gets: a worker chooses whom, and its operation takes
the entry away. Until then the entry stays, on all hosts. The host that has ended the session asks its workers, and each host for
what it took from a publisher when the session was over; what nobody has moved by then, one of the hosts that are there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from typing import Any

from node.sessions.outbox import Link, Outbox
from node.sessions.timers import Timers
from storage.layout import SessionRecord

ENTRIES = 2000  # in one commit
RETRY_MS = 2000
LEFT_MS = 5000  # without progress: then the host that should pass them on is dead, and evicted

Shared = list[tuple[int, str, bytes, bool | None]]  # see Writer.purge


@dataclass
class _Left:
    """What a session has left."""

    sent_qseq: int
    ended_here: bool
    first: int = 0  # number of the first shared message there …
    since_ms: int = 0  # … and since when it has been that one
    is_planned: bool = False  # its next turn
    asked: dict[int, Link] = field(default_factory=dict)  # number of a shared message -> who was asked to move it


class Purges:
    def __init__(
        self, writer: Any, timers: Timers, outbox: Outbox, there: Container[int], is_first: Callable[[], bool]
    ) -> None:
        """`there`: sids of the sessions that there are. Another host may say that one of them goes on."""
        self._writer, self._timers, self._outbox, self._there = writer, timers, outbox, there
        self._is_first = is_first
        self._left: dict[int, _Left] = {}  # by sid
        self._waiting: deque[int] = deque()  # sids: their turn comes

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, record: SessionRecord, ended_here: bool) -> None:
        self._add(record.sid, record.sent_qseq, ended_here)
        self._writer.over.add(record.sid)  # its turn may come late; until then, too, what comes stays in the inbox
        self._writer.note_over(record.sid)

    def _add(self, sid: int, sent_qseq: int, ended_here: bool) -> None:
        left = self._left.setdefault(sid, _Left(sent_qseq, ended_here))
        left.sent_qseq, left.ended_here = max(left.sent_qseq, sent_qseq), left.ended_here or ended_here
        self._waiting.append(sid)

    def step(self, now_ms: int) -> None:
        for sid in self._writer.late:
            self._add(sid, 0, False)
        self._writer.late.clear()
        for sid, number in self._writer.answered:
            if sid in self._left and self._left[sid].asked.pop(number, None) and not self._left[sid].asked:
                self._waiting.append(sid)  # for the next ones
        self._writer.answered.clear()
        if not self._waiting:
            return
        sid = self._waiting[0]
        left = self._left.get(sid)
        if left is None or sid in self._there:
            self._left.pop(sid, None)
            self._waiting.popleft()
            return
        more, shared = self._writer.purge(sid, ENTRIES, left.sent_qseq)
        if shared:
            self._pass_on(sid, left, shared, now_ms)
            self._look_again(sid, left, now_ms)  # are they moved?
        elif not more:
            del self._left[sid]
        if shared or not more:
            self._waiting.popleft()

    def _look_again(self, sid: int, left: _Left, now_ms: int) -> None:
        """One timer a session, however often it has its turn."""
        if not left.is_planned:
            left.is_planned = True
            self._timers.at(now_ms + RETRY_MS, lambda _: self._due(sid, left))

    def _due(self, sid: int, left: _Left) -> None:
        left.is_planned = False
        self._waiting.append(sid)

    def _pass_on(self, sid: int, left: _Left, shared: Shared, now_ms: int) -> None:
        if shared[0][0] != left.first:  # else nobody moves them
            left.first, left.since_ms = shared[0][0], now_ms
        is_left = now_ms - left.since_ms >= LEFT_MS and self._is_first()
        links = self._outbox.links
        asked, left.asked = left.asked, {}
        for number, share, body, is_late in shared if links else ():
            if not (is_left or (left.ended_here if is_late is None else is_late)):
                continue
            link = left.asked[number] = asked.get(number)
            if link not in links:  # nobody was, or a worker that has died
                link = left.asked[number] = links[number % len(links)]
                arguments = {"sid": sid, "qseq": number, "share": share, "record": body}
                self._outbox.event(link, "redispatch", arguments)
