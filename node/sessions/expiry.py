"""When a session whose client is gone ends by itself (MQTT's session expiry interval)."""

from __future__ import annotations

import heapq
from functools import partial
from typing import TYPE_CHECKING

from node.sessions.timers import AT_ONCE
from storage.layout import SessionRecord

if TYPE_CHECKING:
    from node.sessions.directory import Directory

NEVER = 0xFFFFFFFF
FORGOTTEN_MAX = 1000


def is_expired(record: SessionRecord, now_ms: int) -> bool:
    if record.attached or record.expiry_s == NEVER:
        return False
    return now_ms >= _due_ms(record)


class Expiry:
    """One look at each session is planned, and forgotten with it: who comes and goes all day long leaves nothing behind."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._due_ms: dict[int, int] = {}  # sid -> when its session is looked at
        self._looks: list[
            tuple[int, int]
        ] = []  # a heap of (when, sid), and of some that `_due_ms` does not have any more
        self._planned_ms = 0  # the timer; 0: there is none

    def later(self, record: SessionRecord) -> None:
        if record.expiry_s == NEVER:
            return
        due_ms = _due_ms(record)
        if self._due_ms.get(record.sid, due_ms + 1) > due_ms:
            self._due_ms[record.sid] = due_ms
            heapq.heappush(self._looks, (due_ms, record.sid))
            self._plan()

    def forget(self, sid: int) -> None:
        """Its session is over."""
        self._due_ms.pop(sid, None)
        if len(self._looks) > 2 * len(self._due_ms) + FORGOTTEN_MAX:
            self._looks = [(due_ms, each) for each, due_ms in self._due_ms.items()]
            heapq.heapify(self._looks)

    def _plan(self) -> None:
        if self._looks and not 0 < self._planned_ms <= self._looks[0][0]:
            self._planned_ms = self._looks[0][0]
            self._directory.timers.at(self._planned_ms, partial(self._look, self._planned_ms))

    def _look(self, planned_ms: int, now_ms: int) -> None:
        if planned_ms != self._planned_ms:
            return  # an earlier one was planned since
        self._planned_ms = 0
        for _ in range(AT_ONCE):
            if not self._looks or self._looks[0][0] > now_ms:
                break
            due_ms, sid = heapq.heappop(self._looks)
            if self._due_ms.get(sid) == due_ms:
                del self._due_ms[sid]
                self._end(sid, now_ms)
        self._plan()

    def _end(self, sid: int, now_ms: int) -> None:
        record = self._directory.by_sid.get(sid)
        if record is None or record.attached:
            return
        if not self._directory.elsewhere.owns(record):  # its client may be back at its host already
            return
        if is_expired(record, now_ms):
            self._directory.count("sessions_expired")
            self._directory.end_session(record, now_ms)
        else:
            self.later(record)


def _due_ms(record: SessionRecord) -> int:
    return record.detached_ms + record.expiry_s * 1000
