"""Queues of sessions that are over: deleted bit by bit, so that nobody waits for a long one."""

from __future__ import annotations

from collections import deque
from collections.abc import Container
from typing import Any

from node.sessions.outbox import Outbox
from node.sessions.timers import Timers
from storage.layout import SessionRecord

ENTRIES = 2000  # in one commit
RETRY_MS = 2000
OVER_MAX = 50_000  # sessions that are known to have ended: some MB


class Purges:
    def __init__(self, writer: Any, timers: Timers, outbox: Outbox, there: Container[int]) -> None:
        """`there`: sids of the sessions that there are. Another host may say that one of them goes on."""
        self._writer, self._timers, self._outbox, self._there = writer, timers, outbox, there
        self.over: dict[int, None] = {}  # sids of the sessions that ended last, oldest first
        self._waiting: deque[tuple[SessionRecord, bool]] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, record: SessionRecord, pass_on: bool) -> None:
        """`pass_on`: unacknowledged messages of shared subscriptions go to other members; by one host only."""
        self._waiting.append((record, pass_on))
        self.over[record.sid] = None
        if len(self.over) > OVER_MAX:
            del self.over[next(iter(self.over))]

    def step(self, now_ms: int) -> None:
        if not self._waiting:
            return
        record, pass_on = self._waiting[0]
        if record.sid in self._there:
            self._waiting.popleft()
            return
        more, shared = self._writer.purge(record.sid, ENTRIES, record.sent_qseq, pass_on)
        links = self._outbox.links
        for qseq, share, body in shared if links else ():
            arguments = {"sid": record.sid, "qseq": qseq, "share": share, "record": body}
            self._outbox.event(links[qseq % len(links)], "redispatch", arguments)
        if shared:  # these stay until another member has them: look again
            self._timers.at(now_ms + RETRY_MS, lambda _: self.add(record, True))
        if shared or not more:
            self._waiting.popleft()
