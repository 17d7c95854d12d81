"""When a session whose client is gone ends by itself (MQTT's session expiry interval)."""

from __future__ import annotations

import heapq
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
        # A heap of these as (when, sid), and of some that do not count any more
        self._looks: list[tuple[int, int]] = []

    def later(self, record: SessionRecord) -> None:
        if record.expiry_s == NEVER:
            return
        due_ms = _due_ms(record)
        if self._due_ms.get(record.sid, due_ms + 1) > due_ms:
            self._due_ms[record.sid] = due_ms
            heapq.heappush(self._looks, (due_ms, record.sid))
            self._trim()

    def forget(self, sid: int) -> None:
        """Its session is over."""
        self._due_ms.pop(sid, None)
        self._trim()

    def _trim(self) -> None:
        if len(self._looks) > 2 * len(self._due_ms) + FORGOTTEN_MAX:
            self._looks = [(due_ms, sid) for sid, due_ms in self._due_ms.items()]
            heapq.heapify(self._looks)

    def run(self, now_ms: int) -> None:
        """What is due beyond AT_ONCE of them waits for the next call."""
        for _ in range(AT_ONCE):
            if not self._looks or self._looks[0][0] > now_ms:
                break
            due_ms, sid = heapq.heappop(self._looks)
            if self._due_ms.get(sid) == due_ms:
                del self._due_ms[sid]
                self._end(sid, now_ms)

    @property
    def next_ms(self) -> int | None:
        return self._looks[0][0] if self._looks else None

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
